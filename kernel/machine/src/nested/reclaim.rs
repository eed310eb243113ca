//! Memory that a guest gives back while it runs, and gets again.
//!
//! What is taken out of the table rests in a list until all CPUs have passed an epoch that began afterwards (see [`crate::limbo`]): until then
//! a CPU may have a translation, and another may be in the middle of a copy. Then the frames are anybody's. A touch of a page that
//! was taken back gets a new one, cleared, and where the guest has more free memory around it that, too.

// UNSAFETY: gives frames back that guests had.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;
use vcpu::{Gpa, Hole, Hpa, MemoryError, NotRam, PAGE_SIZE, Taken};

use super::holes;
use super::pieces::{Filling, STEP_BYTES};
use super::recent::Recent;
use super::space::{FrameTables, STEP_PAGES};
use super::table::{ENTRIES, Level, Mapping, NestedTable, TableMemory};
use crate::limbo::Epoch;
use crate::memory::{frames, frames::FrameKind};
use crate::smp::{self, EPOCHS};

type Table = NestedTable<FrameTables>;

/// The part of an address space that shrinks and grows while its guest runs.
#[derive(Debug)]
pub(super) struct Reclaim {
    /// Held while the table changes.
    resting: Mutex<Resting>,
    /// Bytes that are taken back.
    bytes: AtomicU64,
    /// Pages may be in the list.
    rests: AtomicBool,
    /// The large page that comes again. Whoever clears some of it holds the lock.
    coming: Mutex<Option<Filling>>,
}

/// Pages out of the table that CPUs may still know.
#[derive(Debug)]
struct Resting {
    /// A frame with their addresses, and their order in the low bits.
    list: Option<Hpa>,
    count: usize,
    /// No more come until this has passed.
    epoch: Option<Epoch>,
}

impl Resting {
    /// The list's frame.
    fn list(&mut self) -> Result<Hpa, MemoryError> {
        if let Some(list) = self.list {
            return Ok(list);
        }
        let list = FrameTables.allocate()?;
        self.list = Some(list);
        Ok(list)
    }

    /// Gives up to so many pages to whoever wants them.
    ///
    /// # Safety
    /// No CPU knows the pages any more.
    unsafe fn free(&mut self, most: usize) {
        let Some(list) = self.list else { return };
        for _ in 0..most.min(self.count) {
            self.count -= 1;
            let entry = FrameTables.read(list, self.count);
            // SAFETY: the page is out of the tables; by the caller.
            unsafe { frames::free(Hpa(entry & !(PAGE_SIZE - 1)), (entry & (PAGE_SIZE - 1)) as u8) };
        }
    }
}

