//! The kernel's own exceptions: each is a broken invariant and ends in an epitaph, but for NMIs, which are
//! counted.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::control::Cr2;

use super::{InterruptFrame, wait};
use crate::smp::stop;
use crate::{panic, stacks, watchdog};

/// Names by vector (SDM vol. 3, "Protected-Mode Exceptions and Interrupts").
const NAMES: [&str; 32] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack-segment fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point exception",
    "virtualization exception",
    "control-protection exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception",
];

const DEBUG: u64 = 1;
const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const PAGE_FAULT: u64 = 14;

/// NMIs so far. Not in the per-CPU block: an NMI may come while GS is a guest's.
pub(super) static NMIS: AtomicU64 = AtomicU64::new(0);

/// Debug exceptions that were none of the kernel's.
static STRAY_DEBUG_TRAPS: AtomicU64 = AtomicU64::new(0);

/// Handles a vector below 32.
pub(super) fn handle(frame: &mut InterruptFrame) {
    if frame.vector == NMI {
        stop::obey(frame);
        watchdog::answer(frame);
        wait::leave_wait(frame);
        NMIS.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if frame.vector == DEBUG {
        // The kernel sets no breakpoints and never steps. Bochs lets a guest's pending single step through after
        // #VMEXIT, when GS and TR are still the guest's: nothing here may use them.
        STRAY_DEBUG_TRAPS.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let name = NAMES.get(frame.vector as usize).copied().unwrap_or("exception");
    let overflow = matches!(frame.vector, DOUBLE_FAULT | PAGE_FAULT) && stacks::is_guard(Cr2::read_raw());
    let note = if overflow { "; a stack overflowed into its guard page" } else { "" };
    panic::exception(frame, name, note)
}
