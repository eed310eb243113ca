//! The local APIC of the calling CPU, through MSRs in x2APIC mode and through memory otherwise.

// UNSAFETY: reads and writes MSRs and device registers.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};

use vcpu::Hpa;
use x86_64::PhysAddr;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};
use x86_64::structures::paging::PhysFrame;

use super::ApicError;
use crate::cpu;
use crate::memory::map_mmio;

/// Registers by their offset in memory; in x2APIC mode the MSR is 0x800 plus a sixteenth of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    Version = 0x30,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    /// The first of eight, with 32 vectors each.
    InService = 0x100,
    #[cfg(feature = "faults")]
    Requested = 0x200,
    CorrectedMachineCheck = 0x2f0,
    Command = 0x300,
    /// Only in memory: in x2APIC mode it is the upper half of [`Self::Command`].
    CommandDestination = 0x310,
    Timer = 0x320,
    Thermal = 0x330,
    Performance = 0x340,
    Line0 = 0x350,
    Error = 0x370,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    Divide = 0x3e0,
}

/// Command register: the message has not left yet.
const SEND_PENDING: u32 = 1 << 12;
/// Looks at that bit before a message is taken for stuck: one takes about a microsecond.
const SEND_PATIENCE: u32 = 100_000;
const X2APIC_MSRS: u32 = 0x800;
const REGISTERS_BYTES: u64 = 4096;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
/// Version register: the number of the last local vector table entry.
const LAST_ENTRY_SHIFT: u32 = 16;
const LAST_ENTRY_MASK: u32 = 0xff;
/// The number of the last entry where there are those of performance counters, thermal sensor and corrected
/// machine checks.
const WITH_PERFORMANCE: u32 = 4;
const WITH_THERMAL: u32 = 5;
const WITH_CORRECTED_MACHINE_CHECK: u32 = 6;
/// Divide configuration: by one.
const DIVIDE_BY_1: u32 = 0b1011;
/// The id's place in xAPIC mode.
const XAPIC_ID_SHIFT: u32 = 24;

static STARTED: AtomicBool = AtomicBool::new(false);

/// The registers' physical address.
static BASE: AtomicU64 = AtomicU64::new(0);

/// The registers in memory; null in x2APIC mode.
static REGISTERS: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// How fast the timer counts, in ticks per 2^32 TSC ticks; 0 while it is not calibrated.
static TICKS_PER_TSC: AtomicU64 = AtomicU64::new(0);

#[inline]
fn read(register: Register) -> u32 {
    read_array(register, 0)
}

