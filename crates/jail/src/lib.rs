//! Confinement that a process puts on itself: resource limits, landlock, seccomp; as plain data, executed step by step.
//!
//! A [`JailPlan`] and a [`SyscallFilter`] are values: whoever wants to know what a process may do reads them, tests
//! compare them. Nothing here knows guests, HTTP or which program is being confined: `vmm` and host-agent's zip helper
//! bring their own plans.
//!
//! Order of use, in one thread, before any other exists:
//! 1. open every file that will be needed;
//! 2. [`JailPlan::enter`]: inherited by every thread and child made later;
//! 3. start the other threads; each applies its own [`CompiledFilter`];
//! 4. apply the first thread's own [`CompiledFilter`] last.
//!
//! There is no switch that turns any of this off, in no build profile.

mod paths;
mod plan;
mod program;
mod syscalls;

#[doc(hidden)]
pub use libc;
pub use paths::{Access, PathRule};
pub use plan::{JailError, JailPlan, Limit, Resource, Step};
pub use syscalls::{ArgTest, CompiledFilter, FilterError, SyscallFilter, SyscallRule};
