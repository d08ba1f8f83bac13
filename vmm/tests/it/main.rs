//! The `vmm` program as its clients see it: a process with a control socket, running guests of a few instructions that
//! are written here byte by byte. They need a /dev/kvm that can run such guests; one that only emulates is enough.
//!
//! Linux guests are not here: they need nested or real virtualisation, and are booted by the tests of the appliance.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod chunks;
mod confinement;
mod control;
mod driver;
mod hostile;
mod machine;
mod network;
mod process;
mod reading;
mod snapshot;
mod sockets;
mod store;
#[path = "../../../launcher/tests/it/user.rs"]
mod user;
mod writing;

use tiny_guest as guest;
