//! Whether, and how, a large frame can be divided.

use super::{
    IPV4_BYTES, IPV6_BYTES, LEAST_TCP_SIZE, MAX_SEGMENTS, Plan, TCP_CHECKSUM_AT, UDP_BYTES, UDP_CHECKSUM_AT,
    Unsuited, tcp_bytes,
};
use crate::checksum::Sum;
use crate::frame::{Flags, Fragment, Frame, Internet, Layers, Transport, bytes, protocol, word};
use crate::offload::{Checksum, Large, LargeKind};

impl Plan {
    /// How to divide a frame, of which `layers` were read.
    pub fn new(frame: &Frame, layers: &Layers) -> Result<Self, Unsuited> {
        let large = frame.offload.large.ok_or(Unsuited::NotLarge)?;
        let found = layers.internet().ok_or(Unsuited::Kind)?;
        let tcp = check_kind(large.kind, found)?;
        let (at, transport_at) = (usize::from(found.at), usize::from(found.transport_at));
        if found.v6 && !repeatable(frame.head(), at, transport_at) {
            return Err(Unsuited::Extensions);
        }
        let offset = if tcp { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT };
        if frame.offload.checksum != Some(Checksum { start: found.transport_at, offset }) {
            return Err(Unsuited::Checksum);
        }
        let (header_bytes, end) = extent(frame, found, tcp).ok_or(Unsuited::Headers)?;
        let mut plan = Self {
            tcp,
            v6: found.v6,
            at: found.at,
            transport_at: found.transport_at,
            header_bytes,
            end,
            size: large.size,
            segments: 0,
            pseudo: pseudo(frame.head(), found).ok_or(Unsuited::Headers)?,
        };
        plan.segments = count(&plan, large)?;
        if plan.segments > 1
            && let Transport::Tcp { flags, .. } = found.transport
            && flags.any(Flags::SYN | Flags::RST)
        {
            return Err(Unsuited::Flags);
        }
        Ok(plan)
    }
}

/// Whether the headers are of that kind, and then whether it is TCP.
fn check_kind(kind: LargeKind, found: &Internet) -> Result<bool, Unsuited> {
    let (tcp, fits) = match kind {
        LargeKind::Tcp4 => (true, !found.v6),
        LargeKind::Tcp6 => (true, found.v6),
        LargeKind::Udp => (false, true),
    };
    if !fits || found.protocol != (if tcp { protocol::TCP } else { protocol::UDP }) {
        return Err(Unsuited::Kind);
    }
    if found.fragment != Fragment::No {
        return Err(Unsuited::Fragment);
    }
    match found.transport {
        Transport::Tcp { .. } | Transport::Ports { .. } => Ok(tcp),
        _ => Err(Unsuited::Headers),
    }
}

/// Whether all headers between IPv6's at `at` and the transport's can be in each segment. A routing header's packet has another destination
/// in its pseudo header, an authentication header is right for one packet only, and a fragment's header is for no large one.
fn repeatable(head: &[u8], at: usize, transport_at: usize) -> bool {
    let Some(mut next) = head.get(at + 6).copied() else { return false };
    let mut place = at + IPV6_BYTES as usize;
    while place < transport_at {
        let Some([following, units]) = bytes(head, place) else { return false };
        if !matches!(next, protocol::HOP_BY_HOP | protocol::DESTINATION) {
            return false;
        }
        next = following;
        place += (usize::from(units) + 1) * 8;
    }
    place == transport_at
}

/// Where the payload begins, which must be in the head, and where the IP packet ends, which may be before the frame does.
fn extent(frame: &Frame, found: &Internet, tcp: bool) -> Option<(u16, u32)> {
    let head = frame.head();
    let (at, transport_at) = (usize::from(found.at), usize::from(found.transport_at));
    let transport = if tcp { tcp_bytes(head, transport_at)? } else { UDP_BYTES };
    let header_bytes = transport_at + transport;
    // All of them have been copied.
    head.get(..header_bytes)?;
    transport_at.checked_sub(at).filter(|bytes| *bytes >= IPV4_BYTES)?;
    let stated = word(head, if found.v6 { at + 4 } else { at + 2 })?;
    let end = match stated {
        // Some senders leave it to who divides.
        0 => frame.length(),
        _ => u32::from(found.at) + u32::from(stated) + if found.v6 { IPV6_BYTES } else { 0 },
    };
    (end >= header_bytes as u32 && end <= frame.length()).then_some((header_bytes as u16, end))
}

/// How many segments there are.
fn count(plan: &Plan, large: Large) -> Result<u32, Unsuited> {
    let payload = plan.payload_bytes();
    if payload == 0 {
        return Err(Unsuited::Empty);
    }
    let least = if plan.tcp { LEAST_TCP_SIZE } else { 1 };
    if large.size < least {
        return Err(Unsuited::Size);
    }
    let segments = payload.div_ceil(large.size.into());
    // IP has 16 bits for its length; IPv6 does not count its own header.
    let packet = u32::from(plan.header_bytes - plan.at) + payload.min(large.size.into());
    let packet = packet.saturating_sub(if plan.v6 { IPV6_BYTES } else { 0 });
    if segments > MAX_SEGMENTS || packet > u16::MAX.into() {
        return Err(Unsuited::Size);
    }
    Ok(segments)
}

/// The sum of the addresses and the protocol's number.
fn pseudo(head: &[u8], found: &Internet) -> Option<u16> {
    let at = usize::from(found.at);
    let mut sum = Sum::default();
    sum.add(if found.v6 { head.get(at + 8..at + 40)? } else { head.get(at + 12..at + 20)? });
    sum.add_word(found.protocol.into());
    Some(sum.fold())
}
