//! Tests of the booted appliance through real clients: boto3 and the aws CLI talk to nodes that run in QEMU.
//!
//! One node serves every test that does not change the node itself; tests that do boot their own. `cargo xtask test`
//! builds what is needed and says where it is (`TINDERBOX_*` in the environment, see [`setting`]). Not here: tests of one
//! crate, which sit beside its code.

mod api;
mod appliance;
mod auth;
mod booted_host;
mod buckets;
mod chunks;
mod client;
mod command_line;
mod conformance;
mod constraints;
mod containers;
mod cores;
mod deploy;
mod events;
mod examples;
mod extensions;
mod failures;
mod faults;
mod functions;
mod guest_root;
mod guest_user;
mod host;
mod hostile_client;
mod hostile_vmm;
mod image;
mod invoke;
mod jail;
mod java;
mod keys;
mod kills;
mod layers;
mod limits;
mod logs;
mod looks;
mod machine;
mod network;
mod node;
mod persistence;
mod proof;
mod provisioned;
mod refusals;
mod registries;
mod restore_hooks;
mod runtime_snapshots;
mod runtimes;
mod sdks;
mod sight;
mod snapshots;
mod snapstart;
mod uniqueness;
mod urls;

use std::path::PathBuf;

/// A path that `cargo xtask test` passes in the environment.
fn setting(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("{name} is not set: these tests are run by `cargo xtask test`"),
    }
}
