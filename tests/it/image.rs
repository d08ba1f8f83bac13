//! The appliance itself: started from the network and from its disk under UEFI it is closed and says so, there is nothing in it to log
//! in with, and no secret.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::appliance;
use crate::chunks::tinderbox;
use crate::functions::Function;
use crate::node::{Boot, Node, Speed};
use crate::setting;

const SECTOR: usize = 512;

/// Behind the ESP, before the hashes (`image/mkosi.profiles/disk/mkosi.repart`).
const ROOT_PARTITION: usize = 1;

/// `fs/erofs/erofs_fs.h`.
const EROFS_SUPERBLOCK: usize = 1024;
const EROFS_VOLUME_NAME: usize = 64;

/// Runs cpio on the production image's operating system. The payload behind it is an archive of its own.
fn cpio(arguments: &[&str]) -> String {
    let initrd = File::open(setting("TINDERBOX_NETBOOT_INITRD")).expect("open the appliance's initrd");
    let output = Command::new("cpio")
        .args(["--quiet", "--extract"])
        .args(arguments)
        .stdin(initrd)
        .stderr(Stdio::inherit())
        .output()
        .expect("start cpio");
    assert!(output.status.success(), "cpio {arguments:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn files() -> BTreeSet<String> {
    let list = cpio(&["--list"]);
    list.lines().map(|path| path.trim_start_matches("./").trim_start_matches('/').to_owned()).collect()
}

/// The content of one file, empty when it is not there.
fn content(files: &BTreeSet<String>, path: &str) -> String {
    if files.contains(path) {
        cpio(&["--to-stdout", path, &format!("./{path}"), &format!("/{path}")])
    } else {
        String::new()
    }
}

#[test]
fn a_node_from_the_network_is_closed_and_says_so() {
    let shared = Node::shared();
    let told = appliance::told(shared.node);
    appliance::assert_closed(&told);
    assert_eq!(told["root"], "rootfs rootfs ro");
    // An emulated one is told not to, by the command line; one from a disk has that of its image.
    let turns = if shared.node.speed() == Speed::Emulated { Value::Null } else { json!(appliance::TURNS) };
    assert_eq!(told["turns"], turns, "{told}");
    let said = tinderbox(shared.node.client().endpoint(), "test", &["node"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("lockdown     confidentiality\n") && said.contains("spectre_v2"), "{said}");
    let refused = tinderbox(shared.node.client().endpoint(), "another", &["node"]);
    assert!(!refused.status.success(), "without its key a node tells nothing: {refused:?}");
}

#[test]
fn the_disk_image_boots_under_uefi_and_serves() {
    let state = setting("TINDERBOX_TEST_STATE").join("uefi.img");
    let node = Node::boot(Boot::Uefi, &state);
    let told = appliance::told(&node);
    appliance::assert_closed(&told);
    assert_eq!(told["turns"], appliance::TURNS);
    assert_eq!(told["root"], "erofs /dev/mapper/root ro", "its root is read through dm-verity");
    let function = Function::rust().deploy(&node.client());
    assert_eq!(function.answer(json!({ "from": "UEFI" }))["event"], json!({ "from": "UEFI" }));
}

#[test]
fn a_disk_with_one_changed_bit_does_not_come_up() {
    let mut disk = std::fs::read(setting("TINDERBOX_DISK")).expect("read the disk image");
    let root = first_sector(&disk, ROOT_PARTITION) * SECTOR;
    // A label of the file system, which nothing would miss.
    disk[root + EROFS_SUPERBLOCK + EROFS_VOLUME_NAME] ^= 1;
    let path = setting("TINDERBOX_TEST_STATE").join("changed.raw");
    std::fs::write(&path, disk).expect("write the changed disk image");
    let words = Node::that_does_not_come_up(&path, &setting("TINDERBOX_TEST_STATE").join("changed.img"));
    std::fs::remove_file(path).expect("remove the changed disk image");
    assert!(words.contains("dm-verity device corrupted"), "{words}");
}

/// Where a partition begins (UEFI 2.10 §5.3: the header is sector 1, entries are little-endian).
fn first_sector(disk: &[u8], partition: usize) -> usize {
    let number = |at: usize| {
        let bytes = disk[at..at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(bytes)).expect("a place in the image")
    };
    assert_eq!(&disk[SECTOR..SECTOR + 8], b"EFI PART");
    let entries = number(SECTOR + 72) * SECTOR;
    number(entries + partition * 128 + 32)
}

#[test]
fn the_production_image_has_no_shell_and_no_login() {
    let files = files();
    assert!(files.len() > 500, "only {} files: is this the appliance?", files.len());
    let programs: BTreeSet<&str> = files
        .iter()
        .filter(|path| path.contains("bin/"))
        .filter_map(|path| path.rsplit('/').next())
        .collect();
    let shells = ["sh", "bash", "dash", "busybox", "ash", "zsh"];
    let logins = ["login", "agetty", "getty", "su", "sudo", "sulogin", "sshd", "dropbear", "telnetd"];
    let tools = ["apt", "apt-get", "dpkg", "perl", "python3", "curl", "wget", "nc", "gcc", "gdb", "strace"];
    for name in shells.iter().chain(&logins).chain(&tools) {
        assert!(!programs.contains(name), "{name} is in the production image");
    }
    let packages = ["etc/apt", "etc/dpkg", "usr/lib/apt", "usr/lib/dpkg", "var/lib/apt", "var/lib/dpkg"];
    for folder in packages {
        let inside = files.iter().find(|path| path.starts_with(&format!("{folder}/")));
        assert_eq!(inside, None, "packages can be managed");
    }
}

#[test]
fn the_production_image_has_the_programs_that_are_named_and_no_other() {
    let kept = include_str!("../../image/mkosi.profiles/production/programs.keep");
    let kept: BTreeSet<&str> = kept.lines().collect();
    let folders = ["usr/bin/", "usr/sbin/", "usr/libexec/"];
    for path in files().iter().filter(|path| folders.iter().any(|folder| path.starts_with(folder))) {
        assert!(kept.contains(path.as_str()), "{path} is in the production image");
    }
}

/// How exposed each is, `appliance` asks on a booted one.
#[test]
fn the_production_image_has_the_services_that_are_looked_at_and_no_other_of_ours() {
    let files = files();
    let ours = files.iter().filter_map(|path| {
        path.strip_prefix("usr/lib/systemd/system/").filter(|unit| unit.starts_with("tinderbox-"))
    });
    let services: Vec<_> = ours.filter(|unit| unit.ends_with(".service")).collect();
    assert_eq!(services, appliance::UNITS);
}

#[test]
fn the_production_image_holds_no_secret_and_no_identity() {
    let files = files();
    let secret = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.starts_with("ssh_host_")
            || name == "authorized_keys"
            || name == "random-seed"
            || name.ends_with(".key")
    };
    let found: Vec<&String> = files.iter().filter(|path| secret(path)).collect();
    assert!(found.is_empty(), "{found:?}");
    let machine_id = content(&files, "etc/machine-id");
    assert!(["", "uninitialized"].contains(&machine_id.trim()), "every node would be {machine_id}");
    for line in content(&files, "etc/shadow").lines() {
        let password = line.split(':').nth(1).unwrap_or_default();
        assert!(password.starts_with(['!', '*']), "an account has a password or none: {line}");
    }
    let agent = content(&files, "etc/tinderbox/agent.toml");
    assert!(!agent.contains("secret_access_key"), "{agent}");
}
