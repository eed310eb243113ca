//! A line between two guests' ports: what one writes the other reads. What finds no room waits with its writer.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use spin::Mutex;

use super::Line;
use crate::VmSet;
use crate::joint::{Ring, Side, join};

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

/// Makes a line. `None` where there is no memory for it.
pub fn pipe(calls: &Arc<VmSet>) -> Option<[PipeEnd; 2]> {
    let end = || {
        let incoming = Mutex::new(Ring::new(ROOM)?);
        Some(End { incoming, has_some: AtomicBool::new(false), open: AtomicBool::new(false) })
    };
    Some(join([end()?, end()?], calls).map(PipeEnd))
}

impl PipeEnd {
    /// The port is this VM's, which is called when something comes.
    pub fn belongs_to(&self, vm: usize) {
        self.0.belongs_to(vm);
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
