//! Guest memory in host vectors.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use assert_no_alloc::permit_alloc;

use crate::{
    AddressSpace, Gpa, GuestMemory, Hole, Hpa, MemoryError, NotRam, PAGE_SIZE, Shrink, Taken, WordSize,
};

/// A stretch of RAM: its first address and its bytes.
type Range = (u64, Vec<u8>);

/// The host memory behind fake guests, and when it fails.
#[derive(Debug)]
pub struct Bank {
    free: Cell<u64>,
    fails_in: Cell<Option<u32>>,
}

impl Bank {
    /// With so many bytes.
    pub fn new(free: u64) -> Rc<Self> {
        Rc::new(Self { free: Cell::new(free), fails_in: Cell::new(None) })
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.free.get()
    }

    /// Lets the allocation fail that comes after `count` others, once.
    pub fn fail_after(&self, count: u32) {
        self.fails_in.set(Some(count));
    }

    /// Whether that allocation has come.
    pub fn has_failed(&self) -> bool {
        self.fails_in.get().is_none()
    }

    /// Takes memory.
    pub(super) fn take(&self, bytes: u64) -> Result<(), MemoryError> {
        let failure = MemoryError::OutOfFrames { wanted: bytes, free: self.free() };
        if let Some(left) = self.fails_in.get() {
            self.fails_in.set(left.checked_sub(1));
            if left == 0 {
                return Err(failure);
            }
        }
        self.free.set(self.free().checked_sub(bytes).ok_or(failure)?);
        Ok(())
    }

    /// Takes memory back.
    pub(super) fn give(&self, bytes: u64) {
        self.free.set(self.free() + bytes);
    }
}

/// RAM in host vectors. Clones are handles to the same memory, as vCPUs have them.
#[derive(Clone, Debug)]
pub struct FakeSpace {
    /// `None` only while it is being dropped.
    ram: Option<Rc<Ram>>,
    bank: Rc<Bank>,
    /// Bytes for the tables.
    tables: u64,
}

/// What all handles share.
#[derive(Debug, Default)]
struct Ram {
    ranges: RefCell<Vec<Range>>,
    holes: RefCell<Holes>,
}

/// Pages that were taken back.
#[derive(Debug, Default)]
struct Holes {
    pages: BTreeMap<u64, Hole>,
    /// Pages that are not free yet.
    resting: u64,
    /// CPUs have been told to forget them.
    told: bool,
}

/// Pages that rest at most.
const MOST_RESTING: u64 = 8;

/// Bytes that a fake space or vCPU takes beside RAM.
pub(super) const CONTROL_BYTES: u64 = PAGE_SIZE;
/// What comes again with a page of it.
const LARGE_BYTES: u64 = 2 << 20;
/// Most bytes that come or go in one step.
const STEP_BYTES: u64 = 64 << 10;

impl FakeSpace {
    /// An address space with this much host memory behind it.
    pub fn with_memory(free: u64) -> Self {
        Self { ram: Some(Rc::default()), bank: Bank::new(free), tables: 0 }
    }

    pub(super) fn of(bank: &Rc<Bank>) -> Result<Self, MemoryError> {
        bank.take(CONTROL_BYTES)?;
        Ok(Self { ram: Some(Rc::default()), bank: Rc::clone(bank), tables: CONTROL_BYTES })
    }

    fn ram(&self) -> &Ram {
        self.ram.as_ref().expect("taken only by its end")
    }

    fn ranges(&self) -> &RefCell<Vec<Range>> {
        &self.ram().ranges
    }

    /// All bytes were given to the bank: those of holes but that still rest were so before.
    fn settle_holes(&self, ram: &Ram) {
        let mut holes = ram.holes.borrow_mut();
        let free = self.bank.free() + holes.resting * PAGE_SIZE;
        self.bank.free.set(free.saturating_sub(holes.pages.len() as u64 * PAGE_SIZE));
        permit_alloc(|| *holes = Holes::default());
    }

    /// Calls `piece` with each stretch of RAM of a range and the offset of it in the range. What was taken back comes again.
    fn pieces(&self, gpa: Gpa, length: u64, piece: impl FnMut(&mut [u8], usize)) -> Result<(), NotRam> {
        self.provide(gpa, length).map_err(|_| NotRam { gpa })?;
        self.stretches(gpa, length, piece)
    }

