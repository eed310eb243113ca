//! Frames as all of their bytes, and what becomes of them with other tags.

use std::vec::Vec;

use crate::frame::tests::frame;
use crate::{Frame, Large, LargeKind, Offload};

/// Bytes as their sender has them, and what it leaves to others.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
}

impl Wire {
    pub(super) fn frame(&self) -> Frame {
        let mut frame = frame(&self.bytes);
        frame.offload = self.offload;
        frame
    }
}

/// Headers of each packet that a large frame stands for.
pub(super) fn header_bytes(wire: &Wire, large: Large) -> usize {
    let start = wire.offload.checksum.map_or(0, |checksum| usize::from(checksum.start));
    let transport = match large.kind {
        LargeKind::Udp => 8,
        _ => usize::from(wire.bytes[start + 12] >> 4) * 4,
    };
    (start + transport).min(crate::HEAD_BYTES)
}

/// Packets and bytes that a frame stands for.
pub(super) fn on_the_wire(wire: &Wire) -> (u32, u64) {
    let length = wire.bytes.len();
    let Some(large) = wire.offload.large else { return (1, length as u64) };
    let headers = header_bytes(wire, large);
    let packets = length.saturating_sub(headers).div_ceil(large.size.into()).max(1);
    (packets as u32, (length + (packets - 1) * headers) as u64)
}

/// The frame without its tag.
pub(super) fn untagged(wire: &Wire) -> Option<Wire> {
    if wire.bytes[12..14] != [0x81, 0] {
        return Some(wire.clone());
    }
    let bytes = [&wire.bytes[..12], wire.bytes.get(16..)?].concat();
    (bytes.len() >= 14).then_some(())?;
    moved(wire, bytes, 16, -4)
}

/// The frame with such a tag, and no other one before what it has in it.
pub(super) fn tagged(wire: &Wire, priority: u8, vlan: u16) -> Option<Wire> {
    let tag = (u16::from(priority) << 13 | vlan).to_be_bytes();
    if wire.bytes[12..14] != [0x81, 0] {
        let bytes = [&wire.bytes[..12], &[0x81, 0], &tag, &wire.bytes[12..]].concat();
        return moved(wire, bytes, 12, 4);
    }
    let mut same = wire.clone();
    same.bytes.get_mut(14..16)?.copy_from_slice(&tag);
    Some(same)
}

/// These bytes, where the checksum is that many bytes further on. There is none over what was before.
fn moved(wire: &Wire, bytes: Vec<u8>, least: u16, by: i16) -> Option<Wire> {
    let mut offload = wire.offload;
    if let Some(checksum) = &mut offload.checksum {
        if checksum.start < least {
            return None;
        }
        checksum.start = checksum.start.checked_add_signed(by)?;
    }
    if let Some(large) = &mut offload.large {
        large.header_bytes = large.header_bytes.saturating_add_signed(by);
    }
    Some(Wire { bytes, offload })
}
