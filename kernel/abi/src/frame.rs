//! Messages in a stream of bytes.

use crate::codec::{Error, Field, Reader, Writer};

/// Bytes of a header: length of the whole message (32 bits), kind (16), zero (16), id (64).
pub const HEADER_BYTES: usize = 16;
/// The longest message, header included.
pub const MAX_MESSAGE: usize = 16 << 10;

/// What every message begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of the whole message.
    pub length: u32,
    /// Its kind.
    pub kind: u16,
    /// Which request this is, or answers; 0 in events.
    pub id: u64,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`Error::TooLong`] for a length that no message has, [`Error::Value`] where what is zero is not.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Error> {
        let mut from = Reader::new(0, bytes);
        let length = u32::read(&mut from, "length")?;
        let kind = u16::read(&mut from, "kind")?;
        let zero = u16::read(&mut from, "zero")?;
        let id = u64::read(&mut from, "id")?;
        if !(HEADER_BYTES..=MAX_MESSAGE).contains(&(length as usize)) {
            return Err(Error::TooLong(length));
        }
        if zero != 0 {
            return Err(Error::Value { kind, field: "zero", raw: zero.into() });
        }
        Ok(Self { length, kind, id })
    }
}

/// Writes a message: the header, and a body. How long it is; `None` where it does not fit, or is longer than messages are.
pub(crate) fn write(
    kind: u16,
    id: u64,
    buffer: &mut [u8],
    body: impl FnOnce(&mut Writer<'_>),
) -> Option<usize> {
    let (header, rest) = buffer.split_at_mut_checked(HEADER_BYTES)?;
    let mut to = Writer::new(rest);
    body(&mut to);
    let length = HEADER_BYTES + to.end()?;
    if length > MAX_MESSAGE {
        return None;
    }
    let mut to = Writer::new(header);
    (length as u32).write(&mut to);
    kind.write(&mut to);
    0_u16.write(&mut to);
    id.write(&mut to);
    to.end()?;
    Some(length)
}

/// A message's header and its body.
pub type Message<'a> = (Header, &'a [u8]);

/// Puts messages together from the pieces in which a stream brings them.
#[derive(Debug)]
pub struct Stream {
    bytes: [u8; MAX_MESSAGE],
    filled: usize,
    /// The stream has brought what is no message: where the next one begins cannot be told any more.
    broken: Option<Error>,
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    /// The beginning of a stream.
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_MESSAGE], filled: 0, broken: None }
    }

    /// Takes bytes up to the end of a message, and says how many these were. The message, once it is whole, is there until the next call.
    ///
    /// # Errors
    /// See [`Error`]: from then on the stream is of no use, and the channel is to begin anew.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Message<'_>>), Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let mut taken = self.fill(bytes, HEADER_BYTES);
        let Some(header) = self.bytes.first_chunk().filter(|_| self.filled >= HEADER_BYTES) else {
            return Ok((taken, None));
        };
        let header = Header::read(header).inspect_err(|error| self.broken = Some(*error))?;
        let length = header.length as usize;
        taken += self.fill(bytes.get(taken..).unwrap_or_default(), length);
        if self.filled < length {
            return Ok((taken, None));
        }
        self.filled = 0;
        Ok((taken, Some((header, self.bytes.get(HEADER_BYTES..length).unwrap_or_default()))))
    }

    /// Takes bytes until so many are there; how many that took.
    fn fill(&mut self, bytes: &[u8], until: usize) -> usize {
        let wanted = until.saturating_sub(self.filled).min(bytes.len());
        let place = self.bytes.get_mut(self.filled..self.filled + wanted);
        match (place, bytes.get(..wanted)) {
            (Some(place), Some(bytes)) => {
                place.copy_from_slice(bytes);
                self.filled += wanted;
                wanted
            }
            _ => 0,
        }
    }
}
