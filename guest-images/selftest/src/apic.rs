//! The local APIC in xAPIC and x2APIC mode (SDM vol. 3, "Advanced Programmable Interrupt Controller").

use crate::cpu::{self, msr};
use crate::{interrupt, platform};

/// Register offsets in the xAPIC page.
#[expect(missing_docs, reason = "the manual's names")]
pub mod register {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR_LOW: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_THERMAL: u32 = 0x330;
    pub const LVT_PERFORMANCE: u32 = 0x340;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: this is the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;

/// LVT: masked.
pub const MASKED: u32 = 1 << 16;
/// LVT timer: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// LVT timer: TSC-deadline.
pub const DEADLINE: u32 = 2 << 17;
/// LVT or ICR delivery mode NMI.
pub const DELIVERY_NMI: u32 = 4 << 8;
/// ICR delivery mode: lowest priority.
pub const DELIVERY_LOWEST: u32 = 1 << 8;
/// ICR delivery mode INIT.
pub const DELIVERY_INIT: u32 = 5 << 8;
/// ICR delivery mode start-up; the vector is the page.
pub const DELIVERY_STARTUP: u32 = 6 << 8;
/// LVT delivery mode ExtINT.
pub const DELIVERY_EXTINT: u32 = 7 << 8;
/// ICR: logical destination.
pub const LOGICAL: u32 = 1 << 11;
/// ICR: delivery pending.
pub const DELIVERY_PENDING: u32 = 1 << 12;
/// ICR: assert.
pub const ASSERT: u32 = 1 << 14;
/// ICR shorthand: self.
pub const TO_SELF: u32 = 1 << 18;
/// ICR shorthand: all including self.
pub const TO_ALL: u32 = 2 << 18;
/// ICR shorthand: all excluding self.
pub const TO_OTHERS: u32 = 3 << 18;
/// SVR: software enable.
pub const SVR_ENABLE: u32 = 1 << 8;

/// The spurious-interrupt vector of the baseline.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Divide configuration for a divisor of 1.
pub const DIVIDE_BY_1: u32 = 0b1011;

/// Where the xAPIC page lies.
pub const XAPIC_BASE: u64 = 0xfee0_0000;

/// True in x2APIC mode.
pub fn in_x2apic_mode() -> bool {
    cpu::rdmsr(msr::APIC_BASE) & BASE_X2APIC != 0
}

/// True where CPUID offers x2APIC mode.
pub fn has_x2apic() -> bool {
    cpu::cpuid(1, 0).ecx & 1 << 21 != 0
}

/// True where CPUID offers the TSC-deadline timer.
pub fn has_deadline() -> bool {
    cpu::cpuid(1, 0).ecx & 1 << 24 != 0
}

/// The x2APIC MSR of a register.
pub const fn x2apic_msr(register: u32) -> u32 {
    msr::X2APIC_FIRST + register / 16
}

/// Reads a register through the xAPIC page.
pub fn read(register: u32) -> u32 {
    cpu::read32(XAPIC_BASE + u64::from(register))
}

/// Writes a register through the xAPIC page.
pub fn write(register: u32, value: u32) {
    cpu::write32(XAPIC_BASE + u64::from(register), value);
}

/// Reads a register in x2APIC mode.
pub fn read_x2(register: u32) -> u64 {
    cpu::rdmsr(x2apic_msr(register))
}

/// Writes a register in x2APIC mode.
pub fn write_x2(register: u32, value: u64) {
    cpu::wrmsr(x2apic_msr(register), value);
}

/// Reads a register in whichever mode; in x2APIC mode its lower half.
pub fn get(register: u32) -> u32 {
    if has_x2apic() && in_x2apic_mode() { read_x2(register) as u32 } else { read(register) }
}

/// Writes a register in whichever mode.
pub fn set(register: u32, value: u32) {
    if has_x2apic() && in_x2apic_mode() { write_x2(register, value.into()) } else { write(register, value) }
}

/// EOI in whichever mode.
pub fn eoi() {
    set(register::EOI, 0);
}

/// This processor's xAPIC id.
pub fn id() -> u8 {
    (read(register::ID) >> 24) as u8
}

/// Sends by the interrupt command register, xAPIC mode. `destination` is an xAPIC id or logical mask.
pub fn send(destination: u8, command: u32) {
    write(register::ICR_HIGH, u32::from(destination) << 24);
    write(register::ICR_LOW, command | ASSERT);
}

/// Sends in whichever mode. `destination` is an id or a logical destination of the mode.
pub fn send_any(destination: u32, command: u32) {
    if has_x2apic() && in_x2apic_mode() {
        write_x2(register::ICR_LOW, u64::from(destination) << 32 | u64::from(command | ASSERT));
    } else {
        send(destination as u8, command);
    }
}

/// Sends a fixed interrupt to this processor.
pub fn send_self(vector: u8) {
    send(0, TO_SELF | u32::from(vector));
}

/// Sends an NMI to this processor.
pub fn send_nmi() {
    send(id(), DELIVERY_NMI);
}

/// True when that vector's bit is set in the 256-bit register (ISR, TMR or IRR).
pub fn bit(register: u32, vector: u8) -> bool {
    get(register + u32::from(vector) / 32 * 16) & 1 << (vector % 32) != 0
}

/// Back to xAPIC mode. Bare Bochs never enables its APIC again once it is off, so there the mode stays what it is.
fn leave_x2apic() {
    let now = cpu::rdmsr(msr::APIC_BASE);
    if !platform::hypervisor() && !platform::bare_tcg() {
        return;
    }
    if now & BASE_X2APIC != 0 {
        cpu::wrmsr(msr::APIC_BASE, now & !(BASE_X2APIC | BASE_ENABLE));
    }
    let base = XAPIC_BASE | BASE_ENABLE | now & BASE_BSP;
    if now != base {
        cpu::wrmsr(msr::APIC_BASE, base);
    }
}

/// xAPIC mode where it can be had again, enabled, everything masked, nothing in service or pending.
pub fn baseline() {
    leave_x2apic();
    let x2apic = has_x2apic() && in_x2apic_mode();
    let get = |register| if x2apic { read_x2(register) as u32 } else { read(register) };
    let set =
        |register, value: u32| if x2apic { write_x2(register, value.into()) } else { write(register, value) };
    set(register::SVR, SVR_ENABLE | u32::from(SPURIOUS_VECTOR));
    for lvt in [register::LVT_TIMER, register::LVT_LINT0, register::LVT_LINT1, register::LVT_ERROR] {
        set(lvt, MASKED | u32::from(SPURIOUS_VECTOR));
    }
    set(register::INITIAL_COUNT, 0);
    set(register::DIVIDE, DIVIDE_BY_1);
    set(register::TPR, 0);
    if !x2apic {
        write(register::DFR, u32::MAX);
        write(register::LDR, 0);
    }
    let mut rounds = 0;
    while (0..8).any(|i| get(register::ISR + 16 * i) != 0) && rounds < 256 {
        set(register::EOI, 0);
        rounds += 1;
    }
    if (1..8).any(|i| get(register::IRR + 16 * i) != 0) {
        interrupt::drain();
    }
    set(register::ESR, 0);
}
