//! Sections that anybody with the key may have written: reading them refuses or yields, and takes no more memory than they
//! have bytes for. The file around them is `crates/snapshot`'s, and fuzzed there.

use devices::QueueState;
use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry};
use proptest::prelude::*;
use snapshot::{Key, SavedState, StateWriter};

use super::super::state::{IdentityState, Irqchips};
use super::*;
use crate::config::SerialOutput;
use crate::counting;
use crate::cpu::host::{Host, Tsc, TscScaling};
use crate::cpu::{Raw, RawList};

/// Bytes in memory for one of a section: an entry of the identity is two strings, and two bytes when both are empty. Lists
/// that grow are counted once for each time.
const MAX_GROWTH: usize = 128;
/// Before serde has seen the first item of a list, it reserves up to 1 MiB. Nothing has more than two in one another.
const MAX_RESERVED: usize = 4 << 20;

const KEY: [u8; 32] = [1; 32];
const SALT: [u8; 16] = [2; 16];

/// Name, number, version, bytes.
type Section = (&'static str, u32, u32, Vec<u8>);

/// What is done to a section.
#[derive(Clone, Debug)]
enum Change {
    Replace(Vec<u8>),
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Overwrite(prop::sample::Index, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: &prop::sample::Index| at.index(bytes.len() + 1);
        match self {
            Self::Replace(other) => bytes.clone_from(other),
            Self::Cut(at) => bytes.truncate(place(at)),
            Self::Extend(more) => bytes.extend(more),
            Self::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Overwrite(at, other) => {
                let at = place(at);
                let end = (at + other.len()).min(bytes.len());
                bytes.splice(at..end, other.iter().copied());
            }
        }
    }
}

/// Any bytes, and lengths that no list has.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(any::<u8>(), 0..8192),
        (1_usize..11).prop_map(|len| vec![0xff; len]),
        (1_usize..10).prop_map(|len| [vec![0xff; len], vec![0x01]].concat()),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        bytes().prop_map(Change::Replace),
        place().prop_map(Change::Cut),
        bytes().prop_map(Change::Extend),
        (place(), bytes()).prop_map(|(at, more)| Change::Insert(at, more)),
        (place(), bytes()).prop_map(|(at, other)| Change::Overwrite(at, other)),
    ]
}

fn fingerprint() -> Fingerprint {
    crate::cpu::baseline::fingerprint(&cpuid())
}

fn cpuid() -> Vec<kvm_cpuid_entry2> {
    vec![kvm_cpuid_entry2 { eax: 1, ebx: 2, ..Default::default() }; 3]
}

fn vcpu() -> VcpuState {
    VcpuState {
        cpuid: RawList(cpuid()),
        tsc_khz: 2_000_000,
        mp_state: Raw::default(),
        regs: Raw::default(),
        sregs: Raw::default(),
        xsave: Box::default(),
        xcrs: Raw::default(),
        debug_regs: Raw::default(),
        lapic: Box::default(),
        msrs: RawList(vec![kvm_msr_entry { index: 0x10, data: 1, ..Default::default() }; 3]),
        events: Raw::default(),
    }
}

fn transport() -> TransportState {
    let queue = QueueState {
        max_size: 8,
        size: 8,
        ready: true,
        event_idx: false,
        next_avail: 0,
        next_used: 0,
        desc_table: 0,
        avail_ring: 0x1000,
        used_ring: 0x2000,
    };
    TransportState {
        device_id: 2,
        status: 15,
        needs_reset: false,
        interrupt_status: 0,
        device_features_sel: 0,
        driver_features_sel: 0,
        driver_features: 0,
        queue_sel: 0,
        config_generation: 0,
        queue_fault: false,
        queues: vec![queue],
    }
}

fn serial() -> SerialState {
    SerialState {
        baud_divisor_low: 0,
        baud_divisor_high: 0,
        interrupt_enable: 0,
        interrupt_identification: 0,
        line_control: 0,
        line_status: 0,
        modem_control: 0,
        modem_status: 0,
        scratch: 0,
        input: b"input".to_vec(),
    }
}

/// The sections of a machine with a device of each kind.
fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    let devices = vec![DeviceKind::Block, DeviceKind::Vsock, DeviceKind::Entropy, DeviceKind::Net];
    add(&mut sections, 0, &MachineState { vcpu_count: 1, mem_size_mib: 128, devices });
    add(&mut sections, 0, &fingerprint());
    let irqchips = Irqchips(IRQCHIPS.map(|_| Raw::default()));
    add(&mut sections, 0, &PlatformState { irqchips, clock_ns: 1 });
    add(&mut sections, 0, &vcpu());
    add(&mut sections, 0, &serial());
    add(&mut sections, 0, &GenerationState { id: [3; 16], sequence: 2, disruption_marker: 0, counter: 0 });
    (0..4).for_each(|slot| add(&mut sections, slot, &transport()));
    add(&mut sections, 0, &BlockState { id: [b'd'; 20], read_only: true, sectors: 8 });
    add(&mut sections, 1, &VsockState { guest_cid: 3, next_host_port: 1024 });
    add(&mut sections, 3, &NetState { mac: inner_network::GUEST_MAC, link_up: true });
    let entries = vec![("kernel".to_owned(), "abc".to_owned())];
    add(&mut sections, 0, &IdentityState { entries });
    sections
}

fn add<S: SavedState>(sections: &mut Vec<Section>, instance: u32, state: &S) {
    let mut writer = StateWriter::new();
    writer.add(instance, state).expect("a small section");
    let file = writer.finish(&Key::new(KEY), &SALT);
    let reader = StateReader::open(&file, &Key::new(KEY)).expect("what was just written");
    let bytes = reader.bytes(S::NAME, instance, S::VERSION).expect("the only section").to_vec();
    sections.push((S::NAME, instance, S::VERSION, bytes));
}

/// Whether the sections can be read, as a load does it.
fn read(sections: &[Section]) -> bool {
    let mut writer = StateWriter::new();
    let mut len = 0;
    for (name, instance, version, bytes) in sections {
        len += bytes.len();
        writer.add_bytes(name, *instance, *version, bytes.clone()).expect("a small section");
    }
    let file = writer.finish(&Key::new(KEY), &SALT);
    let reader = StateReader::open(&file, &Key::new(KEY)).expect("what was just written");
    let (read, taken) = counting::count(|| (States::read(&reader), reader.get::<IdentityState>(0)));
    assert!(taken <= MAX_RESERVED + MAX_GROWTH * len, "{taken} bytes of memory for {len}");
    let (Ok(states), Ok(_)) = read else { return false };
    let connections = Connections {
        drives: vec![],
        vsock: None,
        net: None,
        serial: SerialOutput::Null,
        generation: [4; 16],
    };
    // Whatever it says: the client may have given what the sections now ask for.
    let _ = states.check(&connections);
    let host = Host {
        fingerprint: fingerprint(),
        tsc: Tsc { khz: 2_000_000, scaling: TscScaling::Hardware },
        msrs: vcpu().msrs.0.into(),
    };
    states.vcpus.iter().for_each(|vcpu| drop(host.check(&states.fingerprint, vcpu)));
    true
}

#[test]
fn the_sections_are_good_as_they_are() {
    assert!(read(&sections()));
}

proptest! {
    #[test]
    fn sections_of_any_bytes_are_refused_or_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), change()), 1..4),
    ) {
        let mut sections = sections();
        for (which, change) in &changes {
            let which = which.index(sections.len());
            change.apply(&mut sections[which].3);
        }
        read(&sections);
    }
}
