//! Frames as any VM may send them, of few addresses and ports, so that conversations come about.

use proptest::prelude::*;
use std::vec::Vec;

use super::reader::{Seen, Transport};
use super::wire::Wire;
use crate::frame::tests::{ethernet, ipv4, ipv6, tcp, udp};
use crate::frame::{Address, Flags};
use crate::guard::link_local;
use crate::port::Mac;
use crate::{Checksum, Large, LargeKind, Offload};

/// Stations that there are: each is usually behind the port of its number.
pub(super) const STATIONS: u8 = 4;
/// Whom else frames are for: all, groups, bridges, and a station that nobody is.
const OTHERS: [Mac; 6] = [
    [0xff; 6],
    [1, 0, 0x5e, 0, 0, 9],
    [0x33, 0x33, 0, 0, 0, 1],
    [1, 0x80, 0xc2, 0, 0, 0xe],
    [1, 0x80, 0xc2, 0, 0, 0x10],
    [2, 9, 9, 9, 9, 9],
];
const PORTS: [u16; 3] = [80, 1000, 53];
/// The number of an address that is none, and of that which the hardware address gives.
const NOBODY: u8 = 8;
const LOCAL: u8 = 9;

pub(super) const fn mac(station: u8) -> Mac {
    [2, 0, 0, 0, 0, station]
}

pub(super) const fn ip4(station: u8) -> [u8; 4] {
    if station == NOBODY { [0; 4] } else { [10, 0, 0, station] }
}

pub(super) fn ip6(station: u8) -> Address {
    match station {
        NOBODY => [0; 16],
        LOCAL => link_local(mac(1)),
        _ => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, station],
    }
}

/// A header of IPv6 between the first one and the transport's.
#[derive(Clone, Copy, Debug)]
enum Extension {
    Options(u8, u8),
    Authentication(u8),
    Fragment { word: u16, identification: u8 },
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::Options(number, _) => number,
            Self::Authentication(_) => 51,
            Self::Fragment { .. } => 44,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        let (units, bytes) = match self {
            Self::Options(_, units) => (units, (usize::from(units) + 1) * 8),
            Self::Authentication(units) => (units, (usize::from(units) + 2) * 4),
            Self::Fragment { .. } => (0, 8),
        };
        let mut header = std::vec![0; bytes];
        (header[0], header[1]) = (next, units);
        if let Self::Fragment { word, identification } = self {
            header[2..4].copy_from_slice(&word.to_be_bytes());
            header[7] = identification;
        }
        header
    }
}

#[derive(Clone, Debug)]
enum Network {
    V4 { options: u8, fragment: u16, identification: u8, total: Option<u16> },
    V6 { extensions: Vec<Extension>, payload: Option<u16> },
    Arp { sender_mac: u8, sender: u8, first: u8 },
    Other(u16),
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Tcp {
        from: u16,
        to: u16,
        flags: u8,
    },
    Udp {
        from: u16,
        to: u16,
    },
    Sctp {
        from: u16,
        to: u16,
    },
    Icmp {
        kind: u8,
        code: u8,
        identifier: u8,
    },
    /// What is asked and told about neighbours: the type, whom it is about, an option's type and address.
    Neighbor {
        kind: u8,
        target: u8,
        option: u8,
        own: u8,
    },
    Plain(u8),
}

/// A frame's ingredients.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// Whom it is for, and who says to have sent it.
    to: u8,
    from: u8,
    tags: Vec<(u16, u16)>,
    network: Network,
    /// The addresses of IP.
    ends: (u8, u8),
    message: Message,
    payload: usize,
    /// Bytes that are left of it.
    cut: Option<usize>,
    undone: Undone,
}

#[derive(Clone, Copy, Debug)]
enum Undone {
    Nothing,
    Checksum { start: Option<u16> },
    Large { size: u16 },
}

impl Message {
    /// What answers it, or goes on with it, with other flags.
    const fn followed(self, back: bool, flags: u8) -> Self {
        match self {
            Self::Tcp { from, to, .. } if back => Self::Tcp { from: to, to: from, flags },
            Self::Tcp { from, to, .. } => Self::Tcp { from, to, flags },
            Self::Udp { from, to } if back => Self::Udp { from: to, to: from },
            Self::Sctp { from, to } if back => Self::Sctp { from: to, to: from },
            Self::Icmp { kind: kind @ (8 | 128), code, identifier } if back => {
                Self::Icmp { kind: if kind == 8 { 0 } else { 129 }, code, identifier }
            }
            other => other,
        }
    }

