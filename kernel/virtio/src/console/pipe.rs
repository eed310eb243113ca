//! A line between two guests' ports: what one writes the other reads. What finds no room waits with its writer.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use spin::Mutex;

use super::Line;
use crate::net::wire::Calls;

/// Bytes that are on their way at most.
const ROOM: usize = 16 << 10;
/// The owner of an end that nobody has.
const NOBODY: usize = usize::MAX;

/// Bytes on their way.
struct Ring {
    bytes: Box<[u8]>,
    first: usize,
    used: usize,
}

impl Ring {
    fn new() -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(ROOM).ok()?;
        bytes.resize(ROOM, 0);
        Some(Self { bytes: bytes.into_boxed_slice(), first: 0, used: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(ROOM - self.used);
        for (at, byte) in bytes.iter().take(taken).enumerate() {
            let place = (self.first + self.used + at) % ROOM;
            if let Some(place) = self.bytes.get_mut(place) {
                *place = *byte;
            }
        }
        self.used += taken;
        taken
    }

    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let given = buffer.len().min(self.used);
        for (at, place) in buffer.iter_mut().take(given).enumerate() {
            *place = self.bytes.get((self.first + at) % ROOM).copied().unwrap_or(0);
        }
        self.first = (self.first + given) % ROOM;
        self.used -= given;
        given
    }
}

/// One end: what has come for it.
struct End {
    incoming: Mutex<Ring>,
    /// There are some: for who looks before each entry, and must not wait for the other VM.
    has_some: AtomicBool,
    open: AtomicBool,
    owner: AtomicUsize,
}

struct Shared {
    ends: [End; 2],
    calls: Arc<Calls>,
}

/// An end of a line, for a port.
pub struct PipeEnd {
    shared: Arc<Shared>,
    side: usize,
}

impl fmt::Debug for PipeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeEnd").field("side", &self.side).finish_non_exhaustive()
    }
}

/// Makes a line. `None` where there is no memory for it.
pub fn pipe(calls: &Arc<Calls>) -> Option<[PipeEnd; 2]> {
    let end = || {
        let incoming = Mutex::new(Ring::new()?);
        Some(End {
            incoming,
            has_some: AtomicBool::new(false),
            open: AtomicBool::new(false),
            owner: AtomicUsize::new(NOBODY),
        })
    };
    let shared = Arc::new(Shared { ends: [end()?, end()?], calls: Arc::clone(calls) });
    Some([PipeEnd { shared: Arc::clone(&shared), side: 0 }, PipeEnd { shared, side: 1 }])
}

impl PipeEnd {
    /// The port is this VM's, which is called when something comes.
    pub fn belongs_to(&self, vm: usize) {
        self.own().owner.store(vm, SeqCst);
    }

    fn own(&self) -> &End {
        let [first, second] = &self.shared.ends;
        if self.side == 0 { first } else { second }
    }

    fn other(&self) -> &End {
        let [first, second] = &self.shared.ends;
        if self.side == 0 { second } else { first }
    }

    fn call(&self) {
        let owner = self.other().owner.load(SeqCst);
        if owner != NOBODY {
            self.shared.calls.call(owner);
        }
    }
}

impl Line for PipeEnd {
    fn put(&self, bytes: &[u8]) -> usize {
        if !self.is_open() {
            // As on a line that nobody listens at.
            return bytes.len();
        }
        let other = self.other();
        let mut incoming = other.incoming.lock();
        let taken = incoming.put(bytes);
        other.has_some.store(incoming.used > 0, SeqCst);
        drop(incoming);
        if taken > 0 {
            self.call();
        }
        taken
    }

    fn has_room(&self) -> bool {
        !self.is_open() || self.other().incoming.lock().used < ROOM
    }

    fn take(&self, buffer: &mut [u8]) -> usize {
        let mut incoming = self.own().incoming.lock();
        let was_full = incoming.used == ROOM;
        let given = incoming.take(buffer);
        self.own().has_some.store(incoming.used > 0, SeqCst);
        drop(incoming);
        if was_full && given > 0 {
            self.call();
        }
        given
    }

    fn has_input(&self) -> bool {
        self.own().has_some.load(SeqCst)
    }

    fn is_open(&self) -> bool {
        self.other().open.load(SeqCst)
    }

    fn set_open(&self, open: bool) {
        self.own().open.store(open, SeqCst);
        if !open {
            let mut incoming = self.own().incoming.lock();
            (incoming.first, incoming.used) = (0, 0);
            self.own().has_some.store(false, SeqCst);
        }
        self.call();
    }
}
