//! The interval map under port and memory-mapped accesses, and the words a device answers in.
//!
//! A device claims ranges of an address space and is called with the offset into its range. It says what happened;
//! the bus chooses the value that the guest reads when nobody answers (all ones) and counts such accesses. An access
//! that the device at its first byte does not take whole is split into bytes, lowest address first, as the ISA bus
//! does it.
//!
//! Not its job: which devices there are ([`crate::Chipset`]).

use arrayvec::ArrayVec;

/// The size of one access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Width {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Word = 2,
    /// Four bytes.
    Dword = 4,
    /// Eight bytes; memory-mapped accesses only.
    Qword = 8,
}

impl Width {
    /// The width of `bytes` bytes, if there is one.
    #[inline]
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }

    /// Bytes of the access.
    #[inline]
    pub const fn bytes(self) -> u8 {
        self as u8
    }

    /// A mask of the access's bits; also what a read finds where no device answers.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// Why a device did not serve an access. The guest sees all ones, or nothing happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// There is no register, or none that can be read (written), at this offset.
    NoRegister {
        /// Offset into the device's range.
        offset: u16,
    },
    /// The register does not take this width or alignment.
    Width {
        /// Offset into the device's range.
        offset: u16,
        /// The width tried.
        width: Width,
    },
}

/// Accesses that no device served, for the VM's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BusCounters {
    /// Bytes read where no device is.
    pub unclaimed_reads: u64,
    /// Bytes written where no device is.
    pub unclaimed_writes: u64,
    /// Accesses that the device at the address refused.
    pub refused: u64,
}

/// Two ranges that claim the same address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict<D> {
    /// The device that was there first.
    pub present: D,
    /// The device that was refused.
    pub refused: D,
    /// First address both claim.
    pub address: u64,
}

/// What can go wrong when a range is claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError<D> {
    /// Another device has some of the addresses.
    Overlap(Conflict<D>),
    /// The map has no room for another range.
    Full(D),
    /// The range is empty or runs past the end of the address space.
    BadRange(D),
}

#[derive(Clone, Copy, Debug)]
struct Interval<D> {
    first: u64,
    last: u64,
    device: D,
}

/// A sorted map from disjoint address ranges to devices, `N` ranges at most. It never allocates.
#[derive(Clone, Debug)]
pub struct IntervalMap<D, const N: usize> {
    intervals: ArrayVec<Interval<D>, N>,
    /// The last interval found: consecutive accesses mostly go to one device.
    recent: Option<Interval<D>>,
}

impl<D: Copy + PartialEq, const N: usize> Default for IntervalMap<D, N> {
    fn default() -> Self {
        Self { intervals: ArrayVec::new(), recent: None }
    }
}

impl<D: Copy + PartialEq, const N: usize> IntervalMap<D, N> {
    /// A map of all `(first address, length, device)` ranges, or every reason why it cannot be made.
    pub fn build(ranges: &[(u64, u64, D)]) -> Result<Self, ArrayVec<MapError<D>, N>> {
        let mut map = Self::default();
        let mut errors = ArrayVec::new();
        for &(first, length, device) in ranges {
            if let Err(error) = map.insert(first, length, device) {
                // More errors than there is room for: the first N tell enough.
                let _ = errors.try_push(error);
            }
        }
        if errors.is_empty() { Ok(map) } else { Err(errors) }
    }

    /// Claims `length` addresses from `first` for `device`.
    pub fn insert(&mut self, first: u64, length: u64, device: D) -> Result<(), MapError<D>> {
        let Some(last) = length.checked_sub(1).and_then(|rest| first.checked_add(rest)) else {
            return Err(MapError::BadRange(device));
        };
        let at = self.intervals.partition_point(|interval| interval.last < first);
        if let Some(next) = self.intervals.get(at)
            && next.first <= last
        {
            let address = next.first.max(first);
            return Err(MapError::Overlap(Conflict { present: next.device, refused: device, address }));
        }
        self.intervals.try_insert(at, Interval { first, last, device }).map_err(|_| MapError::Full(device))
    }

    /// Gives up every range of `device`. Returns whether there was one.
    pub fn remove(&mut self, device: D) -> bool {
        let before = self.intervals.len();
        self.intervals.retain(|interval| interval.device != device);
        self.intervals.len() != before
    }

    /// The device at `address` and the offset into its range.
    #[inline(always)]
    pub fn find(&mut self, address: u64) -> Option<(D, u64)> {
        self.find_again(address).or_else(|| self.search(address))
    }

