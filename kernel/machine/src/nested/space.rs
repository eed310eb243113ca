//! A guest's address space in physical frames.

// UNSAFETY: guest RAM and nested tables are reached through the kernel's direct map by raw address.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vcpu::{
    APIC_PAGE, AddressSpace, Gpa, GuestMemory, Hpa, MemoryError, NotRam, PAGE_SIZE, Shrink, WordSize,
};

use super::table::{EntryFormat, GPA_LIMIT, Level, Mapping, NestedTable, TableMemory};
use super::walkers::{Walker, Walkers};
use crate::limbo::Epoch;
use crate::memory::{self, frames, frames::FrameKind};
use crate::smp::{self, EPOCHS};

/// Nested tables in physical frames.
#[derive(Debug)]
struct FrameTables;

impl TableMemory for FrameTables {
    fn allocate(&mut self) -> Result<Hpa, MemoryError> {
        let table = frames::allocate(0, FrameKind::NestedTable, 0)
            .ok_or_else(|| MemoryError::OutOfFrames { wanted: PAGE_SIZE, free: frames::free_bytes() })?;
        // SAFETY: the allocator has just given the frame to this function.
        unsafe { memory::zero_frames(table, 0) };
        Ok(table)
    }

    fn free(&mut self, table: Hpa) {
        // SAFETY: `NestedTable` gives back only tables that nothing leads to any more; `GuestSpace` takes its
        // table down only when no vCPU can walk it.
        unsafe { frames::free(table, 0) };
    }

    #[inline]
    fn read(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: `table` is a frame that `allocate` returned, so the direct map covers it and nobody else
        // uses it as other than a table; `index` is below 512. The CPU may set accessed and dirty bits
        // meanwhile, hence the atomic.
        unsafe {
            AtomicU64::from_ptr(memory::direct_map(table).cast::<u64>().add(index & 511))
                .load(Ordering::Relaxed)
        }
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: as in `read`.
        unsafe {
            AtomicU64::from_ptr(memory::direct_map(table).cast::<u64>().add(index & 511))
                .store(entry, Ordering::Relaxed);
        }
    }
}

/// A guest-physical address space: RAM in frames that belong to it, mapped by nested tables of format `F`.
/// Dropping it returns all of its frames, unless a vCPU that runs in it still exists: then they are lost,
/// because that vCPU can reach them.
#[derive(Debug)]
pub struct GuestSpace<F: EntryFormat> {
    table: NestedTable<F, FrameTables>,
    largest: Level,
    walkers: Walkers,
    /// The page that the space is growing by.
    filling: Option<Filling>,
    /// It shrinks since this epoch.
    retired: Option<Epoch>,
    /// The page at [`APIC_PAGE`] is there, which is not RAM.
    has_apic_page: bool,
}

/// Bytes that are cleared in one step.
const STEP_BYTES: u64 = 64 << 10;
/// Pages that are given back in one step.
const STEP_PAGES: usize = 128;

impl<F: EntryFormat> GuestSpace<F> {
    /// An empty address space, whose pages are at most `largest`.
    pub(crate) fn new(largest: Level) -> Result<Self, MemoryError> {
        let walkers = Walkers::new()?;
        let table = NestedTable::new(FrameTables)?;
        Ok(Self { table, largest, walkers, filling: None, retired: None, has_apic_page: false })
    }

    /// The root table's address for a vCPU, which keeps what comes with it as long as it can run or has
    /// translations.
    pub(crate) fn enter(&self) -> Option<(Hpa, Walker)> {
        Some((self.root(), self.walkers.add()?))
    }

    /// The root table's address.
    const fn root(&self) -> Hpa {
        self.table.root()
    }

    /// The page of RAM around an address.
    #[inline]
    fn ram(&self, gpa: Gpa) -> Option<Mapping> {
        if self.has_apic_page && gpa.0 & !(PAGE_SIZE - 1) == APIC_PAGE.0 {
            return None;
        }
        self.table.lookup(gpa)
    }

    /// The host address of a guest byte, and how many bytes follow it in its page.
    #[inline]
    fn locate(&self, gpa: Gpa) -> Result<(*mut u8, u64), NotRam> {
        let Mapping { page, level } = self.ram(gpa).ok_or(NotRam { gpa })?;
        let offset = gpa.0 & (level.bytes() - 1);
        let start = memory::direct_map(page);
        Ok((start.wrapping_add(offset as usize), level.bytes() - offset))
    }

