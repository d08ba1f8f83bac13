//! A function that became root in its guest: a guest-init that leaves it every right takes the real one's place on a test
//! host, and the function tries to get out.

use serde_json::{Value, json};

use crate::functions::{Deployed, Function};
use crate::host;
use crate::kills::Agent;

/// What each sandbox is booted with.
const INITRD: &str = "/usr/lib/tinderbox/guest/initrd.cpio";

/// Another file in the place of one of the host's, until this is dropped.
pub(crate) struct InPlaceOf(&'static str);

impl InPlaceOf {
    /// For whatever opens it from now on.
    pub(crate) fn mount(other: &str, path: &'static str) -> Self {
        let mounted = host::run(&["mount", "--bind", other, path]);
        assert_eq!(mounted.code, 0, "{mounted:?}");
        Self(path)
    }

    /// The initrd that leaves a function root in its guest.
    pub(crate) fn rooted_initrd() -> Self {
        Self::mount(&host::rooted_initrd(), INITRD)
    }
}

impl Drop for InPlaceOf {
    fn drop(&mut self) {
        host::run(&["umount", self.0]);
    }
}

/// Which sandbox answers.
#[track_caller]
fn sandbox(function: &Deployed) -> Value {
    function.answer(json!({}))["sandbox"].clone()
}

/// How many sandboxes the host's agent has lost whose kernel said so.
fn panicked() -> usize {
    let log = host::run(&["journalctl", "--unit", "tinderbox-agent", "--boot", "--output", "cat"]).stdout;
    log.lines().filter(|line| line.starts_with("a sandbox was lost") && line.contains("Kernel panic")).count()
}

#[test]
fn a_function_that_is_root_in_its_guest_reaches_nobody_else() {
    let agent = Agent::alone();
    let neighbour = Function::python("hello").deploy(agent.client());
    let its = sandbox(&neighbour);
    let rooted = InPlaceOf::rooted_initrd();
    let function = Function::python("root").deploy(agent.client());
    let seen = function.answer(json!({}));
    assert_eq!(seen["user"], 0, "it is not root: {seen}");
    let expected = json!({
        "mount": "done",
        "other ports": ["ECONNRESET"],
        "other machines": ["silence"],
        "the agent again": "ECONNRESET",
        "a flood that the agent answers": 0,
        // Its own kernel lets nobody write to a disk that is mounted. That the devices do not either, `vmm/tests/it` shows.
        "write to the runtime's disk": "EBUSY",
        "write to the code's disk": "EBUSY",
        "open /dev/mem": "ENXIO",
        "open /dev/port": "ENXIO",
        "get ports": "ENOSYS",
        "load a module": "ENOSYS",
        "load a kernel": "ENOSYS",
    });
    assert_eq!(seen["attempts"], expected);
    // Its kernel ends the processes that it sees, which are the function's.
    for (end, panics) in [("reset", 0), ("panic", 1)] {
        let before = panicked();
        let ended = function.invoke(json!({ "end": end }));
        assert!(ended.function_error.is_some(), "{end}: {ended:?}");
        assert_eq!(panicked(), before + panics, "{end}");
        assert_eq!(sandbox(&neighbour), its, "{end} was felt next door");
    }
    assert_eq!(function.answer(json!({}))["user"], 0, "the next sandbox serves");
    drop((rooted, function));
    Agent::look();
}
