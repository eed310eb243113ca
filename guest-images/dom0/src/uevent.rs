//! The kernel's word that a device came, went or changed, from its netlink socket.
//!
//! Source: Linux, `lib/kobject_uevent.c` and "ABI/stable/sysfs-uevent" (a header `action@path`, then `KEY=value`, each ended by a zero).

use std::io::Result;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

/// The group of the kernel's own events; others are of device managers.
const KERNEL: u32 = 1;
/// Longer events there are none (`UEVENT_BUFFER_SIZE` is 2 KiB).
const LONGEST: usize = 8 << 10;
/// Room for what comes while drivers are being loaded, in bytes.
const QUEUE: usize = 4 << 20;

/// What the kernel said of a device.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Event {
    /// `add`, `remove`, `change`, ...
    pub(crate) action: String,
    /// The device's subsystem.
    pub(crate) subsystem: String,
    /// What driver it wants, in the form of the modules' aliases.
    pub(crate) modalias: Option<String>,
}

/// What the socket had.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Received {
    /// An event.
    Event(Event),
    /// Something that is no event of the kernel.
    Nonsense,
    /// Events were lost: look at everything anew.
    Lost,
    /// Nothing more for now.
    Nothing,
}

/// The socket. It can be polled.
pub(crate) struct Events(OwnedFd);

impl Events {
    /// From now on, events wait in the socket.
    pub(crate) fn open() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = Some(netlink::KOBJECT_UEVENT);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, kind)?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Takes the next event, without waiting.
    pub(crate) fn receive(&self) -> Result<Received> {
        let mut bytes = [0; LONGEST];
        match rustix::net::recvfrom(&self.0, &mut bytes[..], RecvFlags::empty()) {
            Ok((length, _, from)) => {
                let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                // Programs can send to the group as well.
                let is_kernels = sender.is_some_and(|sender| sender.pid() == 0);
                let event = is_kernels.then(|| parse(bytes.get(..length)?)).flatten();
                Ok(event.map_or(Received::Nonsense, Received::Event))
            }
            Err(Errno::NOBUFS) => Ok(Received::Lost),
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(Errno::INTR) => Ok(Received::Nonsense),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let mut fields = bytes.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
    fields.next()?.split_once('@')?;
    let mut event = Event { action: String::new(), subsystem: String::new(), modalias: None };
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        match key {
            "ACTION" => event.action = value.to_owned(),
            "SUBSYSTEM" => event.subsystem = value.to_owned(),
            "MODALIAS" => event.modalias = Some(value.to_owned()),
            _ => {}
        }
    }
    (!event.action.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_is_read() {
        let bytes =
            b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=pci\0MODALIAS=pci:v1\0SEQNUM=7\0";
        let event = Event {
            action: "add".to_owned(),
            subsystem: "pci".to_owned(),
            modalias: Some("pci:v1".to_owned()),
        };
        assert_eq!(parse(bytes), Some(event));
        assert_eq!(parse(b"libudev\0ACTION=add\0"), None);
        assert_eq!(parse(b"add@/x\0"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }
    }
}
