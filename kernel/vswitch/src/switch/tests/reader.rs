//! A reader of frames for the model, which is not the switch's: it goes from header to header through all bytes that a switch looks at.

use crate::frame::{Address, HEAD_BYTES, v4};
use crate::port::Mac;

/// Extension headers of IPv6 behind which a switch still finds the transport.
const MOST_EXTENSIONS: usize = 6;

/// What is in a frame.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) to: Mac,
    pub(super) from: Mac,
    pub(super) tag: Option<u16>,
    /// There is another tag right behind the first one.
    pub(super) nested: bool,
    pub(super) kind: u16,
    /// Where what is behind the tags begins.
    at: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Ip(Ip),
    Arp { mac: Mac, ip: [u8; 4], target: [u8; 4] },
    Broken,
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Ip {
    pub(super) v6: bool,
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) number: u8,
    pub(super) part: Part,
    pub(super) transport: Transport,
    /// Where the transport's header is.
    pub(super) at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Whole,
    First(u32),
    Later(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Tcp { from: u16, to: u16, flags: u8 },
    Ports { from: u16, to: u16 },
    Icmp { kind: u8, code: u8, identifier: u16 },
    Plain,
    Hidden,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl Seen {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        let is_tag = |kind: u16| kind == 0x8100 || kind == 0x88a8;
        let kind_at = |at| word(head, at).unwrap_or(0);
        let outer = kind_at(12);
        let tag = (outer == 0x8100).then(|| word(head, 14).unwrap_or(0));
        // A customer's tag, and two more; or two of a provider's.
        let most = if tag.is_some() { 3 } else { 2 };
        let tags = (0..most).take_while(|tag| is_tag(kind_at(12 + 4 * tag))).count();
        let kind = kind_at(12 + 4 * tags);
        let at = 14 + 4 * tags;
        let rest = head.get(at..).unwrap_or_default();
        let length = bytes.len().saturating_sub(at);
        let what = match kind {
            0x0800 => ipv4(rest, length).map_or(What::Broken, What::Ip),
            0x86dd => ipv6(rest, length).map_or(What::Broken, What::Ip),
            0x0806 => arp(rest).unwrap_or(What::Broken),
            _ => What::Other,
        };
        let what = match what {
            What::Ip(ip) => What::Ip(Ip { at: ip.at + at, ..ip }),
            other => other,
        };
        let mac = |at: usize| head[at..at + 6].try_into().expect("six bytes");
        Self { to: mac(0), from: mac(6), tag, nested: tag.is_some() && tags > 1, kind, at, what }
    }

    pub(super) fn ip(&self) -> Option<&Ip> {
        if let What::Ip(ip) = &self.what { Some(ip) } else { None }
    }

    /// Whether a checksum from `start` on can be written `offset` bytes behind that without a change of what is known of the frame.
    pub(super) fn has_place_for_checksum(&self, start: usize, offset: usize) -> bool {
        let (at, header) = match &self.what {
            What::Arp { .. } | What::Broken => return false,
            What::Other => (self.at, 0),
            What::Ip(ip) => match (ip.transport, ip.number) {
                (Transport::Plain | Transport::Hidden, _) => (ip.at, 0),
                (_, 1 | 58) => return start == ip.at && offset == 2,
                (_, 6) => (ip.at, 20),
                (_, 17) => (ip.at, 8),
                _ => (ip.at, 12),
            },
        };
        if start == at && header != 0 {
            return Some(offset)
                == [(20, 16), (8, 6), (12, 8)].iter().find(|it| it.0 == header).map(|it| it.1);
        }
        start >= at + header
    }
}

fn arp(packet: &[u8]) -> Option<What> {
    let packet = packet.get(..28)?;
    let is_ethernet = packet.starts_with(&[0, 1, 8, 0, 6, 4]) || packet.starts_with(&[0, 6, 8, 0, 6, 4]);
    is_ethernet.then(|| What::Arp {
        mac: packet[8..14].try_into().expect("six bytes"),
        ip: packet[14..18].try_into().expect("four bytes"),
        target: packet[24..28].try_into().expect("four bytes"),
    })
}

