//! Consoles and the log that the domain watches: what they say waits here until it is taken, and the oldest of it goes where that is too slow.
//! Nobody else waits for it: not the guest, and not the kernel's own console.

use core::fmt::Write;

use abi::Event;
use alloc::boxed::Box;
use alloc::vec::Vec;
use arrayvec::ArrayString;
use vcpu::{Host, LogPlace, LogRead};

use super::carry_out::number;
use crate::console::Ring;
use crate::heap;
use crate::schedule::VmId;

/// Bytes of a console that wait at most.
pub(super) const CONSOLE_BYTES: usize = 16 << 10;
/// Bytes of a console in one event.
const PIECE: usize = 4 << 10;
/// The longest line of the log; what is longer is cut.
const LINE_BYTES: usize = 320;

/// One console.
struct Watch {
    vm: VmId,
    ring: Ring,
    lost: u64,
}

/// All that are watched, by the VMs' places.
pub(super) struct Consoles {
    watched: Vec<Option<Box<Watch>>>,
    /// Whose turn is next.
    turn: usize,
}

impl Consoles {
    /// For so many places. `None` where there is no memory for it.
    pub(super) fn new(places: usize) -> Option<Self> {
        let mut watched = Vec::new();
        watched.try_reserve_exact(places).ok()?;
        watched.resize_with(places, || None);
        Some(Self { watched, turn: 0 })
    }

    /// Watches a VM's console from here on. False where there is no memory for it.
    pub(super) fn watch(&mut self, vm: VmId) -> bool {
        let Some(place) = self.watched.get_mut(vm.index()) else { return false };
        if place.as_ref().is_none_or(|watch| watch.vm != vm) {
            let ring = Ring::new(CONSOLE_BYTES);
            *place = ring.and_then(|ring| heap::boxed(Watch { vm, ring, lost: 0 }));
        }
        place.is_some()
    }

    /// Watches it no longer.
    pub(super) fn leave(&mut self, place: usize) {
        self.watched.get_mut(place).map(Option::take);
    }

    /// Watches none any more.
    pub(super) fn leave_all(&mut self) {
        self.watched.iter_mut().for_each(|place| *place = None);
    }

    /// The VM in a place says something.
    #[inline]
    pub(super) fn overhear(&mut self, place: usize, byte: u8) {
        if let Some(Some(watch)) = self.watched.get_mut(place) {
            watch.lost += u64::from(watch.ring.free() == 0);
            watch.ring.push_over(byte);
        }
    }

    /// What is next to be told, of one after the other.
    pub(super) fn next(&mut self, say: impl FnOnce(Event<'_>)) -> bool {
        let count = self.watched.len();
        for step in 0..count {
            let place = (self.turn + step) % count;
            let Some(Some(watch)) = self.watched.get_mut(place) else { continue };
            let vm = number(watch.vm);
            if watch.lost > 0 {
                // What was lost is older than what is there.
                say(Event::ConsoleLost { vm, count: core::mem::take(&mut watch.lost) });
                return true;
            }
            let front = watch.ring.front();
            let bytes = front.get(..PIECE).unwrap_or(front);
            if bytes.is_empty() {
                continue;
            }
            let length = bytes.len();
            say(Event::ConsoleOutput { vm, bytes });
            watch.ring.discard(length);
            self.turn = place + 1;
            return true;
        }
        false
    }
}

/// The kernel's log. Nothing is logged on the way of a line to the domain, so that no line is the reason for another.
#[derive(Default)]
pub(super) struct Log {
    /// The next line, while it is watched.
    place: Option<LogPlace>,
}

impl Log {
    /// Watches it, from its oldest line on, or no longer. Who watches it already goes on.
    pub(super) fn watch(&mut self, on: bool) {
        self.place = on.then(|| self.place.unwrap_or_default());
    }

    /// What is next to be told.
    pub(super) fn next<H: Host>(&mut self, host: &mut H, say: impl FnOnce(Event<'_>)) -> bool {
        let Some(place) = &mut self.place else { return false };
        let begins = place.lines == 0;
        let mut line = [0; LINE_BYTES];
        let mut read = host.log_read_at(place, &mut line);
        if begins && let LogRead::Lost(_) = read {
            // They are older than the watch.
            read = host.log_read_at(place, &mut line);
        }
        match read {
            LogRead::Line(length) => say(Event::LogLine { bytes: line.get(..length).unwrap_or_default() }),
            LogRead::Lost(count) => {
                let mut text = ArrayString::<80>::new();
                // It has room.
                let _ = write!(text, "({count} lines of the log were lost: they were not taken in time)");
                say(Event::LogLine { bytes: text.as_bytes() });
            }
            LogRead::End => return false,
        }
        true
    }
}
