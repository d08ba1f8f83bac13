//! No two processes map a page of physical memory with anything in the clear in it, whatever they are clones of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use snapshot::PAGE_LEN;
use vmm_api::{Request, Response};

use super::{Snapshot, assert_counts, prepared, read_more};
use crate::process::Vmm;

/// Bits of an entry of `/proc/PID/pagemap`: the frame's number, whether the page is a file's or shared memory's, whether it is
/// there.
const FRAME: u64 = (1 << 55) - 1;
const OF_A_FILE: u64 = 1 << 61;
const PRESENT: u64 = 1 << 63;

/// A frame's bit in `/proc/kpageflags`: the kernel's one page of zeros.
const ZERO_PAGE: u64 = 1 << 24;

/// Length of guest memory.
const GUEST_LEN: u64 = 128 << 20;

/// A mapping, as `/proc/PID/smaps` has it.
struct Mapping {
    range: Range<u64>,
    rights: String,
    inode: String,
    /// Of what is mapped; empty when nothing is.
    name: String,
    kept_out_of_core_dumps: bool,
}

fn mappings(vmm: &Vmm) -> Vec<Mapping> {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", vmm.pid())).unwrap();
    let mut mappings = Vec::<Mapping>::new();
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (rights, inode) = (fields.next().unwrap().to_owned(), fields.nth(2).unwrap().to_owned());
            let name = fields.next().unwrap_or_default().to_owned();
            let range = number(start)..number(end);
            mappings.push(Mapping { range, rights, inode, name, kept_out_of_core_dumps: false });
        } else if first == "VmFlags:" {
            mappings.last_mut().unwrap().kept_out_of_core_dumps = fields.any(|flag| flag == "dd");
        }
    }
    mappings
}

/// Where memory is that is kept out of core dumps, private, and no file's: the guest's, in pieces, since some of it is watched
/// and some is not.
fn guest_memory(vmm: &Vmm) -> Vec<Range<u64>> {
    let of_guest = |mapping: &Mapping| {
        mapping.kept_out_of_core_dumps && mapping.rights == "rw-p" && mapping.inode == "0"
    };
    mappings(vmm).into_iter().filter(of_guest).map(|piece| piece.range).collect()
}

/// Frames that the process has written to and that are no file's, by number, and where it has them.
fn frames(vmm: &Vmm) -> BTreeMap<u64, u64> {
    let pagemap = File::open(format!("/proc/{}/pagemap", vmm.pid())).unwrap();
    let flags = File::open("/proc/kpageflags").expect("this test is root's");
    let word = |file: &File, number: u64| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, number * 8).map(|()| u64::from_le_bytes(word)).unwrap_or(0)
    };
    let mut frames = BTreeMap::new();
    for mapping in mappings(vmm).into_iter().filter(|mapping| mapping.rights.contains('w')) {
        for address in mapping.range.step_by(PAGE_LEN) {
            let entry = word(&pagemap, address / PAGE_LEN as u64);
            let frame = entry & FRAME;
            if entry & PRESENT != 0 && entry & OF_A_FILE == 0 && word(&flags, frame) & ZERO_PAGE == 0 {
                assert_ne!(frame, 0, "this test is root's");
                frames.insert(frame, address);
            }
        }
    }
    frames
}

#[test]
fn two_clones_of_one_snapshot_have_no_frame_in_common() {
    let (snapshot, printed) = Snapshot::of_counter();
    let vmms = [prepared(), prepared()];
    let mut consoles = vmms.each_ref().map(|vmm| snapshot.clone_in(vmm).1);
    for console in &mut consoles {
        let mut printed = printed.clone();
        read_more(&mut printed, console);
        assert_counts(&printed);
    }
    for vmm in &vmms {
        assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    }
    let [one, other] = vmms.each_ref().map(|vmm| {
        let guest = guest_memory(vmm);
        assert_eq!(guest.iter().map(|piece| piece.end - piece.start).sum::<u64>(), GUEST_LEN);
        let shared = mappings(vmm).into_iter().filter(|mapping| mapping.rights.ends_with('s'));
        let names: Vec<_> = shared.map(|mapping| mapping.name).collect();
        assert!(names.iter().all(|name| name.starts_with("anon_inode:kvm-vcpu")), "{names:?}");
        let frames = frames(vmm);
        let of_guest =
            frames.values().filter(|address| guest.iter().any(|piece| piece.contains(address))).count();
        // Code, counter, what the boot has written.
        assert!(of_guest > 2, "{of_guest} frames of {} are the guest's", frames.len());
        frames
    });
    let shared: Vec<_> = one.iter().filter(|(frame, _)| other.contains_key(frame)).collect();
    assert!(shared.is_empty(), "{shared:#x?}");
}
