//! The machine's own devices for the management domain: ports, PCI configuration space, registers in memory, interrupts.
//!
//! What software may reach is decided above ([`vcpu::Hardware`]); here nothing ever reaches memory, nor what the kernel [keeps](keeps).

// UNSAFETY: reads and writes ports and device registers that others ask for.
#![allow(unsafe_code)]

mod config;
pub(crate) mod interrupts;
mod kept;
mod registers;

use core::ops::Range;

use arrayvec::ArrayVec;
use log::info;
use spin::Once;
use vcpu::{Hardware, HostRange, HostScreen, Hpa, Message, PciFunction, PinMode, PowerPorts, SourceId};
use x86_64::instructions::port::Port;

pub(crate) use self::kept::keeps;
use crate::acpi::{Acpi, MAX_TABLES, Register};
use crate::apic::{self, local};
use crate::memory::aside;
use crate::screen;

/// The machine's devices.
#[derive(Debug)]
pub struct PcHardware {
    tables: ArrayVec<([u8; 4], Hpa), MAX_TABLES>,
    overrides: [(u32, PinMode); 16],
    power: PowerPorts,
}

static HARDWARE: Once<PcHardware> = Once::new();

/// Makes the machine's devices ready for a management domain, whose interrupts the calling CPU takes. The first call counts.
pub fn start(acpi: &Acpi) {
    HARDWARE.call_once(|| {
        kept::start(acpi);
        interrupts::start(local::id());
        let bytes: u64 = aside::map()
            .iter()
            .filter(|range| range.kind == vcpu::HostMemory::Own)
            .map(|range| range.length)
            .sum();
        info!("{} MiB are set aside for the management domain", bytes >> 20);
        PcHardware::of(acpi)
    });
}

/// The machine's devices, once they are ready.
pub(crate) fn hardware() -> Option<&'static dyn Hardware> {
    HARDWARE.get().map(|hardware| hardware as &dyn Hardware)
}

impl PcHardware {
    fn of(acpi: &Acpi) -> Self {
        let overrides =
            acpi.madt.isa.map(|isa| (isa.gsi, PinMode { level: isa.level, active_low: isa.active_low }));
        let reset = match acpi.fadt.reset {
            Some((Register::Port(port), _)) => port,
            _ => 0,
        };
        let pm1_control = [acpi.fadt.pm1a_control, acpi.fadt.pm1b_control].map(Option::unwrap_or_default);
        Self { tables: acpi.tables.clone(), overrides, power: PowerPorts { pm1_control, reset } }
    }
}

impl Hardware for PcHardware {
    fn memory_map(&self) -> &[HostRange] {
        aside::map()
    }

    fn kept(&self) -> &[Range<u64>] {
        kept::ranges()
    }

    fn acpi_tables(&self) -> &[([u8; 4], Hpa)] {
        &self.tables
    }

    fn overrides(&self) -> [(u32, PinMode); 16] {
        self.overrides
    }

    fn screen(&self) -> HostScreen {
        screen::told()
    }

    fn lend_screen(&self, lent: bool) {
        screen::lend(lent);
    }

    fn power_ports(&self) -> PowerPorts {
        self.power
    }

    fn port_read(&self, port: u16, size: u8) -> u32 {
        // SAFETY: ports reach devices, which cannot touch memory but by what the filter above lets through.
        unsafe {
            match size {
                1 => Port::<u8>::new(port).read().into(),
                2 => Port::<u16>::new(port).read().into(),
                _ => Port::<u32>::new(port).read(),
            }
        }
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        // SAFETY: as above.
        unsafe {
            match size {
                1 => Port::new(port).write(value as u8),
                2 => Port::new(port).write(value as u16),
                _ => Port::new(port).write(value),
            }
        }
    }

    fn config_read(&self, function: PciFunction, register: u16, size: u8) -> u32 {
        config::read(function, register, size)
    }

    fn config_write(&self, function: PciFunction, register: u16, size: u8, value: u32) {
        config::write(function, register, size, value);
    }

    fn register_read(&self, at: Hpa, size: u8) -> Option<u64> {
        registers::read(at, size)
    }

    fn register_write(&self, at: Hpa, size: u8, value: u64) -> bool {
        registers::write(at, size, value)
    }

    fn open_pin(&self, gsi: u32, mode: PinMode) -> Option<SourceId> {
        interrupts::open_pin(gsi, mode)
    }

    fn unmask_pin(&self, gsi: u32) {
        apic::mask_pin(gsi, false);
    }

    fn close_pin(&self, gsi: u32) {
        interrupts::close_pin(gsi);
    }

    fn open_message(&self) -> Option<(SourceId, Message)> {
        interrupts::open_message()
    }

    fn close_message(&self, source: SourceId) {
        interrupts::close_message(source);
    }

    fn has_interrupts(&self) -> bool {
        interrupts::any()
    }

    fn take_interrupts(&self, each: &mut dyn FnMut(SourceId)) {
        interrupts::take(each);
    }
}
