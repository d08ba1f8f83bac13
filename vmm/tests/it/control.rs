//! The control socket: order of requests, refusals, and the process's end.

use std::os::fd::AsFd;

use vmm_api::{DriveAccess, DriveConfig, MAX_PACKET_LEN, MachineConfig, Request, Response, Source};

use crate::guest::Guest;
use crate::process::{Vmm, machine};

fn refusal_of(answer: Response) -> (Option<String>, String) {
    match answer {
        Response::Refused(refusal) => (refusal.field, refusal.message),
        other => panic!("not refused: {other:?}"),
    }
}

fn send_raw(vmm: &Vmm, packet: &[u8]) -> (Option<String>, String) {
    vmm_api::send(vmm.client.as_fd(), packet, &[]).unwrap();
    refusal_of(vmm.client.next().unwrap())
}

#[test]
fn requests_out_of_order_are_refused_and_change_nothing() {
    let vmm = Vmm::spawn();
    for request in [Request::Start, Request::Pause, Request::Resume] {
        let (field, message) = refusal_of(vmm.call(&request));
        assert!(field.is_none() && message.ends_with("not configured yet"), "{message}");
    }
    let kernel = Guest::new().spin().kernel();
    let config = MachineConfig { serial: Default::default(), ..machine() };
    vmm.configure(config.clone(), &[kernel.as_fd()]);
    let again = vmm.refusal(config, &[kernel.as_fd()]);
    assert_eq!(again.message, "configure: the machine is configured and not started");
    assert_eq!(vmm.call(&Request::Start), Response::Ok);
    assert_eq!(refusal_of(vmm.call(&Request::Start)).1, "start: the machine is running");
    assert_eq!(refusal_of(vmm.call(&Request::Resume)).1, "resume: the machine is running");
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    assert!(vmm.wait().0.success());
}

#[test]
fn a_refused_configuration_names_its_field_and_a_better_one_is_taken() {
    let vmm = Vmm::spawn();
    let kernel = Guest::new().spin().kernel();
    let (serial, no_vcpu) = (Default::default(), 0);
    let good = MachineConfig { serial, ..machine() };
    let fds = [kernel.as_fd()];
    let field = |config: MachineConfig| vmm.refusal(config, &fds).field.unwrap();
    assert_eq!(field(MachineConfig { vcpu_count: no_vcpu, ..good.clone() }), "vcpu_count");
    assert_eq!(field(MachineConfig { mem_size_mib: 127, ..good.clone() }), "mem_size_mib");
    assert_eq!(field(MachineConfig { kernel: Source::Fd(1), ..good.clone() }), "kernel.fd");
    let drive = DriveConfig { id: "no spaces".into(), source: Source::Fd(1), access: DriveAccess::ReadOnly };
    assert_eq!(field(MachineConfig { drives: vec![drive], ..good.clone() }), "drives[0].id");
    vmm.configure(good, &fds);
}

#[test]
fn files_that_are_no_kernel_or_do_not_fit_are_refused() {
    let vmm = Vmm::spawn();
    let config = MachineConfig { serial: Default::default(), ..machine() };
    let zeros = tempfile::tempfile().unwrap();
    zeros.set_len(1 << 20).unwrap();
    let garbage = vmm.refusal(config.clone(), &[zeros.as_fd()]);
    assert_eq!(garbage.field.as_deref(), Some("kernel"), "{}", garbage.message);
    let noteless = Guest::new().spin().kernel_without_note();
    let refusal = vmm.refusal(config.clone(), &[noteless.as_fd()]);
    assert_eq!(refusal.message, "the ELF kernel has no PVH entry note (CONFIG_PVH)");
    let (kernel, huge) = (Guest::new().spin().kernel(), tempfile::tempfile().unwrap());
    huge.set_len(200 << 20).unwrap();
    let refusal =
        vmm.refusal(MachineConfig { initrd: Some(Source::Fd(1)), ..config }, &[kernel.as_fd(), huge.as_fd()]);
    assert_eq!(refusal.field.as_deref(), Some("initrd"), "{}", refusal.message);
}

#[test]
fn malformed_packets_are_refused_by_field() {
    let vmm = Vmm::spawn();
    let (field, _) =
        send_raw(&vmm, br#"{"configure":{"vcpu_count":300,"mem_size_mib":128,"kernel":{"fd":0}}}"#);
    assert_eq!(field.as_deref(), Some("vcpu_count"));
    let (_, message) = send_raw(
        &vmm,
        br#"{"configure":{"vcpu_count":1,"mem_size_mib":128,"kernel":{"fd":0},"turbo":true}}"#,
    );
    assert!(message.contains("turbo"), "{message}");
    for garbage in [&b"\xff\xfe"[..], b"{", br#""launch""#, br#""start" "start""#] {
        send_raw(&vmm, garbage);
    }
    assert!(vmm_api::send(vmm.client.as_fd(), &vec![b' '; MAX_PACKET_LEN + 1], &[]).is_ok());
    let (_, message) = refusal_of(vmm.client.next().unwrap());
    assert!(message.starts_with("a request has at most"), "{message}");
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}

#[test]
fn the_sockets_end_is_the_processs_end() {
    let vmm = Vmm::spawn();
    let (client, mut child) = vmm.into_parts();
    drop(client);
    assert!(child.wait().unwrap().success());
    let (vmm, _console) = Vmm::run(machine(), &Guest::new().spin(), &[]);
    let (client, mut child) = vmm.into_parts();
    drop(client);
    assert!(child.wait().unwrap().success());
}
