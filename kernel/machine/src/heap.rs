//! The heap of bring-up: a fixed region that never grows. What runs later allocates from its own pools.

// UNSAFETY: a global allocator hands out raw memory.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use linked_list_allocator::Heap;
use spin::Mutex;

use crate::fault::{self, Fault};
use crate::memory::direct_map;
use crate::memory::frames::{self, FrameKind};

/// The heap's size: 2^10 frames are 4 MiB.
const ORDER: u8 = 10;
/// Bytes of the heap.
pub const HEAP_BYTES: usize = 4096 << ORDER;

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
        self.0.lock().allocate_first_fit(layout).map_or_else(|()| exhausted(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got the pointer from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}
