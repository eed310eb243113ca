//! The heap of bring-up: a fixed region that never grows, for what is small. What is large, such as what a network's port keeps, has frames of its own, so
//! that a large machine has room for many. What runs later allocates from its own pools.

// UNSAFETY: a global allocator hands out raw memory.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use linked_list_allocator::Heap;
use spin::Mutex;
use vcpu::{Hpa, PAGE_SIZE};

use crate::fault::{self, Fault};
use crate::memory::MAX_ORDER;
use crate::memory::direct_map;
use crate::memory::frames::{self, FrameKind};

/// The heap's size: 2^10 frames are 4 MiB.
const ORDER: u8 = 10;
/// Bytes of the heap.
pub const HEAP_BYTES: usize = 4096 << ORDER;

/// Bytes from which on a request has frames of its own.
const LARGE_BYTES: usize = 64 << 10;

/// A heap behind a lock.
struct LockedHeap(Mutex<Heap>);

// It serves the kernel only; on the host, tests use the system's.
#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

static EXHAUSTED: AtomicBool = AtomicBool::new(false);

/// The frames for the heap are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are no {} MiB of memory together for the kernel's heap", HEAP_BYTES >> 20)
    }
}

/// Gives the heap its memory. Later calls do nothing.
pub fn start() -> Result<(), NoMemory> {
    let mut heap = HEAP.0.lock();
    if heap.size() != 0 {
        return Ok(());
    }
    let region = frames::allocate(ORDER, FrameKind::Kernel, 0).ok_or(NoMemory)?;
    // SAFETY: the block belongs to the heap alone, for good, and lies in the direct map.
    unsafe { heap.init(direct_map(region), HEAP_BYTES) };
    Ok(())
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
    let Some(block) = (order <= MAX_ORDER).then(|| frames::allocate(order, FrameKind::Kernel, 0)).flatten()
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

/// Bytes in use.
pub fn used_bytes() -> usize {
    HEAP.0.lock().used()
}

// SAFETY: `Heap` keeps what it has handed out apart, and the lock serialises.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fault::is(Fault::HeapExhausted) {
            return exhausted();
        }
        if let Some(count) = frames_of(layout) {
            return allocate_frames(count);
        }
        self.0.lock().allocate_first_fit(layout).map_or_else(|()| exhausted(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(count) = frames_of(layout) {
            // SAFETY: the caller got the pointer from `alloc` with this layout, and is done with it.
            unsafe { free_frames(pointer, count) };
        } else if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got the pointer from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}
