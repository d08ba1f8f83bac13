//! What the plan leaves, tried in a thread that has entered it; what the filter leaves, read.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;
use crate::registry;

/// A configuration whose state and programs are in `dir`, with `more` after it.
fn config(dir: &Path, more: &str) -> Config {
    let file = dir.join("agent.toml");
    let (state, lib) = (dir.join("state"), dir.join("lib"));
    std::fs::create_dir_all(&state).unwrap();
    std::fs::create_dir_all(&lib).unwrap();
    let text = format!(
        "listen = '127.0.0.1:0'\nstate_dir = '{}'\nlib_dir = '{}'\n{more}",
        state.display(),
        lib.display()
    );
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), None, None).unwrap()
}

#[test]
fn nothing_can_be_opened_beside_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = dir.path().join("bucket");
    let more = format!("[[code.buckets]]\nname = 'code'\ndirectory = '{}'\n", bucket.display());
    let config = config(dir.path(), &more);
    std::fs::create_dir(&bucket).unwrap();
    std::fs::write(bucket.join("app.zip"), "code").unwrap();
    std::fs::write(config.lib_dir.join("vmlinux"), "kernel").unwrap();
    std::fs::write(dir.path().join("another's"), "secret").unwrap();
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let elsewhere = elsewhere.local_addr().unwrap();
    let root = dir.path().to_owned();
    // Landlock confines the calling thread only, so a thread of its own keeps the other tests free.
    std::thread::spawn(move || {
        let entered = plan(&config).unwrap().enter().unwrap();
        let refused =
            |done: std::io::Result<()>| assert_eq!(done.unwrap_err().kind(), ErrorKind::PermissionDenied);
        std::fs::write(config.state_dir.join("store"), "state").unwrap();
        std::fs::rename(config.state_dir.join("store"), config.state_dir.join("kept")).unwrap();
        assert_eq!(std::fs::read(config.lib_dir.join("vmlinux")).unwrap(), b"kernel");
        refused(std::fs::write(config.lib_dir.join("vmlinux"), "another"));
        assert_eq!(std::fs::read(bucket.join("app.zip")).unwrap(), b"code");
        refused(std::fs::write(bucket.join("app.zip"), "another"));
        refused(std::fs::read(root.join("another's")).map(drop));
        refused(std::fs::write(root.join("new"), ""));
        refused(std::fs::read_dir("/").map(drop));
        refused(std::fs::read("/proc/self/environ").map(drop));
        refused(std::fs::write("/etc/new", ""));
        // Ports are known from version 4 on.
        if entered.landlock >= 4 {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            refused(TcpListener::bind((Ipv4Addr::LOCALHOST, 9)).map(drop));
            refused(TcpStream::connect(elsewhere).map(drop));
        }
    })
    .join()
    .unwrap();
}

#[test]
fn ports_are_those_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let connects = |more: &str| {
        let rules = ports(&config(dir.path(), more)).into_iter();
        rules.filter(|rule| rule.access == PortAccess::Connect).map(|rule| rule.port).collect::<Vec<_>>()
    };
    assert!(connects("").is_empty());
    let bucket = "[chunks.origin]\nbucket = 'chunks'\nregion = 'us-east-1'\naccess_key_id = 'a'\nsecret_access_key = 's'\n";
    assert_eq!(connects(bucket), [443, 53]);
    let of = |endpoint: &str| connects(&format!("{bucket}allow_http = true\nendpoint = '{endpoint}'"));
    assert_eq!(of("http://store"), [80, 53]);
    assert_eq!(of("https://store:9443"), [9443, 53]);
    assert_eq!(of("https://[::1]:9443"), [9443, 53]);
    let peers: String =
        (1..=5).map(|n| format!("[[chunks.peers]]\nid = 'n{n}'\naddress = '127.0.0.1:900{n}'\n")).collect();
    let cluster = format!("[chunks]\nid = 'n1'\npeer_listen = '127.0.0.1:9001'\n{peers}");
    assert_eq!(connects(&cluster), [9001, 9002, 9003, 9004, 9005]);
    let webhook =
        "[[events.webhooks]]\ntopic = 'arn:aws:sns:us-east-1:000000000000:t'\nurl = 'https://hook:8443/x'\n";
    let folder = "[[events.buckets]]\nname = 'near'\ndirectory = '/srv/near'\n";
    let service =
        bucket.replace("[chunks.origin]", "[[events.buckets]]\nname = 'far'\n[events.buckets.service]");
    assert_eq!(connects(&format!("{webhook}{folder}{service}")), [443, 53, 8443, 53]);
    let code = service.replace("events", "code").replace("'far'", "'far-away'");
    assert_eq!(connects(&code), [443, 53]);
    let registry = "[[registries]]\nhost = 'r.example:5000'\ntoken_host = 'auth.example'\n";
    assert_eq!(connects(registry), [443, 5000, 443, 53]);
    let listens = ports(&config(dir.path(), "[function_urls]\nlisten = '127.0.0.1:9080'")).into_iter();
    let listens = listens.filter(|rule| rule.access == PortAccess::Listen).map(|rule| rule.port);
    assert_eq!(listens.collect::<Vec<_>>(), [0, 9080]);
}

#[test]
fn the_filter_compiles_and_leaves_nothing_that_helps_whoever_took_the_agent_over() {
    filter().compile().unwrap();
    let forbidden = [
        "add_key",
        "bpf",
        "capset",
        "chroot",
        "delete_module",
        "finit_module",
        "init_module",
        "io_uring_setup",
        "kexec_load",
        "keyctl",
        "mount",
        "mknod",
        "mknodat",
        "move_mount",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "personality",
        "pidfd_getfd",
        "pivot_root",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "reboot",
        "request_key",
        "setns",
        "setuid",
        "setresuid",
        "swapon",
        "umount2",
        "unshare",
        "userfaultfd",
    ];
    for rule in filter().rules {
        let name = rule.name.trim_start_matches("SYS_");
        assert!(!forbidden.contains(&name), "{name} is allowed");
    }
}

/// For `cargo xtask seccomp`.
#[cfg(without_rule)]
#[test]
fn print_every_rule() {
    filter().print();
    confined::filters().iter().for_each(SyscallFilter::print);
    registry::filter().print();
}

#[test]
fn what_a_helper_calls_is_left_to_it() {
    let own = filter().rules;
    for helper in confined::filters().into_iter().chain([registry::filter()]) {
        for rule in helper.rules {
            assert!(own.iter().any(|own| own.name == rule.name), "{}: {}", helper.name, rule.name);
        }
    }
}
