//! IP, and the transports above it.
//!
//! Sources: RFC 791, "Internet Header Format"; RFC 8200, "IPv6 Extension Headers"; RFC 9293, "Header Format"; RFC 768; RFC 792, 4443,
//! 4861; RFC 7112 (a first fragment has all headers).

use super::{bytes, word};

/// Protocols and extension headers, by number.
pub mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    /// ICMP of IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const AUTHENTICATION: u8 = 51;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    pub(crate) const NOTHING: u8 = 59;
    pub(crate) const DESTINATION: u8 = 60;
    pub(crate) const MOBILITY: u8 = 135;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Extension headers that are passed at most.
const MOST_EXTENSIONS: usize = 6;
/// Bytes of fixed headers.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const SCTP_BYTES: usize = 12;

/// An IP address. IPv4's are the last four bytes, behind what RFC 4291 has before an IPv4 address that stands in for an IPv6 one; which of
/// the two it is, the packet says.
pub type Address = [u8; 16];

/// An IPv4 address as an [`Address`].
pub const fn v4([a, b, c, d]: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The same, out of a packet.
#[inline]
fn mapped(address: [u8; 4]) -> Address {
    (0xffff_0000_0000_u128 | u128::from(u32::from_be_bytes(address))).to_be_bytes()
}

/// An IP packet's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Internet {
    /// It is IPv6.
    pub v6: bool,
    /// Who sends it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// The transport's number, behind all extension headers.
    pub protocol: u8,
    /// Where IP's header begins, in bytes from the frame's first.
    pub at: u16,
    /// Where the transport's header begins.
    pub transport_at: u16,
    /// Which part of a packet it is.
    pub fragment: Fragment,
    /// The transport's header.
    pub transport: Transport,
}

/// Whether a packet is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// It is.
    No,
    /// Its first part, of the packet with this identification.
    First(u32),
    /// A later part.
    Later(u32),
}

/// TCP's flags.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub u8);

impl Flags {
    /// FIN: no more data.
    pub const FIN: u8 = 1 << 0;
    /// SYN: the connection begins.
    pub const SYN: u8 = 1 << 1;
    /// RST: there is no such connection.
    pub const RST: u8 = 1 << 2;
    /// PSH: what has come so far is for the application at once.
    pub const PSH: u8 = 1 << 3;
    /// ACK.
    pub const ACK: u8 = 1 << 4;
    /// URG: the urgent pointer means something.
    pub const URG: u8 = 1 << 5;
    /// With one of these, a connection begins or ends.
    pub(crate) const CHANGING: u8 = Self::SYN | Self::FIN | Self::RST;
    /// CWR: the sender has reduced its congestion window (RFC 3168).
    pub const CWR: u8 = 1 << 7;

    /// Whether one of these is set.
    pub const fn any(self, flags: u8) -> bool {
        self.0 & flags != 0
    }
}

/// What is known of a transport's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// The sender's port.
        from: u16,
        /// The receiver's.
        to: u16,
        /// Its flags.
        flags: Flags,
    },
    /// UDP, or SCTP.
    Ports {
        /// The sender's port.
        from: u16,
        /// The receiver's.
        to: u16,
    },
    /// ICMP, of either kind.
    Icmp {
        /// The message's type.
        kind: u8,
        /// Its code.
        code: u8,
        /// What tells one echo from another; 0 for other messages.
        identifier: u16,
    },
    /// A transport without ports, or a later fragment.
    Plain,
    /// Behind headers that are too many or too long, or cut off: it should have ports, and nobody knows which.
    Hidden,
}

/// Messages of ICMP that tell of a packet that did not arrive: unreachable, too large, too old, wrong.
const ERRORS: [u8; 3] = [3, 11, 12];
const ERRORS_V6: core::ops::RangeInclusive<u8> = 1..=4;
/// Bytes of such a message before what it quotes.
const QUOTED_AT: usize = 8;

impl Internet {
    /// The packet that an ICMP message is about, which its receiver has sent, as far as it is quoted: addresses, protocol and ports. `None` where it
    /// is about none.
    pub(crate) fn quoted(&self, head: &[u8]) -> Option<Self> {
        let Transport::Icmp { kind, .. } = self.transport else { return None };
        let is_error = match (self.v6, self.protocol) {
            (false, protocol::ICMP) => ERRORS.contains(&kind),
            (true, protocol::ICMPV6) => ERRORS_V6.contains(&kind),
            _ => false,
        };
        if !is_error {
            return None;
        }
        let at = usize::from(self.transport_at) + QUOTED_AT;
        // Only its beginning is there, whatever its length.
        let room = usize::from(u16::MAX);
        let mut quoted = if self.v6 { read_v6(head, at, room)? } else { read_v4(head, at, room)? };
        if matches!(quoted.fragment, Fragment::Later(_)) {
            return None;
        }
        let at = usize::from(quoted.transport_at);
        quoted.transport = match quoted.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                Transport::Ports { from: word(head, at)?, to: word(head, at + 2)? }
            }
            _ => quoted.transport,
        };
        Some(quoted)
    }

    /// The two ports; 0 where it has none.
    pub const fn ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::Tcp { from, to, .. } | Transport::Ports { from, to } => (from, to),
            _ => (0, 0),
        }
    }

    /// Where in the transport's header its checksum is, and how much of what begins there a switch looks at; nothing of a transport that it
    /// does not know. Of ICMP it is all.
    pub(crate) const fn checksum(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp { .. } => Some((16, TCP_BYTES as u16)),
            Transport::Ports { .. } if self.protocol == protocol::SCTP => Some((8, SCTP_BYTES as u16)),
            Transport::Ports { .. } => Some((6, UDP_BYTES as u16)),
            Transport::Icmp { .. } => Some((2, u16::MAX)),
            Transport::Plain | Transport::Hidden => None,
        }
    }
}

