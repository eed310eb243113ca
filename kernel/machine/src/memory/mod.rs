//! Physical memory and the kernel's address space.
//!
//! | virtual address | what |
//! |---|---|
//! | `0xffff_8000_0000_0000` | direct map: RAM at its physical address, read-write, never executable; modules and boot information read-only; without the kernel's image |
//! | `0xffff_c000_0000_0000` | windows: the screen (write-combining), device registers (uncached), firmware tables (read-only) |
//! | `0xffff_ffff_8020_0000` | the kernel's image: code read-execute, constants read-only, variables read-write |
//!
//! Nothing else is mapped, address 0 least of all; a CPU that is being started has tables of its own for a moment
//! ([`startup`]). Source: Intel SDM vol. 3, "Paging".

// UNSAFETY: builds and loads the kernel's own page tables, and clears frames by address.
#![allow(unsafe_code)]

mod account;
pub(crate) mod aside;
pub(crate) mod buddy;
pub(crate) mod early_window;
pub mod frames;
mod kernel_space;
mod map;
mod page_table;
mod range_set;
mod startup;

use core::arch::asm;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use vcpu::{Hpa, PAGE_SIZE};

pub use self::account::{Account, account};
pub(crate) use self::buddy::MAX_ORDER;
use self::buddy::{FrameTable, MAX_FRAMES};
pub(crate) use self::kernel_space::{enter_on_this_cpu, map_firmware, map_mmio, map_stack};
pub use self::map::LayoutError;
pub use self::page_table::MapError;
pub(crate) use self::page_table::PageFlags;
use self::range_set::{RangeSet, pages_of};
pub(crate) use self::startup::{StartupSpace, startup_space};
use crate::boot_info::BootInfo;
use crate::{bring_up, cpu, screen};

/// Where the direct map starts.
const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where windows start.
const WINDOWS: u64 = 0xffff_c000_0000_0000;
/// Virtual minus physical address of the kernel's image.
const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;

/// Less than this and no guest fits beside the kernel.
const LEAST_FREE_BYTES: u64 = 32 << 20;
/// Physical memory beyond this is left out: the direct map ends where windows start.
const DIRECT_MAP_BYTES: u64 = WINDOWS - DIRECT_MAP;
const FRAME_BYTES: u64 = PAGE_SIZE;

static STARTED: AtomicBool = AtomicBool::new(false);

/// Why memory cannot be brought up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// It is brought up already.
    Twice,
    /// Too little RAM is free.
    TooLittle {
        /// Free bytes.
        free: u64,
    },
    /// What the management domain is to have is not there.
    NoneAside {
        /// Bytes that it is to have.
        wanted: u64,
        /// Free bytes.
        free: u64,
    },
    /// The CPU has no no-execute pages, or firmware switched them off.
    NoNoExecute,
    /// The memory map or the modules contradict what is known.
    Layout(LayoutError),
    /// The kernel's page tables cannot be built.
    Map(MapError),
}

impl From<LayoutError> for StartError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<MapError> for StartError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl StartError {
    /// What the user can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::TooLittle { .. } => "give the machine more memory, or load fewer and smaller modules",
            Self::NoneAside { .. } => {
                "give the management domain less memory, or the machine more below 4 GiB"
            }
            Self::NoNoExecute => {
                "switch on 'Execute Disable' or 'No-Execute Memory Protection' in the firmware's set-up"
            }
            Self::Layout(_) => {
                "start it with GRUB as it comes with the image, or update the firmware; then report this with the memory map above"
            }
            Self::Twice | Self::Map(_) => "report this with the memory map above",
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice => f.write_str("memory is brought up twice"),
            Self::TooLittle { free } => {
                write!(f, "only {} MiB of memory are free, {} are needed", free >> 20, LEAST_FREE_BYTES >> 20)
            }
            Self::NoneAside { wanted, free } => write!(
                f,
                "the management domain is to have {} MiB, but of {} MiB of free memory there are not so many below 4 GiB",
                wanted >> 20,
                free >> 20
            ),
            Self::NoNoExecute => f.write_str("the CPU has no no-execute pages"),
            Self::Layout(error) => error.fmt(f),
            Self::Map(error) => write!(f, "the kernel's page tables cannot be built: {error}"),
        }
    }
}

/// Where a physical address is in the direct map. Only RAM that is in use by nobody else, or shared with
/// care, may be touched there; see the frame's owner.
#[inline]
pub(crate) const fn direct_map(hpa: Hpa) -> *mut u8 {
    (DIRECT_MAP + hpa.0) as *mut u8
}

