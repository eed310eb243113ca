//! The kernel's final page tables: W^X, guard pages below stacks, no identity mapping.

// UNSAFETY: writes page tables through the direct map and loads control registers.
#![allow(unsafe_code)]

use core::ops::Range;
use core::ptr::NonNull;

use spin::Mutex;
use vcpu::{Hpa, PAGE_SIZE};
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr3Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::structures::paging::PhysFrame;

use super::frames::{self, FrameKind};
use super::page_table::{MapError, PageFlags, PageTable, TableFrames};
use super::range_set::{RangeSet, pages_of};
use super::{DIRECT_MAP, IMAGE_OFFSET, StartError, WINDOWS, direct_map, zero_frames};
use crate::boot_info::BootInfo;
use crate::{cpu, registers, screen, stacks};

/// What the entry code's tables map: page tables must lie below until they are in use themselves.
const MAPPED_AT_ENTRY: u64 = 1 << 32;
/// Bytes of address space for windows: far more than all device registers and firmware tables need.
const WINDOW_BYTES: u64 = 1 << 36;
/// Bytes of a large page: the screen has its own, and so its page table entries.
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// Entries of a page table.
const TABLE_ENTRIES: usize = 512;
/// Page tables that [`startup_space`] needs, one of each level.
pub(super) const STARTUP_TABLES: u64 = 4;

/// The kernel's page tables in use, and where the next window goes.
struct KernelSpace {
    table: PageTable<KernelFrames>,
    next_window: u64,
}

static SPACE: Mutex<Option<KernelSpace>> = Mutex::new(None);

/// Frames for tables before there is an allocator: taken from the free memory below 4 GiB.
struct EarlyFrames<'a>(&'a mut RangeSet);

impl TableFrames for EarlyFrames<'_> {
    fn allocate(&mut self) -> Option<Hpa> {
        let frame = Hpa(self.0.take(PAGE_SIZE, MAPPED_AT_ENTRY)?);
        // SAFETY: the frame was free, lies below what the entry code maps, and is nobody else's now.
        unsafe { zero_frames(frame, 0) };
        Some(frame)
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        read_entry(table, index)
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        write_entry(table, index, entry);
    }
}

/// Frames for tables from the allocator.
struct KernelFrames;

impl TableFrames for KernelFrames {
    fn allocate(&mut self) -> Option<Hpa> {
        let frame = frames::allocate(0, FrameKind::PageTable, 0)?;
        // SAFETY: the allocator has just given the frame to this function.
        unsafe { zero_frames(frame, 0) };
        Some(frame)
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        read_entry(table, index)
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        write_entry(table, index, entry);
    }
}

fn entry_pointer(table: Hpa, index: usize) -> *mut u64 {
    direct_map(table).cast::<u64>().wrapping_add(index & 0x1ff)
}

pub(super) fn read_entry(table: Hpa, index: usize) -> u64 {
    // SAFETY: `table` is a frame that one of the `allocate`s of this module and of `early_window` returned, or a
    // table of the entry code's: RAM in the direct map that is used as a table only. The CPU may set bits meanwhile, hence volatile.
    unsafe { entry_pointer(table, index).read_volatile() }
}

pub(super) fn write_entry(table: Hpa, index: usize, entry: u64) {
    // SAFETY: as in `read_entry`.
    unsafe { entry_pointer(table, index).write_volatile(entry) };
}

/// Builds the tables in frames from `free` and loads them.
///
/// # Safety
///
/// 1. `usable` is RAM and `loaded` what the boot loader left there; `free` is RAM that nobody uses.
/// 2. The CPU has no-execute pages.
/// 3. Interrupts are off, and it is called once.
pub(super) unsafe fn build_and_load(
    boot: &BootInfo,
    usable: &RangeSet,
    loaded: &RangeSet,
    free: &mut RangeSet,
) -> Result<(), StartError> {
    let mut table = PageTable::new(EarlyFrames(free), cpu::features().gib_pages)?;
    map_image(&mut table, boot)?;
    map_ram(&mut table, boot, usable, loaded)?;
    let (screen, next_window) = map_screen(&mut table);
    let root = PhysFrame::containing_address(PhysAddr::new(table.root().0));
    // SAFETY: the new tables map the running code, its data and stack as before (`map_image`) and keep the
    // direct map's addresses; condition 2 is `load`'s.
    unsafe { load(root) };
    let table = table.with_frames(|_| KernelFrames);
    *SPACE.lock() = Some(KernelSpace { table, next_window });
    // SAFETY: the tables just loaded map the screen there for good, if they do at all.
    unsafe { screen::moved(screen.map(|address| address as *mut u8)) };
    Ok(())
}

