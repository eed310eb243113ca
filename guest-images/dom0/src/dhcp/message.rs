//! The messages, by smoltcp's reader and writer of them. All that comes in is a stranger's.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use super::lease::{self, Lease, Terms};

/// What we want to know: mask, router, names, lease, T1, T2.
const WANTED: [u8; 6] = [1, 3, 6, 51, 58, 59];
const OPTION_ROUTER: u8 = 3;
const OPTION_HOST_NAME: u8 = 12;
/// Old relays and servers drop what is shorter than a BOOTP message (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// What we can receive in one datagram.
const LONGEST: u16 = 1472;
/// A host's name in a message; longer ones are cut.
const LONGEST_NAME: usize = 63;

/// A message to servers.
pub(super) enum Request {
    /// Who is there?
    Discover,
    /// What that server has offered, please.
    Take { address: Ipv4Addr, server: Ipv4Addr },
    /// May we keep this address, which we have?
    Keep { address: Ipv4Addr },
}

impl Request {
    /// Its bytes. `seconds` is how long the client has been trying.
    pub(super) fn write(&self, hardware: [u8; 6], exchange: u32, seconds: u64, name: &str) -> Vec<u8> {
        let hardware = EthernetAddress(hardware);
        let (message_type, client_ip, requested_ip, server_identifier) = match *self {
            Self::Discover => (DhcpMessageType::Discover, Ipv4Addr::UNSPECIFIED, None, None),
            Self::Take { address, server } => {
                (DhcpMessageType::Request, Ipv4Addr::UNSPECIFIED, Some(address), Some(server))
            }
            Self::Keep { address } => (DhcpMessageType::Request, address, None, None),
        };
        let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
        let options = [DhcpOption { kind: OPTION_HOST_NAME, data: name }];
        let message = DhcpRepr {
            message_type,
            transaction_id: exchange,
            secs: u16::try_from(seconds).unwrap_or(u16::MAX),
            client_hardware_address: hardware,
            client_ip,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            // Without an address we cannot receive what is sent to it.
            broadcast: client_ip.is_unspecified(),
            requested_ip,
            client_identifier: Some(hardware),
            server_identifier,
            parameter_request_list: Some(&WANTED),
            dns_servers: None,
            max_size: Some(LONGEST),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: if name.is_empty() { &[] } else { &options },
        };
        let mut bytes = vec![0; message.buffer_len().max(SHORTEST)];
        // It fails where the buffer is too small, and this one is as large as it asks for.
        let _ = message.emit(&mut DhcpPacket::new_unchecked(&mut bytes));
        bytes
    }
}

/// What kind of reply it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Offer,
    Ack,
    Nak,
}

/// A message from a server.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    pub(super) exchange: u32,
    pub(super) hardware: [u8; 6],
    pub(super) server: Option<Ipv4Addr>,
    address: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    names: Vec<Ipv4Addr>,
    seconds: Option<u32>,
    renew: Option<u32>,
    rebind: Option<u32>,
}

impl Reply {
    /// Reads it; `None` where the bytes are no reply of a DHCP server.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let message = DhcpRepr::parse(&packet).ok()?;
        let kind = match message.message_type {
            DhcpMessageType::Offer => Kind::Offer,
            DhcpMessageType::Ack => Kind::Ack,
            DhcpMessageType::Nak => Kind::Nak,
            _ => return None,
        };
        // smoltcp takes a router only where it is the only one.
        let mut routers = packet.options().filter(|option| option.kind == OPTION_ROUTER);
        let router = routers.next().and_then(|option| option.data.first_chunk::<4>().copied());
        Some(Self {
            kind,
            exchange: message.transaction_id,
            hardware: message.client_hardware_address.0,
            server: message.server_identifier,
            address: message.your_ip,
            mask: message.subnet_mask,
            router: router.map(Ipv4Addr::from),
            names: message.dns_servers.iter().flatten().copied().collect(),
            seconds: message.lease_duration,
            renew: message.renew_duration,
            rebind: message.rebind_duration,
        })
    }

    /// Whether it is from that server, as far as it says.
    pub(super) fn is_of(&self, server: Ipv4Addr) -> bool {
        self.server.is_none_or(|own| own == server)
    }

    /// What it offers; `None` where that makes no sense, or nobody stands for it.
    pub(super) fn lease(&self) -> Option<Lease> {
        self.lease_of(self.server?)
    }

    /// What that server grants by it.
    pub(super) fn lease_of(&self, server: Ipv4Addr) -> Option<Lease> {
        let address = self.address;
        let seconds = self.seconds.filter(|seconds| *seconds > 0)?;
        if !lease::is_usable(address) || !lease::is_usable(server) {
            return None;
        }
        let prefix = lease::prefix(address, self.mask)?;
        let router = self.router.filter(|router| lease::is_usable(*router) && *router != address);
        let names = self.names.iter().copied().filter(|name| lease::is_usable(*name)).collect();
        Some(Lease { address, prefix, router, names, server, seconds: lease::length(seconds) })
    }

    /// When what becomes of it, if it was asked for at `begin`.
    pub(super) fn terms(&self, begin: Duration) -> Terms {
        Terms::new(begin, self.seconds.unwrap_or_default(), self.renew, self.rebind)
    }
}
