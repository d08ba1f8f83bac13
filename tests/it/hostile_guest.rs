//! The tests of `vmm` on a test host: hand-written guests, the hostile ones among them, on a KVM whose processor translates addresses of
//! guests itself. Where the crates' tests run, KVM may do no more than emulate.

use crate::host;
use crate::kills::Agent;

/// A root that something is below: an initrd's, which the host has, is none that a process can leave for another, as the `vmm` does here.
const IN_A_ROOT: &str = "mkdir -p /run/root && mount --rbind / /run/root && cd /run/root && mount --move . / && exec chroot . \"$0\" --test-threads=1 --skip another_process_of_its_user";

#[test]
fn guests_of_a_few_instructions_get_no_further_where_kvm_does_not_emulate() {
    let _agent = Agent::alone();
    let passed = host::run(&["unshare", "--mount", "sh", "-c", IN_A_ROOT, &host::vmm_tests()]);
    assert_eq!(passed.code, 0, "{passed:?}");
    let passes = |test: &str| passed.stdout.contains(&format!("test {test} ... ok"));
    assert!(passes("hostile::a_guest_that_attacks_every_device_finds_them_working_afterwards"), "{passed:?}");
    // That one tries what nobody may on this host (`kernel.yama.ptrace_scope`), not even of a process that is open to it.
    assert!(passed.stdout.contains("; 0 ignored; 0 measured; 1 filtered out"), "{passed:?}");
}
