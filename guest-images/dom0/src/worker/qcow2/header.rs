//! The header: what kind of image it is, and where its tables are.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use api::image::Format;
use imago::Storage;

use super::{Image, broken, unsupported};

const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a header of version 2, and of the least one of version 3.
const LENGTH_2: usize = 72;
const LENGTH_3: usize = 104;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The largest disk, and what its tables may take.
const MOST_BYTES: u64 = 64 << 40;
const MOST_L1_BYTES: u64 = 32 << 20;
const MOST_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MOST_REFCOUNT_ORDER: u32 = 6;
/// Letters of a backing file's name at most.
const MOST_NAME: u32 = 1023;
/// Bits of the incompatible features.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Header extensions: the end of them, and a backing file's format.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const MOST_EXTENSIONS: usize = 64;

/// What is used of it.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) cluster_bits: u32,
    /// The first table, and how many entries it has.
    pub(super) l1: (u64, u64),
    /// The refcount table, and how many clusters it takes.
    pub(super) refcounts: (u64, u64),
    pub(super) refcount_order: u32,
    /// Where the name of what is below it stands.
    backing: Range<u64>,
    /// Where extensions begin.
    length: u64,
}

impl Header {
    /// Reads and checks it.
    pub(super) fn read(image: &Image<'_, impl Storage>, write: bool) -> Result<Self> {
        let mut bytes = [0; LENGTH_3];
        let there = usize::try_from(image.bytes).unwrap_or(usize::MAX).min(LENGTH_3);
        if there < LENGTH_2 {
            return Err(broken("it is shorter than its header"));
        }
        image.read(0, bytes.get_mut(..there).unwrap_or_default())?;
        let fields = Fields(&bytes);
        if fields.u32(0) != MAGIC {
            return Err(broken("it does not begin as one; say format = \"raw\" if it is a raw one"));
        }
        let version = fields.u32(4);
        let has_features = match version {
            2 => false,
            3 if there == LENGTH_3 => true,
            3 => return Err(broken("it is shorter than its header")),
            _ => return Err(unsupported(format_args!("a qcow2 image of version {version}"))),
        };
        if has_features {
            check_features(fields.u64(72))?;
        }
        let length = if has_features { fields.u32(100) } else { LENGTH_2 as u32 };
        let header = Self {
            cluster_bits: fields.u32(20),
            l1: (fields.u64(40), fields.u32(36).into()),
            refcounts: (fields.u64(48), fields.u32(56).into()),
            refcount_order: if has_features { fields.u32(96) } else { 4 },
            backing: fields.u64(8)..fields.u64(8).saturating_add(fields.u32(16).into()),
            length: length.into(),
        };
        if fields.u32(32) != 0 {
            return Err(unsupported("the qcow2 image is encrypted"));
        }
        if write && fields.u32(60) != 0 {
            return Err(unsupported("the qcow2 image has snapshots in it"));
        }
        header.check(image, fields.u64(24), fields.u32(16))?;
        Ok(header)
    }

