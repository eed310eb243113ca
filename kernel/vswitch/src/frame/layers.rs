//! The headers below IP: Ethernet, VLAN tags, ARP.
//!
//! Sources: IEEE 802.3, "MAC frame format"; IEEE 802.1Q-2018, "Tag format"; RFC 826, "Packet format".

use super::internet::{Internet, read_v4, read_v6};
use super::{ADDRESSES_BYTES, ETHERNET_BYTES, TAG_BYTES, bytes, word};
use crate::port::Mac;

/// EtherTypes.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A VLAN's tag (IEEE 802.1Q, C-TAG).
    pub const VLAN: u16 = 0x8100;
    /// A provider's tag (IEEE 802.1Q, S-TAG).
    pub const PROVIDER: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// The least: below it, the word is a length, and a frame of 802.3 with LLC follows.
    pub const LEAST: u16 = 0x0600;
}

/// Tags behind the first one that are looked through for what is inside.
const INNER_TAGS: usize = 2;

/// The headers of a frame, as far as a switch knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layers {
    /// Whom it is for.
    pub destination: Mac,
    /// Who sends it.
    pub source: Mac,
    /// The tag control information of its VLAN tag, where the first word behind the addresses says that there is one: priority in bits
    /// 15 to 13, the VLAN's number in bits 11 to 0.
    pub tag: Option<u16>,
    /// What is behind the tags; a number below [`ether_type::LEAST`] is a length.
    pub ether_type: u16,
    /// There are tags behind the first one, or a provider's tag.
    pub nested: bool,
    /// Where what is behind the tags begins, in bytes from the frame's first.
    pub at: u16,
    /// What that is.
    pub network: Network,
}

/// What is in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// An IP packet.
    Internet(Internet),
    /// A question or an answer about an IPv4 address.
    Arp(Arp),
    /// It says that it is IP or ARP, and is not.
    Malformed,
    /// Something else.
    Other,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// The hardware address that its sender says it has.
    pub sender_mac: Mac,
    /// The protocol address that its sender says it has; 0.0.0.0 where it only probes.
    pub sender: [u8; 4],
    /// The protocol address that it asks for, or of who is told.
    pub target: [u8; 4],
}

impl Layers {
    /// Those of no frame.
    pub const fn nothing() -> Self {
        let (destination, source) = ([0; 6], [0; 6]);
        let (at, network) = (ETHERNET_BYTES as u16, Network::Other);
        Self { destination, source, tag: None, ether_type: 0, nested: false, at, network }
    }

    /// Reads the first bytes of a frame of `length` bytes, at least an Ethernet header.
    pub(super) fn read(head: &[u8], length: u32) -> Self {
        let destination = bytes(head, 0).unwrap_or_default();
        let source = bytes(head, 6).unwrap_or_default();
        let mut kind = word(head, ADDRESSES_BYTES).unwrap_or(0);
        let (mut at, mut tag, mut nested) = (ETHERNET_BYTES, None, false);
        if matches!(kind, ether_type::VLAN | ether_type::PROVIDER) {
            let mut left = INNER_TAGS;
            if kind == ether_type::VLAN {
                (tag, left) = (Some(word(head, at).unwrap_or(0)), INNER_TAGS + 1);
            }
            nested = kind == ether_type::PROVIDER;
            while left != 0 && matches!(kind, ether_type::VLAN | ether_type::PROVIDER) {
                nested |= at != ETHERNET_BYTES;
                kind = word(head, at + 2).unwrap_or(0);
                (at, left) = (at + TAG_BYTES, left - 1);
            }
        }
        let room = (length as usize).saturating_sub(at);
        let network = match kind {
            ether_type::IPV4 => read_v4(head, at, room).map_or(Network::Malformed, Network::Internet),
            ether_type::IPV6 => read_v6(head, at, room).map_or(Network::Malformed, Network::Internet),
            ether_type::ARP => read_arp(head, at).map_or(Network::Malformed, Network::Arp),
            _ => Network::Other,
        };
        Self { destination, source, tag, ether_type: kind, nested, at: at as u16, network }
    }

    /// The priority that its tag says.
    pub fn priority(&self) -> Option<u8> {
        self.tag.map(|tag| (tag >> 13) as u8)
    }

    /// The VLAN that its tag says; a tag with number 0 has a priority only.
    pub fn vlan(&self) -> Option<u16> {
        self.tag.map(|tag| tag & 0xfff).filter(|vlan| *vlan != 0)
    }

    /// The IP packet, where it is one.
    pub const fn internet(&self) -> Option<&Internet> {
        if let Network::Internet(internet) = &self.network { Some(internet) } else { None }
    }
}

/// Ethernet is hardware 1, and 6 as a network of IEEE 802, which is the same to Linux; IPv4 is protocol 0x0800; addresses have 6 and 4 bytes.
fn read_arp(head: &[u8], at: usize) -> Option<Arp> {
    if !matches!(bytes(head, at)?, [0, 1 | 6, 8, 0, 6, 4]) {
        return None;
    }
    let (sender_mac, sender) = (bytes(head, at + 8)?, bytes(head, at + 14)?);
    Some(Arp { sender_mac, sender, target: bytes(head, at + 24)? })
}