    /// The same where it is the device of the last access.
    #[inline(always)]
    pub fn find_again(&self, address: u64) -> Option<(D, u64)> {
        let interval = self.recent.as_ref()?;
        let is_here = address >= interval.first && address <= interval.last;
        is_here.then(|| (interval.device, address - interval.first))
    }

    fn search(&mut self, address: u64) -> Option<(D, u64)> {
        let at = self.intervals.partition_point(|interval| interval.last < address);
        let interval = self.intervals.get(at)?;
        let offset = address.checked_sub(interval.first)?;
        self.recent = Some(*interval);
        Some((interval.device, offset))
    }
}

/// Assembles a read of `width` from byte reads, given the byte's index; lowest address first.
#[inline]
pub fn read_by_bytes(width: Width, mut read: impl FnMut(u8) -> u8) -> u64 {
    let mut value = 0;
    for index in 0..width.bytes() {
        value |= u64::from(read(index)) << (8 * index);
    }
    value
}

/// Takes a write of `width` apart into byte writes (index, value); lowest address first.
#[inline]
pub fn write_by_bytes(width: Width, value: u64, mut write: impl FnMut(u8, u8)) {
    for index in 0..width.bytes() {
        write(index, (value >> (8 * index)) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn every_conflict_is_reported() {
        let ranges = [(0x10, 0x10, 'a'), (0x18, 1, 'b'), (0x40, 4, 'c'), (0x3f, 2, 'd'), (0x60, 0, 'e')];
        let errors = IntervalMap::<char, 8>::build(&ranges).unwrap_err();
        let overlap = |present, refused, address| MapError::Overlap(Conflict { present, refused, address });
        assert_eq!(
            errors.as_slice(),
            [overlap('a', 'b', 0x18), overlap('c', 'd', 0x40), MapError::BadRange('e')]
        );
    }

    #[test]
    fn a_full_map_refuses() {
        let mut map = IntervalMap::<u8, 1>::default();
        map.insert(0, 1, 0).unwrap();
        assert_eq!(map.insert(1, 1, 1), Err(MapError::Full(1)));
        assert!(map.remove(0));
        assert!(!map.remove(0));
        map.insert(1, 1, 1).unwrap();
        assert_eq!(map.find(0), None);
        assert_eq!(map.find(1), Some((1, 0)));
    }

    #[test]
    fn the_last_address_can_be_claimed() {
        let mut map = IntervalMap::<u8, 2>::default();
        map.insert(u64::MAX, 1, 7).unwrap();
        assert_eq!(map.find(u64::MAX), Some((7, 0)));
        assert_eq!(map.insert(u64::MAX, 2, 8), Err(MapError::BadRange(8)));
    }

    proptest! {
        /// Against a plain array of owners.
        #[test]
        fn map_agrees_with_a_table(
            operations in prop::collection::vec((0u64..64, 0u64..12, 0u8..12, any::<bool>()), 1..40),
            probes in prop::collection::vec(0u64..80, 1..80),
        ) {
            let mut table: Vec<Option<(u8, u64)>> = std::vec![None; 80];
            let mut map = IntervalMap::<u8, 16>::default();
            for (first, length, device, remove) in operations {
                if remove {
                    let there = table.iter().flatten().any(|owner| owner.0 == device);
                    prop_assert_eq!(map.remove(device), there);
                    table.iter_mut().filter(|o| o.is_some_and(|o| o.0 == device)).for_each(|o| *o = None);
                    continue;
                }
                let range = first as usize..(first + length) as usize;
                let free = length > 0 && table[range.clone()].iter().all(Option::is_none);
                match map.insert(first, length, device) {
                    Ok(()) => {
                        prop_assert!(free);
                        for at in range {
                            table[at] = Some((device, at as u64 - first));
                        }
                    }
                    Err(MapError::Full(_)) => prop_assert!(free),
                    Err(_) => prop_assert!(!free),
                }
            }
            for probe in probes {
                prop_assert_eq!(map.find(probe), table[probe as usize]);
            }
        }

        #[test]
        fn bytes_of_a_write_read_back(value: u64, width in prop::sample::select(
            &[Width::Byte, Width::Word, Width::Dword, Width::Qword][..])
        ) {
            let mut bytes = [0u8; 8];
            write_by_bytes(width, value, |index, byte| bytes[usize::from(index)] = byte);
            prop_assert_eq!(read_by_bytes(width, |index| bytes[usize::from(index)]), value & width.mask());
        }
    }
}