/// Reads an IPv4 header at `at`, behind which there are `room` bytes, itself included.
#[inline]
pub(super) fn read_v4(head: &[u8], at: usize, room: usize) -> Option<Internet> {
    // Words out of the header where it lies: bytes one by one cost more than all the rest.
    let fixed: &[u8; IPV4_BYTES] = head.get(at..)?.first_chunk()?;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let [version, _, l0, l1, i0, i1, f0, f1, _, protocol, ..] = *fixed;
    let header = usize::from(version & 0xf) * 4;
    let total = usize::from(word(l0, l1));
    // Behind a large frame's header, some senders leave the length at 0.
    let total = if total == 0 { room } else { total };
    if version >> 4 != 4 || header < IPV4_BYTES || total < header || total > room {
        return None;
    }
    let identification = u32::from(word(i0, i1));
    let part = word(f0, f1);
    let fragment = match (part & 0x1fff, part & 0x2000 != 0) {
        (0, false) => Fragment::No,
        (0, true) => Fragment::First(identification),
        _ => Fragment::Later(identification),
    };
    let (source, destination) = (fixed.get(12..)?.first_chunk()?, fixed.last_chunk()?);
    let transport_at = at + header;
    Some(Internet {
        v6: false,
        source: mapped(*source),
        destination: mapped(*destination),
        protocol,
        at: at as u16,
        transport_at: transport_at as u16,
        fragment,
        transport: read_transport(head, transport_at, at + total, protocol, fragment),
    })
}

/// Reads an IPv6 header and those behind it.
pub(super) fn read_v6(head: &[u8], at: usize, room: usize) -> Option<Internet> {
    let [version, _, _, _, l0, l1, next, _] = bytes(head, at)?;
    let payload = usize::from(u16::from_be_bytes([l0, l1]));
    if version >> 4 != 6 || room < IPV6_BYTES || payload > room - IPV6_BYTES {
        return None;
    }
    // A length of 0 is a jumbogram's, or one of a large frame.
    let end = if payload == 0 { at + room } else { at + IPV6_BYTES + payload };
    let mut found = Internet {
        v6: true,
        source: bytes(head, at + 8)?,
        destination: bytes(head, at + 24)?,
        protocol: next,
        at: at as u16,
        transport_at: (at + IPV6_BYTES) as u16,
        fragment: Fragment::No,
        transport: Transport::Hidden,
    };
    if pass_extensions(head, end, &mut found).is_some() {
        found.transport =
            read_transport(head, found.transport_at.into(), end, found.protocol, found.fragment);
    }
    Some(found)
}

/// Goes past extension headers. `None` where they are cut off, or too many or too long to be looked at.
fn pass_extensions(head: &[u8], end: usize, found: &mut Internet) -> Option<()> {
    let mut in_fragment = false;
    for _ in 0..=MOST_EXTENSIONS {
        let at = usize::from(found.transport_at);
        let unit = match found.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION | protocol::MOBILITY => 8,
            protocol::AUTHENTICATION => 4,
            protocol::FRAGMENT => 0,
            _ => return Some(()),
        };
        let [next, length] = bytes(head, at)?;
        let size = match unit {
            8 => (usize::from(length) + 1) * 8,
            4 => (usize::from(length) + 2) * 4,
            // A fragment of a fragment: the second header does not say how much of the packet is here.
            _ if in_fragment => return None,
            _ => {
                in_fragment = true;
                let [_, _, o0, o1, i0, i1, i2, i3] = bytes(head, at)?;
                let (word, identification) =
                    (u16::from_be_bytes([o0, o1]), u32::from_be_bytes([i0, i1, i2, i3]));
                found.fragment = match (word & 0xfff8, word & 1 != 0) {
                    // An atomic fragment is a whole packet (RFC 6946).
                    (0, false) => Fragment::No,
                    (0, true) => Fragment::First(identification),
                    _ => Fragment::Later(identification),
                };
                8
            }
        };
        (found.protocol, found.transport_at) = (next, u16::try_from(at + size).ok()?);
        if at + size > end {
            return None;
        }
        if matches!(found.fragment, Fragment::Later(_)) {
            // What follows is the middle of something.
            return Some(());
        }
    }
    None
}

/// Reads a transport's header at `at`, in a packet that ends at `end`.
#[inline]
fn read_transport(head: &[u8], at: usize, end: usize, number: u8, fragment: Fragment) -> Transport {
    if matches!(fragment, Fragment::Later(_)) || number == protocol::NOTHING {
        return Transport::Plain;
    }
    let least = match number {
        protocol::TCP => TCP_BYTES,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => UDP_BYTES,
        protocol::SCTP => SCTP_BYTES,
        _ => return Transport::Plain,
    };
    let seen = head.get(..end.min(head.len())).and_then(|seen| seen.get(at..at + least));
    let Some(seen) = seen else { return Transport::Hidden };
    let (Some(from), Some(to)) = (word(seen, 0), word(seen, 2)) else { return Transport::Hidden };
    match number {
        protocol::TCP => Transport::Tcp { from, to, flags: Flags(seen.get(13).copied().unwrap_or(0)) },
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = from.to_be_bytes();
            let echo = if number == protocol::ICMP { [0, 8] } else { [128, 129] };
            let identifier = if echo.contains(&kind) { word(seen, 4).unwrap_or(0) } else { 0 };
            Transport::Icmp { kind, code, identifier }
        }
        _ => Transport::Ports { from, to },
    }
}