/// One of the registers of which there are several.
#[inline]
fn read_array(first: Register, index: u8) -> u32 {
    let register = first as u32 + (u32::from(index & 7) << 4);
    let memory = REGISTERS.load(Ordering::Relaxed);
    if memory.is_null() {
        // SAFETY: in x2APIC mode, which `start` found, these MSRs exist and reading has no effect.
        return unsafe { Msr::new(X2APIC_MSRS + (register >> 4)).read() as u32 };
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

/// Switches this CPU's local APIC on, with all of its own sources masked but the timer and what firmware wired
/// to NMI. Returns the mode's name. x2APIC mode is used where firmware left it on, and where it is `needed`,
/// because a CPU's id takes more than eight bits; not elsewhere, for not every platform brings device interrupts
/// to it without interrupt remapping.
pub(super) fn start(timer_vector: u8, spurious_vector: u8, needed: bool) -> Result<&'static str, ApicError> {
    if !cpu::features().apic {
        return Err(ApicError::NoLocalApic);
    }
    let (base, flags) = ApicBase::read();
    let x2apic = wants_x2apic(flags, cpu::features().x2apic, needed);
    // SAFETY: the registers' address is left as firmware set it, and the mode only goes the allowed way, from off to
    // xAPIC to x2APIC; the latter exists where it is wanted. Interrupts are off.
    unsafe {
        ApicBase::write(base, flags | ApicBaseFlags::LAPIC_ENABLE);
        if x2apic {
            ApicBase::write(base, flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE);
        }
    }
    BASE.store(base.start_address().as_u64(), Ordering::Relaxed);
    if !x2apic {
        let registers = map_mmio(Hpa(base.start_address().as_u64()), REGISTERS_BYTES)?;
        REGISTERS.store(registers.as_ptr(), Ordering::Relaxed);
    }
    program(timer_vector, spurious_vector);
    STARTED.store(true, Ordering::Relaxed);
    Ok(if x2apic { "x2APIC" } else { "xAPIC" })
}

/// Switches on the local APIC of a CPU that is not the boot CPU, in the same way, and gives its id.
pub(super) fn start_as_boot_cpu(timer_vector: u8, spurious_vector: u8) -> Result<u32, ApicError> {
    let (_, flags) = ApicBase::read();
    if flags.contains(ApicBaseFlags::X2APIC_ENABLE) && !is_x2apic() {
        return Err(ApicError::StuckInX2apic);
    }
    let base = PhysFrame::containing_address(PhysAddr::new(BASE.load(Ordering::Relaxed)));
    let enabled = flags | ApicBaseFlags::LAPIC_ENABLE;
    // SAFETY: the registers go to the address at which the boot CPU's are mapped, and the mode goes from off over xAPIC
    // to x2APIC, which this CPU has where the boot CPU uses it (`cpu::Traits`). Interrupts are off.
    unsafe {
        ApicBase::write(base, enabled);
        if is_x2apic() {
            ApicBase::write(base, enabled | ApicBaseFlags::X2APIC_ENABLE);
        }
    }
    program(timer_vector, spurious_vector);
    Ok(id())
}

/// Masks this CPU's own sources but the timer and what firmware wired to NMI, and lets interrupts through.
fn program(timer_vector: u8, spurious_vector: u8) {
    let timer_mode = if cpu::features().tsc_deadline { TSC_DEADLINE_MODE } else { 0 };
    let last = read(Register::Version) >> LAST_ENTRY_SHIFT & LAST_ENTRY_MASK;
    let quiet = [
        (Register::Line0, 0),
        (Register::Error, 0),
        (Register::Performance, WITH_PERFORMANCE),
        (Register::Thermal, WITH_THERMAL),
        (Register::CorrectedMachineCheck, WITH_CORRECTED_MACHINE_CHECK),
    ];
    // SAFETY: the masked sources stay silent; timer and spurious interrupts have handlers.
    unsafe {
        for (source, needed) in quiet {
            if last >= needed {
                write(source, MASKED);
            }
        }
        write(Register::TaskPriority, 0);
        write(Register::Divide, DIVIDE_BY_1);
        write(Register::Spurious, SOFTWARE_ENABLE | u32::from(spurious_vector));
        write(Register::Timer, timer_mode | u32::from(timer_vector));
    }
    // The timer's mode, written through memory in xAPIC mode, must be seen before the first deadline.
    fence(Ordering::SeqCst);
}

/// True in x2APIC mode, once [`start`] has run.
pub(super) fn is_x2apic() -> bool {
    REGISTERS.load(Ordering::Relaxed).is_null()
}

/// Sends a message to the local APIC with this id. `command` is the lower half of the command register.
pub(super) fn send(apic_id: u32, command: u32) {
    // What was stored before must be seen by who gets the message; writing an MSR does not see to that.
    fence(Ordering::SeqCst);
    if is_x2apic() {
        let value = u64::from(apic_id) << 32 | u64::from(command);
        // SAFETY: in x2APIC mode the MSR exists. Its callers send what the receiver is ready for.
        unsafe { Msr::new(X2APIC_MSRS + (Register::Command as u32 >> 4)).write(value) };
        return;
    }
    // The message before must be on its way.
    let _ = (0..SEND_PATIENCE).find(|_| read(Register::Command) & SEND_PENDING == 0);
    // SAFETY: as above. Interrupt handlers send nothing, and an NMI's by `send_between`, so the two halves stay together.
    unsafe {
        write(Register::CommandDestination, apic_id << XAPIC_ID_SHIFT);
        write(Register::Command, command);
    }
}

/// The same from an NMI's handler, which may stand between the two halves of another message.
pub(super) fn send_between(apic_id: u32, command: u32) {
    if is_x2apic() {
        return send(apic_id, command);
    }
    let kept = read(Register::CommandDestination);
    send(apic_id, command);
    let _ = (0..SEND_PATIENCE).find(|_| read(Register::Command) & SEND_PENDING == 0);
    // SAFETY: this half alone sends nothing.
    unsafe { write(Register::CommandDestination, kept) };
}

/// x2APIC mode, once on, ends only at a reset.
const fn wants_x2apic(flags: ApicBaseFlags, offered: bool, needed: bool) -> bool {
    flags.contains(ApicBaseFlags::X2APIC_ENABLE) || needed && offered
}

/// This CPU's APIC id.
pub(crate) fn id() -> u32 {
    let id = read(Register::Id);
    if is_x2apic() { id } else { id >> XAPIC_ID_SHIFT }
}

/// What drives the timer, for the log.
pub(super) fn timer_kind() -> &'static str {
    if cpu::features().tsc_deadline { "TSC deadline" } else { "one-shot count" }
}

/// Ends the interrupt that is being served.
#[inline]
pub(crate) fn end_of_interrupt() {
    // SAFETY: only handlers call this, each once; it can only let the next interrupt through.
    unsafe { write(Register::EndOfInterrupt, 0) };
}

/// Ends an interrupt that has no handler, such as a timer's that firmware left running: it would hold back all
/// others of its priority and below for ever. A spurious one is not in service and needs no end.
#[cold]
pub(crate) fn end_unexpected(vector: u8) {
    if STARTED.load(Ordering::Relaxed)
        && read_array(Register::InService, vector / 32) >> (vector % 32) & 1 != 0
    {
        end_of_interrupt();
    }
}

/// True where no interrupt is in service, nor waits.
#[cfg(feature = "faults")]
pub(crate) fn is_quiet() -> bool {
    let none = |first| (0..u32::BITS as u8 / 4).all(|index| read_array(first, index) == 0);
    none(Register::InService) && none(Register::Requested)
}

/// True where the timer counts at a rate of its own, and not by the TSC.
pub(crate) fn needs_calibration() -> bool {
    !cpu::features().tsc_deadline
}

/// Starts the counter from its top with its interrupt far away, for calibration. False where the timer goes
/// by the TSC and needs none.
pub(crate) fn start_count() -> bool {
    if !needs_calibration() {
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
    // SAFETY: the MSR exists where the feature does, and the timer's interrupt has a handler.
    unsafe { Msr::new(IA32_TSC_DEADLINE).write(deadline) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x2apic_mode_is_kept_or_taken_where_it_is_needed() {
        let (xapic, x2apic) =
            (ApicBaseFlags::LAPIC_ENABLE, ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE);
        assert!(wants_x2apic(x2apic, true, false) && wants_x2apic(xapic, true, true));
        assert!(!wants_x2apic(xapic, true, false) && !wants_x2apic(xapic, false, true));
    }
}
