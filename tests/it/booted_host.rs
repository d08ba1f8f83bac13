//! The tests of `vmm`, `launcher` and `gateway` on a test host, as it is booted on a node: its kernel, its settings, and a KVM whose
//! processor translates addresses of guests itself. Where the crates' tests run, KVM may do no more than emulate.

use crate::host;
use crate::kills::Agent;

/// A root that something is below: an initrd's, which the host has, is none that a process can leave for another, as a `vmm`, a launcher
/// and a gateway do.
const IN_A_ROOT: &str = "mkdir -p /run/root && mount --rbind / /run/root && cd /run/root && mount --move . / && exec chroot . \"$0\" --test-threads=1 \"$@\"";

/// Tries what nobody may on this host (`kernel.yama.ptrace_scope`), not even of a process that is open to it.
const OF_ITS_USER: &str = "another_process_of";

/// Times what an emulated processor takes longer for.
const TIMED: &str = "less_than_a_millisecond";

/// Fails unless all tests of a package pass but one for each of `left_out`, and `test` is among them.
#[track_caller]
fn pass(package: &str, test: &str, left_out: &[&str]) {
    let _agent = Agent::alone();
    let tests = host::tests_of(package);
    let skipped = left_out.iter().flat_map(|name| ["--skip", *name]);
    let command: Vec<_> =
        ["unshare", "--mount", "sh", "-c", IN_A_ROOT, &tests].into_iter().chain(skipped).collect();
    let passed = host::run(&command);
    assert_eq!(passed.code, 0, "{}\n{}", passed.stdout, passed.stderr);
    // What its program says may stand before its result.
    assert!(passed.stdout.contains(&format!("test {test} ... ")), "{}", passed.stdout);
    let counted = format!("; 0 ignored; 0 measured; {} filtered out", left_out.len());
    assert!(passed.stdout.contains(&counted), "{}", passed.stdout);
    let removed = host::run(&["rm", &tests]);
    assert_eq!(removed.code, 0, "{removed:?}");
}

#[test]
fn guests_of_a_few_instructions_get_no_further_where_kvm_does_not_emulate() {
    pass("vmm", "hostile::a_guest_that_attacks_every_device_finds_them_working_afterwards", &[OF_ITS_USER]);
}

#[test]
fn whatever_fails_or_is_asked_of_a_launcher_on_a_booted_host_leaves_nothing() {
    pass(
        "launcher",
        "steps::whichever_call_of_a_room_fails_its_step_is_named_and_there_is_no_sandbox",
        &[OF_ITS_USER],
    );
}

#[test]
fn frames_of_whatever_kind_get_nowhere_on_a_booted_host() {
    pass("gateway", "frames::pieces_of_two_guests_are_never_one_packet", &[OF_ITS_USER, TIMED]);
}