    fn check(&self, image: &Image<'_, impl Storage>, size: u64, name_length: u32) -> Result<()> {
        if !CLUSTER_BITS.contains(&self.cluster_bits) {
            return Err(broken(format_args!("clusters of 2^{} bytes", self.cluster_bits)));
        }
        if !(LENGTH_2 as u64..=self.cluster()).contains(&self.length) || !self.length.is_multiple_of(8) {
            return Err(broken(format_args!("a header of {} bytes", self.length)));
        }
        if size > MOST_BYTES {
            return Err(unsupported(format_args!("the qcow2 image says that its disk has {size} bytes")));
        }
        let (l1, entries) = self.l1;
        // Each entry is for a table of so many clusters.
        let each = self.cluster() * (self.cluster() / 8);
        if entries * 8 > MOST_L1_BYTES || entries < size.div_ceil(each) {
            return Err(broken(format_args!("its first table has {entries} entries for {size} bytes")));
        }
        let (refcounts, clusters) = self.refcounts;
        if clusters == 0 || clusters * self.cluster() > MOST_REFCOUNT_TABLE_BYTES {
            return Err(broken(format_args!("its refcount table has {clusters} clusters")));
        }
        if self.refcount_order > MOST_REFCOUNT_ORDER {
            return Err(broken(format_args!("refcounts of 2^{} bits", self.refcount_order)));
        }
        let tables =
            [("first table", l1, entries * 8), ("refcount table", refcounts, clusters * self.cluster())];
        for (what, at, bytes) in tables {
            let is_used = bytes > 0;
            if is_used && (at == 0 || !at.is_multiple_of(self.cluster()) || !image.has(at, bytes)) {
                return Err(broken(format_args!("its {what} cannot be at {at:#x}")));
            }
        }
        if name_length > MOST_NAME || (self.backing.start != 0 && self.backing.end > self.cluster()) {
            return Err(broken("the name of its backing file has no place"));
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub(super) const fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether the image is over the one, and only over the one, that its owner says.
    pub(super) fn check_backing(
        &self,
        image: &Image<'_, impl Storage>,
        said: Option<(&[String], Format)>,
    ) -> Result<()> {
        let refused = |what: String| Err(Error::new(ErrorKind::PermissionDenied, what));
        let named = match self.backing.start {
            0 => None,
            start => {
                let length = self.backing.end.saturating_sub(start).min(MOST_NAME.into());
                let mut name = vec![0; usize::try_from(length).unwrap_or_default()];
                image.read(start, &mut name)?;
                Some(String::from_utf8_lossy(&name).into_owned())
            }
        };
        let (names, format) = match (&named, said) {
            (None, None) => return Ok(()),
            (Some(name), None) => {
                return refused(format!(
                    "the qcow2 image is over '{}', which its description does not name: say backing and backing_format, if that is right",
                    name.escape_debug()
                ));
            }
            (None, Some(_)) => {
                return refused(
                    "the qcow2 image is over no other one: take backing out of its description".to_owned(),
                );
            }
            (Some(_), Some(said)) => said,
        };
        if let Some(name) = named.filter(|name| !names.contains(name)) {
            return refused(format!(
                "the qcow2 image is over '{}', and its description says something else",
                name.escape_debug()
            ));
        }
        match self.backing_format(image)? {
            Some(text) if text != word(format) => refused(format!(
                "the qcow2 image says that what it is over is '{}', and its description says something else",
                text.escape_debug()
            )),
            _ => Ok(()),
        }
    }

    /// The format of what it is over, where it says that.
    fn backing_format(&self, image: &Image<'_, impl Storage>) -> Result<Option<String>> {
        let mut at = self.length;
        for _ in 0..MOST_EXTENSIONS {
            let end = if self.backing.start == 0 { self.cluster() } else { self.backing.start };
            if at + 8 > end {
                return Ok(None);
            }
            let mut head = [0; 8];
            image.read(at, &mut head)?;
            let (kind, length) = (Fields(&head).u32(0), u64::from(Fields(&head).u32(4)));
            if kind == END {
                return Ok(None);
            }
            if length > end.saturating_sub(at + 8) {
                return Err(broken("an extension of its header has no place"));
            }
            if kind == BACKING_FORMAT {
                let mut text = vec![0; usize::try_from(length.min(64)).unwrap_or_default()];
                image.read(at + 8, &mut text)?;
                return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
            }
            at += 8 + length.next_multiple_of(8);
        }
        Err(broken("its header has no end of extensions"))
    }
}

fn word(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

/// Features without which an image cannot be read rightly.
fn check_features(features: u64) -> Result<()> {
    let mend = |what: &str| {
        Err(Error::new(ErrorKind::InvalidData, format!("{what}: `qemu-img check -r all` mends it")))
    };
    match features {
        0 => Ok(()),
        _ if features & CORRUPT != 0 => mend("the qcow2 image is marked as corrupt"),
        _ if features & DIRTY != 0 => {
            mend("the qcow2 image was not closed, and its refcounts are not up to date")
        }
        _ if features & EXTERNAL_DATA != 0 => {
            Err(unsupported("the qcow2 image has its data in another file"))
        }
        _ if features & COMPRESSION != 0 => {
            Err(unsupported("the qcow2 image is compressed by another method than deflate"))
        }
        _ if features & EXTENDED_L2 != 0 => {
            Err(unsupported("the qcow2 image has clusters in parts (extended_l2)"))
        }
        _ => Err(unsupported(format_args!("the qcow2 image has unknown features ({features:#x})"))),
    }
}

/// Big-endian numbers; zero behind the end.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn u32(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk().copied());
        u32::from_be_bytes(bytes.unwrap_or_default())
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk().copied());
        u64::from_be_bytes(bytes.unwrap_or_default())
    }
}
