//! A guest's address space in physical frames.

// UNSAFETY: guest RAM and nested tables are reached through the kernel's direct map by raw address.
#![allow(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use vcpu::{
    APIC_PAGE, AddressSpace, CopyError, Gpa, GuestMemory, Hole, Hpa, MemoryError, NotRam, PAGE_SIZE, Shrink,
    Taken, WordSize,
};

use super::passed_on;
use super::pieces::{Filling, copy};
use super::recent::{PART, Recent};
use super::reclaim::Reclaim;
use super::table::{Format, GPA_LIMIT, Kind, Level, Mapping, NestedTable, TableMemory};
use super::walkers::{Walker, Walkers};
use crate::limbo::Epoch;
use crate::memory::{self, aside, frames, frames::Block, frames::FrameKind};
use crate::smp::{self, EPOCHS};

/// Nested tables in physical frames.
#[derive(Debug)]
pub(super) struct FrameTables;

impl TableMemory for FrameTables {
    fn allocate(&self) -> Result<Hpa, MemoryError> {
        let table = frames::allocate(0, FrameKind::NestedTable, 0)
            .ok_or_else(|| MemoryError::OutOfFrames { wanted: PAGE_SIZE, free: frames::free_bytes() })?;
        // SAFETY: the allocator has just given the frame to this function.
        unsafe { memory::zero_frames(table, 0) };
        Ok(table)
    }

    fn free(&self, table: Hpa) {
        // SAFETY: `NestedTable` gives back only tables that nothing leads to any more; `GuestSpace` takes its
        // table down only when no vCPU can walk it.
        unsafe { frames::free(table, 0) };
    }

    #[inline(always)]
    fn read(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: `table` is a frame that `allocate` returned, so the direct map covers it and nobody else
        // uses it as other than a table; `index` is below 512. The CPU may set accessed and dirty bits
        // meanwhile, hence the atomic.
        unsafe {
            AtomicU64::from_ptr(memory::direct_map(table).cast::<u64>().add(index & 511))
                .load(Ordering::Acquire)
        }
    }

    fn write(&self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: as in `read`.
        unsafe {
            AtomicU64::from_ptr(memory::direct_map(table).cast::<u64>().add(index & 511))
                .store(entry, Ordering::Release);
        }
    }
}

/// A guest-physical address space: RAM in frames that belong to it, mapped by nested tables.
/// Dropping it returns all of its frames, unless a vCPU that runs in it still exists: then they are lost,
/// because that vCPU can reach them.
#[derive(Debug)]
pub struct GuestSpace {
    table: NestedTable<FrameTables>,
    largest: Level,
    walkers: Walkers,
    /// The page that the space is growing by.
    filling: Option<Filling>,
    /// It shrinks since this epoch.
    retired: Option<Epoch>,
    /// The page at [`APIC_PAGE`] is there, which is not RAM.
    has_apic_page: bool,
    reclaim: Reclaim,
    recent: Recent,
    /// Held while device memory is mapped.
    devices: Mutex<()>,
    /// The map of ports that exit, where it is another than all guests'.
    ports: Option<Block>,
}

/// Pages that are given back in one step.
pub(super) const STEP_PAGES: usize = 64;

impl GuestSpace {
    /// An empty address space, whose tables are of that format and whose pages are at most `largest`.
    pub(crate) fn new(format: Format, largest: Level) -> Result<Self, MemoryError> {
        let walkers = Walkers::new()?;
        let table = NestedTable::new(format, FrameTables)?;
        Ok(Self {
            table,
            largest,
            walkers,
            filling: None,
            retired: None,
            has_apic_page: false,
            reclaim: Reclaim::new(),
            recent: Recent::new(),
            devices: Mutex::new(()),
            ports: None,
        })
    }

    /// The root table's address for a vCPU, which keeps what comes with it as long as it can run or has
    /// translations.
    pub(crate) fn enter(&self) -> Option<(Hpa, Walker)> {
        Some((self.root(), self.walkers.add(self.ports.as_ref().map(Block::start))?))
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
        self.recent.look_up(gpa, || self.table.lookup(gpa))
    }