    fn bytes(self, v6: bool) -> (u8, Vec<u8>) {
        match self {
            Self::Tcp { from, to, flags } => (6, tcp(from, to, flags)),
            Self::Udp { from, to } => (17, udp(from, to)),
            Self::Sctp { from, to } => (132, [udp(from, to), std::vec![0; 4]].concat()),
            Self::Icmp { kind, code, identifier } => {
                (if v6 { 58 } else { 1 }, std::vec![kind, code, 0, 0, 0, identifier, 0, 1])
            }
            Self::Neighbor { kind, target, option, own } => {
                let mut bytes = std::vec![kind, 0, 0, 0, 0, 0, 0, 0];
                if kind > 134 {
                    bytes.extend(ip6(target));
                }
                bytes.extend([option, u8::from(option != 9)].into_iter().chain(mac(own)));
                (58, bytes)
            }
            Self::Plain(number) => (number, std::vec![0; 8]),
        }
    }
}

/// How a frame follows an earlier one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Following {
    back: bool,
    flags: u8,
    /// To another station than the conversation's.
    to: Option<u8>,
    /// Bytes that are left of it, where that is something else.
    cut: Option<usize>,
    /// Bytes that its payload has more.
    more: usize,
    /// Something else about it that is another.
    other: Option<Other>,
}

#[derive(Clone, Copy, Debug)]
enum Other {
    Protocol,
    Port,
    Source,
    Destination,
    Sender,
    Fragment,
    Tag,
    Undone,
}

/// An answer.
pub(super) fn answers() -> impl Strategy<Value = Following> {
    followings().prop_map(|following| Following { back: true, to: None, other: None, ..following })
}

/// Frames right behind one, of the same way.
pub(super) fn repetitions() -> impl Strategy<Value = Following> {
    let flags = prop_oneof![4 => Just(Flags::ACK), 1 => flags()];
    (followings(), flags).prop_map(|(following, flags)| Following {
        back: false,
        flags,
        to: None,
        ..following
    })
}

pub(super) fn followings() -> impl Strategy<Value = Following> {
    let to = prop_oneof![5 => Just(None), 1 => (0..STATIONS + 6).prop_map(Some)];
    let cut = prop_oneof![5 => Just(None), 1 => (14_usize..100).prop_map(Some)];
    let more = prop_oneof![3 => Just(0), 1 => 0_usize..200, 1 => 1400_usize..1600];
    let other = prop::sample::select(std::vec![
        Other::Protocol,
        Other::Port,
        Other::Source,
        Other::Destination,
        Other::Sender,
        Other::Fragment,
        Other::Tag,
        Other::Undone,
    ]);
    let other = prop_oneof![6 => Just(None), 1 => other.prop_map(Some)];
    (prop::bool::weighted(0.5), flags(), to, cut, more, other)
        .prop_map(|(back, flags, to, cut, more, other)| Following { back, flags, to, cut, more, other })
}

fn flags() -> impl Strategy<Value = u8> {
    prop::sample::select(std::vec![
        Flags::SYN,
        Flags::SYN,
        Flags::SYN | Flags::ACK,
        Flags::ACK,
        Flags::ACK,
        Flags::ACK | Flags::PSH,
        Flags::FIN | Flags::ACK,
        Flags::RST,
    ])
}

impl Recipe {
    /// A frame that follows this one, and the station that sends it, which is behind the port of its number.
    pub(super) fn followed(&self, by: Following) -> (usize, Self) {
        let mut next = self.clone();
        next.message = self.message.followed(by.back, by.flags);
        if by.back {
            (next.ends, next.from, next.to) = ((self.ends.1, self.ends.0), self.ends.1, self.from);
        }
        next.to = by.to.unwrap_or(next.to);
        next.cut = by.cut.or(next.cut);
        next.payload = self.payload % 1600 + by.more;
        next.differ(by.other);
        (usize::from(next.from), next)
    }

    fn differ(&mut self, other: Option<Other>) {
        let next = |station: u8| (station + 1) % 3;
        match (other, &mut self.message, &mut self.network) {
            (Some(Other::Protocol), message @ &mut Message::Udp { from, to }, _) => {
                *message = Message::Sctp { from, to };
            }
            (Some(Other::Protocol), message @ &mut Message::Sctp { from, to }, _) => {
                *message = Message::Udp { from, to };
            }
            (Some(Other::Port), Message::Udp { from, .. } | Message::Tcp { from, .. }, _) => *from ^= 1,
            (Some(Other::Source), ..) => self.ends.0 = next(self.ends.0),
            (Some(Other::Destination), ..) => self.ends.1 = next(self.ends.1),
            (Some(Other::Sender), ..) => self.from = next(self.from),
            (Some(Other::Fragment), _, Network::V4 { fragment, .. }) => *fragment ^= 0x2000,
            (Some(Other::Undone), ..) => self.undone = Undone::Checksum { start: Some(14) },
            (Some(Other::Tag), ..) => match self.tags.first_mut() {
                Some((_, tag)) => *tag ^= 1 << 13,
                None => self.tags.push((0x8100, 1)),
            },
            _ => {}
        }
    }

