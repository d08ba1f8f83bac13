//! A resolver on the loopback that knows one name, and a program that asks it: for tests of what resolves names in a jail. It needs root.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// What it knows to be 127.0.0.1.
pub(crate) const NAME: &str = "name.test";

/// Where libc's settings of the resolver are.
const SETTINGS: &str = "/etc/resolv.conf";

/// Length of a message's header.
const HEADER: usize = 12;

/// Runs until the test's process ends; settings that say where it is are in `DIR/resolv.conf`. Where a host has them in `/run` they are in
/// `DIR/run`, too, for who puts that in its place.
pub(crate) fn serve(dir: &Path) {
    let bind = |last| UdpSocket::bind((Ipv4Addr::new(127, 77, 0, last), 53)).ok();
    let socket = (1..u8::MAX).find_map(bind).unwrap();
    let settings = format!("nameserver {}\n", socket.local_addr().unwrap().ip());
    fs::write(dir.join("resolv.conf"), &settings).unwrap();
    if let Ok(beside) = fs::canonicalize(SETTINGS).unwrap().strip_prefix("/run") {
        let beside = dir.join("run").join(beside);
        fs::create_dir_all(beside.parent().unwrap()).unwrap();
        fs::write(beside, &settings).unwrap();
    }
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut packet) {
            drop(answer(&packet[..len]).map(|answer| socket.send_to(&answer, from)));
        }
    });
}

/// Gives a program mounts of its own, and those settings.
pub(crate) fn settle(command: &mut Command, dir: &Path) {
    let (settings, place) = (dir.join("resolv.conf"), fs::canonicalize(SETTINGS).unwrap());
    let none = None::<&str>;
    let settle = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        Ok(mount(Some(&settings), &place, none, MsFlags::MS_BIND, none)?)
    };
    // SAFETY: between fork and exec it makes system calls on what is there already.
    unsafe { command.pre_exec(settle) };
}

/// To a question for an address of the name: the address, or that there is none of that kind.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let labels = NAME.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    // The name's end, type A, class IN.
    let for_ours: Vec<u8> = labels.chain([0, 0, 1, 0, 1]).collect();
    let end = HEADER + for_ours.len();
    let mut answer = question.get(..end)?.to_vec();
    let is_known = answer[HEADER..] == for_ours;
    // An answer, recursion available, one question, and no more records than that.
    answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_known), 0, 0, 0, 0]);
    if is_known {
        // The question's name, A, IN, no time to live, four bytes.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
