//! The devices of one PC, wired: which port belongs to which device, and which line to which interrupt input.
//!
//! ISA line n goes to the 8259 pair and to I/O APIC pin n, but for the timer, whose line 0 goes to pin 2 (the source
//! override in the MADT says so). Some devices are there only when they were added ([`Chipset::add_fw_cfg`] and its
//! neighbours). DMA controllers, floppy, keyboard and display adapter do not exist; their ports read
//! all ones.

mod memory;
mod optional;
mod ports;
#[cfg(test)]
mod tests;

use crate::bus::{BusCounters, IntervalMap, IoError, Width, read_by_bytes, write_by_bytes};
use crate::clock::earlier;
use crate::i8042::I8042;
use crate::ioapic::IoApic;
use crate::message::{ApicBus, ApicMessage};
use crate::outside::Outside;
use crate::pci::{AddFunctionError, ConfigSpace, ConfigWrite, FunctionAddress, PciBus};
use crate::pic::PicPair;
use crate::pit::Pit;
use crate::pm::PowerManagement;
use crate::power::{PowerEvent, ResetControl, SystemControlA};
use crate::rtc::{MemorySize, Rtc};
use crate::uart::{ConsoleSink, Uart};
use optional::Optional;
pub use optional::PortTaken;
pub use ports::COM1;
use ports::{OPTIONAL_RANGES, PORT_RANGES, PortDevice};
use vcpu::Nanos;

/// ISA interrupt lines.
pub mod isa_line {
    /// 8254 channel 0.
    pub const TIMER: u8 = 0;
    /// i8042.
    pub const KEYBOARD: u8 = 1;
    /// First serial port.
    pub const COM1: u8 = 4;
    /// Real-time clock.
    pub const RTC: u8 = 8;
    /// ACPI's system-control interrupt, level-triggered.
    pub const SCI: u8 = 9;
}

/// The I/O APIC pin (global system interrupt) of the timer.
pub const TIMER_GSI: u8 = 2;
/// The first of the pins of the PCI bus' interrupts, which devices share in turns.
pub(crate) const FIRST_PCI_GSI: u8 = 16;
/// How many these are.
pub(crate) const PCI_LINES: usize = 4;
/// The IRQs of the 8259s that they have besides, level-triggered, for systems that do not use I/O APICs.
pub(crate) const PCI_IRQS: [u8; PCI_LINES] = [10, 11, 10, 11];

/// What the chipset needs of the world around it.
pub trait Environment: ApicBus + ConsoleSink + Outside {}

impl<T: ApicBus + ConsoleSink + Outside + ?Sized> Environment for T {}

/// How a machine's chipset is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChipsetConfig {
    /// What the CMOS says of the memory.
    pub memory: MemorySize,
    /// Wall-clock time (UTC), seconds since the start of 1970, at `now`.
    pub wall_clock: u64,
    /// The present moment.
    pub now: Nanos,
    /// Where this has no device there are the machine's own ([`Outside`]); what those bring is left out here: clock, keyboard controller, power
    /// management, and the configuration space of the PCI bus but for functions that are added.
    pub outside: bool,
}

/// One PC's devices but the local APICs.
#[derive(Clone, Debug)]
pub struct Chipset<'a> {
    ports: IntervalMap<PortDevice, { PORT_RANGES.len() + OPTIONAL_RANGES }>,
    optional: Optional<'a>,
    pic: PicPair,
    ioapic: IoApic,
    pit: Pit,
    rtc: Rtc,
    uart: Uart,
    i8042: I8042,
    pm: PowerManagement,
    pci: PciBus,
    reset_control: ResetControl,
    system_control_a: SystemControlA,
    /// Levels of the ISA lines as last driven.
    lines: u16,
    /// For each of the four interrupts of the PCI bus, the devices that drive it: a bit each.
    pci_lines: [u32; PCI_LINES],
    /// The function whose configuration was written last, until somebody asks.
    configured: Option<FunctionAddress>,
    power: Option<PowerEvent>,
    /// See [`ChipsetConfig::outside`].
    outside: bool,
    /// When the next of its timers is due, see [`Self::note_deadline`].
    deadline: Option<Nanos>,
    counters: BusCounters,
}

