//! The VMM with real Linux guests, on a booted test host: both kernel formats, one to sixteen processors, small and large
//! memory, disks that may be written and disks that may not, and configurations that must be refused.
//!
//! The guest is `tests/guest-probe`, which prints what it finds. vsock needs no guest of its own here: every invocation of
//! the other tests crosses it, up to six megabytes in both directions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::host::{self, Finished};

const KERNEL: &str = "/usr/lib/tinderbox/guest/vmlinux";

/// What every guest of these tests is told; the VMM adds devices. The early console shows a panic that comes before the
/// serial driver: without it, such a guest is silent.
const CMDLINE: &str = "console=ttyS0 earlycon=uart8250,io,0x3f8 quiet loglevel=3 panic=-1 reboot=k";

/// A machine that runs the probe and nothing more.
fn config() -> Value {
    json!({
        "vcpu_count": 1,
        "mem_size_mib": 128,
        "kernel": { "path": KERNEL },
        "initrd": { "path": host::probe_initrd() },
        "cmdline": CMDLINE,
        "entropy": true,
        "serial": "stdout",
    })
}

fn with(member: &str, value: impl Into<Value>) -> Value {
    let mut config = config();
    config[member] = value.into();
    config
}

/// Runs `vmm --config` on the test host until the guest ends.
fn run(config: &Value) -> Finished {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = format!("/tmp/machine-{}.json", NEXT.fetch_add(1, Ordering::Relaxed));
    host::write(&path, config.to_string().as_bytes());
    host::run(&["/usr/lib/tinderbox/vmm", "--config", &path])
}

/// Runs the guest, once more when it crashed before its first line. Seen once, with sixteen processors under QEMU's
/// emulated SVM, and not in 25 boots that looked for it; the cause is not known. What is lost twice is ours.
fn run_to_the_first_line(config: &Value) -> Finished {
    let finished = run(config);
    if finished.code == 0 || !finished.stdout.is_empty() || !finished.stderr.contains("triple fault") {
        return finished;
    }
    eprintln!("a guest crashed in silence and is started again: {finished:?}");
    run(config)
}

/// The probe's lines, by their first word.
fn probe(config: &Value) -> BTreeMap<String, String> {
    let finished = run_to_the_first_line(config);
    let lines = finished.stdout.lines().filter_map(|line| line.trim().strip_prefix("probe: "));
    let found: BTreeMap<String, String> = lines
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .map(|(word, rest)| (word.to_owned(), rest.to_owned()))
        .collect();
    let Finished { code, stdout, stderr } = &finished;
    assert!(found.contains_key("done"), "the guest did not come to its end ({code})\n{stderr}\n{stdout}");
    assert_eq!(finished.code, 0, "{finished:?}");
    found
}

fn memory_mib(found: &BTreeMap<String, String>) -> u64 {
    found["memory_kib"].parse::<u64>().expect("a number") / 1024
}

#[test]
fn the_appliance_keeps_a_machine_that_never_runs() {
    let state = host::run(&["systemctl", "is-active", "tinderbox-resident.service"]);
    assert_eq!((state.code, state.stdout.trim()), (0, "active"), "{state:?}");
}

#[test]
fn an_elf_kernel_and_a_bzimage_boot() {
    for kernel in [KERNEL, &host::bzimage()] {
        let found = probe(&with("kernel", json!({ "path": kernel })));
        assert_eq!(found["cpus"], "1", "{kernel}");
        assert_eq!(found["hwrng"], "random", "{kernel}");
        assert!(found["cmdline"].contains(CMDLINE), "{found:?}");
    }
}

#[test]
fn one_to_sixteen_processors_come_up() {
    for count in [1, 4, 16] {
        let mut config = with("vcpu_count", count);
        config["mem_size_mib"] = 256.into();
        assert_eq!(probe(&config)["cpus"], count.to_string());
    }
}

#[test]
fn the_smallest_and_the_largest_memory_arrive() {
    let small = memory_mib(&probe(&config()));
    assert!((80..128).contains(&small), "{small} MiB of 128");
    // Past the hole below 4 GiB, and more than the host has: memory that nobody touches costs nothing.
    let large = memory_mib(&probe(&with("mem_size_mib", 10_240)));
    assert!((9_900..10_240).contains(&large), "{large} MiB of 10240");
}

#[test]
fn disks_keep_their_order_their_names_and_their_access() {
    let (read_only, writable) = ("/tmp/read-only.img", "/tmp/writable.img");
    host::write(read_only, &[0x11; 4096]);
    host::write(writable, &[[0x22; 512], [0x33; 512]].concat());
    let drives = json!([
        { "id": "first", "source": { "path": read_only }, "access": "read_only" },
        { "id": "second_disk-2", "source": { "path": writable }, "access": "read_write" },
    ]);
    let finished = run(&with("drives", drives));
    let disks: Vec<&str> =
        finished.stdout.lines().filter_map(|line| line.trim().strip_prefix("probe: disk ")).collect();
    let expected = [
        // EPERM: Linux refuses to open a read-only disk for writing... or EACCES, EROFS by the kernel's version.
        "serial=first ro=1 sectors=8 first=11 last=11 write=",
        "serial=second_disk-2 ro=0 sectors=2 first=22 last=33 write=ok",
    ];
    assert_eq!(disks.len(), 2, "{finished:?}");
    for (disk, expected) in disks.iter().zip(expected) {
        assert!(disk.starts_with(expected), "{disk}");
    }
    assert!(!disks[0].ends_with("ok"), "{}", disks[0]);
    assert_eq!(host::read(read_only), [0x11; 4096]);
    assert_eq!(host::read(writable), [[0xc3; 512], [0x33; 512]].concat());
}

#[test]
fn a_wrong_configuration_is_refused_by_the_name_of_its_field() {
    let drive = |id: &str, path: &str| json!({ "id": id, "source": { "path": path }, "access": "read_only" });
    let wrong: Vec<(&str, Value)> = vec![
        ("vcpu_count", with("vcpu_count", 0)),
        ("vcpu_count", with("vcpu_count", 17)),
        ("mem_size_mib", with("mem_size_mib", 1)),
        ("mem_size_mib", with("mem_size_mib", 1_000_000)),
        ("kernel", with("kernel", json!({ "path": "/nowhere" }))),
        ("kernel", with("kernel", json!({ "path": "/etc/os-release" }))),
        ("kernel", with("kernel", json!({ "fd": 3 }))),
        ("initrd", with("initrd", json!({ "path": "/nowhere" }))),
        ("cmdline", with("cmdline", "x".repeat(10_000))),
        ("cmdline", with("cmdline", "a\nb")),
        ("drives[0].id", with("drives", json!([drive("", KERNEL)]))),
        ("drives[0].id", with("drives", json!([drive("sp ace", KERNEL)]))),
        ("drives[1].id", with("drives", json!([drive("same", KERNEL), drive("same", KERNEL)]))),
        ("drives[0].source", with("drives", json!([drive("gone", "/nowhere")]))),
        ("drives", with("drives", (0..9).map(|n| drive(&format!("d{n}"), KERNEL)).collect::<Vec<_>>())),
        ("surprise", with("surprise", 1)),
    ];
    for (field, config) in wrong {
        let finished = run(&config);
        assert_eq!(finished.code, 1, "{field}: {finished:?}");
        assert!(finished.stderr.contains(field), "{field} is not named: {finished:?}");
        assert_eq!(finished.stderr.trim().lines().count(), 1, "more than one line: {finished:?}");
    }
}
