//! A line between ports of two VMs: two ends, a ring of bytes for each, and the call to the other VM.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::VmSet;

/// The owner of an end that nobody has.
const NOBODY: usize = usize::MAX;

/// Bytes on their way.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    /// Where the first byte is, and how many there are.
    pub(crate) first: usize,
    pub(crate) used: usize,
}

impl Ring {
    /// A ring with room for so many bytes, at least one. `None` where there is no memory for it.
    pub(crate) fn new(room: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room.max(1)).ok()?;
        bytes.resize(room.max(1), 0);
        Some(Self { bytes: bytes.into_boxed_slice(), first: 0, used: 0 })
    }

    /// Bytes that fit yet.
    pub(crate) fn free(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Forgets all bytes.
    pub(crate) fn clear(&mut self) {
        (self.first, self.used) = (0, 0);
    }

    /// The first `length` bytes are done with.
    pub(crate) fn pass(&mut self, length: usize) {
        self.first = (self.first + length) % self.bytes.len();
        self.used = self.used.saturating_sub(length);
    }

    /// The `length` bytes from `at` on, in one or two parts: `with(part)` for each, until one fails.
    pub(crate) fn parts<E>(
        &mut self,
        at: usize,
        length: usize,
        mut with: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let room = self.bytes.len();
        let at = at % room;
        let before_end = length.min(room - at);
        for (from, length) in [(at, before_end), (0, length - before_end)] {
            if let Some(part) = self.bytes.get_mut(from..from + length).filter(|part| !part.is_empty()) {
                with(part)?;
            }
        }
        Ok(())
    }

    pub(crate) fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        let mut rest = bytes;
        let _ = self.parts(at, bytes.len(), |part| {
            let (now, later) = rest.split_at(part.len().min(rest.len()));
            part.iter_mut().zip(now).for_each(|(place, byte)| *place = *byte);
            rest = later;
            Ok::<(), ()>(())
        });
    }

    pub(crate) fn copy_out(&mut self, at: usize, bytes: &mut [u8]) {
        let mut done = 0;
        let _ = self.parts(at, bytes.len(), |part| {
            let places = bytes.get_mut(done..).unwrap_or_default();
            places.iter_mut().zip(part.iter()).for_each(|(place, byte)| *place = *byte);
            done += part.len();
            Ok::<(), ()>(())
        });
    }
}

#[derive(Debug)]
struct Joint<T> {
    ends: [T; 2],
    owners: [AtomicUsize; 2],
    calls: Arc<VmSet>,
}

/// One of two ends.
#[derive(Debug)]
pub(crate) struct Side<T> {
    joint: Arc<Joint<T>>,
    second: bool,
}

/// Two ends that are joined, of which each is somebody's or free.
#[derive(Debug)]
pub(crate) struct Pair<T>(Arc<Joint<T>>);

impl<T> Pair<T> {
    /// Joins two ends.
    pub(crate) fn new(ends: [T; 2], calls: &Arc<VmSet>) -> Self {
        let owners = [const { AtomicUsize::new(NOBODY) }; 2];
        Self(Arc::new(Joint { ends, owners, calls: Arc::clone(calls) }))
    }

    /// An end that is free is this VM's from here on.
    pub(crate) fn take(&self, vm: usize) -> Option<Side<T>> {
        let is_free = |second: &bool| {
            pick(&self.0.owners, *second).compare_exchange(NOBODY, vm, SeqCst, SeqCst).is_ok()
        };
        let second = [false, true].into_iter().find(is_free)?;
        Some(Side { joint: Arc::clone(&self.0), second })
    }

    /// Whether somebody has an end.
    pub(crate) fn is_used(&self) -> bool {
        self.0.owners.iter().any(|owner| owner.load(SeqCst) != NOBODY)
    }
}

impl<T> Side<T> {
    /// The end is free. It is not used from here on.
    pub(crate) fn give_up(&self) {
        pick(&self.joint.owners, self.second).store(NOBODY, SeqCst);
    }

    pub(crate) fn own(&self) -> &T {
        pick(&self.joint.ends, self.second)
    }

    pub(crate) fn other(&self) -> &T {
        pick(&self.joint.ends, !self.second)
    }

    /// Calls the VM that the other end belongs to.
    pub(crate) fn call(&self) {
        let owner = pick(&self.joint.owners, !self.second).load(SeqCst);
        if owner != NOBODY {
            self.joint.calls.insert(owner);
        }
    }
}

const fn pick<T>([first, second]: &[T; 2], takes_second: bool) -> &T {
    if takes_second { second } else { first }
}
