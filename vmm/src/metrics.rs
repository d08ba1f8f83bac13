//! How much private memory this process has beside its guest's: read from `/proc/self/smaps`, opened before the jail
//! closes and read again each time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::ops::Range;

use crate::host_files::HostFiles;

/// The kernel's account of this process's mappings.
#[derive(Debug)]
pub(crate) struct MemoryMap {
    file: File,
}

impl MemoryMap {
    pub(crate) fn open(files: &HostFiles) -> io::Result<Self> {
        Ok(Self { file: files.of_process("smaps")? })
    }

    /// Bytes of private pages outside `guest`.
    pub(crate) fn overhead_bytes(&mut self, guest: &[Range<usize>]) -> io::Result<u64> {
        self.file.rewind()?;
        count_private(BufReader::new(&self.file), guest)
    }
}

fn count_private(smaps: impl BufRead, guest: &[Range<usize>]) -> io::Result<u64> {
    let (mut total, mut counted) = (0, false);
    for line in smaps.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(start) = mapping_start(first) {
            counted = !guest.iter().any(|range| range.contains(&start));
        } else if counted && (first == "Private_Clean:" || first == "Private_Dirty:") {
            let kib: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            total += kib * 1024;
        }
    }
    Ok(total)
}

/// `55d0c0a00000-55d0c0a21000` begins a mapping's lines; every other first word ends in a colon.
fn mapping_start(word: &str) -> Option<usize> {
    let (start, end) = word.split_once('-')?;
    usize::from_str_radix(end, 16).ok()?;
    usize::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 
Size:                  8 kB
Shared_Clean:          4 kB
Private_Clean:         4 kB
Private_Dirty:         8 kB
VmFlags: rd wr mr mw me ac sd
10000-20000 rw-p 00000000 00:00 0 
Private_Clean:         0 kB
Private_Dirty:        64 kB
20000-21000 r-xp 00000000 08:01 7  /usr/lib/tinderbox/vmm
Private_Clean:         0 kB
Private_Dirty:         4 kB
";

    #[test]
    fn guest_memory_is_not_overhead() {
        let all = count_private(SMAPS.as_bytes(), &[]).expect("count");
        assert_eq!(all, (4 + 8 + 64 + 4) * 1024);
        let guest = 0x10000..0x20000;
        let beside = count_private(SMAPS.as_bytes(), std::slice::from_ref(&guest)).expect("count");
        assert_eq!(beside, (4 + 8 + 4) * 1024);
    }

    #[test]
    fn this_process_has_some() {
        let mut map = MemoryMap::open(&HostFiles::Paths).expect("open");
        let first = map.overhead_bytes(&[]).expect("read");
        assert!(first > 64 * 1024 && map.overhead_bytes(&[]).expect("read again") > 0);
    }
}
