//! The tables: where everything is. Each cluster of the file is one thing only, what is in use is counted as used, and nothing lies outside the file.

use std::io::{Error, Result};

use imago::Storage;

use super::header::{Fields, Header};
use super::{Image, broken, unsupported};

/// Offsets in entries of the first and the second table, and their flags.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const COMPRESSED: u64 = 1 << 62;
/// Clusters that are kept account of: a bit each. Files that have more are too large, or too empty.
const MOST_CLUSTERS: u64 = 1 << 28;

/// Which clusters of the file are taken.
struct Used<'a> {
    header: &'a Header,
    bits: Vec<u64>,
    clusters: u64,
}

impl<'a> Used<'a> {
    fn new(header: &'a Header, bytes: u64) -> Result<Self> {
        let clusters = bytes.div_ceil(header.cluster());
        if clusters > MOST_CLUSTERS {
            return Err(unsupported(format_args!("the qcow2 image's file has {clusters} clusters")));
        }
        let words = usize::try_from(clusters.div_ceil(64)).map_err(Error::other)?;
        let mut bits = Vec::new();
        bits.try_reserve_exact(words).map_err(Error::other)?;
        bits.resize(words, 0);
        Ok(Self { header, bits, clusters })
    }

    fn place(&self, cluster: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(cluster / 64).ok()?;
        (cluster < self.clusters).then_some((word, 1 << (cluster % 64)))
    }

    /// Takes the clusters from an offset on, each of which nothing else may have.
    fn take(&mut self, what: &str, offset: u64, bytes: u64) -> Result<()> {
        if !offset.is_multiple_of(self.header.cluster()) {
            return Err(broken(format_args!("{what} cannot be at {offset:#x}")));
        }
        let first = offset / self.header.cluster();
        for cluster in first..first.saturating_add(bytes.div_ceil(self.header.cluster())) {
            let place = self.place(cluster).and_then(|(word, bit)| Some((self.bits.get_mut(word)?, bit)));
            let Some((word, bit)) = place else {
                return Err(broken(format_args!("{what} at {offset:#x} is behind its end")));
            };
            if *word & bit != 0 {
                return Err(broken(format_args!("{what} at {offset:#x} is something else as well")));
            }
            *word |= bit;
        }
        Ok(())
    }

    fn has(&self, cluster: u64) -> bool {
        self.place(cluster).is_some_and(|(word, bit)| self.bits.get(word).is_some_and(|it| it & bit != 0))
    }
}

/// Checks all of them. Work and memory are bounded by the file's own size. Who only reads does not look at what counts.
pub(super) fn check(image: &Image<'_, impl Storage>, header: &Header, write: bool) -> Result<()> {
    let cluster = header.cluster();
    let mut used = Used::new(header, image.bytes)?;
    used.take("its header", 0, 1)?;
    let (l1, entries) = header.l1;
    used.take("its first table", if entries == 0 { cluster } else { l1 }, entries * 8)?;
    let (refcounts, clusters) = header.refcounts;
    used.take("its refcount table", refcounts, clusters * cluster)?;
    let blocks = read_table(image, refcounts, clusters * (cluster / 8))?;
    for block in blocks.iter().filter(|block| **block != 0) {
        used.take("a refcount block", *block, cluster)?;
        within(image, *block, cluster)?;
    }
    for entry in read_table(image, l1, entries)? {
        if entry & L1_RESERVED != 0 {
            return Err(broken(format_args!("its first table has the entry {entry:#x}")));
        }
        let table = entry & OFFSET;
        if table == 0 {
            continue;
        }
        used.take("a second table", table, cluster)?;
        within(image, table, cluster)?;
        for entry in read_table(image, table, cluster / 8)? {
            check_entry(image, &mut used, entry)?;
        }
    }
    if write { check_counts(image, header, &blocks, &used) } else { Ok(()) }
}

/// A table of so many entries.
fn read_table(image: &Image<'_, impl Storage>, at: u64, entries: u64) -> Result<Vec<u64>> {
    let length = usize::try_from(entries * 8).map_err(Error::other)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(Error::other)?;
    bytes.resize(length, 0);
    if length > 0 {
        image.read(at, &mut bytes)?;
    }
    let (entries, _) = bytes.as_chunks::<8>();
    Ok(entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

/// Metadata is in the file as a whole.
fn within(image: &Image<'_, impl Storage>, at: u64, bytes: u64) -> Result<()> {
    if image.has(at, bytes) { Ok(()) } else { Err(broken(format_args!("a table at {at:#x} is cut off"))) }
}

/// An entry of a second table: a cluster's place.
fn check_entry(image: &Image<'_, impl Storage>, used: &mut Used<'_>, entry: u64) -> Result<()> {
    if entry & COMPRESSED != 0 {
        // Several of them may share a cluster: they are only within the file (specification, "Compressed Clusters Descriptor").
        let shift = 62 - (used.header.cluster_bits - 8);
        let at = entry & ((1 << shift) - 1);
        let inside = at != 0 && at < image.bytes;
        return if inside {
            Ok(())
        } else {
            Err(broken(format_args!("compressed bytes cannot be at {at:#x}")))
        };
    }
    if entry & L2_RESERVED != 0 {
        return Err(broken(format_args!("a second table has the entry {entry:#x}")));
    }
    match entry & OFFSET {
        0 => Ok(()),
        at => used.take("a cluster", at, 1),
    }
}

/// Whether what is in use is counted so: else it would be given away again.
fn check_counts(
    image: &Image<'_, impl Storage>,
    header: &Header,
    blocks: &[u64],
    used: &Used<'_>,
) -> Result<()> {
    let bits = 1_u64 << header.refcount_order;
    let each = header.cluster() * 8 / bits;
    let length = usize::try_from(header.cluster()).map_err(Error::other)?;
    let mut bytes = vec![0; length];
    let count = used.clusters.div_ceil(each);
    for number in 0..count {
        let block = usize::try_from(number).ok().and_then(|number| blocks.get(number)).copied().unwrap_or(0);
        if block == 0 {
            bytes.fill(0);
        } else {
            image.read(block, &mut bytes)?;
        }
        for index in 0..each.min(used.clusters - number * each) {
            let cluster = number * each + index;
            if used.has(cluster) && !is_counted(&bytes, index, bits) {
                return Err(broken(format_args!("cluster {cluster} is in use, and counted as free")));
            }
        }
    }
    Ok(())
}

/// Whether a refcount is not zero.
fn is_counted(block: &[u8], index: u64, bits: u64) -> bool {
    let Ok(at) = usize::try_from(index * bits / 8) else { return false };
    match bits {
        1 | 2 | 4 => {
            let mask = (1_u8 << bits) - 1;
            block.get(at).is_some_and(|byte| byte >> (index * bits % 8) & mask != 0)
        }
        8 => block.get(at).is_some_and(|byte| *byte != 0),
        16 => block.get(at..at + 2).is_some_and(|bytes| bytes != [0; 2]),
        32 => Fields(block).u32(at) != 0,
        _ => Fields(block).u64(at) != 0,
    }
}