    /// The same from station 0 to station 1, as these would say it.
    pub(super) fn honest(self) -> Self {
        let tags = if self.tags.len() == 1 { self.tags } else { Vec::new() };
        Self { to: 1, from: 0, tags, ends: (0, 1), cut: None, ..self }
    }

    pub(super) fn wire(&self) -> Wire {
        let (number, message) = self.message.bytes(matches!(self.network, Network::V6 { .. }));
        let rest = [message, std::vec![0xa5; self.payload]].concat();
        let (kind, packet) = self.packet(number, &rest);
        let to = OTHERS.get(usize::from(self.to.wrapping_sub(STATIONS))).copied().unwrap_or(mac(self.to));
        let mut from = mac(self.from);
        if self.from == 7 {
            from[0] = 3;
        }
        let mut bytes = ethernet(to, from, &[], kind, &packet);
        for (kind, tag) in self.tags.iter().rev() {
            let [a, b] = kind.to_be_bytes();
            let [c, d] = tag.to_be_bytes();
            bytes.splice(12..12, [a, b, c, d]);
        }
        bytes.truncate(self.cut.unwrap_or(bytes.len()).max(14));
        let offload = self.offload(&bytes);
        Wire { bytes, offload }
    }

    fn packet(&self, number: u8, rest: &[u8]) -> (u16, Vec<u8>) {
        let (a, b) = self.ends;
        match &self.network {
            Network::V4 { options, fragment, identification, total } => {
                let options = usize::from(*options);
                let rest = [&std::vec![1; options * 4], rest].concat();
                let mut packet = ipv4(ip4(a), ip4(b), number, ((*identification).into(), *fragment), &rest);
                packet[0] += options as u8;
                if let Some(total) = total {
                    packet[2..4].copy_from_slice(&total.to_be_bytes());
                }
                (0x0800, packet)
            }
            Network::V6 { extensions, payload } => {
                let (mut next, mut bytes) = (number, rest.to_vec());
                for extension in extensions.iter().rev() {
                    bytes = [extension.bytes(next), bytes].concat();
                    next = extension.number();
                }
                let mut packet = ipv6(ip6(a), ip6(b), next, &bytes);
                if let Some(payload) = payload {
                    packet[4..6].copy_from_slice(&payload.to_be_bytes());
                }
                (0x86dd, packet)
            }
            Network::Arp { sender_mac, sender, first } => {
                let mut packet = std::vec![0, *first, 8, 0, 6, 4, 0, 1];
                packet.extend(mac(*sender_mac).into_iter().chain(ip4(*sender)).chain([0; 6]).chain(ip4(b)));
                (0x0806, packet)
            }
            Network::Other(kind) => (*kind, rest.to_vec()),
        }
    }

    fn offload(&self, bytes: &[u8]) -> Offload {
        let seen = Seen::of(bytes);
        let found = seen.ip().map(|ip| (ip.v6, ip.at as u16, ip.transport));
        let at = |offset| found.map(|(_, start, _)| Checksum { start, offset });
        let checksum = match found {
            Some((.., Transport::Tcp { .. })) => at(16),
            Some((.., Transport::Ports { .. })) => at(6),
            _ => None,
        };
        match self.undone {
            Undone::Nothing => Offload::default(),
            Undone::Checksum { start: None } => Offload { checksum, large: None },
            Undone::Checksum { start: Some(start) } => {
                Offload { checksum: Some(Checksum { start, offset: 2 }), large: None }
            }
            Undone::Large { size } => {
                let kind = match found {
                    Some((false, _, Transport::Tcp { .. })) => LargeKind::Tcp4,
                    Some((true, _, Transport::Tcp { .. })) => LargeKind::Tcp6,
                    _ => LargeKind::Udp,
                };
                let large = checksum.map(|it| Large { kind, ecn: false, size, header_bytes: it.start });
                Offload { checksum, large }
            }
        }
    }
}

