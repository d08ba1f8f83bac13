//! What is refused, and that the refusal names the field.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use proptest::prelude::*;
use vmm_api::{
    DriveAccess, DriveConfig, Grant, Layered, MachineConfig, NetConfig, RateLimit, SerialConfig, Source,
    VsockConfig,
};

use super::Config;
use super::check::{MAX_DRIVES, MAX_MEM_SIZE_MIB, MAX_VCPUS, MIN_MEM_SIZE_MIB, check};

fn good() -> MachineConfig {
    MachineConfig {
        vcpu_count: 1,
        mem_size_mib: 128,
        kernel: Source::Fd(0),
        initrd: None,
        cmdline: "console=ttyS0".into(),
        drives: Vec::new(),
        vsock: None,
        net: None,
        entropy: false,
        serial: SerialConfig::Null,
        allow_snapshots: false,
    }
}

const RATE: RateLimit = RateLimit { bytes_per_second: 1_000_000, burst_bytes: 1 << 20 };

fn drive(id: &str, fd: usize) -> DriveConfig {
    DriveConfig { id: id.into(), source: Source::Fd(fd), access: DriveAccess::ReadOnly }
}

/// Read by chunks, and written over: table, slots, asks, layer.
fn layered([table, slots, asks, layer]: [usize; 4]) -> DriveConfig {
    let source = Source::Layered(Layered { base: Grant { table, slots, asks }, layer });
    DriveConfig { source, access: DriveAccess::ReadWrite, ..drive("a", 0) }
}

/// Read by chunks: table, slots, asks.
fn chunks([table, slots, asks]: [usize; 3]) -> DriveConfig {
    DriveConfig { source: Source::Chunks(Grant { table, slots, asks }), ..drive("a", 0) }
}

fn refused_field(config: MachineConfig, fds: usize) -> Option<String> {
    check(config, fds).err().and_then(|refusal| refusal.field)
}

/// `change` makes the good configuration, with four descriptors, wrong in `field`.
#[track_caller]
fn refuses(field: &str, change: impl FnOnce(&mut MachineConfig)) {
    let mut config = good();
    change(&mut config);
    assert_eq!(refused_field(config, 4).as_deref(), Some(field));
}

