//! The gateway as a program, between guests that are a TCP stack at a tap and a world beyond the node, each in a network of its own.
//! These tests need root, `ip` and `nft`. What is said of the node's side is the image's own `nftables.conf`.

#![expect(unsafe_code, reason = "descriptors that arrive as numbers")]

mod assignments;
mod ends;
mod frames;
mod guest;
mod node;
mod refusals;
mod traffic;
#[path = "../../../launcher/tests/it/unit.rs"]
mod unit;
#[path = "../../../launcher/tests/it/user.rs"]
mod user;