/// A packet of which `packet` is seen, and which may have `room` bytes.
fn ipv4(packet: &[u8], room: usize) -> Option<Ip> {
    let header = packet.get(..20)?;
    let bytes = usize::from(header[0] % 16) * 4;
    let mut total = usize::from(word(header, 2)?);
    if total == 0 {
        total = room;
    }
    if header[0] / 16 != 4 || bytes < 20 || bytes > total || total > room {
        return None;
    }
    let identification = word(header, 4)?.into();
    let (more, offset) = (header[6] & 0x20 != 0, word(header, 6)? & 0x1fff);
    let address = |at: usize| v4(header[at..at + 4].try_into().expect("four bytes"));
    let part = part(offset, more, identification);
    let seen = &packet[..packet.len().min(total)];
    Some(Ip {
        v6: false,
        source: address(12),
        destination: address(16),
        number: header[9],
        part,
        transport: transport(seen.get(bytes..).unwrap_or_default(), header[9], part),
        at: bytes,
    })
}

const fn part(offset: u16, more: bool, identification: u32) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First(identification),
        _ => Part::Later(identification),
    }
}

fn ipv6(packet: &[u8], room: usize) -> Option<Ip> {
    let header = packet.get(..40)?;
    let payload = usize::from(word(header, 4)?);
    if header[0] / 16 != 6 || 40 + payload > room {
        return None;
    }
    let end = if payload == 0 { room } else { 40 + payload };
    let address = |at: usize| header[at..at + 16].try_into().expect("16 bytes");
    let mut ip = Ip {
        v6: true,
        source: address(8),
        destination: address(24),
        number: header[6],
        part: Part::Whole,
        transport: Transport::Hidden,
        at: 40,
    };
    let mut fragments = 0;
    for passed in 0.. {
        if !matches!(ip.number, 0 | 43 | 44 | 51 | 60 | 135) {
            let seen = &packet[..packet.len().min(end)];
            ip.transport = transport(seen.get(ip.at..).unwrap_or_default(), ip.number, ip.part);
            break;
        }
        let Some(extension) = packet.get(ip.at..) else { break };
        let Some(units) = extension.get(1).map(|units| usize::from(*units)) else { break };
        let bytes = match ip.number {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        if ip.number == 44 {
            fragments += 1;
            if fragments > 1 {
                break;
            }
            let Some(fragment) = extension.get(..8) else { break };
            let identification = u32::from_be_bytes(fragment[4..].try_into().expect("four bytes"));
            ip.part = part(word(fragment, 2)? >> 3, fragment[3] & 1 != 0, identification);
        }
        (ip.number, ip.at) = (extension[0], ip.at + bytes);
        if ip.at > end {
            break;
        }
        if matches!(ip.part, Part::Later(_)) {
            ip.transport = Transport::Plain;
            break;
        }
        if passed == MOST_EXTENSIONS {
            break;
        }
    }
    Some(ip)
}

fn transport(bytes: &[u8], number: u8, part: Part) -> Transport {
    if matches!(part, Part::Later(_)) {
        return Transport::Plain;
    }
    let least = match number {
        6 => 20,
        17 | 1 | 58 => 8,
        132 => 12,
        _ => return Transport::Plain,
    };
    let (Some(from), Some(to), true) = (word(bytes, 0), word(bytes, 2), bytes.len() >= least) else {
        return Transport::Hidden;
    };
    match number {
        6 => Transport::Tcp { from, to, flags: bytes[13] },
        1 | 58 => {
            let is_echo = matches!((number, bytes[0]), (1, 0 | 8) | (58, 128 | 129));
            let identifier = if is_echo { word(bytes, 4).unwrap_or(0) } else { 0 };
            Transport::Icmp { kind: bytes[0], code: bytes[1], identifier }
        }
        _ => Transport::Ports { from, to },
    }
}