/// Whether a pin of the I/O APIC is the machine's own, where there is that.
const fn is_outside(pin: u8) -> bool {
    !matches!(pin, TIMER_GSI | isa_line::COM1)
}

impl Chipset<'_> {
    /// The machine after power-on.
    pub fn new(config: &ChipsetConfig) -> Self {
        let mut pic = PicPair::new();
        for irq in PCI_IRQS.into_iter().chain([isa_line::SCI]) {
            pic.set_level_triggered(irq);
        }
        // The timer's output is high while nothing is programmed.
        pic.start_high(isa_line::TIMER);
        let mut ioapic = IoApic::new();
        ioapic.start_high(TIMER_GSI);
        let mut made = Self {
            // The ranges are constants without conflict, as a test shows; without a map no port would answer.
            ports: ports::map(config.outside),
            optional: Optional::default(),
            pic,
            ioapic,
            pit: Pit::new(config.now),
            rtc: Rtc::new(config.wall_clock, config.memory, config.now),
            uart: Uart::new(),
            i8042: I8042::new(),
            pm: PowerManagement::new(config.now),
            pci: if config.outside { PciBus::empty() } else { PciBus::new() },
            reset_control: ResetControl::default(),
            system_control_a: SystemControlA::default(),
            lines: 1 << isa_line::TIMER,
            pci_lines: [0; PCI_LINES],
            configured: None,
            power: None,
            outside: config.outside,
            deadline: None,
            counters: BusCounters::default(),
        };
        made.note_deadline();
        made
    }

    /// The machine's reset line: everything starts over but the clock and its memory. Functions that were added to the
    /// PCI bus are gone, and a power event not yet taken too.
    pub fn reset(&mut self, now: Nanos) {
        let outside = self.outside;
        let fresh = Self::new(&ChipsetConfig { memory: MemorySize::default(), wall_clock: 0, now, outside });
        let mut rtc = self.rtc.clone();
        rtc.reset(now);
        let mut optional = core::mem::take(&mut self.optional);
        optional.reset();
        *self = Self { ports: self.ports.clone(), optional, rtc, counters: self.counters, ..fresh };
        self.note_deadline();
    }

    /// Executes IN: reads `width` (at most 32 bits) at `port`. What no device answers reads all ones.
    pub fn port_read(&mut self, port: u16, width: Width, now: Nanos, env: &mut impl Environment) -> u32 {
        if let Some((device, offset)) = self.ports.find(port.into()) {
            let offset = offset as u16;
            if device.takes_whole(offset, width) {
                return match self.read_device(device, offset, width, now, env) {
                    Ok(value) => value,
                    Err(_) => {
                        self.counters.refused += 1;
                        width.mask() as u32
                    }
                };
            }
        } else if self.outside && !self.has_some(port, width) {
            return env.outside_read(port, width);
        } else if width == Width::Byte {
            self.counters.unclaimed_reads += 1;
            return 0xff;
        }
        read_by_bytes(width, |index| match port.checked_add(index.into()) {
            Some(port) => self.port_read(port, Width::Byte, now, env) as u8,
            None => 0xff,
        }) as u32
    }

    /// Executes OUT: writes `width` (at most 32 bits) at `port`. What no device takes is lost.
    #[inline]
    pub fn port_write(
        &mut self,
        port: u16,
        width: Width,
        value: u32,
        now: Nanos,
        env: &mut impl Environment,
    ) {
        // A guest writes to the same device again and again. Where nothing but a register of it changes, that is all there is to do.
        match self.ports.find_again(port.into()) {
            Some((device, offset)) if width == Width::Byte && self.stores(device, offset, value) => {}
            _ => self.write(port, width, value, now, env),
        }
    }

    fn write(&mut self, port: u16, width: Width, value: u32, now: Nanos, env: &mut impl Environment) {
        if let Some((device, offset)) = self.ports.find(port.into()) {
            let offset = offset as u16;
            if device.takes_whole(offset, width) {
                if self.write_device(device, offset, width, value, now, env).is_err() {
                    self.counters.refused += 1;
                }
                return;
            }
        } else if self.outside && !self.has_some(port, width) {
            return env.outside_write(port, width, value);
        } else if width == Width::Byte {
            self.counters.unclaimed_writes += 1;
            return;
        }
        write_by_bytes(width, value.into(), |index, byte| {
            if let Some(port) = port.checked_add(index.into()) {
                self.write(port, Width::Byte, byte.into(), now, env);
            }
        });
    }

    /// Whether a device has this port.
    pub fn has_port(&mut self, port: u16) -> bool {
        self.ports.find(port.into()).is_some()
    }

    /// Whether a device has one of the ports.
    fn has_some(&mut self, port: u16, width: Width) -> bool {
        (0..u64::from(width.bytes())).any(|index| self.ports.find(u64::from(port) + index).is_some())
    }

    /// When a timer next needs [`Self::advance`]; later than the last advance. Kept, as most accesses are to no timer.
    #[inline]
    pub fn next_deadline(&self) -> Option<Nanos> {
        debug_assert_eq!(self.deadline, self.timers_deadline(), "a timer has changed unnoticed");
        self.deadline
    }

    fn timers_deadline(&self) -> Option<Nanos> {
        earlier(self.pit.next_deadline(), earlier(self.rtc.next_deadline(), self.pm.next_deadline()))
    }

    /// To be called where a timer may have changed.
    fn note_deadline(&mut self) {
        self.deadline = self.timers_deadline();
    }

    /// Lets the timers catch up with `now` and drives their lines.
    pub fn advance(&mut self, now: Nanos, env: &mut impl Environment) {
        let due = |deadline: Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
        self.pit.advance(now);
        self.drive_timer(env);
        // Flags that nobody waits for are settled when they are read.
        if due(self.rtc.next_deadline()) {
            self.rtc.advance(now);
            self.drive(isa_line::RTC, self.rtc.irq(), env);
        }
        if due(self.pm.next_deadline()) {
            self.pm.advance(now);
            self.drive(isa_line::SCI, self.pm.sci(), env);
        }
        self.note_deadline();
    }

    /// Adds a function to the PCI bus, until the next reset.
    ///
    /// # Errors
    /// The address is taken, or the bus is full.
    pub fn add_pci_function(
        &mut self,
        address: FunctionAddress,
        space: ConfigSpace,
    ) -> Result<(), AddFunctionError> {
        self.pci.add(address, space)
    }

    /// Whether [`Self::take_configured`] or [`Self::take_power_event`] has something.
    #[inline(always)]
    pub const fn has_events(&self) -> bool {
        self.configured.is_some() || self.power.is_some()
    }

    /// A function whose configuration the guest has written since the last call, with what it is now. The host bridge's means
    /// nothing to anybody.
    pub fn take_configured(&mut self) -> Option<(FunctionAddress, &ConfigSpace)> {
        let address = self.configured.take()?;
        Some((address, self.pci.function(address)?))
    }

    /// The IRQ of the 8259s at which pin INTA of a device arrives, as firmware writes it into the interrupt line register.
    pub fn pci_irq(function: FunctionAddress) -> u8 {
        PCI_IRQS.get(usize::from(function.device()) % PCI_LINES).copied().unwrap_or_default()
    }

    /// Drives pin INTA of a device on the PCI bus. Where its interrupt arrives is in the ACPI tables (`_PRT`).
    pub fn drive_pci(&mut self, function: FunctionAddress, high: bool, env: &mut impl Environment) {
        let index = usize::from(function.device()) % PCI_LINES;
        let Some(drivers) = self.pci_lines.get_mut(index) else { return };
        let bit = 1 << function.device();
        let after = if high { *drivers | bit } else { *drivers & !bit };
        let before = core::mem::replace(drivers, after);
        if (before != 0) != (after != 0) {
            self.ioapic.set_line(FIRST_PCI_GSI + index as u8, after != 0, env);
            if let Some(irq) = PCI_IRQS.get(index) {
                let mut sharing = PCI_IRQS.iter().zip(&self.pci_lines).filter(|(other, _)| *other == irq);
                self.pic.set_line(*irq, sharing.any(|(_, drivers)| *drivers != 0));
            }
        }
    }

    fn note_configured(&mut self, written: Result<ConfigWrite, IoError>) {
        if let Ok(ConfigWrite { function, .. }) = written
            && function != FunctionAddress::HOST_BRIDGE
        {
            self.configured = Some(function);
        }
    }

    /// The 8259 pair's output to the processor (INTR).
    #[inline(always)]
    pub fn pic_interrupt(&self) -> bool {
        self.pic.interrupt()
    }

    /// The processor's interrupt-acknowledge cycle: the vector to deliver.
    pub fn pic_acknowledge(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// The messages by which a device could wake a processor that has interrupts off, see [`IoApic::unmaskable`].
    pub fn unmaskable(&self) -> impl Iterator<Item = ApicMessage> {
        self.ioapic.unmaskable()
    }

    /// Passes on a local APIC's EOI for a level-triggered vector.
    pub fn eoi_broadcast(&mut self, vector: u8, env: &mut impl Environment) {
        if self.outside {
            self.end_outside(vector, env);
        }
        self.ioapic.end_of_interrupt(vector, env);
    }

    /// What the machine drives is low until its pin may be asserted again: the machine asserts it anew where its device still does.
    #[cold]
    fn end_outside(&mut self, vector: u8, env: &mut impl Environment) {
        for pin in self.ioapic.waiting_for(vector).filter(|pin| is_outside(*pin)) {
            self.ioapic.set_line(pin, false, env);
            env.outside_pin_ended(pin);
        }
    }

    /// An interrupt of the machine's has come at a pin.
    pub fn outside_interrupt(&mut self, pin: u8, level: bool, env: &mut impl Environment) {
        self.ioapic.set_line(pin, true, env);
        if !level {
            self.ioapic.set_line(pin, false, env);
        }
    }

    /// Tells the machine of pins that the guest has set up.
    #[cold]
    fn tell_pins(&mut self, env: &mut impl Environment) {
        while let Some((pin, setting)) = self.ioapic.take_set_up() {
            if is_outside(pin) {
                env.outside_pin(pin, setting);
            }
        }
    }

    /// Gives the serial port one byte of console input; false when it has no room.
    pub fn receive(&mut self, byte: u8, env: &mut impl Environment) -> bool {
        let taken = self.uart.receive(byte);
        self.drive(isa_line::COM1, self.uart.irq(), env);
        taken
    }

    /// Bytes that [`Self::receive`] would take now.
    pub fn console_room(&self) -> usize {
        self.uart.room()
    }

    /// Whether console output waits for room.
    #[inline]
    pub fn console_pending(&self) -> bool {
        self.uart.has_unsent() || self.optional.console_pending()
    }

    /// Offers waiting console output to the sink again.
    pub fn flush_console(&mut self, env: &mut impl Environment) {
        self.optional.flush_console(env);
        self.uart.flush(env);
        self.drive(isa_line::COM1, self.uart.irq(), env);
    }

    /// Presses the power button: an ACPI event that asks the guest to shut down.
    pub fn press_power_button(&mut self, env: &mut impl Environment) {
        self.pm.press_power_button();
        self.drive(isa_line::SCI, self.pm.sci(), env);
        self.note_deadline();
    }

    /// Takes what the guest asked of the machine, if anything.
    pub fn take_power_event(&mut self) -> Option<PowerEvent> {
        self.power.take()
    }

    /// Accesses that nobody served so far.
    pub const fn counters(&self) -> BusCounters {
        self.counters
    }

    /// The PCI bus, to add functions to.
    pub fn pci(&mut self) -> &mut PciBus {
        &mut self.pci
    }

    /// Drives ISA line `line` to `level` at both interrupt controllers.
    #[inline]
    fn drive(&mut self, line: u8, level: bool, env: &mut impl Environment) {
        let bit = 1 << line;
        if (self.lines & bit != 0) == level {
            return;
        }
        self.lines ^= bit;
        self.pic.set_line(line, level);
        let pin = if line == isa_line::TIMER { TIMER_GSI } else { line };
        self.ioapic.set_line(pin, level, env);
    }

    /// The timer's line: every rise must be seen as an edge, also when the output has fallen and risen in between.
    #[inline]
    fn drive_timer(&mut self, env: &mut impl Environment) {
        if self.pit.take_edge() {
            self.drive(isa_line::TIMER, false, env);
            self.drive(isa_line::TIMER, true, env);
        }
        self.drive(isa_line::TIMER, self.pit.output(), env);
    }

    fn note_power(&mut self, event: Option<PowerEvent>) {
        self.power = self.power.or(event);
    }
}
