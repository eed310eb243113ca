//! Waiting for work, by HLT or by MWAIT.
//!
//! A CPU that waits by MWAIT watches a cache line of its own, so that another CPU wakes it by a store: no message between
//! local APICs, and no interrupt. The state is C1, as with HLT: deeper ones may stop the local APIC's timer, and how long they take
//! to leave is in ACPI objects that the kernel does not read.
//!
//! Sources: Intel SDM vol. 3, "MONITOR/MWAIT Instructions"; vol. 2, "MONITOR", "MWAIT", "CPUID" leaf 5; AMD APM vol. 3, same names.

// UNSAFETY: the waits are assembly that lets interrupts in.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{InterruptFrame, features};
use crate::registers;

/// The values of a line.
const AWAKE: u32 = 0;
const WAITS: u32 = 1;
const CALLED: u32 = 2;

/// The line that a CPU watches while it waits. Nothing else is in it, whatever its size up to the largest that CPUs have.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct WakeLine(AtomicU32);

impl WakeLine {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(AWAKE))
    }

    /// Wakes its CPU, if that waits for a store. False where it has to be interrupted instead.
    #[inline]
    pub(crate) fn call(&self) -> bool {
        match self.0.compare_exchange(WAITS, CALLED, Ordering::SeqCst, Ordering::SeqCst) {
            // Who is called already looks for work after this.
            Ok(_) | Err(CALLED) => true,
            Err(_) => false,
        }
    }
}

/// CPUs wait by MWAIT. Decided once, by the boot CPU; the others have what it has.
static BY_MWAIT: AtomicBool = AtomicBool::new(false);

/// How CPUs wait: the option `idle=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// By HLT.
    #[default]
    Hlt,
    /// By MWAIT where the CPU has it and no other hypervisor is below, which may make it dear. Not the default: an emulated machine on
    /// which it could be proven loses calls.
    Mwait,
}

/// The largest line that a CPU may watch fits in a [`WakeLine`].
const LARGEST_LINE: u32 = size_of::<WakeLine>() as u32;
/// CPUID leaf 1 ECX: MONITOR. Leaf 5: EBX is the size of the largest line.
const MONITOR: u32 = 1 << 3;
const LEAF_MONITOR: u32 = 5;

/// Chooses how CPUs wait. Returns its name.
pub fn choose_idle(idle: Idle) -> &'static str {
    let has = registers::cpuid(0, 0).eax >= LEAF_MONITOR && registers::cpuid(1, 0).ecx & MONITOR != 0;
    let line = if has { registers::cpuid(LEAF_MONITOR, 0).ebx & 0xffff } else { 0 };
    let usable = has && (1..=LARGEST_LINE).contains(&line) && !features().hypervisor;
    let by_mwait = usable && idle == Idle::Mwait;
    BY_MWAIT.store(by_mwait, Ordering::Relaxed);
    if by_mwait { "MWAIT" } else { "HLT" }
}

// STI holds interrupts back until the next instruction has begun to wait, so that one that is pending ends the wait.
global_asm!(
    ".global basalt_wait",
    ".global basalt_wait_halt",
    "basalt_wait:",
    "sti",
    "basalt_wait_halt:",
    "hlt",
    "cli",
    "ret",
    ".global basalt_wait_store",
    ".global basalt_wait_mwait",
    // The line's address is in RDI.
    "basalt_wait_store:",
    "mov rax, rdi",
    "xor ecx, ecx",
    "xor edx, edx",
    "monitor",
    // A store before MONITOR is seen here, one behind it ends the wait.
    "cmp dword ptr [rdi], {waits}",
    "jne 2f",
    "xor eax, eax",
    "sti",
    "basalt_wait_mwait:",
    "mwait",
    "cli",
    "ret",
    "2:",
    "sti",
    "nop",
    "cli",
    "ret",
    waits = const WAITS,
);

unsafe extern "sysv64" {
    fn basalt_wait();
    fn basalt_wait_halt();
    fn basalt_wait_store(line: *const WakeLine);
    fn basalt_wait_mwait();
}

/// Bytes of HLT and MWAIT.
const HLT_BYTES: u64 = 1;
const MWAIT_BYTES: u64 = 3;

/// Waits until an interrupt was served or another CPU has called, then goes on with interrupts off.
pub(crate) fn wait_for_interrupt() {
    if !BY_MWAIT.load(Ordering::Relaxed) {
        // SAFETY: no lock is held where the CPU's loop waits, and every vector has a handler or does nothing.
        unsafe { basalt_wait() };
        return;
    }
    let line = &super::this().wake_line;
    line.0.store(WAITS, Ordering::SeqCst);
    // SAFETY: as above; the CPU has MONITOR, and the line is this CPU's own.
    unsafe { basalt_wait_store(line) };
    line.0.store(AWAKE, Ordering::SeqCst);
}

/// True where an NMI that came at this address found the CPU waiting.
pub(crate) fn is_waiting(rip: u64) -> bool {
    let waits = [
        (basalt_wait_halt as *const () as u64, HLT_BYTES),
        (basalt_wait_mwait as *const () as u64, MWAIT_BYTES),
    ];
    waits.into_iter().any(|(at, bytes)| rip == at || rip == at + bytes)
}

/// An NMI between STI and the wait ends STI's delay: the interrupt that was to end the wait would come before it. So the wait is
/// passed over.
pub(super) fn leave_wait(frame: &mut InterruptFrame) {
    for (at, bytes) in [
        (basalt_wait_halt as *const () as u64, HLT_BYTES),
        (basalt_wait_mwait as *const () as u64, MWAIT_BYTES),
    ] {
        if frame.rip == at {
            frame.rip += bytes;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_called_once_and_who_does_not_is_interrupted() {
        let line = WakeLine::new();
        assert!(!line.call());
        line.0.store(WAITS, Ordering::SeqCst);
        assert!(line.call() && line.call(), "the second one need not do more");
        line.0.store(AWAKE, Ordering::SeqCst);
        assert!(!line.call());
    }
}
