//! Packets, layer by layer: each function puts its header before what it is given.

/// Bytes that are said one by one, at most.
const ROOM: usize = 320;

pub(crate) type Mac = [u8; 6];
pub(crate) type Ipv4 = [u8; 4];
pub(crate) type Ipv6 = [u8; 16];

pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
/// Tags of a customer's VLAN and of a provider's (IEEE 802.1Q).
pub(crate) const CUSTOMER: u16 = 0x8100;
pub(crate) const PROVIDER: u16 = 0x88a8;
/// An EtherType that nobody uses (IEEE 802, "Local Experimental Ethertype").
pub(crate) const EXPERIMENT: u16 = 0x88b5;
/// Protocols and extension headers.
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const DESTINATION: u8 = 60;
}

/// The first bytes of something; behind them may come zeros.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    bytes: [u8; ROOM],
    said: usize,
    zeros: u32,
}

impl Bytes {
    pub(crate) const NONE: Self = Self { bytes: [0; ROOM], said: 0, zeros: 0 };

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::NONE.and(bytes)
    }

    /// With these behind them.
    pub(crate) fn and(mut self, more: &[u8]) -> Self {
        self.bytes[self.said..self.said + more.len()].copy_from_slice(more);
        self.said += more.len();
        self
    }

    /// With others behind them.
    pub(crate) fn then(self, rest: &Self) -> Self {
        Self { zeros: rest.zeros, ..self.and(rest.said()) }
    }

    /// With so many zeros behind them.
    pub(crate) fn and_zeros(self, zeros: u32) -> Self {
        Self { zeros, ..self }
    }

    /// The first of them.
    pub(crate) fn cut(self, bytes: usize) -> Self {
        Self { said: self.said.min(bytes), zeros: 0, ..self }
    }

    /// With other bytes from `at` on.
    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// All but the zeros.
    pub(crate) fn said(&self) -> &[u8] {
        &self.bytes[..self.said]
    }

    /// How many they are, zeros included.
    pub(crate) fn length(&self) -> u32 {
        self.said as u32 + self.zeros
    }

    pub(crate) fn at(&self, index: u32) -> u8 {
        self.said().get(index as usize).copied().unwrap_or(0)
    }
}

pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, rest: &Bytes) -> Bytes {
    Bytes::of(&to).and(&from).and(&kind.to_be_bytes()).then(rest)
}

/// A frame with these tags, the outermost first: each one's type, and its priority and VLAN.
pub(crate) fn tagged(frame: &Bytes, tags: &[(u16, u16)]) -> Bytes {
    let (addresses, rest) = frame.said().split_at(12);
    let mut made = Bytes::of(addresses);
    for (kind, tag) in tags {
        made = made.and(&kind.to_be_bytes()).and(&tag.to_be_bytes());
    }
    made.and(rest).and_zeros(frame.zeros)
}

/// ARP (RFC 826): a question is operation 1, an answer 2.
pub(crate) fn arp(operation: u8, (mac, ip): (Mac, Ipv4), (to_mac, to_ip): (Mac, Ipv4)) -> Bytes {
    Bytes::of(&[0, 1, 8, 0, 6, 4, 0, operation]).and(&mac).and(&ip).and(&to_mac).and(&to_ip)
}

pub(crate) fn ipv4(from: Ipv4, to: Ipv4, number: u8, rest: &Bytes) -> Bytes {
    ipv4_with(&[], 0, (from, to, number), rest)
}

/// IPv4 with options, whole words of them, and the word of flags and fragment offset.
pub(crate) fn ipv4_with(
    options: &[u8],
    fragment: u16,
    (from, to, number): (Ipv4, Ipv4, u8),
    rest: &Bytes,
) -> Bytes {
    let header = 20 + options.len();
    let length = (header as u32 + rest.length()) as u16;
    Bytes::of(&[0x40 | (header / 4) as u8, 0])
        .and(&length.to_be_bytes())
        .and(&[0, 7])
        .and(&fragment.to_be_bytes())
        .and(&[64, number, 0, 0])
        .and(&from)
        .and(&to)
        .and(options)
        .then(rest)
}

pub(crate) fn ipv6(from: Ipv6, to: Ipv6, next: u8, rest: &Bytes) -> Bytes {
    Bytes::of(&[0x60, 0, 0, 0])
        .and(&(rest.length() as u16).to_be_bytes())
        .and(&[next, 255])
        .and(&from)
        .and(&to)
        .then(rest)
}

/// An extension header of eight bytes with nothing but padding in it, or any that looks like it.
pub(crate) fn extension(next: u8, rest: &Bytes) -> Bytes {
    Bytes::of(&[next, 0, 1, 4, 0, 0, 0, 0]).then(rest)
}

/// IPv6's header of a fragment: where it belongs, in units of 8 bytes, and whether there is more.
pub(crate) fn fragment(next: u8, at: u16, more: bool, rest: &Bytes) -> Bytes {
    let place = at << 3 | u16::from(more);
    Bytes::of(&[next, 0]).and(&place.to_be_bytes()).and(&[0, 0, 0, 9]).then(rest)
}

pub(crate) fn udp(from: u16, to: u16, rest: &Bytes) -> Bytes {
    let length = (8 + rest.length()) as u16;
    let mut header = Bytes::NONE;
    for word in [from, to, length, 0] {
        header = header.and(&word.to_be_bytes());
    }
    header.then(rest)
}

/// A message of neighbour discovery (RFC 4861) about a target.
pub(crate) fn neighbour(kind: u8, target: Ipv6) -> Bytes {
    Bytes::of(&[kind, 0, 0, 0, 0, 0, 0, 0]).and(&target)
}

/// An option of it: 1 says whose address the sender's is, 2 the target's.
pub(crate) fn link_option(kind: u8, mac: Mac) -> Bytes {
    Bytes::of(&[kind, 1]).and(&mac)
}
