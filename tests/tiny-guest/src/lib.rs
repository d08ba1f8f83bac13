//! Writes guests: a few 32-bit instructions, and an ELF around them with the PVH note that says where they begin.

use std::fs::File;
use std::io::Write;

/// Where the code is loaded and entered.
const CODE: u32 = 0x10_0000;
const SERIAL: u16 = 0x3f8;
const I8042_COMMAND: u16 = 0x64;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;

/// First register page of the first virtio device.
pub const VIRTIO: u32 = 0xd000_0000;

/// Instructions, in the order they are appended.
#[derive(Clone, Default)]
pub struct Guest {
    code: Vec<u8>,
}

impl Guest {
    /// No instruction yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.code.extend_from_slice(bytes);
        self
    }

    /// What the other does, then.
    #[must_use]
    pub fn append(self, other: &Self) -> Self {
        self.raw(&other.code)
    }

    /// `mov dx, port; mov al, value; out dx, al`
    pub fn out(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x66, 0xba, low, high, 0xb0, value, 0xee])
    }

    /// Text on the serial port.
    #[must_use]
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |guest, byte| guest.out(SERIAL, byte))
    }

    /// `mov eax, [address]`
    pub fn load(self, address: u32) -> Self {
        self.raw(&[0xa1]).raw(&address.to_le_bytes())
    }

    /// `mov eax, value; mov [address], eax`
    pub fn store(self, address: u32, value: u32) -> Self {
        self.raw(&[0xb8]).raw(&value.to_le_bytes()).raw(&[0xa3]).raw(&address.to_le_bytes())
    }

    /// `mov eax, leaf; xor ecx, ecx; cpuid; mov eax, ecx`
    pub fn cpuid_ecx(self, leaf: u32) -> Self {
        self.raw(&[0xb8]).raw(&leaf.to_le_bytes()).raw(&[0x31, 0xc9, 0x0f, 0xa2, 0x89, 0xc8])
    }

    /// `eax` on the serial port, least significant byte first: `mov dx, SERIAL`, then `out dx, al; shr eax, 8` four times.
    pub fn print_eax(self) -> Self {
        let [low, high] = SERIAL.to_le_bytes();
        let byte = [0xee, 0xc1, 0xe8, 0x08];
        self.raw(&[0x66, 0xba, low, high]).raw(&byte).raw(&byte).raw(&byte).raw(&byte)
    }

    /// Keyboard controller reset, as Linux does with `reboot=k`, then wait.
    pub fn reset(self) -> Self {
        self.out(I8042_COMMAND, 0xfe).spin()
    }

    /// ACPI S5, then wait.
    pub fn power_off(self) -> Self {
        self.out(SLEEP_CONTROL, 0x34).spin()
    }

    /// ACPI reset register, then wait.
    pub fn acpi_reset(self) -> Self {
        self.out(RESET, 1).spin()
    }

    /// An interrupt with an empty interrupt table: fault, double fault, triple fault. `lidt` of an empty table first.
    pub fn triple_fault(self) -> Self {
        self.raw(&[0x0f, 0x0b])
    }

    /// `jmp $`
    pub fn spin(self) -> Self {
        self.raw(&[0xeb, 0xfe])
    }

    /// Without the last `jmp $`.
    pub fn without_its_end(mut self) -> Self {
        self.code.truncate(self.code.len() - 2);
        self
    }

    /// Prints `x` and a newline for ever.
    pub fn print_for_ever(self) -> Self {
        let body = Self::new().print("x\n").code;
        let back = -i8::try_from(body.len() + 2).expect("a short loop");
        self.raw(&body).raw(&[0xeb, back as u8])
    }

    /// Prints the text at `address`, up to a zero, for ever; and each time reads a byte that is 1 MiB behind the last one, of the first
    /// 128 MiB: `mov edi, 0`, then `mov esi, address; mov dx, SERIAL; lodsb; test al, al; jz; out dx, al; jmp` back to `lodsb`, and
    /// `add edi, 1 MiB; and edi, 128 MiB - 1; mov al, [edi]`.
    #[must_use]
    pub fn print_text_for_ever(self, address: u32) -> Self {
        let [low, high] = SERIAL.to_le_bytes();
        let text = Self::new()
            .raw(&[0xbe])
            .raw(&address.to_le_bytes())
            .raw(&[0x66, 0xba, low, high])
            .raw(&[0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8])
            .raw(&[0x81, 0xc7])
            .raw(&(1_u32 << 20).to_le_bytes())
            .raw(&[0x81, 0xe7])
            .raw(&((128_u32 << 20) - 1).to_le_bytes())
            .raw(&[0x8a, 0x07])
            .code;
        let back = -i8::try_from(text.len() + 2).expect("a short loop");
        self.raw(&[0xbf]).raw(&0_u32.to_le_bytes()).raw(&text).raw(&[0xeb, back as u8])
    }

    /// Counts in memory at `address` and prints each number and a newline, for ever: `inc dword [address]` first.
    pub fn count_for_ever(self, address: u32) -> Self {
        self.count_for_ever_with(address, &Self::new())
    }

    /// `mov ecx, register; mov eax, value; xor edx, edx; wrmsr`
    pub fn write_msr(self, register: u32, value: u32) -> Self {
        self.raw(&[0xb9])
            .raw(&register.to_le_bytes())
            .raw(&[0xb8])
            .raw(&value.to_le_bytes())
            .raw(&[0x31, 0xd2, 0x0f, 0x30])
    }

    /// `inc word [address]`
    pub fn increment_half(self, address: u32) -> Self {
        self.raw(&[0x66, 0xff, 0x05]).raw(&address.to_le_bytes())
    }

    /// Waits until two halves are equal: `mov ax, [one]; cmp ax, [other]; jne` back.
    pub fn await_equal_halves(self, one: u32, other: u32) -> Self {
        self.raw(&[0x66, 0xa1])
            .raw(&one.to_le_bytes())
            .raw(&[0x66, 0x3b, 0x05])
            .raw(&other.to_le_bytes())
            .raw(&[0x75, 0xf1])
    }

    /// Waits until one of these bits is set: `mov eax, [address]; test al, bits; jz` back.
    pub fn await_bits(self, address: u32, bits: u8) -> Self {
        self.load(address).raw(&[0xa8, bits, 0x74, 0xf7])
    }

    /// `mov ecx, count`, then `body` that often: `dec ecx; jnz` back. The body keeps `ecx`.
    pub fn repeat(self, count: u32, body: &Self) -> Self {
        let back = -i32::try_from(body.code.len() + 7).expect("a short loop");
        self.raw(&[0xb9])
            .raw(&count.to_le_bytes())
            .raw(&body.code)
            .raw(&[0x49, 0x0f, 0x85])
            .raw(&back.to_le_bytes())
    }

    /// `body` again and again, between two numbers: it counts as [`Guest::count_for_ever`] does.
    pub fn count_for_ever_with(self, address: u32, body: &Self) -> Self {
        let body = Self::new()
            .raw(&body.code)
            .raw(&[0xff, 0x05])
            .raw(&address.to_le_bytes())
            .load(address)
            .print_eax()
            .print("\n");
        let back = -i32::try_from(body.code.len() + 5).expect("a short loop");
        self.raw(&body.code).raw(&[0xe9]).raw(&back.to_le_bytes())
    }

    /// The guest as a kernel file.
    pub fn kernel(&self) -> File {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(&self.elf(Some(CODE))).expect("write kernel");
        file
    }

    /// The same without the note.
    pub fn kernel_without_note(&self) -> File {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(&self.elf(None)).expect("write kernel");
        file
    }

    /// ELF header, two program headers, note, code.
    fn elf(&self, entry: Option<u32>) -> Vec<u8> {
        const EHDR: u64 = 64;
        const PHDR: u64 = 56;
        let note = note(entry);
        let note_at = EHDR + 2 * PHDR;
        let code_at = note_at + note.len() as u64;
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
        put(&2u16.to_le_bytes()); // executable
        put(&62u16.to_le_bytes()); // x86-64
        put(&1u32.to_le_bytes());
        put(&u64::from(CODE).to_le_bytes());
        put(&EHDR.to_le_bytes());
        put(&0u64.to_le_bytes());
        put(&0u32.to_le_bytes());
        for half in [EHDR as u16, PHDR as u16, 2, 0, 0, 0] {
            put(&half.to_le_bytes());
        }
        put(&program_header(1, code_at, CODE.into(), self.code.len() as u64));
        put(&program_header(4, note_at, 0, note.len() as u64));
        put(&note);
        put(&self.code);
        elf
    }
}

fn program_header(kind: u32, offset: u64, address: u64, len: u64) -> Vec<u8> {
    let mut header = [kind.to_le_bytes(), 5u32.to_le_bytes()].concat();
    for word in [offset, address, address, len, len, 4] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header
}

/// `XEN_ELFNOTE_PHYS32_ENTRY`, or a note that is none.
fn note(entry: Option<u32>) -> Vec<u8> {
    let kind: u32 = if entry.is_some() { 18 } else { 99 };
    let mut note = [4u32.to_le_bytes(), 4u32.to_le_bytes(), kind.to_le_bytes()].concat();
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&entry.unwrap_or_default().to_le_bytes());
    note
}
