//! The members of a cpio file in the newc format.
//!
//! A member is a header of fixed size, its name and its content, each of the latter two filled up to a multiple
//! of four bytes from the file's beginning. Numbers are eight hexadecimal digits.

use crate::{ArchiveError, MAX_MEMBERS};

const MAGIC: &[u8] = b"070701";
const HEADER_BYTES: usize = 110;
const ALIGNMENT: usize = 4;
/// The name of the last member.
const END_MARK: &str = "TRAILER!!!";

/// Digits of a number.
const DIGITS: usize = 8;
/// The places of numbers, counted in numbers behind the magic.
const MODE: usize = 1;
const FILE_BYTES: usize = 6;
const NAME_BYTES: usize = 11;

/// The type of file in a mode, and that of an ordinary file.
const TYPE_MASK: usize = 0o170_000;
const TYPE_FILE: usize = 0o100_000;

/// A member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member<'a> {
    /// Its path, without a leading `/` or `./`.
    pub(crate) name: &'a str,
    /// An ordinary file, and not a folder, link or device.
    pub(crate) ordinary: bool,
    /// Its content.
    pub(crate) bytes: &'a [u8],
}

/// The members of a file, up to the end mark. The first error is the last item.
pub(crate) struct Members<'a> {
    file: &'a [u8],
    at: usize,
    seen: usize,
    ended: bool,
}

impl<'a> Members<'a> {
    pub(crate) const fn new(file: &'a [u8]) -> Self {
        Self { file, at: 0, seen: 0, ended: false }
    }

    fn parse(&mut self) -> Result<Member<'a>, ArchiveError<'a>> {
        let at = self.at;
        let cut = ArchiveError::CutOff { at };
        let bad = if at == 0 { ArchiveError::NotAnArchive } else { ArchiveError::BadHeader { at } };
        let rest = self.file.get(at..).ok_or(cut)?;
        let header = rest.get(..HEADER_BYTES).ok_or(if rest.starts_with(MAGIC) { cut } else { bad })?;
        let numbers = header.strip_prefix(MAGIC).ok_or(bad)?;
        let number = |index: usize| number(numbers, index).ok_or(bad);
        let (mode, file_bytes, name_bytes) = (number(MODE)?, number(FILE_BYTES)?, number(NAME_BYTES)?);
        let name_start = at + HEADER_BYTES;
        let name = part(self.file, name_start, name_bytes).ok_or(cut)?;
        let name = name.strip_suffix(&[0]).and_then(|name| core::str::from_utf8(name).ok()).ok_or(bad)?;
        let start = (name_start + name_bytes).next_multiple_of(ALIGNMENT);
        let bytes = part(self.file, start, file_bytes).ok_or(cut)?;
        self.at = (start + file_bytes).next_multiple_of(ALIGNMENT);
        Ok(Member { name: plain_name(name), ordinary: mode & TYPE_MASK == TYPE_FILE, bytes })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, ArchiveError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.seen += 1;
        let member = if self.seen > MAX_MEMBERS { Err(ArchiveError::TooMany) } else { self.parse() };
        self.ended = match &member {
            Err(_) => true,
            Ok(member) => member.name == END_MARK,
        };
        (!matches!(&member, Ok(member) if member.name == END_MARK)).then_some(member)
    }
}

/// A path as it is compared.
pub(crate) fn plain_name(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name).trim_start_matches('/')
}

/// `length` bytes at `start`. The sum has no more than 34 bits, for both have at most 32 and lie in a file.
fn part(file: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    file.get(start..start.checked_add(length)?)
}

fn number(numbers: &[u8], index: usize) -> Option<usize> {
    let digits = numbers.get(index * DIGITS..(index + 1) * DIGITS)?;
    digits.iter().try_fold(0, |value: usize, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | digit as usize)
    })
}
