//! Switching the machine off and restarting it.
//!
//! Source: ACPI Specification, "Waking and Sleeping" and "Reset Register"; Intel chipset data sheets, "Reset
//! Control Register" (port CF9h); IBM PC/AT, keyboard controller.

// UNSAFETY: writes ports and memory that reset or switch off the machine, and breaks the IDT on purpose.
#![allow(unsafe_code)]

use core::arch::asm;
use core::hint;

use spin::Once;
use vcpu::Nanos;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use crate::acpi::{Acpi, Register};
use crate::logger::survivor::{self, Ending};
use crate::memory::map_mmio;
use crate::smp::stop;
use crate::{clock, serial};

/// PM1 control: ACPI mode is on.
const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE_MASK: u16 = 7 << SLEEP_TYPE_SHIFT;
/// PM1 control: enter the state.
const SLEEP_ENABLE: u16 = 1 << 13;
/// Looks at a register that firmware changes at its leisure.
const PATIENCE: u32 = 1_000_000;
/// Time to wait after a reset was asked for before the next way is tried, in ns.
const RESET_WAIT_NS: u64 = 50_000_000;

const RESET_CONTROL: u16 = 0xcf9;
/// Hard reset, then the same with the CPU's reset line.
const RESET_CONTROL_SEQUENCE: [u8; 2] = [0x02, 0x06];
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET_LINE: u8 = 0xfe;

static ACPI: Once<Acpi> = Once::new();

/// Remembers how firmware wants this machine switched off and reset. The first call counts.
pub fn start(acpi: &Acpi) {
    ACPI.call_once(|| acpi.clone());
}

/// Switches the machine off by ACPI. Returns where it does not know how, or nothing happens.
pub(crate) fn power_off() {
    stop::others();
    survivor::set_ending(Ending::Ordered);
    serial::drain();
    let Some(acpi) = ACPI.get() else { return };
    let (Some(soft_off), Some(pm1a)) = (acpi.soft_off, acpi.fadt.pm1a_control) else { return };
    enter_acpi_mode(acpi, pm1a);
    sleep(pm1a, soft_off.pm1a);
    if let Some(pm1b) = acpi.fadt.pm1b_control {
        sleep(pm1b, soft_off.pm1b);
    }
    wait(RESET_WAIT_NS);
}

/// The sleep registers work in ACPI mode only.
fn enter_acpi_mode(acpi: &Acpi, pm1a: u16) {
    // SAFETY: firmware says that these registers are at these ports.
    unsafe {
        let mut control = Port::<u16>::new(pm1a);
        if control.read() & SCI_ENABLE != 0 {
            return;
        }
        let Some((port, value)) = acpi.fadt.enable else { return };
        Port::new(port).write(value);
        for _ in 0..PATIENCE {
            if control.read() & SCI_ENABLE != 0 {
                return;
            }
        }
    }
}

fn sleep(port: u16, sleep_type: u8) {
    // SAFETY: firmware says that this is a PM1 control register; the machine is meant to go off.
    unsafe {
        let mut control = Port::<u16>::new(port);
        let kept = control.read() & !(SLEEP_TYPE_MASK | SLEEP_ENABLE);
        let value = kept | u16::from(sleep_type) << SLEEP_TYPE_SHIFT;
        control.write(value);
        control.write(value | SLEEP_ENABLE);
    }
}

/// Restarts the machine, by the first of several ways that works. The last always does.
pub(crate) fn restart() {
    stop::others();
    survivor::set_ending(Ending::Ordered);
    serial::drain();
    reset_register();
    wait(RESET_WAIT_NS);
    for value in RESET_CONTROL_SEQUENCE {
        // SAFETY: the reset control register; the machine is meant to restart.
        unsafe { Port::new(RESET_CONTROL).write(value) };
    }
    wait(RESET_WAIT_NS);
    // SAFETY: the keyboard controller's command; the machine is meant to restart.
    unsafe { Port::new(KEYBOARD_COMMAND).write(PULSE_RESET_LINE) };
    wait(RESET_WAIT_NS);
    triple_fault()
}

fn reset_register() {
    match ACPI.get().and_then(|acpi| acpi.fadt.reset) {
        // SAFETY: firmware says that this port resets the machine.
        Some((Register::Port(port), value)) => unsafe { Port::new(port).write(value) },
        Some((Register::Memory(at), value)) => {
            if let Ok(register) = map_mmio(at, 1) {
                // SAFETY: firmware says that this byte, just mapped, resets the machine.
                unsafe { register.as_ptr().write_volatile(value) };
            }
        }
        None => {}
    }
}

/// An exception without an IDT.
fn triple_fault() -> ! {
    let nothing = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: the fault that follows resets the CPU; nothing runs afterwards.
    unsafe {
        lidt(&nothing);
        asm!("ud2", options(noreturn));
    }
}

/// Waits by the clock; before there is one, by what the TSC's rate can be at most.
pub(crate) fn wait(ns: u64) {
    /// Ticks a nanosecond of a fast CPU.
    const FAST: u64 = 4;
    let deadline = match clock::clock() {
        Some(clock) => clock.tsc_of(clock::uptime() + Nanos(ns)),
        None => clock::tsc().saturating_add(ns.saturating_mul(FAST)),
    };
    while clock::tsc() < deadline {
        hint::spin_loop();
    }
}
