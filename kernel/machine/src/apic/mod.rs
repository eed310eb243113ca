//! Interrupt controllers of the machine. The old 8259s are silenced; the I/O APICs are masked but for the
//! console; each CPU's local APIC has its timer.
//!
//! Source: Intel SDM vol. 3, "Advanced Programmable Interrupt Controller (APIC)"; Intel 82093AA data sheet;
//! Intel 8259A data sheet.

mod io;
pub(crate) mod ipi;
pub(crate) mod local;
mod pic;

use core::fmt;
use core::sync::atomic::Ordering;

use log::{info, warn};
use vcpu::PinMode;

use self::io::Delivery;
use crate::acpi::{Acpi, IsaInterrupt};
use crate::cpu;
use crate::memory::MapError;
use crate::serial;

/// The timer's vector: of high priority, so that it is not held up.
const TIMER_VECTOR: u8 = 0xec;
/// The console's vector.
const CONSOLE_VECTOR: u8 = 0x30;
/// Where a local APIC sends what turned out to be nothing. Its low four bits must be ones on old CPUs.
const SPURIOUS_VECTOR: u8 = 0xff;
/// Where the silenced 8259s would deliver: sixteen vectors.
const PIC_VECTORS: u8 = 0x20;
/// The ISA interrupt of the PIT.
const PIT_INTERRUPT: usize = 0;
/// The ISA interrupt of the first serial port.
const COM1_INTERRUPT: usize = 4;

/// Why the machine's interrupts cannot be brought up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicError {
    /// The registers cannot be mapped.
    Map(MapError),
    /// The CPU has no local APIC, or firmware switched it off for good.
    NoLocalApic,
    /// The local APIC is in x2APIC mode, which it does not leave, unlike the boot CPU's.
    StuckInX2apic,
}

impl From<MapError> for ApicError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl ApicError {
    /// What the user can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Map(_) | Self::StuckInX2apic => {
                "report this line with the machine's name and the log above"
            }
            Self::NoLocalApic => "switch the local APIC on in the firmware's set-up",
        }
    }
}

impl fmt::Display for ApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "the interrupt controllers cannot be mapped: {error}"),
            Self::NoLocalApic => f.write_str("the CPU has no local APIC"),
            Self::StuckInX2apic => {
                f.write_str("the CPU's local APIC is in x2APIC mode, unlike the boot CPU's")
            }
        }
    }
}

/// Takes over the interrupt controllers. Afterwards the timer can be armed and the console interrupts. With
/// `x2apic` the user wants x2APIC mode; it is used as well where it must be.
pub fn start(acpi: &Acpi, x2apic: bool) -> Result<(), ApicError> {
    if acpi.madt.pics {
        pic::silence(PIC_VECTORS);
    }
    let mode = local::start(TIMER_VECTOR, SPURIOUS_VECTOR, x2apic || acpi.madt.needs_x2apic())?;
    info!("local APIC {} in {mode} mode, timer by {}", local::id(), local::timer_kind());
    if !local::is_x2apic() && acpi.madt.needs_x2apic() {
        warn!("some CPUs have local APICs beyond 254, but this CPU has no x2APIC mode: they stay unused");
    } else if !local::is_x2apic() && x2apic {
        warn!("this CPU has no x2APIC mode");
    }
    if !acpi.madt.processors.contains(&local::id()) {
        warn!("firmware's list of CPUs lacks the one that booted, with local APIC {}", local::id());
    }
    ipi::start();
    cpu::set_handler(TIMER_VECTOR, timer_interrupt);
    cpu::set_handler(CONSOLE_VECTOR, console_interrupt);
    for io_apic in &acpi.madt.io_apics {
        io::start(io_apic)?;
    }
    route_console(acpi.madt.isa[COM1_INTERRUPT]);
    Ok(())
}

/// Switches on the local APIC of a CPU that is being started, as the boot CPU's, and gives its id.
pub(crate) fn start_on_this_cpu() -> Result<u32, ApicError> {
    local::start_as_boot_cpu(TIMER_VECTOR, SPURIOUS_VECTOR)
}

/// Makes the interrupt of the PIT, or of the timer in its place, a non-maskable one of the calling CPU's. False where that
/// cannot be done.
pub(crate) fn route_pit_as_nmi(acpi: &Acpi) -> bool {
    let interrupt = acpi.madt.isa[PIT_INTERRUPT];
    io::keep(interrupt.gsi);
    io::route(interrupt, Delivery::Nmi, local::id())
}

/// Wires a pin for a device that the kernel does not drive itself. False where no I/O APIC has it, the CPU is out of its reach, or the kernel uses it.
pub(crate) fn wire_pin(gsi: u32, mode: PinMode, vector: u8, apic_id: u32) -> bool {
    let interrupt = IsaInterrupt { gsi, active_low: mode.active_low, level: mode.level };
    !io::is_kept(gsi) && io::route(interrupt, Delivery::Vector(vector), apic_id)
}

/// Holds the interrupt of a pin back, or lets it come.
pub(crate) fn mask_pin(gsi: u32, masked: bool) {
    if !io::is_kept(gsi) {
        io::mask(gsi, masked);
    }
}

fn route_console(interrupt: IsaInterrupt) {
    if !serial::is_there() {
        info!("no serial port");
    } else if io::route(interrupt, Delivery::Vector(CONSOLE_VECTOR), local::id()) {
        io::keep(interrupt.gsi);
        serial::enable_interrupts();
    } else {
        warn!("no I/O APIC serves interrupt {}: the console takes no input", interrupt.gsi);
    }
}

fn timer_interrupt() {
    cpu::this().timer_fired.store(true, Ordering::Relaxed);
    local::end_of_interrupt();
}

fn console_interrupt() {
    serial::handle_interrupt();
    local::end_of_interrupt();
}