    /// The page at an address that was taken back, or is none.
    #[cold]
    fn bring(&self, gpa: Gpa) -> Result<Mapping, NotRam> {
        self.provide(gpa, 1).map_err(|_| NotRam { gpa })?;
        self.ram(gpa).ok_or(NotRam { gpa })
    }

    /// Whether the page at an address was taken back.
    #[cold]
    fn is_hole(&self, gpa: Gpa) -> bool {
        self.reclaim.bytes() != 0 && self.table.hole(gpa).is_some()
    }

    /// The host address of a guest byte, and how many bytes follow it in its page.
    #[inline(always)]
    fn locate(&self, gpa: Gpa) -> Result<(*mut u8, u64), NotRam> {
        match self.recent.find(gpa) {
            Some(host) => Ok((memory::direct_map(host), PART - (gpa.0 & (PART - 1)))),
            None => self.find(gpa),
        }
    }

    #[cold]
    fn find(&self, gpa: Gpa) -> Result<(*mut u8, u64), NotRam> {
        let Mapping { page, level } = match self.ram(gpa) {
            Some(mapping) => mapping,
            None => self.bring(gpa)?,
        };
        let offset = gpa.0 & (level.bytes() - 1);
        let start = memory::direct_map(page);
        Ok((start.wrapping_add(offset as usize), level.bytes() - offset))
    }

    /// Walks a range in pieces that lie in one page each.
    #[cold]
    #[inline(never)]
    fn pieces(
        &self,
        gpa: Gpa,
        length: u64,
        piece: &mut dyn FnMut(*mut u8, usize, usize),
    ) -> Result<(), NotRam> {
        let mut done = 0;
        while done < length {
            let at = gpa.checked_add(done).ok_or(NotRam { gpa })?;
            let (host, room) = self.locate(at)?;
            if room >= length - done {
                piece(host, done as usize, (length - done) as usize);
                break;
            }
            piece(host, done as usize, room as usize);
            done += room;
        }
        Ok(())
    }

    /// Takes a page for `gpa`, the largest that fits and is free. It is dirty.
    fn begin_page(&self, gpa: Gpa, length: u64) -> Result<Filling, MemoryError> {
        let take = |level: Level| frames::allocate(level.order(), FrameKind::Guest, 0);
        largest_page(gpa, length, self.largest, take)
            .ok_or_else(|| MemoryError::OutOfFrames { wanted: length, free: frames::free_bytes() })
    }
}

/// The largest page for an address that fits into `length` bytes and that `take` has.
pub(super) fn largest_page(
    gpa: Gpa,
    length: u64,
    largest: Level,
    take: impl Fn(Level) -> Option<Hpa>,
) -> Option<Filling> {
    let fits =
        |level: &Level| *level <= largest && length >= level.bytes() && gpa.0 & (level.bytes() - 1) == 0;
    let mut levels = Level::DESCENDING.into_iter().filter(fits);
    levels.find_map(|level| Some(Filling::new(gpa, take(level)?, level)))
}

impl Drop for GuestSpace {
    fn drop(&mut self) {
        if let Some(filling) = self.filling.take() {
            filling.give_up();
        }
        if !self.walkers.none() {
            log::error!("an address space ends before its vCPUs: its memory is lost");
            self.walkers.abandon();
            self.ports.take().map(Block::keep);
            return;
        }
        // SAFETY: no vCPU walks the tables any more.
        unsafe { self.reclaim.end() };
        self.table.clear(|mapping| {
            // SAFETY: no vCPU walks the tables, and the page is out of them.
            unsafe { frames::free(mapping.page, mapping.level.order()) };
        });
    }
}

