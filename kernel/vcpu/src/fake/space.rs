//! Guest memory in host vectors.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use crate::{AddressSpace, Gpa, GuestMemory, Hpa, MemoryError, NotRam, PAGE_SIZE, WordSize};

/// A stretch of RAM: its first address and its bytes.
type Range = (u64, Vec<u8>);

/// RAM in host vectors. Clones are handles to the same memory.
#[derive(Clone, Debug, Default)]
pub struct FakeSpace {
    ranges: Rc<RefCell<Vec<Range>>>,
    free: Rc<Cell<u64>>,
}

impl FakeSpace {
    /// An address space with this much host memory behind it.
    pub fn with_memory(free: u64) -> Self {
        Self { ranges: Rc::default(), free: Rc::new(Cell::new(free)) }
    }

    pub(super) fn sharing(free: &Rc<Cell<u64>>) -> Self {
        Self { ranges: Rc::default(), free: Rc::clone(free) }
    }

    /// Calls `piece` with each stretch of RAM of a range and the offset of it in the range.
    fn pieces(&self, gpa: Gpa, length: u64, mut piece: impl FnMut(&mut [u8], usize)) -> Result<(), NotRam> {
        let mut ranges = self.ranges.borrow_mut();
        let mut done = 0;
        while done < length {
            let at = gpa.0.wrapping_add(done);
            let (start, bytes) = ranges
                .iter_mut()
                .find(|(start, bytes)| at >= *start && at - start < bytes.len() as u64)
                .ok_or(NotRam { gpa: Gpa(at) })?;
            let offset = (at - *start) as usize;
            let size = (bytes.len() - offset).min((length - done) as usize);
            piece(&mut bytes[offset..offset + size], done as usize);
            done += size as u64;
        }
        Ok(())
    }
}

impl GuestMemory for FakeSpace {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), NotRam> {
        self.pieces(gpa, buffer.len() as u64, |ram, at| buffer[at..at + ram.len()].copy_from_slice(ram))
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), NotRam> {
        self.pieces(gpa, bytes.len() as u64, |ram, at| ram.copy_from_slice(&bytes[at..at + ram.len()]))
    }

    fn zero(&self, gpa: Gpa, length: u64) -> Result<(), NotRam> {
        self.pieces(gpa, length, |ram, _| ram.fill(0))
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, NotRam> {
        let mut bytes = [0; 4];
        self.read(Gpa(gpa.0 & !3), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        let mut bytes = [0; 8];
        self.read(Gpa(gpa.0 & !7), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: WordSize,
        current: u64,
        new: u64,
    ) -> Result<Result<(), u64>, NotRam> {
        let (length, actual) = match size {
            WordSize::Four => (4, self.load_u32(gpa)?.into()),
            WordSize::Eight => (8, self.load_u64(gpa)?),
        };
        if actual != current {
            return Ok(Err(actual));
        }
        self.write(Gpa(gpa.0 & !(length - 1)), &new.to_le_bytes()[..length as usize])?;
        Ok(Ok(()))
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        self.pieces(gpa, 1, |_, _| ()).is_ok()
    }
}

impl AddressSpace for FakeSpace {
    fn add_ram(&mut self, gpa: Gpa, length: u64) -> Result<(), MemoryError> {
        let bad = MemoryError::BadRange { gpa, length };
        let end = gpa.0.checked_add(length).ok_or(bad)?;
        if length == 0 || (gpa.0 | length) & (PAGE_SIZE - 1) != 0 {
            return Err(bad);
        }
        let mut ranges = self.ranges.borrow_mut();
        if ranges.iter().any(|(start, bytes)| *start < end && gpa.0 < start + bytes.len() as u64) {
            return Err(MemoryError::Overlap { gpa });
        }
        let free = self.free.get();
        if length > free {
            return Err(MemoryError::OutOfFrames { wanted: length, free });
        }
        self.free.set(free - length);
        ranges.push((gpa.0, vec![0; length as usize]));
        Ok(())
    }

    fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        self.is_ram(gpa).then_some(Hpa(gpa.0))
    }
}
