//! Stopping all CPUs but one, for the last words of a panic, for switching off and for restarting. It is done by NMI,
//! which comes through wherever the kernel is.

// UNSAFETY: reads the stack pointer.
#![allow(unsafe_code)]

use core::arch::asm;
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::wait;
use crate::apic::ipi;
use crate::cpu::{self, InterruptFrame, registry, wait as idle_wait};
use crate::logger::LastWords;
use crate::watchdog;

/// How long the others are waited for, in ns.
const PATIENCE_NS: u64 = 100_000_000;
/// CPUs that [`report`] tells of in words, and how many in a line.
const SHOWN: usize = 12;
const A_LINE: usize = 4;

const NOBODY: usize = usize::MAX;
/// The CPU that stops the others.
static STOPPER: AtomicUsize = AtomicUsize::new(NOBODY);

/// Stops all other CPUs, for good, and waits a moment until they stand. Where another CPU does this already, it stops
/// the one that calls.
pub(crate) fn others() {
    watchdog::silence();
    let own = own_number();
    match STOPPER.compare_exchange(NOBODY, own, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(stopper) if stopper == own => return,
        Err(_) => cpu::halt_forever(),
    }
    let running = || registry::all().filter(move |cpu| cpu.number != own);
    if running().next().is_none() {
        return;
    }
    for cpu in running() {
        ipi::send_nmi(cpu.apic_id.load(Ordering::Relaxed));
    }
    wait(PATIENCE_NS, || running().all(|cpu| cpu.stopped_at.load(Ordering::SeqCst) != 0));
}

/// The number of this CPU by the stack it runs on, as GS may be what is broken.
pub(crate) fn own_number() -> usize {
    let stack: u64;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    registry::owner_of(stack).map_or(0, |cpu| cpu.number)
}

/// Called for each NMI: stops where that is what it is for.
pub(crate) fn obey(frame: &InterruptFrame) {
    let stopper = STOPPER.load(Ordering::SeqCst);
    if stopper == NOBODY {
        return;
    }
    let Some(cpu) = registry::owner_of(&raw const *frame as u64).filter(|cpu| cpu.number != stopper) else {
        return;
    };
    cpu.stopped_at.store(frame.rip.max(1), Ordering::SeqCst);
    cpu::halt_forever()
}

/// Tells as last words which CPU speaks and where the others stood, where there are others.
pub(crate) fn report() {
    let own = own_number();
    let others = || registry::all().filter(move |cpu| cpu.number != own);
    if others().next().is_none() {
        return;
    }
    let idle = |at: u64| idle_wait::is_waiting(at);
    let place = |cpu: &cpu::PerCpu| cpu.stopped_at.load(Ordering::SeqCst);
    let busy = || others().filter(move |cpu| !idle(place(cpu)));
    let _ =
        write!(LastWords, "on CPU {own}; idle: {} others", others().filter(|cpu| idle(place(cpu))).count());
    for (index, cpu) in busy().take(SHOWN).enumerate() {
        let _ = LastWords.write_str(if index % A_LINE == A_LINE - 1 { "\n" } else { "; " });
        let _ = match place(cpu) {
            0 => write!(LastWords, "CPU {} did not stop", cpu.number),
            at => write!(LastWords, "CPU {} at {at:#x}", cpu.number),
        };
    }
    let left = busy().count().saturating_sub(SHOWN);
    if left != 0 {
        let _ = write!(LastWords, "; and {left} more");
    }
    let _ = writeln!(LastWords);
}