impl GuestMemory for GuestSpace {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), NotRam> {
        let (target, length) = (buffer.as_mut_ptr(), buffer.len());
        match self.locate(gpa) {
            Ok((host, room)) if room >= length as u64 => {
                // SAFETY: `host` has `length` bytes of this guest's RAM under the direct map; `target` is the
                // buffer. They cannot overlap: guest frames are no kernel memory.
                unsafe { copy(host, target, length) };
                Ok(())
            }
            _ => self.pieces(gpa, length as u64, &mut |host, done, size| {
                // SAFETY: as above, and `done + size` never passes the buffer's length.
                unsafe { copy(host, target.add(done), size) };
            }),
        }
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), NotRam> {
        let (source, length) = (bytes.as_ptr(), bytes.len());
        match self.locate(gpa) {
            Ok((host, room)) if room >= length as u64 => {
                // SAFETY: as in `read`, the other way round.
                unsafe { copy(source, host, length) };
                Ok(())
            }
            _ => self.pieces(gpa, length as u64, &mut |host, done, size| {
                // SAFETY: as above, and `done + size` never passes the bytes' length.
                unsafe { copy(source.add(done), host, size) };
            }),
        }
    }

    fn copy_from(&self, gpa: Gpa, other: &Self, from: Gpa, length: u32) -> Result<(), CopyError> {
        let (mut done, length) = (0, u64::from(length));
        while done < length {
            let at = |start: Gpa| start.checked_add(done).ok_or(NotRam { gpa: start });
            let (source, source_room) =
                at(from).and_then(|from| other.locate(from)).map_err(CopyError::Source)?;
            let (target, room) = at(gpa).and_then(|gpa| self.locate(gpa)).map_err(CopyError::Target)?;
            let size = room.min(source_room).min(length - done);
            // SAFETY: both have `size` bytes of guest RAM under the direct map.
            unsafe { copy(source, target, size as usize) };
            done += size;
        }
        Ok(())
    }

    fn zero(&self, gpa: Gpa, length: u64) -> Result<(), NotRam> {
        let mut done = 0;
        while done < length {
            let at = gpa.checked_add(done).ok_or(NotRam { gpa })?;
            if self.ram(at).is_none() && self.is_hole(at) {
                // It will be zero when it is touched.
                done += PAGE_SIZE - at.page_offset();
                continue;
            }
            let (host, room) = self.locate(at)?;
            let size = room.min(length - done);
            // SAFETY: `host` has `size` bytes of this guest's RAM under the direct map.
            unsafe { memory::zero_bytes(host, size as usize) };
            done += size;
        }
        Ok(())
    }

    #[inline(always)]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !3))?;
        // SAFETY: `host` is aligned to 4 and lies in this guest's RAM; the guest may write it meanwhile,
        // hence the atomic.
        Ok(unsafe { AtomicU32::from_ptr(host.cast()) }.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !7))?;
        // SAFETY: `host` is aligned to 8 and lies in this guest's RAM; see `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(host.cast()) }.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn load_pair(&self, gpa: Gpa) -> Result<[u64; 2], NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !15))?;
        let host = host.cast::<u64>();
        // SAFETY: `host` is aligned to 16 and its page has both words; see `load_u32`.
        let [first, second] = unsafe { [AtomicU64::from_ptr(host), AtomicU64::from_ptr(host.add(1))] };
        Ok([first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)])
    }

    #[inline(always)]
    fn store_u32(&self, gpa: Gpa, value: u32) -> Result<(), NotRam> {
        let (host, _) = self.locate(Gpa(gpa.0 & !3))?;
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU32::from_ptr(host.cast()) }.store(value, Ordering::Release);
        Ok(())
    }

    // A call of it for each frame would cost a quarter of what it does.
    #[inline(always)]
    fn store_two_u32(&self, gpa: Gpa, [first, second]: [u32; 2]) -> Result<(), NotRam> {
        let gpa = Gpa(gpa.0 & !3);
        let (host, room) = self.locate(gpa)?;
        if room < 8 {
            self.store_u32(gpa, first)?;
            return self.store_u32(gpa.checked_add(4).ok_or(NotRam { gpa })?, second);
        }
        let host = host.cast::<u32>();
        // SAFETY: `host` is aligned to 4 and its page has both words; see `load_u32`.
        let words = unsafe { [AtomicU32::from_ptr(host), AtomicU32::from_ptr(host.add(1))] };
        words[0].store(first, Ordering::Release);
        words[1].store(second, Ordering::Release);
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
        self.ram(gpa).is_some() || self.is_hole(gpa)
    }

    fn take_back(&self, gpa: Gpa, length: u64, hole: Hole) -> Result<Taken, NotRam> {
        let page = Gpa(gpa.0 & !(PAGE_SIZE - 1));
        if self.has_apic_page && page == APIC_PAGE {
            return Err(NotRam { gpa });
        }
        // So a large page that begins there ends before the one of the local APIC.
        self.reclaim.take((&self.table, &self.recent), page, length.max(PAGE_SIZE), hole)
    }

    fn settle(&self) -> bool {
        self.reclaim.settle()
    }

    fn let_go(&self, gpa: Gpa, length: u64) {
        self.reclaim.let_go(&self.table, gpa, length);
    }

    #[inline]
    fn provide(&self, gpa: Gpa, length: u64) -> Result<(), MemoryError> {
        if self.reclaim.bytes() == 0 { Ok(()) } else { self.reclaim.provide(&self.table, gpa, length) }
    }

    fn bring_back(&self, gpa: Gpa) -> Result<Option<Gpa>, MemoryError> {
        self.reclaim.bring_back(&self.table, gpa, self.largest)
    }

    #[inline]
    fn taken_back(&self) -> u64 {
        self.reclaim.bytes()
    }
}