impl Reclaim {
    pub(super) const fn new() -> Self {
        let resting = Resting { list: None, count: 0, epoch: None };
        Self {
            resting: Mutex::new(resting),
            bytes: AtomicU64::new(0),
            rests: AtomicBool::new(false),
            coming: Mutex::new(None),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// See [`vcpu::GuestMemory::take_back`].
    pub(super) fn take(
        &self,
        (table, recent): (&Table, &Recent),
        gpa: Gpa,
        length: u64,
        hole: Hole,
    ) -> Result<Taken, NotRam> {
        let mut resting = self.resting.lock();
        if resting.epoch.is_some() || resting.count == ENTRIES {
            return Ok(Taken::Full);
        }
        // Without memory for a list or a table the page stays where it is.
        let stays = Ok(Taken::Bytes(PAGE_SIZE));
        let Ok(list) = resting.list() else { return stays };
        let divide =
            |whole: Mapping, parts: Level| frames::split(whole.page, whole.level.order(), parts.order());
        match table.take(gpa, length, hole, divide) {
            Ok(holes::Taken::Page(Mapping { page, level })) => {
                recent.forget(gpa, level);
                FrameTables.write(list, resting.count, page.0 | u64::from(level.order()));
                resting.count += 1;
                self.rests.store(true, Ordering::Relaxed);
                self.bytes.fetch_add(level.bytes(), Ordering::Relaxed);
                Ok(Taken::Bytes(level.bytes()))
            }
            Ok(holes::Taken::Before(bytes)) => Ok(Taken::Bytes(bytes.min(length))),
            Ok(holes::Taken::NotRam) => Err(NotRam { gpa }),
            Err(_) => stays,
        }
    }

    /// See [`vcpu::GuestMemory::settle`].
    #[inline]
    pub(super) fn settle(&self) -> bool {
        !self.rests.load(Ordering::Relaxed) || self.settle_some()
    }

    #[cold]
    fn settle_some(&self) -> bool {
        let mut resting = self.resting.lock();
        match resting.epoch {
            _ if resting.count == 0 => {}
            None => resting.epoch = Some(smp::begin_epoch()),
            Some(epoch) if EPOCHS.has_passed(epoch) => {
                // SAFETY: all CPUs have passed an epoch that began when the pages were out of the table.
                unsafe { resting.free(STEP_PAGES) };
                if resting.count == 0 {
                    resting.epoch = None;
                }
            }
            Some(_) => {}
        }
        if resting.count == 0 {
            self.rests.store(false, Ordering::Relaxed);
        }
        resting.count == 0
    }

    /// See [`vcpu::GuestMemory::let_go`].
    pub(super) fn let_go(&self, table: &Table, gpa: Gpa, length: u64) {
        let _held = self.resting.lock();
        let mut done = 0;
        while done < length {
            let Some(at) = gpa.checked_add(done) else { return };
            done += table.let_go(at);
        }
    }

    /// See [`vcpu::GuestMemory::provide`].
    #[cold]
    pub(super) fn provide(&self, table: &Table, gpa: Gpa, length: u64) -> Result<(), MemoryError> {
        let length = length.clamp(1, STEP_BYTES);
        let Some(end) = gpa.checked_add(length) else { return Ok(()) };
        let mut at = Gpa(gpa.0 & !(PAGE_SIZE - 1));
        while at.0 < end.0 {
            if let Some(hole) = table.hole(at) {
                self.fill(table, at)?;
                if hole == Hole::Free {
                    self.fill_around(table, at);
                }
            }
            at = Gpa(at.0 + PAGE_SIZE);
        }
        Ok(())
    }

    /// What is free around a page that was just filled is likely to be touched next.
    fn fill_around(&self, table: &Table, gpa: Gpa) {
        let block = gpa.0 & !(STEP_BYTES - 1);
        for at in (block..block + STEP_BYTES).step_by(PAGE_SIZE as usize).map(Gpa) {
            if table.hole(at) == Some(Hole::Free) && self.fill(table, at).is_err() {
                return;
            }
        }
    }

    /// See [`vcpu::GuestMemory::bring_back`].
    #[cold]
    pub(super) fn bring_back(
        &self,
        table: &Table,
        gpa: Gpa,
        largest: Level,
    ) -> Result<Option<Gpa>, MemoryError> {
        let mut at = Gpa(gpa.0 & !(PAGE_SIZE - 1));
        if largest >= Level::Page2M && table.is_large_hole(at) && self.fill_large(table, at) {
            return Ok(Some(at));
        }
        let Some(hole) = table.hole(at) else { return Ok(None) };
        self.fill(table, at)?;
        if hole == Hole::Kept {
            return Ok(None);
        }
        for _ in 1..STEP_BYTES / PAGE_SIZE {
            let Some(next) = table.next_free(at) else { return Ok(None) };
            at = next;
            if self.fill(table, at).is_err() {
                return Ok(None);
            }
        }
        Ok(table.next_free(at))
    }

    /// A step of filling 2 MiB with one page. False where there is none.
    fn fill_large(&self, table: &Table, gpa: Gpa) -> bool {
        // Somebody else is at it, or at another one.
        let Some(mut coming) = self.coming.try_lock() else { return true };
        let mut filling = match coming.take() {
            Some(filling) => filling,
            None => match frames::allocate(Level::Page2M.order(), FrameKind::Guest, 0) {
                Some(page) => Filling::new(gpa, page, Level::Page2M),
                None => return false,
            },
        };
        if filling.clear() {
            // Without a table it stays a hole, for pages that are small.
            return self.put(table, filling).is_ok();
        }
        *coming = Some(filling);
        true
    }

    /// Maps a cleared page where there is a hole.
    fn fill(&self, table: &Table, gpa: Gpa) -> Result<(), MemoryError> {
        let page = frames::allocate(0, FrameKind::Guest, 0)
            .ok_or_else(|| MemoryError::OutOfFrames { wanted: PAGE_SIZE, free: frames::free_bytes() })?;
        let mut filling = Filling::new(gpa, page, Level::Page4K);
        while !filling.clear() {}
        self.put(table, filling)
    }

    /// Maps what is cleared.
    fn put(&self, table: &Table, filling: Filling) -> Result<(), MemoryError> {
        let Filling { gpa, page, level, .. } = filling;
        let held = self.resting.lock();
        let filled = table.fill(gpa, page, level);
        drop(held);
        if filled == Ok(true) {
            self.bytes.fetch_sub(level.bytes(), Ordering::Relaxed);
        } else {
            // Another CPU was faster, or there is no memory for a table.
            filling.give_up();
        }
        filled.map(|_| ())
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// No CPU knows the guest's memory any more.
    pub(super) unsafe fn end(&mut self) {
        if let Some(filling) = self.coming.get_mut().take() {
            filling.give_up();
        }
        let resting = self.resting.get_mut();
        // SAFETY: by the caller.
        unsafe { resting.free(ENTRIES) };
        resting.epoch = None;
        if let Some(list) = resting.list.take() {
            FrameTables.free(list);
        }
    }
}
