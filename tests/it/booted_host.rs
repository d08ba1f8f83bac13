//! The tests of `vmm`, `launcher` and `gateway` on a test host, as it is booted on a node: its kernel, its settings, and a KVM whose
//! processor translates addresses of guests itself. Where the crates' tests run, KVM may do no more than emulate.

use crate::host;
use crate::kills::Agent;

/// A root that something is below: an initrd's, which the host has, is none that a process can leave for another, as a `vmm`, a launcher
/// and a gateway do.
const IN_A_ROOT: &str = "mkdir -p /run/root && mount --rbind / /run/root && cd /run/root && mount --move . / && exec chroot . \"$0\" --test-threads=1 --skip another_process";

/// Fails unless all pass but one, and `test` is among them. That one tries what nobody may on this host (`kernel.yama.ptrace_scope`),
/// not even of a process that is open to it.
#[track_caller]
fn pass(package: &str, test: &str) {
    let _agent = Agent::alone();
    let tests = host::tests_of(package);
    let passed = host::run(&["unshare", "--mount", "sh", "-c", IN_A_ROOT, &tests]);
    assert_eq!(passed.code, 0, "{}\n{}", passed.stdout, passed.stderr);
    assert!(passed.stdout.contains(&format!("test {test} ... ok")), "{}", passed.stdout);
    assert!(passed.stdout.contains("; 0 ignored; 0 measured; 1 filtered out"), "{}", passed.stdout);
    let removed = host::run(&["rm", &tests]);
    assert_eq!(removed.code, 0, "{removed:?}");
}

#[test]
fn guests_of_a_few_instructions_get_no_further_where_kvm_does_not_emulate() {
    pass("vmm", "hostile::a_guest_that_attacks_every_device_finds_them_working_afterwards");
}

#[test]
fn whatever_fails_or_is_asked_of_a_launcher_on_a_booted_host_leaves_nothing() {
    pass("launcher", "steps::whichever_call_of_a_room_fails_its_step_is_named_and_there_is_no_sandbox");
}

#[test]
fn frames_of_whatever_kind_get_nowhere_on_a_booted_host() {
    pass("gateway", "frames::pieces_of_two_guests_are_never_one_packet");
}
