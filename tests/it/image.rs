//! The appliance itself: its disk boots under UEFI, and there is nothing in it to log in with.

use serde_json::json;

use crate::functions::Function;
use crate::node::{Boot, Node};
use crate::setting;

#[test]
fn the_disk_image_boots_under_uefi_and_serves() {
    let state = setting("TINDERBOX_TEST_STATE").join("uefi.img");
    let node = Node::boot(Boot::Uefi, &state);
    let function = Function::rust().deploy(&node.client());
    assert_eq!(function.answer(json!({ "from": "UEFI" }))["event"], json!({ "from": "UEFI" }));
}
