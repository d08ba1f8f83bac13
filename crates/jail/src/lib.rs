//! Confinement, as plain data gone through step by step: what a process puts on itself, and what is put on it before it begins.
//!
//! A [`JailPlan`], a [`RoomPlan`] and a [`SyscallFilter`] are values: whoever wants to know what a process may do reads them,
//! tests compare them. Nothing here knows guests, HTTP or which program is being confined: `vmm`, `launcher` and host-agent's zip
//! helper bring their own plans. One filter is here, as two of them need it: what a sandbox's program may call at most
//! ([`sandbox_filter`]).
//!
//! A process that confines itself has no right that others have not. Order of use, in one thread, before any other exists:
//! 1. open every file that will be needed;
//! 2. [`JailPlan::enter`]: inherited by every thread and child made later;
//! 3. start the other threads; each applies its own [`CompiledFilter`];
//! 4. apply the first thread's own [`CompiledFilter`] last.
//!
//! A launcher with the right to makes a control group ([`Groups`]), in that a process in [`NAMESPACES`] of its own, which goes through
//! [`RoomPlan::enter`] and becomes the program. What the agent and a launcher say to each other is in [`launch`].
//!
//! There is no switch that turns any of this off, in no build profile.

mod group;
pub mod launch;
mod paths;
mod plan;
mod program;
mod room;
mod sandbox;
mod syscalls;

pub use group::{CpuQuota, Group, GroupError, Groups, Setting, settings};
#[doc(hidden)]
pub use libc;
pub use paths::{Access, PathRule, PortAccess, PortRule};
pub use plan::{Entered, JailError, JailPlan, Limit, Resource, Step};
pub use room::{
    Capability, CoreSharing, FIRST_USER, Handed, NAMESPACES, RoomError, RoomPlan, RoomStep, USERS,
    core_sharing, drop_ambient_set, drop_bounding_set, enter_empty_root, keep_capability,
};
pub use sandbox::{sandbox_filter, sandbox_rules};
pub use syscalls::{ArgTest, CompiledFilter, FilterError, SyscallFilter, SyscallRule, Verdict};
