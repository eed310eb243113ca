//! How many vCPUs can walk an address space's tables: while one can, its frames must not be given to others.

// UNSAFETY: the count is in a frame that several owners reach by address.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vcpu::{Hpa, MemoryError};

use crate::memory::{self, frames::Block, frames::FrameKind};

/// The count, which belongs to the address space.
#[derive(Debug)]
pub(super) struct Walkers {
    /// Holds the count in its first word. `None` once it was left to the walkers.
    frame: Option<Block>,
    /// The number of the address space, which no other ever has.
    space: u64,
}

/// A vCPU's permission to walk the tables, to be dropped when the CPU has none of their translations left.
#[derive(Debug)]
pub(crate) struct Walker {
    count: Hpa,
    space: u64,
    /// The map of ports that exit, where it is another than all guests'.
    ports: Option<Hpa>,
}

impl Walker {
    /// The map of ports that exit, where it is another than all guests'; it is there as long as this.
    pub(crate) const fn ports(&self) -> Option<Hpa> {
        self.ports
    }

    /// The number of the address space, from 1 on, which no other ever has.
    pub(crate) const fn space(&self) -> u64 {
        self.space
    }
}

/// # Safety
///
/// `frame` is that of a [`Walkers`], which outlives the reference.
unsafe fn count<'a>(frame: Hpa) -> &'a AtomicU32 {
    // SAFETY: by the caller; the word is aligned and only ever reached here.
    unsafe { AtomicU32::from_ptr(memory::direct_map(frame).cast()) }
}

impl Walkers {
    /// Nobody yet.
    pub(super) fn new() -> Result<Self, MemoryError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let space = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { frame: Some(Block::zeroed(0, FrameKind::Control)?), space })
    }

    /// Lets one more vCPU in. `None` once the address space is given up.
    pub(super) fn add(&self, ports: Option<Hpa>) -> Option<Walker> {
        let frame = self.frame.as_ref()?.start();
        // SAFETY: the frame is this value's.
        unsafe { count(frame) }.fetch_add(1, Ordering::AcqRel);
        Some(Walker { count: frame, space: self.space, ports })
    }

    /// True where no vCPU can walk the tables.
    pub(super) fn none(&self) -> bool {
        // SAFETY: the frame is this value's.
        self.frame.as_ref().is_some_and(|frame| unsafe { count(frame.start()) }.load(Ordering::Acquire) == 0)
    }

    /// Leaves the count to those who still use it: its frame is never given back.
    pub(super) fn abandon(&mut self) {
        if let Some(frame) = self.frame.take() {
            frame.keep();
        }
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        // SAFETY: the address space gives the frame back only when the count is zero, and this is one of it.
        unsafe { count(self.count) }.fetch_sub(1, Ordering::AcqRel);
    }
}
