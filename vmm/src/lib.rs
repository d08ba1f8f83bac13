//! One process, one microVM, on KVM: no async runtime, no HTTP.
//!
//! # Which thread owns what
//!
//! ```text
//!  I/O thread (the main thread, `supervisor`)          vCPU threads, one each (`vcpu`)
//!    control socket, epoll                               the vCPU's descriptor, KVM_RUN
//!    Machine: VM descriptor, guest memory                          │
//!    DeviceSet ──── Mutex<device> ◄── Mutex<transport> ◄── Buses ──┤ port and MMIO accesses
//!    VcpuHandle ─── command channel, kick ─────────────────────────►
//!          ◄─────── report channel, eventfd ───────────────────────┤ the guest ended
//!                                                                  │
//!  pager thread (`pager`), of a machine that is loaded: ◄── userfaultfd: memory that is not there yet
//! ```
//!
//! * No other thread exists. All three kinds run under a system call filter of their own (`confine`), and the process under
//!   a jail without any path, before the first guest instruction; there is no switch for it.
//! * A guest's notification of a device goes from KVM to the I/O thread by an eventfd, a device's interrupt from
//!   the I/O thread to KVM by another: neither involves a vCPU thread.
//! * While a machine is paused its vCPU threads wait for a command and the I/O thread does not look at devices.
//!
//! # From a request to a guest
//!
//! `config` checks what a client sent → `machine` puts it together (`memory`, `boot`, `acpi`, `cpu`) → `confine` →
//! `vcpu` threads. Or: `machine::Prepared` is made of a shape → `confine` → threads → a snapshot is loaded into it. `layout` has all addresses, `lifecycle` the order of requests.
//! `resident` is something else: one machine a host that never runs.

mod acpi;
mod allocator;
mod boot;
mod chunk_drive;
mod config;
mod confine;
mod control;
#[cfg(test)]
mod counting;
mod cpu;
mod describe;
mod host_files;
#[cfg(feature = "hostile")]
mod hostile;
mod kick;
mod layered_drive;
mod layout;
mod lifecycle;
mod machine;
mod memory;
mod memory_file;
mod metrics;
mod pager;
mod power;
mod random;
mod requests;
mod resident;
mod supervisor;
mod vcpu;

pub use control::{Control, ControlError};
pub use describe::describe;
pub use host_files::HostFiles;
pub use resident::stay;
pub use supervisor::{Outcome, RunError, run_config, serve};
