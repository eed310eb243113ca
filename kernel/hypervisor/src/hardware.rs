//! The machine's own devices in the hands of the one VM that drives them, the management domain.
//!
//! What it may do is decided by `passthrough`; here that meets the VM: its chipset has what it does not find itself looked for here
//! ([`devices::Outside`]), and interrupts of the machine go to its I/O APIC or, as messages, to its local APICs.
//!
//! Locks: taken with the chipset's held, and alone; under the filter's, device memory is mapped and withdrawn.

use core::ops::Range;

use arrayvec::ArrayVec;
use devices::acpi::{AcpiTables, machine_tables};
use devices::pci::FunctionAddress;
use devices::{ApicMessage, IoApic, PinSetting, Width};
use passthrough::pci::{Answer, Filter, MAX_SLOTS, Withdraw};
use passthrough::{PortWrite, Ports};
use spin::Mutex;
use vcpu::{Gpa, Hpa, PAGE_SIZE, PciFunction, PinMode, SourceId};

use crate::vm::StartError;

/// Firmware's tables that the domain does not get: what they describe is the kernel's, or other for it.
const HIDDEN_TABLES: [[u8; 4]; 8] =
    [*b"APIC", *b"HPET", *b"DMAR", *b"IVRS", *b"MCFG", *b"SRAT", *b"SLIT", *b"VFCT"];

/// What is mapped together at most.
const LARGE_PAGE: u64 = 2 << 20;

/// What an interrupt of the machine is for the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interrupt {
    /// A pin of its I/O APIC.
    Pin {
        /// Which.
        pin: u8,
        /// It is asserted until its end.
        level: bool,
    },
    /// A message to its local APICs.
    Message(ApicMessage),
}

/// A pin that is wired.
#[derive(Clone, Copy, Debug)]
struct Wired {
    source: SourceId,
    mode: PinMode,
}

/// The machine's devices.
pub(crate) struct Hardware {
    machine: &'static dyn vcpu::Hardware,
    ports: Ports,
    filter: Mutex<Filter<'static>>,
    pins: Mutex<[Option<Wired>; IoApic::PINS]>,
}

impl Hardware {
    pub(crate) fn new(machine: &'static dyn vcpu::Hardware) -> Self {
        let mut filter = Filter::new(machine);
        for kept in machine.kept() {
            filter.protect(Hpa(kept.start), kept.end.saturating_sub(kept.start));
        }
        let ports = Ports::new(machine.power_ports());
        Self { machine, ports, filter: Mutex::new(filter), pins: Mutex::new([None; IoApic::PINS]) }
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &'static dyn vcpu::Hardware {
        self.machine
    }

    /// Tables for a domain with so many vCPUs, at an address.
    pub(crate) fn tables(&self, vcpus: usize, base: Gpa) -> Result<AcpiTables, StartError> {
        let overrides = self.machine.overrides().map(|(gsi, mode)| (gsi, mode.level, mode.active_low));
        let others = self.machine.acpi_tables().iter().filter(|(name, _)| !HIDDEN_TABLES.contains(name));
        Ok(machine_tables(vcpus as u32, &overrides, others.map(|(_, at)| at.0), base)?)
    }

    /// Whether a port that no device of the chipset has need not be looked at.
    pub(crate) fn passes(&self, port: u16) -> bool {
        self.ports.passes(port)
    }

    pub(crate) fn port_read(&self, port: u16, width: Width) -> u32 {
        if self.ports.may_read(port, width.bytes()) {
            self.machine.port_read(port, width.bytes())
        } else {
            width.mask() as u32
        }
    }

    /// What of a write is for the owner to do.
    pub(crate) fn port_write(&self, port: u16, width: Width, value: u32) -> PortWrite {
        let what = self.ports.write(port, width.bytes(), value);
        if what == PortWrite::Pass {
            self.machine.port_write(port, width.bytes(), value);
        }
        what
    }