impl AddressSpace for GuestSpace {
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

    fn coming(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.level.bytes())
    }

    fn adopt(&mut self, start: Hpa, length: u64) -> Result<(), MemoryError> {
        let bad = MemoryError::BadRange { gpa: Gpa(start.0), length };
        let range = start.0..start.0.checked_add(length).ok_or(bad)?;
        if (range.start | range.end) & (PAGE_SIZE - 1) != 0 || !aside::is_own(&range) {
            return Err(bad);
        }
        let mut at = range.start;
        while at < range.end {
            let fits = |level: &Level| {
                *level <= self.largest && at & (level.bytes() - 1) == 0 && range.end - at >= level.bytes()
            };
            let level = Level::DESCENDING.into_iter().find(fits).unwrap_or(Level::Page4K);
            self.table.map_page(Gpa(at), Hpa(at), level, Kind::Adopted)?;
            at += level.bytes();
        }
        Ok(())
    }

    fn pass_ports(&mut self, passes: &mut dyn FnMut(u16) -> bool) -> Result<(), MemoryError> {
        self.ports = Some(passed_on::port_map(passes)?);
        Ok(())
    }

    fn map_device(&self, gpa: Gpa, clear: Range<u64>) -> Result<bool, MemoryError> {
        passed_on::map(&self.table, &self.devices, gpa, &clear, self.largest)
    }

    fn unmap_device(&self, range: Range<u64>) {
        passed_on::unmap(&self.table, &self.devices, &range);
    }

    fn add_apic_page(&mut self) -> Result<(), MemoryError> {
        let page = frames::allocate(0, FrameKind::Guest, 0)
            .ok_or_else(|| MemoryError::OutOfFrames { wanted: PAGE_SIZE, free: frames::free_bytes() })?;
        let mut filling = Filling::new(APIC_PAGE, page, Level::Page4K);
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
        self.recent.forget(Gpa(0), Level::Page1G);
        // SAFETY: no CPU has a translation left.
        unsafe { self.reclaim.end() };
        let empty = self.table.clear_some(STEP_PAGES, |mapping| {
            // SAFETY: no vCPU walks the tables, no CPU has a translation left from when one did, and the page is out
            // of the tables.
            unsafe { frames::free(mapping.page, mapping.level.order()) };
        });
        if empty { Shrink::Done } else { Shrink::More }
    }

    fn table_bytes(&self) -> u64 {
        self.table.tables() * PAGE_SIZE
    }

    fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        let Mapping { page, level } = self.table.lookup(gpa)?;
        Some(Hpa(page.0 + (gpa.0 & (level.bytes() - 1))))
    }
}
