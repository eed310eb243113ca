//! A line between two guests' ports: what one writes the other reads. What finds no room waits with its writer.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use spin::Mutex;

use super::Line;
use crate::VmSet;
use crate::joint::{Pair, Ring, Side};

/// Bytes that are on their way at most.
const ROOM: usize = 16 << 10;

/// One end: what has come for it.
struct End {
    incoming: Mutex<Ring>,
    /// There are some: for who looks before each entry, and must not wait for the other VM.
    has_some: AtomicBool,
    open: AtomicBool,
}

/// An end of a line, for a port.
pub struct PipeEnd(Side<End>);

impl fmt::Debug for PipeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PipeEnd")
    }
}

/// A line, whose ends go to ports and come back with the end of these.
pub struct Pipe(Pair<End>);

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

impl Pipe {
    /// A line that nobody has. `None` where there is no memory for it.
    pub fn new(calls: &Arc<VmSet>) -> Option<Self> {
        let end = || {
            let incoming = Mutex::new(Ring::new(ROOM)?);
            Some(End { incoming, has_some: AtomicBool::new(false), open: AtomicBool::new(false) })
        };
        Some(Self(Pair::new([end()?, end()?], calls)))
    }

    /// An end for a port of this VM, which is called when something comes. `None` where two have them already.
    pub fn take(&self, vm: usize) -> Option<PipeEnd> {
        self.0.take(vm).map(PipeEnd)
    }

    /// Whether somebody has an end.
    pub fn is_used(&self) -> bool {
        self.0.is_used()
    }
}

/// Who has the end next finds nothing in it, and the other side a port that is closed.
impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.set_open(false);
        self.0.give_up();
    }
}

impl Line for PipeEnd {
    fn put(&self, bytes: &[u8]) -> usize {
        if !self.is_open() {
            // As on a line that nobody listens at.
            return bytes.len();
        }
        let other = self.0.other();
        let mut incoming = other.incoming.lock();
        let (at, taken) = (incoming.first + incoming.used, bytes.len().min(incoming.free()));
        incoming.copy_in(at, bytes.get(..taken).unwrap_or_default());
        incoming.used += taken;
        other.has_some.store(incoming.used > 0, SeqCst);
        drop(incoming);
        if taken > 0 {
            self.0.call();
        }
        taken
    }

    fn has_room(&self) -> bool {
        !self.is_open() || self.0.other().incoming.lock().free() > 0
    }

    fn take(&self, buffer: &mut [u8]) -> usize {
        let mut incoming = self.0.own().incoming.lock();
        let was_full = incoming.free() == 0;
        let (at, given) = (incoming.first, buffer.len().min(incoming.used));
        incoming.copy_out(at, buffer.get_mut(..given).unwrap_or_default());
        incoming.pass(given);
        self.0.own().has_some.store(incoming.used > 0, SeqCst);
        drop(incoming);
        if was_full && given > 0 {
            self.0.call();
        }
        given
    }

    fn has_input(&self) -> bool {
        self.0.own().has_some.load(SeqCst)
    }

    fn is_open(&self) -> bool {
        self.0.other().open.load(SeqCst)
    }

    fn set_open(&self, open: bool) {
        self.0.own().open.store(open, SeqCst);
        if !open {
            let mut incoming = self.0.own().incoming.lock();
            incoming.clear();
            self.0.own().has_some.store(false, SeqCst);
        }
        self.0.call();
    }
}
