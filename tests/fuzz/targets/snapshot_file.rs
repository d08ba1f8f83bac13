//! A state file that anybody may have written: raw bytes; bytes where the sections are, under a good checksum and a good tag;
//! and proper sections with any content, so that what lies behind each check is reached as well. Reading refuses or yields,
//! and what it yields can be used.
#![no_main]

use std::sync::{Arc, Mutex};

use devices::{
    BlockState, Generation, GenerationPlace, GenerationResources, GenerationState, Memory, MmioTransport,
    Rng, Serial, SerialSink, SerialState, TransportState, VsockState,
};
use libfuzzer_sys::fuzz_target;
use snapshot::{Fingerprint, Key, PageIndex, Persist, Prefetch, StateReader, StateWriter, runs, seal};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

/// Names of sections, as `vmm` writes them; one that it does not.
const NAMES: [&str; 9] =
    ["virtio-mmio", "serial", "generation", "block", "vsock", "cpu", "pages", "machine", "?"];

/// Length of a file's header, and where in it is the number of sections.
const HEADER_LEN: usize = 64;
const AT_SECTIONS: usize = 14;

/// Name, number, version and bytes.
type Section = (u8, u8, u8, Vec<u8>);

fuzz_target!(|input: (Vec<u8>, u8, Vec<Section>)| {
    let (raw, count, sections) = input;
    let key = Key::new([1; 32]);
    read_prefetch(&raw);
    for file in [&raw, &sealed(&raw, count, &key)] {
        if let Ok(reader) = StateReader::open(file, &key) {
            read(&reader);
        }
    }
    let mut writer = StateWriter::new();
    for (name, instance, version, bytes) in sections {
        let name = NAMES[usize::from(name) % NAMES.len()];
        // Past the bounds a section is refused, and the file has one less.
        let _ = writer.add_bytes(name, u32::from(instance % 4), u32::from(version % 3), bytes);
    }
    let file = writer.finish(&key, &[2; 16]);
    read(&StateReader::open(&file, &key).expect("what was just written"));
});

/// As the pager does with a prefetch content, whose head is zeros from where the input ends.
fn read_prefetch(content: &[u8]) {
    let Some(start) = content.first_chunk() else { return };
    let Ok(len) = Prefetch::head_len(start) else { return };
    let mut head = content.get(..len).unwrap_or(content).to_vec();
    head.resize(len, 0);
    if let Ok(prefetch) = Prefetch::decode(&head, 1000) {
        assert!(prefetch.pages().iter().all(|page| *page < 1000));
        assert_eq!(Prefetch::encode(prefetch.pages(), prefetch.zeros()), Ok(head));
    }
}

/// A file that says of itself what is true, with `body` for sections.
fn sealed(body: &[u8], count: u8, key: &Key) -> Vec<u8> {
    let mut file = StateWriter::new().finish(key, &[2; 16]);
    let tag = file.split_off(HEADER_LEN);
    file[AT_SECTIONS] = count;
    file.extend_from_slice(body);
    file.extend_from_slice(&tag);
    seal(&mut file, key);
    file
}

fn read(reader: &StateReader<'_>) {
    if let Ok(state) = reader.get::<TransportState>(0) {
        restore_transport(&state);
    }
    if let Ok(state) = reader.get::<SerialState>(0) {
        let wire = EventFd::new(0).expect("eventfd");
        let _ = Serial::restore((Box::new(wire), SerialSink::null()), &state);
    }
    if let Ok(state) = reader.get::<GenerationState>(0) {
        restore_generation(&state);
    }
    let _ = reader.get::<BlockState>(1);
    let _ = reader.get::<VsockState>(2);
    if let Ok(cpu) = reader.get::<Fingerprint>(0) {
        // One that says two things of a word does not even run on itself.
        let _ = cpu.runs_on(&cpu);
    }
    if let Ok(index) = reader.bytes(PageIndex::NAME, 0, PageIndex::VERSION).and_then(PageIndex::decode) {
        use_index(&index);
    }
}

/// As the pager and an incremental snapshot do.
fn use_index(index: &PageIndex) {
    assert_eq!(PageIndex::decode(&index.encode()).as_ref(), Ok(index));
    let covered: u64 = index.extents(64).iter().map(|extent| u64::from(extent.end - extent.start)).sum();
    assert!(covered <= u64::from(index.pages()));
    for chunk in index.chunks() {
        assert_eq!(index.find(chunk.number), Some(chunk));
        let len = index.len_of(chunk.number).expect("a chunk that is listed is inside of memory");
        assert!(runs(chunk.mask).all(|run| run.end <= len));
    }
}

fn restore_generation(state: &GenerationState) {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x2000)]).expect("memory");
    let place = GenerationPlace { id: GuestAddress(0), clock: GuestAddress(0x1000) };
    let interrupt = Box::new(EventFd::new(0).expect("eventfd"));
    if let Ok(mut generation) = Generation::restore(GenerationResources { memory, place, interrupt }, state) {
        generation.renew([1; 16]).expect("there is memory and a wire");
    }
}

/// A transport that is restored works: its device looks at its queues.
fn restore_transport(state: &TransportState) {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory");
    let device = Arc::new(Mutex::new(Rng::new().expect("eventfd")));
    let interrupt = Box::new(EventFd::new(0).expect("eventfd"));
    let shared: Arc<Mutex<dyn devices::VirtioDevice>> = device.clone();
    let resources = devices::TransportResources { device: shared, memory, interrupt };
    if let Ok(transport) = MmioTransport::restore(resources, state) {
        let _ = devices::VirtioDevice::handle(&mut *device.lock().expect("lock"), devices::Event::Kick(0));
        let _ = transport.save();
    }
}