fn networks() -> impl Strategy<Value = Network> {
    let fragments = prop_oneof![8 => Just(0_u16), 1 => Just(0x2000), 1 => Just(0x2009), 1 => Just(9)];
    let options = prop_oneof![5 => Just(0_u8), 1 => 1_u8..=10];
    let lengths = prop_oneof![12 => Just(None), 1 => Just(Some(0)), 1 => (1_u16..70).prop_map(Some)];
    let v4 = (options, fragments, 0_u8..3, lengths.clone()).prop_map(
        |(options, fragment, identification, total)| Network::V4 { options, fragment, identification, total },
    );
    let words = prop_oneof![Just(0_u16), Just(1), Just(1), Just(0x48), Just(0x49)];
    let extensions = prop_oneof![
        3 => (prop::sample::select(std::vec![0_u8, 43, 60, 135]), prop_oneof![5 => 0_u8..2, 1 => Just(20)])
            .prop_map(|(number, units)| Extension::Options(number, units)),
        1 => (1_u8..4).prop_map(Extension::Authentication),
        3 => (words, 0_u8..3).prop_map(|(word, identification)| Extension::Fragment { word, identification }),
    ];
    let several = prop_oneof![
        5 => Just(Vec::new()),
        3 => prop::collection::vec(extensions.clone(), 1..3),
        1 => prop::collection::vec(extensions, 3..9),
    ];
    let v6 = (several, lengths).prop_map(|(extensions, payload)| Network::V6 { extensions, payload });
    let first = prop_oneof![8 => Just(1_u8), 1 => Just(6_u8), 1 => Just(7_u8)];
    let arp = (0..STATIONS, prop_oneof![4 => 0..STATIONS, 1 => Just(NOBODY)], first)
        .prop_map(|(sender_mac, sender, first)| Network::Arp { sender_mac, sender, first });
    let others =
        prop::sample::select(std::vec![0x88b5_u16, 0x88cc, 60, 3, 0x0806, 0x8100]).prop_map(Network::Other);
    prop_oneof![8 => v4, 5 => v6, 2 => arp, 2 => others]
}

fn messages() -> impl Strategy<Value = Message> {
    let port = || prop::sample::select(PORTS.to_vec());
    let dhcp = Just(Message::Udp { from: 68, to: 67 });
    prop_oneof![
        6 => (port(), port(), flags()).prop_map(|(from, to, flags)| Message::Tcp { from, to, flags }),
        6 => (port(), port()).prop_map(|(from, to)| Message::Udp { from, to }),
        1 => (port(), port()).prop_map(|(from, to)| Message::Sctp { from, to }),
        1 => dhcp,
        3 => (prop::sample::select(std::vec![0_u8, 8, 3, 128, 129, 1]), 0_u8..2, 0_u8..2)
            .prop_map(|(kind, code, identifier)| Message::Icmp { kind, code, identifier }),
        3 => (133_u8..=137, 0_u8..10, prop_oneof![4 => 1_u8..=2, 1 => Just(14_u8), 1 => Just(9)], 0..STATIONS)
            .prop_map(|(kind, target, option, own)| Message::Neighbor { kind, target, option, own }),
        1 => prop::sample::select(std::vec![47_u8, 59, 2]).prop_map(Message::Plain),
    ]
}

/// Frames of a port that is usually the station of that number, with tags of these VLANs.
pub(super) fn recipes(port: u8, vlans: &'static [u16]) -> impl Strategy<Value = Recipe> {
    let own = port % STATIONS;
    let tags = (
        prop_oneof![6 => Just(0x8100_u16), 1 => Just(0x88a8)],
        prop::sample::select(vlans.to_vec()),
        0_u16..8,
    )
        .prop_map(|(kind, vlan, priority)| (kind, priority << 13 | vlan));
    let tags = prop_oneof![
        6 => Just(Vec::new()),
        4 => prop::collection::vec(tags.clone(), 1),
        1 => prop::collection::vec(tags, 2..5),
    ];
    let to = prop_oneof![6 => 0..STATIONS, 2 => Just(STATIONS), 3 => STATIONS..STATIONS + 6];
    let from = prop_oneof![12 => Just(own), 2 => 0..STATIONS, 1 => Just(7_u8)];
    let source = prop_oneof![12 => Just(own), 2 => 0..STATIONS, 1 => NOBODY..=LOCAL];
    let undone = prop_oneof![
        6 => Just(Undone::Nothing),
        1 => Just(Undone::Checksum { start: None }),
        1 => prop::option::of(0_u16..80).prop_map(|start| Undone::Checksum { start }),
        1 => (8_u16..1500).prop_map(|size| Undone::Large { size }),
    ];
    let payload = prop_oneof![5 => 0_usize..60, 1 => 60_usize..200, 1 => 1000_usize..6000];
    let cut = prop_oneof![9 => Just(None), 1 => (14_usize..120).prop_map(Some)];
    let heads = (to, from, tags, networks());
    (heads, (source, 0..STATIONS), messages(), payload, cut, undone).prop_map(
        |((to, from, tags, network), ends, message, payload, cut, undone)| Recipe {
            to,
            from,
            tags,
            network,
            ends,
            message,
            payload,
            cut,
            undone,
        },
    )
}
