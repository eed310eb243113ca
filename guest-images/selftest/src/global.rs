//! Mutable state: of the first processor, and of each.

use core::cell::UnsafeCell;

use crate::smp::{self, MAX_CPUS};

/// A static that the first processor and its interrupt handlers change. Other processors may read what is written before
/// they are started.
#[repr(transparent)]
pub struct Global<T>(UnsafeCell<T>);

// SAFETY: by the rule above, only one processor changes it.
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
        // SAFETY: one processor, no reentry by the rules above.
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

/// A static with a value for each processor, which that processor and its interrupt handlers change.
#[repr(transparent)]
pub struct PerCpu<T>(UnsafeCell<[T; MAX_CPUS]>);

// SAFETY: `with`, `get` and `set` touch the calling processor's element only; of another's only the address is given out.
unsafe impl<T> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// A static with its first values.
    pub const fn new(values: [T; MAX_CPUS]) -> Self {
        Self(UnsafeCell::new(values))
    }

    /// The address of a processor's value.
    ///
    /// # Panics
    /// When there can be no such processor.
    pub const fn of(&self, cpu: usize) -> *mut T {
        assert!(cpu < MAX_CPUS, "no such processor");
        self.0.get().cast::<T>().wrapping_add(cpu)
    }

    /// The address of the calling processor's value.
    pub fn own(&self) -> *mut T {
        self.of(smp::current())
    }

    /// Reads or changes the calling processor's value, by the rules of [`Global::with`].
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: no other processor uses this element, no reentry by the rule of `Global::with`.
        f(unsafe { &mut *self.own() })
    }
}

impl<T: Copy> PerCpu<T> {
    /// A copy of the calling processor's value, read once from memory.
    pub fn get(&self) -> T {
        // SAFETY: no other processor writes it; volatile, since an interrupt handler may have.
        unsafe { self.own().read_volatile() }
    }

    /// Writes the calling processor's value once to memory.
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { self.own().write_volatile(value) }
    }
}
