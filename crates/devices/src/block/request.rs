//! Layouts of virtio 1.3 §5.2.4 (configuration) and §5.2.6 (request header). Pure.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::{BLOCK_SIZE, SEG_MAX};
use crate::virtio::segments::Segments;

/// type (le32), reserved (le32), sector (le64).
const HEADER_LEN: usize = 16;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    In,
    Out,
    Flush,
    GetId,
    Other,
}

/// Front of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) sector: u64,
}

impl Header {
    /// Takes the header off the readable half; what is left is data. None when it is cut short.
    pub(super) fn take(readable: Segments<'_>) -> Option<(Self, Segments<'_>)> {
        let mut bytes = [0; HEADER_LEN];
        let data = readable.take_into(&mut bytes)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        let kind = match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => Kind::In,
            VIRTIO_BLK_T_OUT => Kind::Out,
            VIRTIO_BLK_T_FLUSH => Kind::Flush,
            VIRTIO_BLK_T_GET_ID => Kind::GetId,
            _ => Kind::Other,
        };
        Some((Self { kind, sector: u64::from_le_bytes(sector) }, data))
    }
}

/// Last byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as u8,
    IoError = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// capacity (le64), size_max (le32), seg_max (le32), geometry (4 bytes), blk_size (le32).
pub(super) fn read_config(sectors: u64, offset: u64, data: &mut [u8]) {
    let mut config = [0; 24];
    let fields: [(usize, &[u8]); 3] =
        [(0, &sectors.to_le_bytes()), (12, &SEG_MAX.to_le_bytes()), (20, &BLOCK_SIZE.to_le_bytes())];
    for (at, bytes) in fields {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
    crate::virtio::device::read_config_bytes(&config, offset, data);
}
