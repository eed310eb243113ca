//! The line between a VM's serial port and the machine's console: bytes that the guest sent, in a ring that the boot CPU
//! empties, and bytes that were typed, in a ring that whoever uses the chipset empties. Nobody holds a ring's lock for
//! longer than a byte.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use spin::Mutex;
use virtio::console::Line;

use crate::console::Ring;

/// Bytes that wait to be shown: what a kernel has to say when it finds its console, and a serial port sends in more than a second.
const OUTPUT_BYTES: usize = 16 * 1024;

/// Bytes that are shown in one go.
const BYTES_AT_ONCE: usize = 64;

/// Typed bytes that wait for the serial port.
const INPUT_BYTES: usize = 64;

/// One VM's line.
#[derive(Debug)]
pub(crate) struct SerialLine {
    output: Mutex<Ring>,
    input: Mutex<Ring>,
    /// There is input.
    typed: AtomicBool,
    /// The guest's byte did not fit: its serial port waits for room.
    refused: AtomicBool,
    /// The guest listens, where this is a virtio console's line.
    opened: AtomicBool,
}

impl SerialLine {
    /// `None` where there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            output: Mutex::new(Ring::new(OUTPUT_BYTES)?),
            input: Mutex::new(Ring::new(INPUT_BYTES)?),
            typed: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            opened: AtomicBool::new(false),
        })
    }

    /// Whether the guest listens, where this is a virtio console's line.
    pub(crate) fn is_opened(&self) -> bool {
        self.opened.load(SeqCst)
    }

    /// Takes a byte from the guest; false where there is no room.
    pub(crate) fn put(&self, byte: u8) -> bool {
        let taken = self.output.lock().push(byte);
        if !taken {
            self.refused.store(true, SeqCst);
        }
        taken
    }

    /// Gives what waits to `show`, until it says that it has no room; some bytes at once.
    pub(crate) fn drain(&self, mut show: impl FnMut(u8) -> bool) {
        for _ in 0..BYTES_AT_ONCE {
            let Some(byte) = self.output.lock().first() else { return };
            if !show(byte) {
                return;
            }
            self.output.lock().pop();
        }
    }

    /// Takes a typed byte; false where there is no room.
    pub(crate) fn type_byte(&self, byte: u8) -> bool {
        let taken = self.input.lock().push(byte);
        self.typed.store(true, SeqCst);
        taken
    }

    /// Whether typed bytes wait for the serial port.
    #[inline]
    pub(crate) fn has_input(&self) -> bool {
        self.typed.load(SeqCst)
    }

    /// Gives what was typed to `receive`, until it says that it has no room; no more than the ring holds.
    pub(crate) fn feed(&self, mut receive: impl FnMut(u8) -> bool) {
        for _ in 0..INPUT_BYTES {
            let mut input = self.input.lock();
            let Some(byte) = input.first() else {
                self.typed.store(false, SeqCst);
                return;
            };
            drop(input);
            if !receive(byte) {
                return;
            }
            input = self.input.lock();
            input.pop();
        }
    }

    /// Whether bytes wait to be shown.
    pub(crate) fn has_output(&self) -> bool {
        self.output.lock().len() > 0
    }

    /// Whether the serial port waits, and there is room again. A kernel waits some milliseconds for it and then loses bytes, so a little is enough.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.load(SeqCst)
            && self.output.lock().free() >= BYTES_AT_ONCE
            && self.refused.swap(false, SeqCst)
    }
}

/// The same line behind a virtio console.
impl Line for SerialLine {
    fn put(&self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| Self::put(self, **byte)).count()
    }

    fn has_room(&self) -> bool {
        self.output.lock().free() > 0
    }

    fn take(&self, buffer: &mut [u8]) -> usize {
        let (mut places, mut given) = (buffer.iter_mut(), 0);
        self.feed(|byte| {
            let Some(place) = places.next() else { return false };
            *place = byte;
            given += 1;
            true
        });
        given
    }

    fn has_input(&self) -> bool {
        Self::has_input(self)
    }

    fn is_open(&self) -> bool {
        true
    }

    fn set_open(&self, open: bool) {
        self.opened.store(open, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_goes_on_sending_holds_nobody_up() {
        let line = SerialLine::new().expect("memory");
        line.put(0);
        let mut shown = 0;
        line.drain(|_| {
            shown += 1;
            line.put(0)
        });
        assert_eq!(shown, BYTES_AT_ONCE);
        assert!(line.has_output());
    }

    #[test]
    fn a_full_line_makes_the_guest_wait_until_a_little_of_it_is_shown() {
        let line = SerialLine::new().expect("memory");
        let mut sent = 0u32;
        while line.put(sent as u8) {
            sent += 1;
        }
        assert_eq!(sent as usize, OUTPUT_BYTES);
        assert!(!line.take_refused(), "no room yet");
        let mut shown = 0;
        line.drain(|byte| {
            shown += usize::from(byte == shown as u8);
            shown == 1
        });
        assert!(!line.take_refused(), "one byte is too little");
        line.drain(|_| true);
        assert!(line.take_refused() && !line.take_refused() && line.has_output());
    }
}
