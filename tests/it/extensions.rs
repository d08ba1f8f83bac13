//! Extensions as their users bring them: what a stock one is told, up to the end of its sandbox.

use std::time::Duration;

use serde_json::json;

use crate::functions::Function;
use crate::layers::Layer;
use crate::looks::until;
use crate::node::Node;
use crate::setting;

/// How long a sandbox may take to end: its extensions' two seconds, on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_stock_extension_is_told_of_its_function_up_to_the_end_of_its_sandbox() {
    let client = Node::shared().node.client();
    let program = setting("TINDERBOX_STOCK_EXTENSION");
    let zip = json!([{ "name": "extensions/stock", "file": program, "mode": 0o100_755 }]);
    let layer = Layer::publish(&client, "stock", &zip);
    let mut function = Function::python("hello").with("Layers", json!([layer.arn])).deploy(&client);
    // Without a tail of the log, so that the answer waits for no extension.
    function.call("invoke", json!({})).expect("invoke");
    function.update(json!({ "Description": "another one" }));

    let logs = client.clone().of_logs();
    let group = format!("/aws/lambda/{}", function.name);
    let said = || {
        let found = logs.pages("filter_log_events", json!({ "logGroupName": group })).expect("filter");
        let events = found["events"].as_array().expect("events").iter();
        events.map(|event| event["message"].as_str().expect("a message")).collect::<String>()
    };
    let log = until(PATIENCE, || {
        let log = said();
        if log.contains("stock is told SHUTDOWN spindown\n") { Ok(log) } else { Err(log) }
    });
    let log = log.unwrap_or_else(|log| panic!("it is not told of its end: {log}"));
    let mut rest = log.as_str();
    for line in [
        "stock hears PlatformInitStart\n",
        "stock hears PlatformInitRuntimeDone\n",
        "stock hears PlatformExtension\n",
        "stock hears PlatformInitReport\n",
        "stock hears PlatformStart\n",
        &format!("stock hears the function: hello from {}\n", function.name),
        "stock hears platform.runtimeDone Success\n",
        "stock is done with ",
        "stock hears platform.report of ",
        "stock is told SHUTDOWN spindown\n",
    ] {
        let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is not where it belongs in {log}"));
        rest = &rest[at + line.len()..];
    }
    assert!(
        log.contains("TELEMETRY\tName: stock\tState: Subscribed\tTypes: [Platform, Function]\n"),
        "{log}"
    );
}
