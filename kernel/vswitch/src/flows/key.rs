//! What tells one conversation from another.

use crate::frame::{Address, Fragment, Internet, Transport, protocol};

/// Which way a packet goes between the two ends that its [`Key`] has in an order of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the first end to the second.
    Forward,
    /// From the second to the first.
    Back,
}

impl Way {
    pub(super) const fn turned(self) -> Self {
        match self {
            Self::Forward => Self::Back,
            Self::Back => Self::Forward,
        }
    }
}

/// What kind of conversation it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Both ends speak, and their order is that of their addresses and ports.
    TwoWay = 0,
    /// An ICMP echo: who asks is the first end. A flow that began with an answer can thus be told from one
    /// that began with a question.
    Echo = 1,
    /// Messages that nobody replies to: who sends them is the first end.
    OneWay = 2,
    /// Parts of one packet, told by its identification: who sends it is the first end.
    Fragment = 3,
}

/// Where things are in the last word, in bits: the first end's port (0), or the identification of a packet in
/// 32 bits.
const SECOND_PORT: u32 = 16;
const PROTOCOL: u32 = 32;
const VLAN: u32 = 40;
const V6: u32 = 56;
const KIND: u32 = 58;

/// A conversation, the same for the packets of both ways. Words, so that comparing takes few instructions:
/// two for each end's address, the last for all the rest.
#[derive(Clone, Copy, Eq, Debug)]
pub struct Key([u64; 5]);

impl PartialEq for Key {
    /// Arrays are compared by a call of `bcmp`, which in a kernel goes byte by byte.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let (Self([a, b, c, d, e]), Self([f, g, h, i, j])) = (self, other);
        (a ^ f) | (b ^ g) | (c ^ h) | (d ^ i) | (e ^ j) == 0
    }
}

/// What a key says, in the direction of one of its ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
    /// The sender's port; an echo's identifier; 0 for what has none.
    pub source_port: u16,
    /// The receiver's port; an echo's identifier; type (upper byte) and code of other ICMP messages; 0 for
    /// what has none.
    pub destination_port: u16,
    /// The transport's number; 0 for fragments of IPv6.
    pub protocol: u8,
    /// The addresses are of IPv6.
    pub v6: bool,
    /// The VLAN inside the switch.
    pub vlan: u16,
    /// These are later fragments, whose ports nobody sees.
    pub fragment: bool,
}

impl Key {
    /// The conversation of a packet in a VLAN (1 to 4094), and which way it goes. `None` where the packet
    /// does not say: a later fragment, and one whose ports are hidden.
    #[inline]
    pub fn of(packet: &Internet, vlan: u16) -> Option<(Self, Way)> {
        if matches!(packet.fragment, Fragment::Later(_)) {
            return None;
        }
        let (from, to) = match packet.transport {
            Transport::Tcp { from, to, .. } | Transport::Ports { from, to } => (from, to),
            Transport::Plain => (0, 0),
            Transport::Icmp { kind, code, identifier } => {
                return Some(Self::of_icmp(packet, vlan, [kind, code], identifier));
            }
            Transport::Hidden => return None,
        };
        // Any order does, as long as both ways have the same.
        let (source, destination) =
            (u128::from_le_bytes(packet.source), u128::from_le_bytes(packet.destination));
        let back = source > destination || source == destination && from > to;
        let (way, first, second) = if back { (Way::Back, to, from) } else { (Way::Forward, from, to) };
        let ports = u32::from(first) | u32::from(second) << SECOND_PORT;
        Some((Self::new(packet, vlan, way, packet.protocol, ports, Kind::TwoWay), way))
    }

    /// The fragments of a packet in a VLAN (1 to 4094); the way is always forward. `None` where the packet is
    /// whole.
    ///
    /// IPv4 tells packets by addresses, protocol and identification (RFC 791, "Identification"). In IPv6
    /// fragments of one packet may name different protocols (RFC 8200, section 4.5), so the protocol is no
    /// part of it.
    pub fn of_fragment(packet: &Internet, vlan: u16) -> Option<(Self, Way)> {
        let (Fragment::First(identification) | Fragment::Later(identification)) = packet.fragment else {
            return None;
        };
        let number = if packet.v6 { 0 } else { packet.protocol };
        let key = Self::new(packet, vlan, Way::Forward, number, identification, Kind::Fragment);
        Some((key, Way::Forward))
    }

