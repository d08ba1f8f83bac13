//! Requests and answers about snapshots: prepare a machine before it is known which, take a snapshot, load one.
//!
//! A snapshot is two things. The *state* is small, a file that is read whole and authenticated by a [`Key`]. The *memory* is as
//! long as guest memory, page by page: written as a file with holes for pages of zeros, read by chunks of the chunk store,
//! which authenticates them. See `docs/snapshot-format.md`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{DriveConfig, Grant, NetConfig, SerialConfig, Source, VsockConfig};

/// Bytes of a [`Key`].
pub const KEY_LEN: usize = 32;

/// Most entries of an [`Identity`].
pub const MAX_IDENTITIES: usize = 16;

/// Longest name and longest value of an [`Identity`]'s entry, bytes: twice a SHA-256 in hexadecimal.
pub const MAX_IDENTITY_LEN: usize = 128;

/// Most pages of a [`WorkingSet`], 28 MiB. A packet has room for them and for all chunks, whatever their numbers.
pub const MAX_WORKING_SET: usize = 7168;

/// Most chunks of one drive in a [`WorkingSet`]: 64 MiB of an image.
pub const MAX_DRIVE_CHUNKS: usize = 1024;

/// What a machine is reserved by before its snapshot is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// 1 to 16.
    pub vcpu_count: u8,
    /// As in [`MachineConfig`](crate::MachineConfig).
    pub mem_size_mib: u32,
}

/// A snapshot to load and what its machine is connected to here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadConfig {
    /// Vcpu and device state.
    pub state: Source,
    /// Guest memory; read while the machine runs.
    pub memory: Grant,
    /// The key that the snapshot was taken with.
    pub key: Key,
    /// One for each saved drive, matched by id; access as saved. The file may be another one of another length: the guest
    /// is told of a new capacity.
    #[serde(default)]
    pub drives: Vec<DriveConfig>,
    /// Present exactly when the saved machine has a socket device, with its address. The broker is new: the guest is told
    /// that its connections are gone.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// What the network device is connected to here, whatever it was when the snapshot was taken. The guest is told when its link
    /// goes up or down by that.
    #[serde(default)]
    pub net: Option<NetConfig>,
    /// Where serial output goes.
    #[serde(default)]
    pub serial: SerialConfig,
    /// Tells this clone from every other one of the snapshot: fresh random bytes.
    pub generation: [u8; 16],
    /// Refused unless the snapshot was taken with exactly this identity; not looked at when absent.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Pages that clones of this snapshot want first. Some are in place before the machine runs, the others follow. A content
    /// that is damaged or cannot be had is not used, and the process's standard error says so; whether it is this snapshot's is
    /// the client's to know.
    #[serde(default)]
    pub prefetch: Option<Grant>,
    /// Serve page by page, so that [`Request::WorkingSet`](crate::Request::WorkingSet) tells which pages were asked for;
    /// otherwise a page brings its neighbours. Costs a fault for each page.
    #[serde(default)]
    pub learn: bool,
    /// Remember from the start which pages change, so that a [`SnapshotKind::Diff`] can follow.
    #[serde(default)]
    pub track_changes: bool,
    /// Whether the machine runs at once; otherwise it is paused.
    #[serde(default)]
    pub resume: bool,
    /// As in [`MachineConfig`](crate::MachineConfig).
    #[serde(default)]
    pub allow_snapshots: bool,
}

/// A snapshot to take of a paused machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Written from the start, cut to its new length.
    pub state: Source,
    /// For [`SnapshotKind::Full`]: whatever it holds is replaced. For [`SnapshotKind::Diff`]: a copy of the machine's last
    /// memory file, brought up to date in place; never that file itself, which clones may be reading.
    pub memory: Source,
    /// Authenticates the state.
    pub key: Key,
    /// All of memory or what changed.
    pub kind: SnapshotKind,
    /// What the snapshot depends on; given back when it is loaded.
    #[serde(default)]
    pub identity: Identity,
    /// Remember from here on which pages change, so that a [`SnapshotKind::Diff`] can follow; each page's first write then
    /// costs the guest a fault.
    #[serde(default)]
    pub track_changes: bool,
}

/// How much of memory a snapshot writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// Every page that is not zeros.
    Full,
    /// Pages that changed since the machine's last snapshot, or since it was loaded; refused unless that one asked for
    /// `track_changes`. A snapshot that fails, which is not one that is refused, ends the tracking: only a full one can
    /// follow.
    Diff,
}

