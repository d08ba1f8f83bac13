//! PID 1 of a guest: prepares the machine, runs one function and serves it the Lambda Runtime API.
//!
//! One thread owns everything. The sandbox task decides; the tasks around it (agent reader and writer, Runtime API,
//! output pump, exit watcher) only carry bytes and events between it and the outside. The library exists so that the
//! tests can drive the sandbox without a guest; its only production user is the program of the same name.

pub mod boot;
pub mod cgroup;
pub mod control;
pub mod describe;
pub mod dial;
pub mod environment;
pub mod extensions;
pub mod gate;
pub mod lifecycle;
pub mod netlink;
pub mod output;
pub mod platform_log;
pub mod process;
pub mod runtime_api;
pub mod sandbox;
pub mod telemetry;
pub mod unassigned;
pub mod watch;
