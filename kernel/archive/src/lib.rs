//! Boot archives: for boot protocols that hand over a single file, such as PVH. An archive is a cpio file in
//! the "newc" format, as the tool `cpio` and Linux's `usr/gen_init_cpio` write it. Its first member is a text,
//! [`LIST`], that says what the other members are for:
//!
//! ```text
//! # a remark
//! options loglevel=debug
//! module guests/demo/kernel vm=demo memory=256M kernel -- console=ttyS0
//! module guests/demo/initrd vm=demo initrd
//! ```
//!
//! [`Archive::open`] checks all of it: who has an [`Archive`] has a whole one. Work is bounded by
//! [`MAX_MEMBERS`] and [`MAX_LIST_BYTES`], whatever the sizes in the file say; nothing is copied or allocated.
//!
//! Not its job: what the lines of modules mean, and what is in the modules.
//!
//! Source: Linux documentation, "initramfs buffer format"; POSIX.1-2001, "cpio Interchange Format" for the file
//! types. No locks.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod list;
mod newc;
#[cfg(test)]
mod tests;

pub use error::ArchiveError;

/// The name of the member that says what the others are for. It comes first.
pub const LIST: &str = "basalt.conf";
/// Members that an archive may have, the list and the end mark included.
pub const MAX_MEMBERS: usize = 256;
/// Bytes that the list may have.
pub const MAX_LIST_BYTES: usize = 64 << 10;

/// A file in an archive, with its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module<'a> {
    /// The words behind the member's name in the list.
    pub line: &'a str,
    /// The file's bytes; never empty.
    pub bytes: &'a [u8],
}

/// A boot archive that was checked from end to end.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    list: &'a str,
}

/// True where `bytes` begin as a boot archive does: a cpio file whose first member has the list's name.
/// Other cpio files, such as a guest's initial file system, are none.
pub fn is_archive(bytes: &[u8]) -> bool {
    matches!(newc::Members::new(bytes).next(), Some(Ok(member)) if member.name == LIST)
}

impl<'a> Archive<'a> {
    /// Checks an archive. It must be whole, each line of its list must have a meaning, and each module's member
    /// must be there, be an ordinary file and not be empty.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ArchiveError<'a>> {
        let mut members = newc::Members::new(bytes);
        let first = members.next().unwrap_or(Err(ArchiveError::NotAnArchive))?;
        if first.name != LIST {
            return Err(ArchiveError::NoList { first: first.name });
        }
        if first.bytes.len() > MAX_LIST_BYTES {
            return Err(ArchiveError::LongList { bytes: first.bytes.len() });
        }
        let list = core::str::from_utf8(first.bytes).map_err(|_| ArchiveError::NoText)?;
        for member in members {
            member?;
        }
        let archive = Self { bytes, list };
        let mut options = 0;
        for line in list::lines(list) {
            match line? {
                list::Line::Options(_) => options += 1,
                list::Line::Module { name, .. } => archive.check_member(name)?,
            }
        }
        if options > 1 { Err(ArchiveError::OptionsTwice) } else { Ok(archive) }
    }

    /// The kernel's options, empty where there are none.
    pub fn options(&self) -> &'a str {
        let options = |line| match line {
            Ok(list::Line::Options(options)) => Some(options),
            _ => None,
        };
        list::lines(self.list).find_map(options).unwrap_or_default()
    }

    /// The modules, in the order of the list. A member may be named in several lines.
    pub fn modules(&self) -> impl Iterator<Item = Module<'a>> {
        let archive = *self;
        list::lines(self.list).filter_map(move |line| match line {
            Ok(list::Line::Module { name, line }) => {
                let member = archive.member(name)?;
                Some(Module { line, bytes: member.bytes })
            }
            _ => None,
        })
    }

    fn check_member(&self, name: &'a str) -> Result<(), ArchiveError<'a>> {
        match self.member(name) {
            None => Err(ArchiveError::NoMember { name }),
            Some(member) if !member.ordinary => Err(ArchiveError::NotAFile { name }),
            Some(member) if member.bytes.is_empty() => Err(ArchiveError::Empty { name }),
            Some(_) => Ok(()),
        }
    }

    fn member(&self, name: &str) -> Option<newc::Member<'a>> {
        newc::Members::new(self.bytes).filter_map(Result::ok).find(|member| member.name == name)
    }
}
