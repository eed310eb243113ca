//! Faults that the kernel makes itself.

use core::arch::asm;
use core::fmt;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{error, info};

use super::{Fault, is};
use crate::apic::{ipi, local};
use crate::cpu;

/// An address that no page table of the kernel maps: not canonical low memory, not a window in use.
const UNMAPPED: u64 = 0xffff_e000_0000_0000;
/// An address that is not canonical.
const NOT_CANONICAL: u64 = 0x0001_0000_0000_0000;

/// Provokes what comes before the log.
pub fn at_first() {
    if is(Fault::EarlyPageFault) {
        read(UNMAPPED);
    }
    if is(Fault::EarlyPanic) {
        panic!("the fault early-panic was asked for");
    }
}

/// Provokes what comes when clock and interrupts are up.
pub fn when_started() {
    if is(Fault::PageFault) {
        read(UNMAPPED);
    }
    if is(Fault::GeneralProtection) {
        read(NOT_CANONICAL);
    }
    if is(Fault::StackOverflow) {
        black_box(descend(1));
    }
    if is(Fault::Nmi) {
        cpu::invoke_nmi();
    }
    if is(Fault::MachineCheck) {
        cpu::invoke_machine_check();
    }
    if is(Fault::Panic) {
        panic!("the fault panic was asked for");
    }
    if is(Fault::PanicInPanic) {
        panic!("{}", Spoilt(Fault::PanicInPanic));
    }
    if is(Fault::FaultInPanic) {
        panic!("{}", Spoilt(Fault::FaultInPanic));
    }
    instructions();
}

/// Provokes what comes on a CPU that has just been started.
pub(crate) fn on_another_cpu() {
    if is(Fault::PanicElsewhere) {
        panic!("the fault panic-elsewhere was asked for");
    }
}

/// Provokes what comes while guests run, on a CPU that has nothing to do.
#[inline]
pub(crate) fn when_idle() {
    // The CPU has begun to look for work, so that it is watched.
    const SOON: u64 = 2;
    if cpu::this().watched.beats() <= SOON {
        return;
    }
    let boots = cpu::current() == 0;
    if is(Fault::StuckCpus) || is(Fault::StuckBootCpu) && boots || is(Fault::StuckCpu) && cpu::current() == 1
    {
        hang();
    }
    if is(Fault::StrayNmi) && boots {
        once(|| ipi::send_nmi(local::id()));
    }
    if is(Fault::StrayVectors) && boots {
        stray_vectors();
    }
}

/// Without PAUSE, at which an emulator would let others go on that have nothing to do.
#[inline(never)]
fn hang() {
    static TURNS: AtomicU64 = AtomicU64::new(0);
    loop {
        TURNS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Only the first call does anything.
fn once(run: impl FnOnce()) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        run();
    }
}

/// Sends itself an interrupt of each vector, most of them nobody's, and later says whether any is left, which would hold back
/// others.
fn stray_vectors() {
    const FIRST: u8 = 0x20;
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    match LOOKS.fetch_add(1, Ordering::Relaxed) {
        0 => (FIRST..=u8::MAX).for_each(|vector| ipi::send_vector(local::id(), vector)),
        1 if local::is_quiet() => info!("all vectors came, and none is left"),
        1 => error!("an interrupt is left"),
        _ => {}
    }
}

/// Exceptions that take an instruction of their own.
fn instructions() {
    if is(Fault::DivideError) {
        // SAFETY: raises an exception that ends the kernel.
        unsafe { asm!("xor edx, edx", "div {0:e}", in(reg) 0, inout("eax") 1 => _, out("edx") _) };
    }
    if is(Fault::InvalidOpcode) {
        // SAFETY: as above.
        unsafe { asm!("ud2") };
    }
    if is(Fault::DoubleFault) {
        // SAFETY: without a stack the page fault cannot be delivered; the double fault ends the kernel.
        unsafe { asm!("mov rsp, {0}", "push rax", in(reg) UNMAPPED, options(noreturn)) };
    }
}

fn read(address: u64) {
    // SAFETY: raises an exception that ends the kernel.
    let _ = unsafe { (address as *const u64).read_volatile() };
}

/// Calls itself until the stack ends.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    if depth == 0 { 0 } else { black_box(descend(depth + 1)) + black_box(room)[0] }
}

/// A message that cannot be formatted.
struct Spoilt(Fault);

impl fmt::Display for Spoilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fault was asked for; its message ")?;
        match self.0 {
            Fault::FaultInPanic => read(UNMAPPED),
            _ => panic!("this text is not shown"),
        }
        Ok(())
    }
}