    /// Reads a register of a function. `withdraw` takes device memory from the domain.
    pub(crate) fn config_read(
        &self,
        (function, register, width): (FunctionAddress, u16, Width),
        withdraw: &mut Withdraw<'_>,
    ) -> u32 {
        match self.filter.lock().read(on_machine(function), register, width, withdraw) {
            Answer::Done(value) => value,
            Answer::Other { .. } => width.mask() as u32,
        }
    }

    /// Writes one.
    pub(crate) fn config_write(
        &self,
        (function, register, width): (FunctionAddress, u16, Width),
        value: u32,
        withdraw: &mut Withdraw<'_>,
    ) {
        // Functions of the kernel's own are the chipset's.
        let _ = self.filter.lock().write(on_machine(function), register, width, value, withdraw);
    }

    /// Places on bus 0 for so many functions of the kernel's own, as far as there are some.
    pub(crate) fn slots(&self, count: usize) -> ArrayVec<u8, MAX_SLOTS> {
        let mut filter = self.filter.lock();
        filter.reserve_slots(count);
        (0..count.min(MAX_SLOTS)).map_while(|index| filter.virtual_slot(index)).collect()
    }

    /// Maps device memory around an address, where that may be: `map` gets what may be mapped together. `is_own` tells of a range whether it has
    /// registers of the kernel's own functions.
    pub(crate) fn map(
        &self,
        gpa: Gpa,
        is_own: impl Fn(&Range<u64>) -> bool,
        map: impl FnOnce(Range<u64>) -> bool,
    ) -> bool {
        // No table comes to be here meanwhile.
        let filter = self.filter.lock();
        let page = gpa.page().0..gpa.page().0 + PAGE_SIZE;
        if filter.table_at(Hpa(gpa.0)).is_some() || is_own(&page) {
            return false;
        }
        let start = gpa.0 & !(LARGE_PAGE - 1);
        let has_table = filter.tables().any(|pages| {
            pages.start.0 < start + LARGE_PAGE && start < pages.start.0.saturating_add(pages.bytes)
        });
        let large = start..start + LARGE_PAGE;
        map(if has_table || is_own(&large) { page } else { large })
    }

    /// Reads from the page of a table of message interrupts; `None` where there is none.
    pub(crate) fn table_read(&self, gpa: Gpa, width: Width) -> Option<u64> {
        let mut filter = self.filter.lock();
        filter.table_at(Hpa(gpa.0))?;
        Some(filter.table_read(Hpa(gpa.0), width))
    }

    /// Writes to one.
    pub(crate) fn table_write(&self, gpa: Gpa, width: Width, value: u64) -> Option<()> {
        let mut filter = self.filter.lock();
        filter.table_at(Hpa(gpa.0))?;
        filter.table_write(Hpa(gpa.0), width, value);
        Some(())
    }

    /// The domain has set up a pin. It stays wired where it is masked again: what comes then waits in the domain's I/O APIC.
    pub(crate) fn set_pin(&self, pin: u8, setting: PinSetting) {
        let mut pins = self.pins.lock();
        let Some(place) = pins.get_mut(usize::from(pin)) else { return };
        let mode = PinMode { level: setting.level, active_low: setting.active_low };
        if !setting.masked && place.is_none_or(|wired| wired.mode != mode) {
            *place = self.machine.open_pin(pin.into(), mode).map(|source| Wired { source, mode });
        }
    }

    /// The domain has ended a level-triggered interrupt.
    pub(crate) fn end_pin(&self, pin: u8) {
        self.machine.unmask_pin(pin.into());
    }

    /// What an interrupt is for the domain; `None` where it does not want it any more.
    pub(crate) fn interrupt(&self, source: SourceId) -> Option<Interrupt> {
        if let Some(message) = self.filter.lock().deliver(source) {
            return Some(Interrupt::Message(message));
        }
        let pins = self.pins.lock();
        let wired = |place: &Option<Wired>| place.filter(|wired| wired.source == source);
        let (pin, wired) = (0..).zip(pins.iter()).find_map(|(pin, place)| Some((pin, wired(place)?)))?;
        Some(Interrupt::Pin { pin, level: wired.mode.level })
    }
}

const fn on_machine(function: FunctionAddress) -> PciFunction {
    PciFunction::new(function.bus(), function.device(), function.function())
}
