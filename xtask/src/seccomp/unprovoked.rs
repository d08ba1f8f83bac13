//! Why no test provokes the call of a rule: a list by the rules' reasons. A rule that no test misses and that is not here is one too
//! many, or one that a test is owed.

use super::Rule;

/// Rules that are there for what no test provokes at will, by the beginning of their reasons, and why. The command names those that
/// no test has missed.
const UNPROVOKED: &[(&str, &str)] = &[
    (
        "the allocator",
        "how a thread's heap grows is its libc's matter, and differs with what was freed before",
    ),
    ("abort", "a confined thread aborts when an invariant is broken, and none is known to break"),
    ("contended channels", "two threads have to meet within a few instructions"),
    (
        "where the clock cannot be read without the kernel",
        "whether the vDSO reads the clock is the host's matter",
    ),
    ("the end of a thread", "the pager's thread may end with its process"),
    ("the gateway's end", "nothing but a signal ends it, or an error of the kernel's"),
    ("contended locks", "two threads have to meet within a few instructions"),
    ("a wait goes on after a stop", "nobody stops a daemon, or its helpers, and lets it go on"),
    ("the same, where the file system cannot copy ranges", "the tests' file system can"),
    ("a helper that takes too long", "helpers have minutes"),
    ("libc's allocator", "which way a heap grows is its libc's matter"),
    ("growing large buffers", "which way a block grows is its libc's matter"),
    ("the same in the agent's unit", "these tests are in no unit of systemd's"),
    (
        "a thread waits for a moment",
        "it is the logs', when a guest has said something, and these tests boot none",
    ),
    ("the resolver reads what a cache of names says", "where these tests run is no nscd"),
    ("a backtrace names files from there", "a backtrace is of a panic, and no way to one is known"),
    ("libc asks how much memory there is before it sorts", "a newer libc, as the tests', does not ask"),
    ("an older libc asks for lengths by it", "the tests' libc has fstat for that"),
];

/// Why no test provokes a rule's call.
pub(super) fn explained(rule: &Rule) -> Option<&'static str> {
    UNPROVOKED.iter().find(|(reason, _)| rule.reason.starts_with(reason)).map(|(_, why)| *why)
}
