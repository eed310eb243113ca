//! Mutable state of a program with one processor.

use core::cell::UnsafeCell;

/// A static that the one processor and its interrupt handlers change.
#[repr(transparent)]
pub struct Global<T>(UnsafeCell<T>);

// SAFETY: the micro-kernel starts no second processor.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    /// A static with its first value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its address.
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }

    /// Reads or changes it. `f` must not use the same static again; interrupt handlers that do are kept out by
    /// holding such sections with interrupts off.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: one processor, no reentry by the rule above.
        f(unsafe { &mut *self.0.get() })
    }
}

impl<T: Copy> Global<T> {
    /// A copy of the value, read once from memory.
    pub fn get(&self) -> T {
        // SAFETY: one processor; volatile, since an interrupt handler may have written it.
        unsafe { self.0.get().read_volatile() }
    }

    /// Writes the value once to memory.
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { self.0.get().write_volatile(value) }
    }
}
