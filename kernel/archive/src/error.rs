//! What can be wrong with an archive.

use core::fmt;

use crate::{LIST, MAX_LIST_BYTES, MAX_MEMBERS};

/// What is wrong with an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveError<'a> {
    /// It does not begin as a cpio file in the newc format.
    NotAnArchive,
    /// The first member is not the list.
    NoList {
        /// The first member.
        first: &'a str,
    },
    /// The list is too long.
    LongList {
        /// Its bytes.
        bytes: usize,
    },
    /// The list is no UTF-8 text.
    NoText,
    /// A member's header is no header.
    BadHeader {
        /// Where it begins.
        at: usize,
    },
    /// A member goes on where the file ends, or the end mark is missing.
    CutOff {
        /// Where the member's header begins.
        at: usize,
    },
    /// There are more members than [`MAX_MEMBERS`].
    TooMany,
    /// A line of the list has no meaning.
    BadLine {
        /// The line.
        line: &'a str,
    },
    /// There are two lines with options.
    OptionsTwice,
    /// A line names a member that is not there.
    NoMember {
        /// The name.
        name: &'a str,
    },
    /// A line names something other than a file.
    NotAFile {
        /// The name.
        name: &'a str,
    },
    /// A line names a file without content; so look all but the last of several hard links.
    Empty {
        /// The name.
        name: &'a str,
    },
}

impl fmt::Display for ArchiveError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the boot archive ")?;
        match self {
            Self::NotAnArchive => f.write_str("is no cpio file in the newc format"),
            Self::NoList { first } => write!(f, "begins with '{first}' instead of {LIST}"),
            Self::LongList { bytes } => write!(f, "has {bytes} bytes of {LIST}, of {MAX_LIST_BYTES} allowed"),
            Self::NoText => write!(f, "has a {LIST} that is no UTF-8 text"),
            Self::BadHeader { at } => write!(f, "has no member's header at byte {at}"),
            Self::CutOff { at } => write!(f, "is cut off: it ends within the member at byte {at}"),
            Self::TooMany => write!(f, "has more than {MAX_MEMBERS} members"),
            Self::BadLine { line } => {
                write!(f, "has the line '{line}', which is neither 'module NAME ...' nor 'options ...'")
            }
            Self::OptionsTwice => f.write_str("has two lines with options"),
            Self::NoMember { name } => write!(f, "has no member '{name}'"),
            Self::NotAFile { name } => write!(f, "has the member '{name}', which is no ordinary file"),
            Self::Empty { name } => write!(f, "has the member '{name}', which is empty or a hard link"),
        }
    }
}
