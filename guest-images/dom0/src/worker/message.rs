//! What the hub tells a worker once it serves: a byte that says what it is, and the rest.

use std::io::{ErrorKind, IoSlice, Result};
use std::os::fd::AsFd;

use rustix::net::{SendFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::throttle::Limits;

/// Orders, entries of 32 bytes.
const ORDERS: u8 = b'o';
/// A disk's limits, as text.
const LIMITS: u8 = b'l';

/// A message.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Message<'a> {
    /// Orders, as they come from the kernel.
    Orders(&'a [u8]),
    /// A disk may do so much from here on.
    Limit(Limit),
}

/// See [`Message::Limit`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Limit {
    pub(crate) disk: u16,
    pub(crate) limits: Limits,
}

impl<'a> Message<'a> {
    /// Sends it.
    ///
    /// # Errors
    /// The other side is gone.
    pub(crate) fn send(&self, socket: impl AsFd) -> Result<()> {
        let text;
        let (kind, rest) = match self {
            Self::Orders(orders) => (ORDERS, *orders),
            Self::Limit(limit) => {
                text = toml::to_string(limit).map_err(std::io::Error::other)?;
                (LIMITS, text.as_bytes())
            }
        };
        let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(rest)];
        sendmsg(socket, &parts, &mut rustix::net::SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        match bytes.split_first() {
            Some((&ORDERS, orders)) => Ok(Self::Orders(orders)),
            Some((&LIMITS, text)) => {
                let text = std::str::from_utf8(text).map_err(std::io::Error::other)?;
                Ok(Self::Limit(toml::from_str(text).map_err(std::io::Error::other)?))
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_sent() {
        let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
        let limit = Limit { disk: 3, limits: Limits { iops: Some(5), bandwidth: None } };
        for message in [Message::Orders(&[7; 64]), Message::Limit(limit)] {
            message.send(&one).expect("it hears");
            let mut bytes = [0; 256];
            let count = other.recv(&mut bytes).expect("it has come");
            assert_eq!(Message::read(&bytes[..count]).expect("a message"), message);
        }
        for bytes in [&b""[..], b"x", b"l", b"ldisk = 1"] {
            assert!(Message::read(bytes).is_err(), "{bytes:?}");
        }
    }
}