/// Loads page tables and switches on what protects them.
///
/// # Safety
///
/// 1. The tables map the running code, its data and its stack.
/// 2. The CPU has no-execute pages and what [`protections`] takes from the boot CPU's features.
unsafe fn load(root: PhysFrame) {
    // SAFETY: condition 2 allows NXE, which must be on before tables with that bit are used. Loading CR3 flushes
    // what was translated with another IA32_PAT.
    unsafe {
        registers::set_pat();
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
        Cr3::write(root, Cr3Flags::empty());
        Cr4::update(|cr4| cr4.insert(protections()));
    }
}

/// Loads the kernel's page tables on a CPU that is being started, in the place of those that [`startup_space`] made.
/// Nothing happens before there are any.
///
/// # Safety
///
/// The CPU has the boot CPU's features.
pub(crate) unsafe fn enter_on_this_cpu() {
    if let Some(root) = root() {
        // SAFETY: the kernel's tables map all of the kernel, on every CPU; the rest is the caller's promise.
        unsafe { load(PhysFrame::containing_address(PhysAddr::new(root.0))) };
    }
}

fn root() -> Option<Hpa> {
    SPACE.lock().as_ref().map(|space| space.table.root())
}

/// Page tables for a CPU that is being started: the kernel's, and `page` below 1 MiB at its physical address, to be
/// read and executed. They lie in the four frames from `tables` on, below 4 GiB, as a CPU outside 64-bit mode needs
/// them. Gives the address of the root table.
///
/// # Safety
///
/// The frames are RAM in the direct map that nobody else uses.
pub(super) unsafe fn startup_space(page: Hpa, tables: Hpa) -> Option<Hpa> {
    let kernel = root()?;
    let frame = |number: u64| Hpa(tables.0 + number * PAGE_SIZE);
    // SAFETY: by the caller.
    (0..STARTUP_TABLES).for_each(|number| unsafe { zero_frames(frame(number), 0) });
    for upper_half in TABLE_ENTRIES / 2..TABLE_ENTRIES {
        write_entry(frame(0), upper_half, read_entry(kernel, upper_half));
    }
    let next = PageFlags::PRESENT | PageFlags::WRITABLE;
    for level in 0..STARTUP_TABLES - 1 {
        write_entry(frame(level), 0, frame(level + 1).0 | next.bits());
    }
    let slot = (page.0 / PAGE_SIZE) as usize;
    write_entry(frame(STARTUP_TABLES - 1), slot, page.0 | PageFlags::PRESENT.bits());
    Some(frame(0))
}

/// Maps the screen in the first window and returns its address and where the next window goes. A screen that
/// cannot be mapped costs only itself.
fn map_screen<F: TableFrames>(table: &mut PageTable<F>) -> (Option<u64>, u64) {
    let Some((memory, flags)) = screen::mapping() else { return (None, WINDOWS) };
    let pages = pages_of(&memory);
    let bytes = pages.end - pages.start;
    let mapped = pages.end <= cpu::features().reach()
        && bytes <= WINDOW_BYTES / 2
        && table.map(WINDOWS, Hpa(pages.start), bytes, flags).is_ok();
    // What fails half-way leaves its addresses unused.
    let next_window =
        WINDOWS + bytes.min(WINDOW_BYTES / 2).next_multiple_of(LARGE_PAGE_BYTES) + LARGE_PAGE_BYTES;
    (mapped.then(|| WINDOWS + Hpa(memory.start).page_offset()), next_window)
}

