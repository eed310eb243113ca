//! NMIs that nobody of ours has sent: memory, a bus or a person reports something by them. The handler may have interrupted
//! anything, so it only counts, and the next CPU that looks for work tells.
//!
//! Source: Intel I/O controller hub data sheets, "NMI Status and Control Register" (port 61h).

// UNSAFETY: reads an I/O port.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use x86_64::instructions::port::Port;

const PORT_B: u16 = 0x61;
/// Port B: memory or a PCI device reports an error; so does an expansion card.
const SYSTEM_ERROR: u8 = 1 << 7;
const CHANNEL_CHECK: u8 = 1 << 6;

static COUNT: AtomicU32 = AtomicU32::new(0);
/// At so many it is told again: each time at twice as many, so that a storm of them does not become one of messages.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// One has come.
pub(super) fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// Tells of those that have come, once.
#[inline]
pub(crate) fn tell() {
    let next = NEXT.load(Ordering::Relaxed);
    if COUNT.load(Ordering::Relaxed) >= next {
        tell_at(next);
    }
}

#[cold]
fn tell_at(next: u32) {
    let count = COUNT.load(Ordering::Relaxed);
    let after = twice(count);
    // Who changes it tells.
    if NEXT.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        // SAFETY: reading the port has no effect.
        let cause = cause(unsafe { Port::<u8>::new(PORT_B).read() });
        log::warn!(
            target: super::TARGET,
            "{count} non-maskable interrupts that Basalt did not send ({cause}): look into the firmware's event log; the next line of this kind comes at {after}"
        );
    }
}

const fn twice(count: u32) -> u32 {
    if count == 0 { 1 } else { count.saturating_mul(2) }
}

const fn cause(port_b: u8) -> &'static str {
    match (port_b & SYSTEM_ERROR != 0, port_b & CHANNEL_CHECK != 0) {
        (true, _) => "the chipset says: error of memory or of a PCI device, SERR#",
        (_, true) => "the chipset says: error of an expansion card, IOCHK#",
        _ => "the chipset names no cause",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_told_ever_more_rarely() {
        assert_eq!([1, 2, 5, u32::MAX].map(twice), [2, 4, 10, u32::MAX]);
    }

    #[test]
    fn the_chipset_names_the_cause() {
        assert!(
            cause(0x80).contains("SERR#") && cause(0xc0).contains("SERR#") && cause(0x40).contains("IOCHK#")
        );
        assert!(cause(0x33).contains("no cause"));
    }
}