    /// Walks a range in pieces that lie in one page each.
    #[inline]
    fn pieces(
        &self,
        gpa: Gpa,
        length: u64,
        mut piece: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), NotRam> {
        let mut done = 0;
        while done < length {
            let at = gpa.checked_add(done).ok_or(NotRam { gpa })?;
            let (host, room) = self.locate(at)?;
            let size = room.min(length - done);
            piece(host, done as usize, size as usize);
            done += size;
        }
        Ok(())
    }

    /// Takes a page for `gpa`, the largest that fits and is free. It is dirty.
    fn begin_page(&self, gpa: Gpa, length: u64) -> Result<Filling, MemoryError> {
        let fits = |level: &Level| {
            *level <= self.largest && length >= level.bytes() && gpa.0 & (level.bytes() - 1) == 0
        };
        let mut pages = Level::DESCENDING.into_iter().filter(fits).filter_map(|level| {
            let page = frames::allocate(level.order(), FrameKind::Guest, 0)?;
            Some(Filling { gpa, page, level, cleared: 0 })
        });
        pages.next().ok_or_else(|| MemoryError::OutOfFrames { wanted: length, free: frames::free_bytes() })
    }
}

/// A page on its way into the guest: its frames are nobody else's, and it is not mapped.
#[derive(Clone, Copy, Debug)]
struct Filling {
    gpa: Gpa,
    page: Hpa,
    level: Level,
    /// Bytes that are zero.
    cleared: u64,
}

impl Filling {
    /// Clears some more of it; true when all is zero.
    fn clear(&mut self) -> bool {
        let size = STEP_BYTES.min(self.level.bytes() - self.cleared);
        let start = memory::direct_map(Hpa(self.page.0 + self.cleared));
        // SAFETY: the frames are this value's, and the bytes lie in them.
        unsafe { clear(start, size as usize) };
        self.cleared += size;
        self.cleared == self.level.bytes()
    }

    /// Gives the frames back.
    fn give_up(self) {
        // SAFETY: the page is not mapped, and nobody else knows of it.
        unsafe { frames::free(self.page, self.level.order()) };
    }
}

impl<F: EntryFormat> Drop for GuestSpace<F> {
    fn drop(&mut self) {
        if let Some(filling) = self.filling.take() {
            filling.give_up();
        }
        if !self.walkers.none() {
            log::error!("an address space ends before its vCPUs: its memory is lost");
            self.walkers.abandon();
            return;
        }
        self.table.clear(|mapping| {
            // SAFETY: no vCPU walks the tables, and the page is out of them.
            unsafe { frames::free(mapping.page, mapping.level.order()) };
        });
    }
}

impl<F: EntryFormat> GuestMemory for GuestSpace<F> {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), NotRam> {
        let target = buffer.as_mut_ptr();
        self.pieces(gpa, buffer.len() as u64, |host, done, size| {
            // SAFETY: `host` has `size` bytes of this guest's RAM under the direct map; `target` is the
            // buffer, and `done + size` never passes its length. They cannot overlap: guest frames are
            // no kernel memory.
            unsafe { copy(host, target.add(done), size) };
        })
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), NotRam> {
        let source = bytes.as_ptr();
        self.pieces(gpa, bytes.len() as u64, |host, done, size| {
            // SAFETY: as in `read`, the other way round.
            unsafe { copy(source.add(done), host, size) };
        })
    }

    fn zero(&self, gpa: Gpa, length: u64) -> Result<(), NotRam> {
        self.pieces(gpa, length, |host, _, size| {
            // SAFETY: `host` has `size` bytes of this guest's RAM under the direct map.
            unsafe { clear(host, size) };
        })
    }

    #[inline]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !3))?;
        // SAFETY: `host` is aligned to 4 and lies in this guest's RAM; the guest may write it meanwhile,
        // hence the atomic.
        Ok(unsafe { AtomicU32::from_ptr(host.cast()) }.load(Ordering::Relaxed))
    }

    #[inline]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !7))?;
        // SAFETY: `host` is aligned to 8 and lies in this guest's RAM; see `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(host.cast()) }.load(Ordering::Relaxed))
    }

    #[inline]
    fn store_u32(&self, gpa: Gpa, value: u32) -> Result<(), NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !3))?;
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU32::from_ptr(host.cast()) }.store(value, Ordering::Release);
        Ok(())
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: WordSize,
        current: u64,
        new: u64,
    ) -> Result<Result<(), u64>, NotRam> {
        Ok(match size {
            WordSize::Four => {
                let (host, _) = self.locate(Gpa(gpa.0 & !3))?;
                // SAFETY: as in `load_u32`.
                unsafe { AtomicU32::from_ptr(host.cast()) }
                    .compare_exchange(current as u32, new as u32, Ordering::SeqCst, Ordering::SeqCst)
                    .map(|_| ())
                    .map_err(u64::from)
            }
            WordSize::Eight => {
                let (host, _) = self.locate(Gpa(gpa.0 & !7))?;
                // SAFETY: as in `load_u64`.
                unsafe { AtomicU64::from_ptr(host.cast()) }
                    .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
                    .map(|_| ())
            }
        })
    }

    #[inline]
    fn is_ram(&self, gpa: Gpa) -> bool {
        self.ram(gpa).is_some()
    }
}

