//! The header of a vsock packet, virtio 1.3 §5.10.6. Pure.
//!
//! `virtio-vsock`'s packet type wants the payload in one descriptor; a driver may cut it as it likes (Linux does with
//! zero-copy sends), so the payload stays a run of segments here and only the header is parsed.

use crate::virtio::segments::Segments;

/// Length of the header.
pub(crate) const HEADER_LEN: usize = 44;

/// Address of the host, virtio 1.3 §5.10.4.
pub(crate) const HOST_CID: u64 = 2;

/// "Any port": nobody can be reached there.
pub(crate) const PORT_ANY: u32 = u32::MAX;

/// virtio 1.3 §5.10.6: stream sockets, the only type here.
pub(crate) const TYPE_STREAM: u16 = 1;

/// SHUTDOWN flag: the sender receives no more.
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;
/// SHUTDOWN flag: the sender sends no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(crate) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet does, virtio 1.3 §5.10.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    pub(crate) fn of(value: u16) -> Option<Self> {
        [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ]
        .into_iter()
        .find(|&op| op as u16 == value)
    }
}

/// A packet's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl Header {
    /// Takes the header off the front; what is left is payload. None when it is cut short.
    pub(crate) fn take(readable: Segments<'_>) -> Option<(Self, Segments<'_>)> {
        let mut bytes = [0; HEADER_LEN];
        let payload = readable.take_into(&mut bytes)?;
        Some((Self::decode(&bytes), payload))
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(at(bytes, 0)),
            dst_cid: u64::from_le_bytes(at(bytes, 8)),
            src_port: u32::from_le_bytes(at(bytes, 16)),
            dst_port: u32::from_le_bytes(at(bytes, 20)),
            len: u32::from_le_bytes(at(bytes, 24)),
            kind: u16::from_le_bytes(at(bytes, 28)),
            op: u16::from_le_bytes(at(bytes, 30)),
            flags: u32::from_le_bytes(at(bytes, 32)),
            buf_alloc: u32::from_le_bytes(at(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(at(bytes, 40)),
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let Self { src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt } = self;
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &src_cid.to_le_bytes());
        put(&mut bytes, 8, &dst_cid.to_le_bytes());
        put(&mut bytes, 16, &src_port.to_le_bytes());
        put(&mut bytes, 20, &dst_port.to_le_bytes());
        put(&mut bytes, 24, &len.to_le_bytes());
        put(&mut bytes, 28, &kind.to_le_bytes());
        put(&mut bytes, 30, &op.to_le_bytes());
        put(&mut bytes, 32, &flags.to_le_bytes());
        put(&mut bytes, 36, &buf_alloc.to_le_bytes());
        put(&mut bytes, 40, &fwd_cnt.to_le_bytes());
        bytes
    }

    /// The RST that answers this packet.
    pub(crate) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

fn at<const N: usize>(bytes: &[u8; HEADER_LEN], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(offset)) {
        *to = *from;
    }
    field
}

fn put(bytes: &mut [u8; HEADER_LEN], offset: usize, field: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(field) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decodes_what_it_encodes(bytes in prop::array::uniform32(any::<u8>()), tail in any::<[u8; 12]>()) {
            let mut header = [0; HEADER_LEN];
            header[..32].copy_from_slice(&bytes);
            header[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::decode(&header).encode(), header);
        }
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let header = Header { dst_port: 0x0403_0201, op: 5, fwd_cnt: 0xff, ..Header::default() };
        let bytes = header.encode();
        assert_eq!(bytes[20..24], [1, 2, 3, 4]);
        assert_eq!(bytes[30..32], [5, 0]);
        assert_eq!(bytes[40], 0xff);
    }
}
