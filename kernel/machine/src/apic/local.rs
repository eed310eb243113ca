//! The local APIC of the calling CPU, through MSRs in x2APIC mode and through memory otherwise.

// UNSAFETY: reads and writes MSRs and device registers.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

use vcpu::Hpa;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

use super::ApicError;
use crate::cpu;
use crate::memory::map_mmio;

/// Registers by their offset in memory; in x2APIC mode the MSR is 0x800 plus a sixteenth of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    Timer = 0x320,
    Thermal = 0x330,
    Performance = 0x340,
    Line0 = 0x350,
    Error = 0x370,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    Divide = 0x3e0,
}

const X2APIC_MSRS: u32 = 0x800;
const REGISTERS_BYTES: u64 = 4096;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
/// Divide configuration: by one.
const DIVIDE_BY_1: u32 = 0b1011;
/// The id's place in xAPIC mode.
const XAPIC_ID_SHIFT: u32 = 24;

/// The registers in memory; null in x2APIC mode.
static REGISTERS: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// How fast the timer counts, in ticks per 2^32 TSC ticks; 0 while it is not calibrated.
static TICKS_PER_TSC: AtomicU64 = AtomicU64::new(0);

#[inline]
fn read(register: Register) -> u32 {
    let memory = REGISTERS.load(Ordering::Relaxed);
    if memory.is_null() {
        // SAFETY: in x2APIC mode, which `start` has switched on, these MSRs exist and reading has no effect.
        return unsafe { Msr::new(X2APIC_MSRS + (register as u32 >> 4)).read() as u32 };
    }
    // SAFETY: `start` mapped the registers for good; each is a 32-bit word on a 16-byte boundary.
    unsafe { memory.add(register as usize).cast::<u32>().read_volatile() }
}

/// # Safety
///
/// The value must be one that the kernel's interrupt handling is ready for.
#[inline]
unsafe fn write(register: Register, value: u32) {
    let memory = REGISTERS.load(Ordering::Relaxed);
    // SAFETY: as in `read`; what the value does is the caller's promise.
    unsafe {
        if memory.is_null() {
            Msr::new(X2APIC_MSRS + (register as u32 >> 4)).write(u64::from(value));
        } else {
            memory.add(register as usize).cast::<u32>().write_volatile(value);
        }
    }
}

/// Switches this CPU's local APIC on, with all of its own sources masked but the timer. Returns the mode's
/// name.
pub(super) fn start(address: Hpa, timer_vector: u8, spurious_vector: u8) -> Result<&'static str, ApicError> {
    if !cpu::features().apic {
        return Err(ApicError::NoLocalApic);
    }
    let (base, flags) = ApicBase::read();
    let x2apic = cpu::features().x2apic || flags.contains(ApicBaseFlags::X2APIC_ENABLE);
    let mut wanted = flags | ApicBaseFlags::LAPIC_ENABLE;
    // SAFETY: from xAPIC mode to x2APIC mode is an allowed step; from off, xAPIC mode comes first. The
    // registers' address is left as firmware set it. Interrupts are off.
    unsafe {
        ApicBase::write(base, wanted);
        if x2apic {
            wanted |= ApicBaseFlags::X2APIC_ENABLE;
            ApicBase::write(base, wanted);
        } else {
            REGISTERS.store(map_mmio(address, REGISTERS_BYTES)?.as_ptr(), Ordering::Relaxed);
        }
    }
    let timer_mode = if cpu::features().tsc_deadline { TSC_DEADLINE_MODE } else { 0 };
    let quiet = [Register::Line0, Register::Thermal, Register::Performance, Register::Error];
    // SAFETY: the masked sources stay silent; timer and spurious interrupts have handlers.
    unsafe {
        for source in quiet {
            write(source, MASKED);
        }
        write(Register::TaskPriority, 0);
        write(Register::Divide, DIVIDE_BY_1);
        write(Register::Spurious, SOFTWARE_ENABLE | u32::from(spurious_vector));
        write(Register::Timer, timer_mode | u32::from(timer_vector));
    }
    Ok(if x2apic { "x2APIC" } else { "xAPIC" })
}

/// This CPU's APIC id.
pub(super) fn id() -> u32 {
    let id = read(Register::Id);
    if REGISTERS.load(Ordering::Relaxed).is_null() { id } else { id >> XAPIC_ID_SHIFT }
}

/// What drives the timer, for the log.
pub(super) fn timer_kind() -> &'static str {
    if cpu::features().tsc_deadline { "TSC deadline" } else { "one-shot count" }
}

/// Ends the interrupt that is being served.
#[inline]
pub(super) fn end_of_interrupt() {
    // SAFETY: only handlers call this, each once; it can only let the next interrupt through.
    unsafe { write(Register::EndOfInterrupt, 0) };
}

/// Starts the counter from its top with its interrupt far away, for calibration. False where the timer goes
/// by the TSC and needs none.
pub(crate) fn start_count() -> bool {
    if cpu::features().tsc_deadline {
        return false;
    }
    // SAFETY: the interrupt, if it comes at all, has a handler.
    unsafe { write(Register::InitialCount, u32::MAX) };
    true
}

/// Ticks since [`start_count`].
pub(crate) fn counted() -> u32 {
    u32::MAX - read(Register::CurrentCount)
}

/// Tells how fast the counter runs: `ticks` of it in `tsc` ticks of the TSC.
pub(crate) fn calibrated(ticks: u64, tsc: u64) {
    let ratio = (u128::from(ticks) << 32) / u128::from(tsc.max(1));
    TICKS_PER_TSC.store(u64::try_from(ratio).unwrap_or(u64::MAX), Ordering::Relaxed);
    disarm();
}

/// Interrupts this CPU when the TSC, which is at `now`, reaches `deadline`; earlier where that is further
/// off than the counter reaches.
#[inline]
pub(crate) fn arm(now: u64, deadline: u64) {
    if cpu::features().tsc_deadline {
        // Zero would switch the timer off.
        write_deadline(deadline.max(1));
        return;
    }
    let ticks =
        (u128::from(deadline.saturating_sub(now)) * u128::from(TICKS_PER_TSC.load(Ordering::Relaxed))) >> 32;
    let count = u32::try_from(ticks + 1).unwrap_or(u32::MAX);
    // SAFETY: the timer's interrupt has a handler.
    unsafe { write(Register::InitialCount, count) };
}

/// Calls the timer off.
pub(crate) fn disarm() {
    if cpu::features().tsc_deadline {
        write_deadline(0);
    } else {
        // SAFETY: zero stops the counter.
        unsafe { write(Register::InitialCount, 0) };
    }
}

#[inline]
fn write_deadline(deadline: u64) {
    // The timer's mode, written through memory in xAPIC mode, must be seen before the deadline.
    if !REGISTERS.load(Ordering::Relaxed).is_null() {
        fence(Ordering::SeqCst);
    }
    // SAFETY: the MSR exists where the feature does, and the timer's interrupt has a handler.
    unsafe { Msr::new(IA32_TSC_DEADLINE).write(deadline) };
}