    fn of_icmp(packet: &Internet, vlan: u16, message: [u8; 2], identifier: u16) -> (Self, Way) {
        let way = match (packet.protocol, message) {
            (protocol::ICMP, [8, _]) | (protocol::ICMPV6, [128, _]) => Way::Forward,
            (protocol::ICMP, [0, _]) | (protocol::ICMPV6, [129, _]) => Way::Back,
            _ => {
                let ports = u32::from(u16::from_be_bytes(message)) << SECOND_PORT;
                let key = Self::new(packet, vlan, Way::Forward, packet.protocol, ports, Kind::OneWay);
                return (key, Way::Forward);
            }
        };
        let ports = u32::from(identifier) | u32::from(identifier) << SECOND_PORT;
        (Self::new(packet, vlan, way, packet.protocol, ports, Kind::Echo), way)
    }

    #[inline]
    fn new(packet: &Internet, vlan: u16, way: Way, number: u8, ports: u32, kind: Kind) -> Self {
        let (first, second) = match way {
            Way::Forward => (&packet.source, &packet.destination),
            Way::Back => (&packet.destination, &packet.source),
        };
        let ([a, b], [c, d]) = (halves(first), halves(second));
        let rest = u64::from(ports)
            | u64::from(number) << PROTOCOL
            | u64::from(vlan & 0xfff) << VLAN
            | u64::from(packet.v6) << V6
            | (kind as u64) << KIND;
        Self([a, b, c, d, rest])
    }

    /// What it says of the packets that go this way.
    pub fn ends(&self, way: Way) -> Ends {
        let Self([a, b, c, d, rest]) = *self;
        let fragment = self.is_fragment();
        let (first, second) = (whole([a, b]), whole([c, d]));
        let ports = if fragment { (0, 0) } else { (rest as u16, (rest >> SECOND_PORT) as u16) };
        let ((source, source_port), (destination, destination_port)) = match way {
            Way::Forward => ((first, ports.0), (second, ports.1)),
            Way::Back => ((second, ports.1), (first, ports.0)),
        };
        let (v6, vlan) = (rest >> V6 & 1 != 0, (rest >> VLAN) as u16 & 0xfff);
        Ends {
            source,
            destination,
            source_port,
            destination_port,
            protocol: self.protocol(),
            v6,
            vlan,
            fragment,
        }
    }

    /// The transport's number; 0 for fragments of IPv6.
    pub const fn protocol(&self) -> u8 {
        let Self([.., rest]) = self;
        (*rest >> PROTOCOL) as u8
    }

    /// It is that of a packet's fragments.
    pub const fn is_fragment(&self) -> bool {
        self.is(Kind::Fragment)
    }

    /// Whether what begins this way can have replies: an answer to an echo is no question.
    pub(super) fn has_replies(&self, way: Way) -> bool {
        self.is(Kind::TwoWay) || self.is(Kind::Echo) && way == Way::Forward
    }

    const fn is(&self, kind: Kind) -> bool {
        let Self([.., rest]) = self;
        *rest >> KIND == kind as u64
    }

    /// A number that depends on all its bits, and on seeds, so that who does not know these does not easily find
    /// keys of one bucket. It need not be made the same for both ways, as the key is.
    #[inline]
    pub(super) const fn hash(&self, seeds: &[u64; 5]) -> u64 {
        let (Self([a, b, c, d, rest]), [r, s, t, u, v]) = (self, seeds);
        // All of it goes through two products: after one, ports that follow each other are still in a
        // pattern.
        folded(folded(*a ^ *rest ^ *r, *b ^ *s), folded(*c ^ *t, *d ^ *u) ^ *v)
    }
}

/// Both halves of a product, one laid over the other: every bit of the result depends on those of both
/// factors.
const fn folded(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

const fn halves(address: &Address) -> [u64; 2] {
    let whole = u128::from_le_bytes(*address);
    [whole as u64, (whole >> 64) as u64]
}

const fn whole([low, high]: [u64; 2]) -> Address {
    (low as u128 | (high as u128) << 64).to_le_bytes()
}
