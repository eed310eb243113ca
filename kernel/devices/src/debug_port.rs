//! Two debugging aids that a VM can be given: a console on one port, and a port that ends the VM.
//!
//! The console takes each byte that is written to port 0xe9, or to 0x402 where firmware made for QEMU writes, and reads as 0xe9, by
//! which software finds it; it has no registers and knows no "busy". What finds no room waits here, and the owner lets the guest wait meanwhile
//! ([`crate::Chipset::is_busy`]).
//!
//! Sources: Bochs user manual, "Port E9 hack"; QEMU's documentation of the devices `isa-debugcon` and `isa-debug-exit`.

use arrayvec::ArrayVec;

use crate::uart::ConsoleSink;

/// Bytes that can wait: those of one instruction, as much of it as is executed at once.
const ROOM: usize = 256;

/// The console on ports 0xe9 and 0x402.
#[derive(Clone, Debug, Default)]
pub struct DebugConsole {
    waiting: ArrayVec<u8, ROOM>,
}

impl DebugConsole {
    /// Its port, and what it reads as.
    pub const PORT: u16 = 0xe9;
    /// Its other port.
    pub const FIRMWARE_PORT: u16 = 0x402;

    /// Reads the port.
    pub(crate) const fn read() -> u8 {
        Self::PORT as u8
    }

    /// Writes the port; false when the byte is lost.
    pub(crate) fn write(&mut self, byte: u8, sink: &mut impl ConsoleSink) -> bool {
        (self.waiting.is_empty() && sink.put(byte)) || self.waiting.try_push(byte).is_ok()
    }

    /// Offers what waits again.
    pub(crate) fn flush(&mut self, sink: &mut impl ConsoleSink) {
        let taken = self.waiting.iter().take_while(|byte| sink.put(**byte)).count();
        self.waiting.drain(..taken);
    }

    /// Whether bytes wait.
    #[inline]
    pub(crate) const fn has_unsent(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    struct Sink(Vec<u8>, usize);

    impl ConsoleSink for Sink {
        fn put(&mut self, byte: u8) -> bool {
            let room = self.0.len() < self.1;
            if room {
                self.0.push(byte);
            }
            room
        }
    }

    #[test]
    fn bytes_wait_in_order() {
        let (mut console, mut sink) = (DebugConsole::default(), Sink(Vec::new(), 2));
        for byte in 0..100 {
            assert!(console.write(byte, &mut sink));
        }
        assert!(console.has_unsent());
        sink.1 = 60;
        console.flush(&mut sink);
        assert!(console.has_unsent() && console.write(100, &mut sink));
        sink.1 = 1000;
        console.flush(&mut sink);
        assert!(!console.has_unsent());
        assert_eq!(sink.0, (0..=100).collect::<Vec<u8>>());
        sink.1 = 0;
        assert_eq!((0..=255_u8).filter(|byte| console.write(*byte, &mut sink)).count(), ROOM);
        assert!(!console.write(0, &mut sink));
    }
}