impl<F: EntryFormat> AddressSpace for GuestSpace<F> {
    fn grow(&mut self, gpa: Gpa, length: u64) -> Result<u64, MemoryError> {
        let bad = MemoryError::BadRange { gpa, length };
        let end = gpa.checked_add(length).ok_or(bad)?;
        if length == 0 || (gpa.0 | length) & (PAGE_SIZE - 1) != 0 || end.0 > GPA_LIMIT {
            return Err(bad);
        }
        let mut filling = match self.filling.take() {
            Some(filling) if filling.gpa == gpa && filling.level.bytes() <= length => filling,
            Some(other) => {
                other.give_up();
                return Err(bad);
            }
            None => self.begin_page(gpa, length)?,
        };
        if !filling.clear() {
            self.filling = Some(filling);
            return Ok(0);
        }
        let Filling { page, level, .. } = filling;
        self.table.map(gpa, page, level).inspect_err(|_| filling.give_up())?;
        Ok(level.bytes())
    }

    fn add_apic_page(&mut self) -> Result<(), MemoryError> {
        let page = frames::allocate(0, FrameKind::Guest, 0)
            .ok_or_else(|| MemoryError::OutOfFrames { wanted: PAGE_SIZE, free: frames::free_bytes() })?;
        let mut filling = Filling { gpa: APIC_PAGE, page, level: Level::Page4K, cleared: 0 };
        while !filling.clear() {}
        self.table.map(APIC_PAGE, page, Level::Page4K).inspect_err(|_| filling.give_up())?;
        self.has_apic_page = true;
        Ok(())
    }

    fn shrink(&mut self) -> Shrink {
        if let Some(filling) = self.filling.take() {
            filling.give_up();
            return Shrink::More;
        }
        if !self.walkers.none() {
            return Shrink::InUse;
        }
        let Some(epoch) = self.retired else {
            self.retired = Some(smp::begin_epoch());
            return Shrink::Waiting;
        };
        if !EPOCHS.has_passed(epoch) {
            return Shrink::Waiting;
        }
        let empty = self.table.clear_some(STEP_PAGES, |mapping| {
            // SAFETY: no vCPU walks the tables, no CPU has a translation left from when one did, and the page is out
            // of the tables.
            unsafe { frames::free(mapping.page, mapping.level.order()) };
        });
        if empty { Shrink::Done } else { Shrink::More }
    }

    fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        let Mapping { page, level } = self.table.lookup(gpa)?;
        Some(Hpa(page.0 + (gpa.0 & (level.bytes() - 1))))
    }
}

/// Copies memory that a guest may change meanwhile. The string instruction is opaque to the compiler, so
/// no reference to the memory is ever assumed stable.
///
/// # Safety
/// 1. `source` is readable and `target` writable for `size` bytes.
/// 2. They do not overlap.
#[inline]
unsafe fn copy(source: *const u8, target: *mut u8, size: usize) {
    // SAFETY: by 1 and 2 of the caller; the kernel runs with the direction flag clear.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {tail:e}",
            "rep movsb",
            tail = in(reg) size & 7,
            inout("rcx") size >> 3 => _,
            inout("rsi") source => _,
            inout("rdi") target => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Zeroes memory that a guest may change meanwhile.
///
/// # Safety
/// `target` is writable for `size` bytes.
unsafe fn clear(target: *mut u8, size: usize) {
    debug_assert!(!ptr::eq(target, ptr::null()));
    // SAFETY: by the caller; the kernel runs with the direction flag clear.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {tail:e}",
            "rep stosb",
            tail = in(reg) size & 7,
            inout("rcx") size >> 3 => _,
            inout("rdi") target => _,
            in("rax") 0u64,
            options(nostack, preserves_flags)
        );
    }
}