#[test]
fn every_field_is_checked_and_named() {
    assert_eq!(refused_field(good(), 4), None);
    assert_eq!(refused_field(MachineConfig { drives: vec![chunks([3, 1, 2])], ..good() }, 4), None);
    refuses("vcpu_count", |c| c.vcpu_count = 0);
    refuses("mem_size_mib", |c| c.mem_size_mib = 0);
    refuses("kernel.fd", |c| c.kernel = Source::Fd(4));
    refuses("kernel.path", |c| c.kernel = Source::Path("".into()));
    refuses("initrd.fd", |c| c.initrd = Some(Source::Fd(0)));
    refuses("cmdline", |c| c.cmdline = "a\0b".into());
    refuses("cmdline", |c| c.cmdline = "grün".into());
    refuses("cmdline", |c| c.cmdline = "a\nb".into());
    refuses("cmdline", |c| c.cmdline = "x".repeat(2048));
    refuses("drives", |c| c.drives = (0..=MAX_DRIVES).map(|n| drive(&n.to_string(), n + 1)).collect());
    refuses("drives[0].id", |c| c.drives = vec![drive("", 1)]);
    refuses("drives[0].id", |c| c.drives = vec![drive("a/b", 1)]);
    refuses("drives[0].id", |c| c.drives = vec![drive("123456789012345678901", 1)]);
    refuses("drives[1].id", |c| c.drives = vec![drive("a", 1), drive("a", 2)]);
    refuses("drives[1].source.fd", |c| c.drives = vec![drive("a", 1), drive("b", 1)]);
    refuses("drives[0].source.chunks.table", |c| c.drives = vec![chunks([0, 1, 2])]);
    refuses("drives[0].source.chunks.slots", |c| c.drives = vec![chunks([1, 1, 2])]);
    refuses("drives[0].source.chunks.asks", |c| c.drives = vec![chunks([1, 2, 4])]);
    refuses("drives[0].source", |c| {
        c.drives = vec![DriveConfig { access: DriveAccess::ReadWrite, ..chunks([1, 2, 3]) }];
    });
    assert_eq!(refused_field(MachineConfig { drives: vec![layered([3, 1, 2, 4])], ..good() }, 5), None);
    refuses("drives[0].source.layered.base.table", |c| c.drives = vec![layered([0, 1, 2, 3])]);
    refuses("drives[0].source.layered.layer", |c| c.drives = vec![layered([1, 2, 3, 3])]);
    refuses("drives[0].source.layered.layer", |c| c.drives = vec![layered([1, 2, 3, 4])]);
    refuses("drives[0].source", |c| {
        c.drives = vec![DriveConfig { access: DriveAccess::ReadOnly, ..layered([1, 2, 3, 0]) }];
    });
    refuses("kernel", |c| c.kernel = chunks([1, 2, 3]).source);
    refuses("initrd", |c| c.initrd = Some(chunks([1, 2, 3]).source));
    refuses("vsock.guest_cid", |c| c.vsock = Some(VsockConfig { guest_cid: 2, broker_fd: 1 }));
    refuses("vsock.guest_cid", |c| c.vsock = Some(VsockConfig { guest_cid: u32::MAX, broker_fd: 1 }));
    refuses("vsock.broker_fd", |c| c.vsock = Some(VsockConfig { guest_cid: 3, broker_fd: 9 }));
    let net = |receive, transmit| Some(NetConfig { tap_fd: 1, receive, transmit });
    assert_eq!(refused_field(MachineConfig { net: net(RATE, RATE), ..good() }, 4), None);
    refuses("net.tap_fd", |c| c.net = Some(NetConfig { tap_fd: 0, ..net(RATE, RATE).unwrap() }));
    refuses("net.receive.bytes_per_second", |c| {
        c.net = net(RateLimit { bytes_per_second: (16 << 10) - 1, ..RATE }, RATE);
    });
    refuses("net.transmit.bytes_per_second", |c| {
        c.net = net(RATE, RateLimit { bytes_per_second: 10_000_000_001, ..RATE });
    });
    refuses("net.receive.burst_bytes", |c| {
        c.net = net(RateLimit { burst_bytes: (16 << 10) - 1, ..RATE }, RATE);
    });
    refuses("net.transmit.burst_bytes", |c| {
        c.net = net(RATE, RateLimit { bytes_per_second: 100_000_000, burst_bytes: 99_999 });
    });
    refuses("serial.fd", |c| c.serial = SerialConfig::Fd(0));
}

