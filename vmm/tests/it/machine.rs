//! What a guest finds: memory, console, power, devices, a processor; and that it can be paused.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;

use vmm_api::{DriveAccess, DriveConfig, Exit, MachineConfig, Request, Response, Source};

use crate::guest::{Guest, VIRTIO};
use crate::process::{Vmm, console_of, machine};

fn words(console: &[u8]) -> Vec<u32> {
    console.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn a_guest_prints_and_resets() {
    assert_eq!(console_of(machine(), &Guest::new().print("hello\n").reset(), &[]), b"hello\n");
}

#[test]
fn an_unfinished_line_is_not_lost() {
    assert_eq!(console_of(machine(), &Guest::new().print("no newline").reset(), &[]), b"no newline");
}

#[test]
fn power_off_and_acpi_reset_end_the_process_with_success() {
    assert_eq!(console_of(machine(), &Guest::new().power_off(), &[]), b"");
    assert_eq!(console_of(machine(), &Guest::new().acpi_reset(), &[]), b"");
}

#[test]
fn a_triple_fault_is_a_crash() {
    let (vmm, _console) = Vmm::run(machine(), &Guest::new().triple_fault(), &[]);
    let (exit, status, log) = vmm.finish();
    assert_eq!((exit, status.code()), (Exit::Crashed, Some(2)));
    assert_eq!(log, "vmm: the guest crashed: triple fault\n");
}

#[test]
fn a_guest_that_asked_for_its_end_runs_no_further() {
    for end in [Guest::reset, Guest::power_off, Guest::acpi_reset] {
        // Each ends in a loop; what follows the request is put in its place.
        let asked = end(Guest::new().print("before")).without_its_end();
        for _ in 0..5 {
            assert_eq!(console_of(machine(), &asked.clone().print("after").triple_fault(), &[]), b"before");
        }
    }
}

#[test]
fn memory_ends_where_it_should() {
    let last = (128 << 20) - 4;
    let guest =
        Guest::new().store(last, 0x1234_5678).load(last).print_eax().load(last + 4).print_eax().reset();
    // Behind the end nothing answers.
    assert_eq!(words(&console_of(machine(), &guest, &[])), [0x1234_5678, u32::MAX]);
}

#[test]
fn memory_beside_the_device_hole_works_for_the_largest_machine() {
    let config = MachineConfig { mem_size_mib: 10_496, vcpu_count: 16, ..machine() };
    let last = 0xc000_0000 - 4;
    let guest = Guest::new().store(last, 7).load(last).print_eax().load(last + 4).print_eax().reset();
    assert_eq!(words(&console_of(config, &guest, &[])), [7, u32::MAX]);
}

#[test]
fn a_virtio_device_answers_at_its_address() {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1024).unwrap();
    let drive = DriveConfig { id: "disk".into(), source: Source::Fd(2), access: DriveAccess::ReadWrite };
    let config = MachineConfig { drives: vec![drive], entropy: true, ..machine() };
    let (magic, version, kind) = (0, 4, 8);
    let page = |page: u32| VIRTIO + 0x1000 * page;
    let registers =
        [magic, version, kind, page(1) + kind - VIRTIO, page(2) + kind - VIRTIO, page(3) - VIRTIO];
    let guest = registers
        .into_iter()
        .map(|register| VIRTIO + register)
        .fold(Guest::new(), |guest, address| guest.load(address).print_eax())
        .reset();
    let console = console_of(config, &guest, &[disk.as_fd()]);
    // The network device is there without having been asked for.
    let (block, entropy, network) = (2, 4, 1);
    assert_eq!(words(&console), [u32::from_le_bytes(*b"virt"), 2, block, entropy, network, u32::MAX]);
}

#[test]
fn the_processor_hides_nested_virtualisation() {
    let guest = Guest::new().cpuid_ecx(1).print_eax().cpuid_ecx(0x8000_0001).print_eax().reset();
    let features = words(&console_of(machine(), &guest, &[]));
    let (vmx, hypervisor, svm) = (1 << 5, 1 << 31, 1 << 2);
    assert_eq!(features[0] & (vmx | hypervisor), hypervisor);
    assert_eq!(features[1] & svm, 0);
}

#[test]
fn a_paused_guest_stands_still_and_goes_on_where_it_was() {
    let (vmm, reader) = Vmm::run(machine(), &Guest::new().print_for_ever(), &[]);
    let mut lines = BufReader::new(reader).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "x");
    for _ in 0..20 {
        assert_eq!(vmm.call(&Request::Pause), Response::Ok);
        let before = vmm.metrics().exits;
        assert_eq!(vmm.metrics().exits, before, "something ran while paused");
        assert_eq!(vmm.call(&Request::Resume), Response::Ok);
        // Empty the pipe first: what is in it was printed before the pause.
        while vmm.metrics().exits.pio <= before.pio {
            assert_eq!(lines.next().unwrap().unwrap(), "x");
        }
    }
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    assert!(vmm.wait().0.success());
}

#[test]
fn sixteen_vcpus_pause_whatever_they_do() {
    let config = MachineConfig { vcpu_count: 16, ..machine() };
    // One spins; fifteen wait for a start-up signal that never comes.
    let (vmm, _reader) = Vmm::run(config, &Guest::new().spin(), &[]);
    for request in [Request::Pause, Request::Resume, Request::Pause, Request::Resume, Request::Stop] {
        assert_eq!(vmm.call(&request), Response::Ok, "{request:?}");
    }
    assert!(vmm.wait().0.success());
}