/// CR4 bits that this CPU offers.
fn protections() -> Cr4Flags {
    let features = cpu::features();
    let mut flags = Cr4Flags::empty();
    // With it clear a machine check resets the machine instead of being reported.
    flags.set(Cr4Flags::MACHINE_CHECK_EXCEPTION, features.machine_checks);
    flags.set(Cr4Flags::PAGE_GLOBAL, features.global_pages);
    flags.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.smep);
    flags.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    flags.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
    flags
}

/// The kernel's image in 4 KiB pages, without the pages below stacks and without the entry code.
fn map_image<F: TableFrames>(table: &mut PageTable<F>, boot: &BootInfo) -> Result<(), MapError> {
    let image = &boot.image;
    let mut data = RangeSet::new();
    data.add(image.data.clone());
    for guard in stacks::guards() {
        data.remove(guard);
    }
    let fixed = [(&image.text, PageFlags::READ_EXECUTE), (&image.rodata, PageFlags::READ)];
    let variable = data.ranges().iter().map(|range| (range, PageFlags::READ_WRITE));
    for (range, flags) in fixed.into_iter().chain(variable) {
        for page in (range.start..range.end).step_by(PAGE_SIZE as usize) {
            table.map(page, Hpa(page - IMAGE_OFFSET), PAGE_SIZE, flags)?;
        }
    }
    Ok(())
}

/// The direct map.
fn map_ram<F: TableFrames>(
    table: &mut PageTable<F>,
    boot: &BootInfo,
    usable: &RangeSet,
    loaded: &RangeSet,
) -> Result<(), MapError> {
    let mut writable = usable.clone();
    writable.remove(pages_of(&boot.image.physical));
    for range in loaded.ranges() {
        writable.remove(range.clone());
    }
    let mut map = |range: &Range<u64>, flags| {
        table.map(DIRECT_MAP + range.start, Hpa(range.start), range.end - range.start, flags)
    };
    writable.ranges().iter().try_for_each(|range| map(range, PageFlags::READ_WRITE))?;
    loaded.ranges().iter().try_for_each(|range| map(range, PageFlags::READ))
}

/// Maps device registers, uncached, and returns the address of the first byte. They stay mapped.
pub(crate) fn map_mmio(hpa: Hpa, length: u64) -> Result<NonNull<u8>, MapError> {
    map_window(hpa, length, PageFlags::DEVICE)
}

/// Maps a firmware table for reading and returns the address of the first byte. It stays mapped.
pub(crate) fn map_firmware(hpa: Hpa, length: u64) -> Result<NonNull<u8>, MapError> {
    map_window(hpa, length, PageFlags::READ)
}

/// Takes frames for a stack and maps them, between pages that stay unmapped. Gives the virtual addresses. They are
/// never given back.
pub(crate) fn map_stack(bytes: u64) -> Result<Range<u64>, MapError> {
    let order = bytes.div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros() as u8;
    let frames = frames::allocate(order, FrameKind::Stack, 0).ok_or(MapError::OutOfFrames)?;
    let start = map_window(frames, bytes, PageFlags::READ_WRITE)?.as_ptr() as u64;
    Ok(start..start + bytes)
}

fn map_window(hpa: Hpa, length: u64, flags: PageFlags) -> Result<NonNull<u8>, MapError> {
    let bad = MapError::BadRange { address: hpa.0 };
    let end = hpa.0.checked_add(length.max(1)).ok_or(bad)?;
    let pages = pages_of(&(hpa.0..end));
    let bytes = pages.end - pages.start;
    // What the CPU cannot reach would be a fault at the first access.
    if end > cpu::features().reach() {
        return Err(bad);
    }
    let mut space = SPACE.lock();
    let space = space.as_mut().ok_or(bad)?;
    let start = space.next_window;
    if bytes > WINDOW_BYTES || start + bytes > WINDOWS + WINDOW_BYTES {
        return Err(bad);
    }
    // A page between windows stays unmapped. What fails half-way leaves its addresses unused.
    space.next_window = start + bytes + PAGE_SIZE;
    space.table.map(start, Hpa(pages.start), bytes, flags)?;
    NonNull::new((start + hpa.page_offset()) as *mut u8).ok_or(bad)
}
