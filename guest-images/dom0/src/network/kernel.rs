//! What is asked of the kernel's network: switching interfaces on, addresses, routes; and its word that an interface has changed.
//!
//! Source: manual page rtnetlink(7).

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::dhcp::Lease;

/// The group of messages about interfaces (`RTMGRP_LINK`).
const LINKS: u32 = 1;
/// Answers are short.
const LONGEST: usize = 8 << 10;
/// With several interfaces, the first one is the way out: routes are preferred by this and the interface's number.
const METRIC: u32 = 100;

/// A way to ask.
pub(super) struct Kernel(OwnedFd);

impl Kernel {
    /// Opens it.
    pub(super) fn open() -> Result<Self> {
        open(0, SocketFlags::CLOEXEC).map(Self)
    }

    /// Switches an interface on.
    pub(super) fn switch_on(&self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives an interface the address of a lease, for as long as that lasts, and the way out. Takes the place of what it was given for the
    /// same address before.
    pub(super) fn configure(&self, index: u32, lease: &Lease) -> Result<()> {
        let mut message = address(index, lease);
        let broadcast = u32::from(lease.address) | u32::MAX.checked_shr(u32::from(lease.prefix)).unwrap_or(0);
        message.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from(broadcast)));
        // If nobody is there to take the address away at the end of the lease, the kernel does.
        let mut life = CacheInfo::default();
        life.ifa_valid = lease.seconds.unwrap_or(u32::MAX);
        life.ifa_preferred = life.ifa_valid;
        message.attributes.push(AddressAttribute::CacheInfo(life));
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)?;
        let Some(router) = lease.router else { return Ok(()) };
        self.ask(RouteNetlinkMessage::NewRoute(default_route(index, router)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes the address of a lease away, and with it the routes.
    pub(super) fn deconfigure(&self, index: u32, lease: &Lease) -> Result<()> {
        self.ask(RouteNetlinkMessage::DelAddress(address(index, lease)), 0)
    }

    /// Sends a request and waits for the kernel's yes or no, which comes at once.
    fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        let mut answer = [0; LONGEST];
        let (length, _) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        let answer =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer.get(..length).unwrap_or_default());
        match answer.map(|answer| answer.payload) {
            Ok(NetlinkPayload::Error(error)) => match error.code {
                None => Ok(()),
                Some(_) => Err(error.to_io()),
            },
            Ok(_) => Err(Error::new(ErrorKind::InvalidData, "the kernel answered something else")),
            Err(error) => Err(Error::new(ErrorKind::InvalidData, error.to_string())),
        }
    }
}

/// Becomes readable when an interface came, went or changed. What changed is then to be looked for in `/sys`.
pub(super) struct Changes(OwnedFd);

impl Changes {
    /// From now on.
    pub(super) fn open() -> Result<Self> {
        open(LINKS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map(Self)
    }

    /// Takes all that is there. Too much of it, and errors by that, mean the same: something has changed.
    pub(super) fn forget(&self) {
        let mut bytes = [0; LONGEST];
        while let Ok(_) | Err(rustix::io::Errno::NOBUFS) =
            rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty())
        {}
    }
}

impl rustix::fd::AsFd for Changes {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(groups: u32, flags: SocketFlags) -> Result<OwnedFd> {
    let family = rustix::net::AddressFamily::NETLINK;
    // The protocol is NETLINK_ROUTE, the number 0.
    let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn address(index: u32, lease: &Lease) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = lease.prefix;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(lease.address)));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(lease.address)));
    message
}

/// The way to everywhere. The router is at the other end of this interface, whatever the mask says.
fn default_route(index: u32, router: Ipv4Addr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Dhcp;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(router)));
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(RouteAttribute::Priority(METRIC.saturating_add(index)));
    message
}
