//! Programs written byte by byte: a static ELF executable with nothing in it but a few instructions.

/// Waits for nothing, for ever.
pub(crate) const STAYS: &[u8] = &[
    0x31, 0xff, // xor edi, edi
    0x31, 0xf6, // xor esi, esi
    0x83, 0xca, 0xff, // or edx, -1
    0xb8, 0x07, 0, 0, 0, // mov eax, poll
    0x0f, 0x05, // syscall
    0xeb, 0xf0, // again
];

/// Ends with status 7.
pub(crate) const ENDS: &[u8] = &[
    0xbf, 0x07, 0, 0, 0, // mov edi, 7
    0xb8, 0x3c, 0, 0, 0, // mov eax, exit
    0x0f, 0x05, // syscall
];

/// Makes a call that no sandbox may make.
pub(crate) const STRAYS: &[u8] = &[
    0xb8, 0x22, 0, 0, 0, // mov eax, pause
    0x0f, 0x05, // syscall
];

/// Where it is loaded.
const BASE: u64 = 0x40_0000;
const HEADER_LEN: u64 = 64;
const SEGMENT_LEN: u64 = 56;

/// The executable that runs `code`.
pub(crate) fn executable(code: &[u8]) -> Vec<u8> {
    let entry = HEADER_LEN + SEGMENT_LEN;
    let len = entry + code.len() as u64;
    let mut file = Vec::new();
    // 64 bits, least byte first, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable, x86-64, version 1.
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    // Entry, segments, no sections.
    file.extend([BASE + entry, HEADER_LEN, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    let halves = [HEADER_LEN as u16, SEGMENT_LEN as u16, 1, 0, 0, 0];
    file.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    // One segment, loaded, read and executed: all of the file.
    file.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0, BASE, BASE, len, len, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(code);
    file
}
