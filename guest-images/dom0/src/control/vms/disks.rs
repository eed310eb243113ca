//! What is asked of the process that serves disks.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};

use crate::hub::{Ask, SOCKET};
use crate::worker::{MESSAGE_BYTES, Opened};

/// How long it has: images are opened meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks for something. Sectors of disks, where these are asked for.
///
/// # Errors
/// Why not; it does not answer.
pub(super) fn ask(ask: &Ask) -> Result<Vec<u64>> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)
        .map_err(|error| Error::other(format!("the process that serves disks cannot be reached: {error}")))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let text = toml::to_string(ask).map_err(Error::other)?;
    send(&socket, text.as_bytes(), SendFlags::NOSIGNAL)?;
    let mut bytes = [0; MESSAGE_BYTES];
    let (count, _) = recv(&socket, &mut bytes, RecvFlags::empty())?;
    let text = std::str::from_utf8(bytes.get(..count).unwrap_or_default()).map_err(Error::other)?;
    match toml::from_str(text).map_err(Error::other)? {
        Opened::Sectors(sectors) => Ok(sectors),
        Opened::Error(why) if why.is_empty() => Err(ErrorKind::Other.into()),
        Opened::Error(why) => Err(Error::other(why)),
    }
}