/// Names and values (hashes, versions) of what a snapshot depends on: at most [`MAX_IDENTITIES`], each name and value at
/// most [`MAX_IDENTITY_LEN`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub BTreeMap<String, String>);

/// What a machine has read, in the order in which it did so first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkingSet {
    /// Pages of the snapshot's memory by number: at most [`MAX_WORKING_SET`].
    pub pages: Vec<u32>,
    /// By id of each drive that is read by chunks, the numbers of these: at most [`MAX_DRIVE_CHUNKS`].
    pub drives: BTreeMap<String, Vec<u32>>,
}

/// Answer to [`Request::Load`](crate::Request::Load).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// As given when the snapshot was taken.
    pub identity: Identity,
    /// Where the time went.
    pub timings: LoadTimings,
    /// Whether there was a prefetch content whose copies were not in the page cache: they are not there now, either.
    pub prefetched_past_cache: bool,
}

/// Microseconds of a load, on the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadTimings {
    /// The state file: read, verified, decoded.
    pub read_us: u64,
    /// Virtual machine, memory, threads; nothing worth mentioning when they were prepared.
    pub prepare_us: u64,
    /// vCPUs, interrupt controllers, clock and devices.
    pub restore_us: u64,
    /// From the request's arrival until the vCPUs run, or could.
    pub total_us: u64,
}

/// Answer to [`Request::Snapshot`](crate::Request::Snapshot).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// From the request's arrival until everything is written: what the guest stands still for, at least.
    pub pause_us: u64,
    /// Length of the state file.
    pub state_bytes: u64,
    /// Bytes written to the memory file.
    pub memory_bytes: u64,
    /// Pages of zeros, which take no room.
    pub zero_pages: u64,
}

/// Authenticates snapshots. 32 bytes, in JSON as 64 hexadecimal digits; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_LEN]);

impl Key {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use fmt::Write as _;
        let mut text = String::with_capacity(KEY_LEN * 2);
        for byte in self.0 {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?))
            .collect();
        let bytes = bytes.and_then(|bytes| <[u8; KEY_LEN]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| D::Error::custom("a key is 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, Response, decode, encode};

    #[test]
    fn a_key_is_hexadecimal_in_json_and_never_printed() {
        let key = Key::new(std::array::from_fn(|n| n as u8 * 8));
        let json = serde_json::to_string(&key).expect("encode");
        assert!(json.starts_with("\"00081018") && json.len() == 66, "{json}");
        assert_eq!(serde_json::from_str::<Key>(&json).expect("decode"), key);
        assert_eq!(format!("{key:?}"), "Key(..)");
        let (short, long, strange) = ("00".repeat(31), "00".repeat(33), "zz".repeat(32));
        for wrong in [short.as_str(), &long, &strange, "0", ""] {
            assert!(serde_json::from_str::<Key>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_short_load_request_has_defaults() {
        let text = format!(
            r#"{{"load":{{"state":{{"fd":0}},"memory":{{"table":1,"slots":2,"asks":3}},"key":"{}","generation":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}}}}"#,
            "0f".repeat(32)
        );
        let request: Request = decode(text.as_bytes()).expect("decode");
        let Request::Load(config) = &request else { panic!("{request:?}") };
        assert!(!config.resume && config.drives.is_empty() && config.identity.is_none());
        assert_eq!(decode::<Request>(&encode(&request).expect("encode")).expect("decode"), request);
    }

    #[test]
    fn the_longest_working_set_fits_a_packet() {
        // The number of the last page of the largest guest has seven digits, and that of no chunk has more.
        let drives = (0..8).map(|n| (format!("{n:020}"), vec![9_999_999; MAX_DRIVE_CHUNKS])).collect();
        let longest = WorkingSet { pages: vec![9_999_999; MAX_WORKING_SET], drives };
        encode(&Response::WorkingSet(longest)).expect("fits");
    }

    #[test]
    fn a_content_is_three_descriptors_and_nothing_else() {
        let text = r#"{"chunks":{"table":0,"slots":1,"asks":2}}"#;
        let source = Source::Chunks(Grant { table: 0, slots: 1, asks: 2 });
        assert_eq!(decode::<Source>(text.as_bytes()).expect("decode"), source);
        assert_eq!(encode(&source).expect("encode"), text.as_bytes());
        for wrong in
            [r#"{"chunks":{"table":0,"slots":1}}"#, r#"{"chunks":{"table":0,"slots":1,"asks":2,"key":3}}"#]
        {
            assert!(decode::<Source>(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