/// Fills a block of frames with zeros.
///
/// # Safety
///
/// The frames are RAM in the direct map that the caller alone uses, and no Rust reference leads there.
#[inline]
pub(crate) unsafe fn zero_frames(hpa: Hpa, order: u8) {
    // SAFETY: by the caller.
    unsafe { zero_bytes(direct_map(hpa), (FRAME_BYTES << order) as usize) };
}

/// Zeroes memory that others may change meanwhile, or that is a device's. The string instruction is opaque to the compiler.
///
/// # Safety
///
/// `target` is writable for `size` bytes, and no Rust reference leads there.
pub(crate) unsafe fn zero_bytes(target: *mut u8, size: usize) {
    debug_assert!(!target.is_null());
    // SAFETY: by the caller; the kernel runs with the direction flag clear.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {tail:e}",
            "rep stosb",
            tail = in(reg) size & 7,
            inout("rcx") size >> 3 => _,
            inout("rdi") target => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags)
        );
    }
}

/// Builds the kernel's final page tables and switches to them, and the frame table. From then on physical
/// memory is reachable through [`direct_map`] and given out by [`frames`]. So many bytes are set `aside` for the management domain, where it
/// is to be.
pub fn start(boot: &BootInfo, aside: Option<u64>) -> Result<(), StartError> {
    if STARTED.swap(true, Ordering::SeqCst) {
        return Err(StartError::Twice);
    }
    let features = cpu::features();
    if !features.no_execute {
        return Err(StartError::NoNoExecute);
    }
    let mut usable = map::usable(boot.memory(), features.physical_bits);
    map::check(boot, &usable)?;
    if let Some((screen, _)) = screen::mapping() {
        // Should firmware's map call it RAM all the same.
        usable.remove(pages_of(&screen));
    }
    let loaded = map::loaded(boot);
    startup::reserve(&usable, &loaded);
    let mut free = map::free(&usable, &loaded, &boot.image.physical);
    let before = free.bytes();
    if let Some(wanted) = aside
        && !aside::set_aside(wanted, boot, (&usable, &loaded), &mut free)
    {
        return Err(StartError::NoneAside { wanted, free: before });
    }
    if free.bytes() < LEAST_FREE_BYTES {
        return Err(StartError::TooLittle { free: free.bytes() });
    }
    let before = free.bytes();
    // SAFETY: `usable` and `loaded` describe the machine that `boot` proves to be ours; interrupts are off,
    // and `STARTED` lets one call through.
    unsafe { kernel_space::build_and_load(boot, &usable, &loaded, &mut free)? };
    let page_tables = before - free.bytes();
    let table = build_frame_table(&usable, &mut free).ok_or(StartError::TooLittle { free: free.bytes() })?;
    let frame_table = before - page_tables - free.bytes();
    account::note(&boot.image.physical, frame_table, page_tables);
    frames::install(table);
    Ok(())
}

/// Whether all of `range` is memory that neither the kernel's image nor anything the boot loader left lies in.
pub(crate) fn is_free(boot: &BootInfo, range: &Range<u64>) -> bool {
    let usable = map::usable(boot.memory(), cpu::features().physical_bits);
    let mut occupied = map::loaded(boot);
    occupied.add(pages_of(&boot.image.physical));
    usable.contains(range) && !occupied.overlaps(range)
}

/// True where the final page tables are loaded.
pub(crate) fn is_started() -> bool {
    STARTED.load(Ordering::SeqCst)
}

fn build_frame_table(usable: &RangeSet, free: &mut RangeSet) -> Option<FrameTable<'static>> {
    let frames = (usable.bytes() / FRAME_BYTES).min(MAX_FRAMES);
    let bytes = (frames * size_of::<u64>() as u64).next_multiple_of(FRAME_BYTES);
    let at = free.take(bytes, u64::MAX)?;
    // SAFETY: the bytes are RAM in the direct map that was just taken out of the free set, for good; they
    // are page aligned, and any bits are a valid `u64`.
    let entries: &'static mut [u64] =
        unsafe { core::slice::from_raw_parts_mut(direct_map(Hpa(at)).cast::<u64>(), frames as usize) };
    let mut table = bring_up::scrubbing(|| FrameTable::new(entries));
    for range in usable.ranges() {
        table.add_span(range.start / FRAME_BYTES..range.end / FRAME_BYTES);
    }
    for range in free.ranges() {
        table.add_free(range.start / FRAME_BYTES..range.end / FRAME_BYTES);
    }
    Some(table)
}
