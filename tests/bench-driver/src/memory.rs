//! What a VMM costs beyond its guest's memory, read from `/proc/PID/smaps` in the same way for every VMM.

use std::fs;

use anyhow::{Context, Result};

/// Private bytes, clean and dirty, of all mappings but the one (or those) as large as the guest's memory.
pub(crate) fn private_bytes_beyond_guest(pid: i32, guest_memory_mib: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(sum_private(&text, u64::from(guest_memory_mib) * 1024))
}

/// Sums the `Private_` lines of mappings smaller than `guest_kib`; `smaps` says every size in KiB.
fn sum_private(smaps: &str, guest_kib: u64) -> u64 {
    let mut mapping_kib = 0;
    let mut private_kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        let Ok(kib) = value.parse::<u64>() else { continue };
        match key {
            "Size:" => mapping_kib = kib,
            "Private_Clean:" | "Private_Dirty:" if mapping_kib < guest_kib => private_kib += kib,
            _ => {}
        }
    }
    private_kib * 1024
}

#[cfg(test)]
mod tests {
    use super::sum_private;

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "7f00-8f00 rw-p 00000000 00:00 0\nSize: 131072 kB\nPrivate_Dirty: 9000 kB\n\
                     5500-5600 r-xp 00000000 08:01 7 /vmm\nSize: 900 kB\nPrivate_Clean: 100 kB\nPrivate_Dirty: 8 kB\n";
        assert_eq!(sum_private(smaps, 131_072), 108 * 1024);
    }
}
