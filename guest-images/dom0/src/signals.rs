//! Signals as streams, for processes that wait for other things as well.

use std::io::{Read, Result};
use std::os::unix::net::UnixStream;

/// A stream that gets a byte with each of these signals.
pub(crate) fn caught(signals: &[i32]) -> Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Takes what a stream has; true when there was something.
pub(crate) fn is_signalled(mut stream: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while stream.read(&mut bytes).is_ok_and(|length| length > 0) {
        any = true;
    }
    any
}
