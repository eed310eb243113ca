//! The heap: for what bring-up and the making of VMs take, never for what an exit does. It begins small and grows by regions of
//! frames, one for a request that finds no room; a region of which nothing is in use goes back. What is large has frames of its own.

// UNSAFETY: a global allocator hands out raw memory.
#![allow(unsafe_code)]

mod regions;

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;
use vcpu::{Hpa, PAGE_SIZE};

use self::regions::Regions;
use crate::cpu;
use crate::fault::{self, Fault};
use crate::memory::MAX_ORDER;
use crate::memory::direct_map;
use crate::memory::frames::{self, FrameKind};

/// A region's size: 2^6 frames are 256 KiB.
const REGION_ORDER: u8 = 6;
/// After so many regions the next ones are twice as large, so that a large machine has room for many VMs.
const REGIONS_OF_A_SIZE: usize = regions::MAX_REGIONS / 4;
/// The smallest region: it has room for each request that has no frames of its own.
const LEAST_REGION_ORDER: u8 = 5;

/// Bytes from which on a request has frames of its own.
const LARGE_BYTES: usize = 64 << 10;

/// What requests are rounded up to.
const SMALLEST_BYTES: usize = 16;

/// A heap behind a lock.
struct LockedHeap(Mutex<Regions>);

// It serves the kernel only; on the host, tests use the system's.
#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Regions::new()));

static EXHAUSTED: AtomicBool = AtomicBool::new(false);

/// The frames for the heap are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = PAGE_SIZE << LEAST_REGION_ORDER;
        write!(f, "there are no {} KiB of memory together for the kernel's heap", bytes >> 10)
    }
}

/// Gives the heap its first memory. Later calls do nothing.
pub fn start() -> Result<(), NoMemory> {
    if HEAP.0.lock().len() == 0 && !grow() {
        return Err(NoMemory);
    }
    Ok(())
}

/// Adds a region; a smaller one where there is none of the size that it should have. False where there is no memory, or where there
/// are as many regions as there can be.
#[cold]
fn grow() -> bool {
    let wanted = REGION_ORDER + (HEAP.0.lock().len() / REGIONS_OF_A_SIZE) as u8;
    let mut orders = (LEAST_REGION_ORDER..=wanted).rev();
    let Some((region, order)) =
        orders.find_map(|order| Some((frames::allocate(order, FrameKind::Heap, 0)?, order)))
    else {
        return false;
    };
    // SAFETY: the block is the heap's alone and lies in the direct map.
    let added = unsafe { HEAP.0.lock().add(direct_map(region), (PAGE_SIZE << order) as usize) };
    if !added {
        // SAFETY: nobody has been told of it.
        unsafe { frames::free(region, order) };
    }
    added
}

/// Notes that the heap had no room for a request, so that a panic that comes of it can say so.
#[cold]
fn exhausted() -> *mut u8 {
    EXHAUSTED.store(true, Ordering::Relaxed);
    ptr::null_mut()
}

/// True once the heap had no room for a request.
pub(crate) fn was_exhausted() -> bool {
    EXHAUSTED.load(Ordering::Relaxed)
}

/// The frames of a request that has its own.
fn frames_of(layout: Layout) -> Option<u64> {
    let has_own = layout.size() >= LARGE_BYTES && layout.align() as u64 <= PAGE_SIZE;
    has_own.then(|| (layout.size() as u64).div_ceil(PAGE_SIZE))
}

/// The order of the smallest block with so many frames.
fn order_of(count: u64) -> u8 {
    count.next_power_of_two().trailing_zeros() as u8
}

/// Frames beside each other. What a block has more goes back at once.
fn allocate_frames(count: u64) -> *mut u8 {
    let order = order_of(count);
    let Some(block) = (order <= MAX_ORDER).then(|| frames::allocate(order, FrameKind::Heap, 0)).flatten()
    else {
        return exhausted();
    };
    if !count.is_power_of_two() {
        frames::split(block, order, 0);
        // SAFETY: nobody has been told of these.
        unsafe { free_each(block, count, 1 << order) };
    }
    direct_map(block)
}

/// Gives back what [`allocate_frames`] returned.
///
/// # Safety
/// Nobody uses it any more.
unsafe fn free_frames(pointer: *mut u8, count: u64) {
    let block = Hpa(pointer as u64 - direct_map(Hpa(0)) as u64);
    // SAFETY: by the caller.
    unsafe {
        if count.is_power_of_two() {
            frames::free(block, order_of(count));
        } else {
            free_each(block, 0, count);
        }
    }
}

/// Gives back the frames of a block from one on and before another, each by itself.
///
/// # Safety
/// Nobody uses them any more.
unsafe fn free_each(block: Hpa, from: u64, to: u64) {
    for frame in from..to {
        // SAFETY: by the caller.
        unsafe { frames::free(Hpa(block.0 + frame * PAGE_SIZE), 0) };
    }
}

/// Bytes in use that have no frames of their own.
pub fn used_bytes() -> usize {
    HEAP.0.lock().used()
}

/// Bytes that a request takes.
fn bytes_of(layout: Layout) -> u64 {
    frames_of(layout).map_or(layout.size().next_multiple_of(SMALLEST_BYTES) as u64, |count| count * PAGE_SIZE)
}

fn allocate(layout: Layout) -> *mut u8 {
    if let Some(count) = frames_of(layout) {
        return allocate_frames(count);
    }
    let found = HEAP.0.lock().allocate(layout);
    // Another CPU may take what was added, but not for ever.
    let found = found.or_else(|| grow().then(|| HEAP.0.lock().allocate(layout)).flatten());
    found.map_or_else(exhausted, NonNull::as_ptr)
}

// SAFETY: `Regions` keeps what it has handed out apart, and the lock serialises.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fault::is(Fault::HeapExhausted) {
            return exhausted();
        }
        let pointer = allocate(layout);
        if !pointer.is_null() {
            cpu::count_taken(bytes_of(layout));
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        cpu::count_taken(bytes_of(layout).wrapping_neg());
        if let Some(count) = frames_of(layout) {
            // SAFETY: the caller got the pointer from `alloc` with this layout, and is done with it.
            unsafe { free_frames(pointer, count) };
        } else if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got the pointer from `alloc` with this layout.
            let unused = unsafe { self.0.lock().deallocate(pointer, layout) };
            if let Some(unused) = unused {
                // SAFETY: it came from `grow`, and nothing of it is in use.
                unsafe { free_frames(unused.start, unused.bytes as u64 / PAGE_SIZE) };
            }
        }
    }
}