proptest! {
    #[test]
    fn counts_and_sizes_have_exact_limits(vcpus: u8, mib: u32) {
        let config = MachineConfig { vcpu_count: vcpus, mem_size_mib: mib, ..good() };
        let fits = (1..=MAX_VCPUS).contains(&vcpus) && (MIN_MEM_SIZE_MIB..=MAX_MEM_SIZE_MIB).contains(&mib);
        prop_assert_eq!(check(config, 1).is_ok(), fits);
    }

    #[test]
    fn no_text_that_a_kernel_or_a_serial_cannot_take_gets_through(id in ".{0,24}", cmdline in ".{0,64}") {
        let config = MachineConfig { drives: vec![drive(&id, 1)], cmdline: cmdline.clone(), ..good() };
        match check(config, 2) {
            Ok(checked) => {
                prop_assert!(checked.cmdline.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
                let id = checked.drives[0].0.as_str();
                prop_assert!((1..=20).contains(&id.len()) && id.is_ascii());
            }
            Err(refusal) => {
                let field = refusal.field.unwrap();
                prop_assert!(field == "cmdline" || field == "drives[0].id", "{}", field);
            }
        }
    }

    #[test]
    fn no_descriptor_has_two_owners(kernel in 0usize..6, first in 0usize..6, second in 0usize..6, count in 0usize..6) {
        let config = MachineConfig {
            kernel: Source::Fd(kernel),
            drives: vec![drive("a", first), drive("b", second)],
            ..good()
        };
        let distinct = kernel != first && kernel != second && first != second;
        let in_range = kernel.max(first).max(second) < count;
        prop_assert_eq!(check(config, count).is_ok(), distinct && in_range);
    }
}

fn file_of(len: u64) -> OwnedFd {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file.into()
}

fn opened(config: MachineConfig, fds: Vec<OwnedFd>) -> Option<String> {
    Config::new(config, fds).err().and_then(|refusal| refusal.field)
}

#[test]
fn files_are_what_the_machine_needs() {
    let disks = |len| vec![file_of(64), file_of(len)];
    let with_disk = MachineConfig { drives: vec![drive("a", 1)], ..good() };
    assert_eq!(opened(with_disk.clone(), disks(1024)), None);
    assert_eq!(opened(with_disk.clone(), disks(1000)).as_deref(), Some("drives[0].source"));
    assert_eq!(opened(with_disk.clone(), disks(0)).as_deref(), Some("drives[0].source"));
    assert_eq!(opened(good(), vec![file_of(0)]).as_deref(), Some("kernel"));
    let pipe = std::io::pipe().unwrap();
    assert_eq!(opened(good(), vec![pipe.0.into()]).as_deref(), Some("kernel.fd"));
    let missing = MachineConfig { kernel: Source::Path("/nonexistent/vmlinux".into()), ..good() };
    assert_eq!(opened(missing, Vec::new()).as_deref(), Some("kernel.path"));
    let directory = MachineConfig { kernel: Source::Path("/".into()), ..good() };
    assert_eq!(opened(directory, Vec::new()).as_deref(), Some("kernel.path"));
}

#[test]
fn a_read_only_descriptor_cannot_become_a_writable_drive() {
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(&[0; 512]).unwrap();
    let read_only = |path: &Path| OwnedFd::from(std::fs::File::open(path).unwrap());
    let mut config = MachineConfig { drives: vec![drive("a", 1)], ..good() };
    config.drives[0].access = DriveAccess::ReadWrite;
    let fds = vec![file_of(64), read_only(named.path())];
    assert_eq!(opened(config, fds).as_deref(), Some("drives[0].source.fd"));
}

#[test]
fn the_broker_is_a_seqpacket_socket_and_the_serial_descriptor_is_writable() {
    let config = MachineConfig { vsock: Some(VsockConfig { guest_cid: 3, broker_fd: 1 }), ..good() };
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(opened(config.clone(), vec![file_of(64), stream.into()]).as_deref(), Some("vsock.broker_fd"));
    assert_eq!(opened(config, vec![file_of(64), file_of(64)]).as_deref(), Some("vsock.broker_fd"));
    let config = MachineConfig { serial: SerialConfig::Fd(1), ..good() };
    let (reader, writer) = std::io::pipe().unwrap();
    assert_eq!(opened(config.clone(), vec![file_of(64), reader.into()]).as_deref(), Some("serial.fd"));
    assert_eq!(opened(config, vec![file_of(64), writer.into()]), None);
}

#[test]
fn a_tap_is_no_file_and_does_not_block() {
    let net = Some(NetConfig { tap_fd: 1, receive: RATE, transmit: RATE });
    let config = MachineConfig { net, ..good() };
    let opened = |tap: OwnedFd| opened(config.clone(), vec![file_of(64), tap]);
    let (tap, _other) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    assert_eq!(opened(tap.into()), None);
    let (blocking, _other) = UnixDatagram::pair().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    for wrong in [blocking.into(), reader.into(), file_of(64)] {
        assert_eq!(opened(wrong).as_deref(), Some("net.tap_fd"));
    }
}
