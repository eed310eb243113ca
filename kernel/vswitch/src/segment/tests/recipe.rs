//! Large frames as any sender may make them.

use proptest::prelude::*;
use std::vec::Vec;

use crate::frame::tests::{ethernet, ipv4, ipv6, tcp, udp};
use crate::frame::{Flags, ether_type, protocol};
use crate::segment::{Plan, Unsuited};
use crate::{Checksum, Frame, Large, LargeKind, Offload};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

/// A large frame's ingredients.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) kind: Kind,
    pub(super) tags: Vec<u16>,
    /// Words of IPv4's options, or extension headers of IPv6.
    pub(super) extras: usize,
    /// Words of TCP's options.
    pub(super) options: usize,
    pub(super) flags: u8,
    pub(super) urgent: u16,
    pub(super) sequence: u32,
    pub(super) identification: u16,
    /// IP's length is left to others.
    pub(super) no_length: bool,
    /// Bytes behind the IP packet.
    pub(super) behind: usize,
    pub(super) payload: Vec<u8>,
    pub(super) size: u16,
    pub(super) header_bytes: u16,
}

impl Recipe {
    pub(super) fn plain(kind: Kind, payload: usize, size: u16) -> Self {
        Self {
            kind,
            tags: Vec::new(),
            extras: 0,
            options: 0,
            flags: Flags::ACK,
            urgent: 0,
            sequence: 1,
            identification: 7,
            no_length: false,
            behind: 0,
            payload: (0..payload).map(|at| at as u8).collect(),
            size,
            header_bytes: 0,
        }
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp4 | Kind::Tcp6)
    }

    pub(super) fn transport(&self) -> Vec<u8> {
        let mut bytes = udp(1000, 2000);
        if self.is_tcp() {
            bytes = tcp(1000, 2000, self.flags);
            bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            bytes[12] = ((5 + self.options) << 4) as u8;
            bytes[18..20].copy_from_slice(&self.urgent.to_be_bytes());
            bytes.extend((0..self.options * 4).map(|at| 0x80 | at as u8));
        }
        bytes
    }

    fn internet(&self) -> (u16, Vec<u8>) {
        let number = if self.is_tcp() { protocol::TCP } else { protocol::UDP };
        let rest = [self.transport(), self.payload.clone()].concat();
        let mut bytes;
        let length_at;
        let kind = match self.kind {
            Kind::Tcp4 | Kind::Udp4 => {
                let options = std::vec![1; self.extras * 4];
                bytes = ipv4(
                    [10, 0, 0, 1],
                    [10, 0, 0, 2],
                    number,
                    (self.identification, 0),
                    &[options, rest].concat(),
                );
                bytes[0] = 0x45 + self.extras as u8;
                // A checksum that is right for none of the segments.
                bytes[10..12].copy_from_slice(&self.identification.to_be_bytes());
                length_at = 2;
                ether_type::IPV4
            }
            Kind::Tcp6 | Kind::Udp6 => {
                let extras: Vec<u8> = (1..=self.extras)
                    .flat_map(|at| {
                        [if at == self.extras { number } else { protocol::DESTINATION }, 0, 1, 4, 0, 0, 0, 0]
                    })
                    .collect();
                let first = if self.extras == 0 { number } else { protocol::HOP_BY_HOP };
                bytes = ipv6([0xfd; 16], [0x20; 16], first, &[extras, rest].concat());
                length_at = 4;
                ether_type::IPV6
            }
        };
        if self.no_length {
            bytes[length_at..length_at + 2].fill(0);
        }
        (kind, bytes)
    }

    /// The bytes, and the frame.
    pub(super) fn made(&self) -> (Vec<u8>, Frame) {
        let (kind, packet) = self.internet();
        let mut bytes = ethernet([2; 6], [4; 6], &self.tags, kind, &packet);
        bytes.extend(std::vec![9; self.behind]);
        let mut frame = crate::frame::tests::frame(&bytes);
        let start = frame.layers().internet().expect("IP").transport_at;
        let kind = match self.kind {
            Kind::Tcp4 => LargeKind::Tcp4,
            Kind::Tcp6 => LargeKind::Tcp6,
            _ => LargeKind::Udp,
        };
        let large = Large { kind, ecn: false, size: self.size, header_bytes: self.header_bytes };
        let checksum = Checksum { start, offset: if self.is_tcp() { 16 } else { 6 } };
        frame.offload = Offload { checksum: Some(checksum), large: Some(large) };
        (bytes, frame)
    }

    pub(super) fn plan(&self) -> Result<Plan, Unsuited> {
        let (_, frame) = self.made();
        Plan::new(&frame, &frame.layers())
    }
}

pub(super) fn recipes() -> impl Strategy<Value = Recipe> {
    let kinds = prop::sample::select(std::vec![Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6]);
    let headers = (kinds, prop::collection::vec(any::<u16>(), 0..=3), 0_usize..=10, 0_usize..=10);
    let transport = (any::<u8>(), any::<u16>(), any::<u32>(), any::<u16>());
    let payload = (1_usize..12_000, prop_oneof![8_u16..64, 64_u16..3000, 20_000..=u16::MAX], any::<u64>());
    (headers, transport, payload, any::<bool>(), 0_usize..9, any::<u16>()).prop_map(
        |(
            (kind, tags, extras, options),
            (flags, urgent, sequence, identification),
            (payload, size, seed),
            no_length,
            behind,
            header_bytes,
        )| {
            let v6 = matches!(kind, Kind::Tcp6 | Kind::Udp6);
            let noise = |at: usize| (seed.rotate_left(at as u32 % 61) as usize ^ at >> 3) as u8;
            Recipe {
                kind,
                tags,
                // What fits into the head.
                extras: if v6 { extras % 4 } else { extras },
                options: if v6 { options.min(5) } else { options },
                flags: flags & !(Flags::SYN | Flags::RST),
                urgent,
                sequence,
                identification,
                no_length,
                behind: if no_length { 0 } else { behind },
                payload: (0..payload).map(noise).collect(),
                size,
                header_bytes,
            }
        },
    )
}