    fn stretches(
        &self,
        gpa: Gpa,
        length: u64,
        mut piece: impl FnMut(&mut [u8], usize),
    ) -> Result<(), NotRam> {
        let mut ranges = self.ranges().borrow_mut();
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
        self.stretches(gpa, length, |ram, _| ram.fill(0))
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

    fn store_u32(&self, gpa: Gpa, value: u32) -> Result<(), NotRam> {
        self.write(Gpa(gpa.0 & !3), &value.to_le_bytes())
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
        self.stretches(gpa, 1, |_, _| ()).is_ok()
    }

    fn take_back(&self, gpa: Gpa, length: u64, hole: Hole) -> Result<Taken, NotRam> {
        let page = gpa.0 & !(PAGE_SIZE - 1);
        self.stretches(Gpa(page), PAGE_SIZE.min(length), |ram, _| ram.fill(0))?;
        let mut holes = self.ram().holes.borrow_mut();
        if holes.told || holes.resting == MOST_RESTING {
            return Ok(Taken::Full);
        }
        if permit_alloc(|| holes.pages.insert(page, hole)).is_none() {
            holes.resting += 1;
        }
        Ok(Taken::Bytes(PAGE_SIZE))
    }

    fn settle(&self) -> bool {
        let mut holes = self.ram().holes.borrow_mut();
        if holes.told {
            self.bank.give(holes.resting * PAGE_SIZE);
            (holes.told, holes.resting) = (false, 0);
        }
        holes.told = holes.resting != 0;
        !holes.told
    }

    fn let_go(&self, gpa: Gpa, length: u64) {
        let mut holes = self.ram().holes.borrow_mut();
        for (_, hole) in holes.pages.range_mut(gpa.0..gpa.0.saturating_add(length)) {
            *hole = Hole::Free;
        }
    }

    fn provide(&self, gpa: Gpa, length: u64) -> Result<(), MemoryError> {
        let mut holes = self.ram().holes.borrow_mut();
        let first = gpa.0 & !(PAGE_SIZE - 1);
        while let Some((page, _)) = holes.pages.range(first..gpa.0.saturating_add(length)).next() {
            let page = *page;
            self.bank.take(PAGE_SIZE)?;
            permit_alloc(|| holes.pages.remove(&page));
        }
        Ok(())
    }

    fn bring_back(&self, gpa: Gpa) -> Result<Option<Gpa>, MemoryError> {
        let (first, part) = (gpa.0 & !(PAGE_SIZE - 1), gpa.0 & !(LARGE_BYTES - 1));
        let free = |range| {
            let holes = self.ram().holes.borrow();
            let mut holes = holes.pages.range::<u64, _>(range);
            holes.find_map(|(page, hole)| (*hole == Hole::Free).then_some(*page))
        };
        let was_free = free(first..first + 1).is_some();
        self.provide(gpa, 1)?;
        Ok(if was_free { free(part..part + LARGE_BYTES).map(Gpa) } else { None })
    }

    fn taken_back(&self) -> u64 {
        self.ram().holes.borrow().pages.len() as u64 * PAGE_SIZE
    }
}

impl AddressSpace for FakeSpace {
    fn grow(&mut self, gpa: Gpa, length: u64) -> Result<u64, MemoryError> {
        let bad = MemoryError::BadRange { gpa, length };
        gpa.0.checked_add(length).ok_or(bad)?;
        if length == 0 || (gpa.0 | length) & (PAGE_SIZE - 1) != 0 {
            return Err(bad);
        }
        let step = length.min(STEP_BYTES);
        let mut ranges = self.ranges().borrow_mut();
        let end = gpa.0 + step;
        if ranges.iter().any(|(start, bytes)| *start < end && gpa.0 < start + bytes.len() as u64) {
            return Err(MemoryError::Overlap { gpa });
        }
        self.bank.take(step)?;
        permit_alloc(|| match ranges.iter_mut().find(|(start, bytes)| start + bytes.len() as u64 == gpa.0) {
            Some((_, bytes)) => bytes.resize(bytes.len() + step as usize, 0),
            None => ranges.push((gpa.0, vec![0; step as usize])),
        });
        Ok(step)
    }

    fn coming(&self) -> u64 {
        0
    }

    fn adopt(&mut self, start: Hpa, length: u64) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < length {
            done += self.grow(Gpa(start.0 + done), length - done)?;
        }
        Ok(())
    }

    fn add_apic_page(&mut self) -> Result<(), MemoryError> {
        Ok(())
    }

    fn shrink(&mut self) -> Shrink {
        if self.ram.as_ref().is_some_and(|ram| Rc::strong_count(ram) > 1) {
            return Shrink::InUse;
        }
        let mut ranges = self.ranges().borrow_mut();
        let Some((_, bytes)) = ranges.last_mut() else {
            self.settle_holes(self.ram());
            return Shrink::Done;
        };
        let step = bytes.len().min(STEP_BYTES as usize);
        bytes.truncate(bytes.len() - step);
        if bytes.is_empty() {
            permit_alloc(|| drop(ranges.pop()));
        }
        self.bank.give(step as u64);
        Shrink::More
    }

    fn table_bytes(&self) -> u64 {
        0
    }

    fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        self.is_ram(gpa).then_some(Hpa(gpa.0))
    }
}

impl Drop for FakeSpace {
    fn drop(&mut self) {
        let Some(ram) = self.ram.take() else { return };
        if Rc::strong_count(&ram) == 1 {
            let all: u64 = ram.ranges.borrow().iter().map(|(_, bytes)| bytes.len() as u64).sum();
            self.bank.give(all + self.tables);
            self.settle_holes(&ram);
        }
        permit_alloc(|| drop(ram));
    }
}
