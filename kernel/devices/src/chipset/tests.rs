use super::*;
use crate::message::ApicMessage;
use crate::outside::Outside;
use crate::pci::{Ecam, Header, register};
use proptest::prelude::*;
use vcpu::Gpa;
extern crate std;
use std::vec::Vec;

/// Records messages and console output.
struct World {
    messages: Vec<ApicMessage>,
    console: Vec<u8>,
    room: usize,
}

impl ApicBus for World {
    fn deliver(&mut self, message: ApicMessage) {
        self.messages.push(message);
    }
}

impl Outside for World {}

impl ConsoleSink for World {
    fn put(&mut self, byte: u8) -> bool {
        let takes = self.console.len() < self.room;
        if takes {
            self.console.push(byte);
        }
        takes
    }
}

struct Machine {
    chipset: Chipset<'static>,
    world: World,
    now: Nanos,
}

impl Machine {
    fn new() -> Self {
        let memory = MemorySize { below_4_gib: 256 << 20, above_4_gib: 0 };
        let config = ChipsetConfig { memory, wall_clock: 1_700_000_000, now: Nanos::ZERO, outside: false };
        let world = World { messages: Vec::new(), console: Vec::new(), room: usize::MAX };
        Self { chipset: Chipset::new(&config), world, now: Nanos::ZERO }
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.chipset.port_read(port, Width::Byte, self.now, &mut self.world) as u8
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.out(port, Width::Byte, value.into());
    }

    fn out(&mut self, port: u16, width: Width, value: u32) {
        self.chipset.port_write(port, width, value, self.now, &mut self.world);
    }

    fn read(&mut self, port: u16, width: Width) -> u32 {
        self.chipset.port_read(port, width, self.now, &mut self.world)
    }

    fn ioapic(&mut self, register: u8, value: u32) {
        for (offset, value) in [(0, u64::from(register)), (0x10, u64::from(value))] {
            let gpa = Gpa(IoApic::BASE.0 + offset);
            self.chipset.mmio_write(gpa, Width::Dword, value, self.now, &mut self.world).unwrap();
        }
    }

    fn ecam(&mut self, offset: u64, width: Width) -> Option<u64> {
        self.chipset.mmio_read(Gpa(Ecam::BASE.0 + offset), width, self.now, &mut self.world)
    }

    fn advance(&mut self, now: Nanos) {
        self.now = now;
        self.chipset.advance(now, &mut self.world);
    }

    /// Both 8259s with vectors 0x20 to 0x2f, nothing masked.
    fn program_pics(&mut self) {
        for (port, base, icw3) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            self.outb(port, 0x11);
            for value in [base, icw3, 0x01, 0x00] {
                self.outb(port + 1, value);
            }
        }
    }
}

#[test]
fn optional_devices_answer_once_added_and_survive_a_reset() {
    let mut machine = Machine::new();
    assert_eq!((machine.inb(0xe9), machine.inb(0x514)), (0xff, 0xff));
    machine.chipset.add_debug_console().unwrap();
    machine.chipset.add_fw_cfg(crate::FwCfg::new()).unwrap();
    machine.chipset.add_debug_exit(0x501).unwrap();
    for port in [0x501, 0x3f8, 0xcfc, 0x511, 0x514] {
        assert_eq!(machine.chipset.add_debug_exit(port), Err(PortTaken { port }));
    }
    machine.chipset.reset(machine.now);
    assert_eq!((machine.inb(0xe9), machine.inb(0x501)), (0xe9, 0));
    assert_eq!(machine.read(0x514, Width::Dword).to_le_bytes(), *b"QEMU");
    machine.out(0x510, Width::Word, 0);
    assert_eq!([0; 4].map(|_| machine.inb(0x511)), *b"QEMU");
    machine.outb(0xe9, b'!');
    assert!(!machine.chipset.is_busy());
    machine.world.room = 1;
    machine.out(0xe9, Width::Word, 0x3f);
    assert!(machine.chipset.is_busy() && machine.chipset.console_pending());
    machine.world.room = 9;
    machine.chipset.work(&vcpu::fake::FakeSpace::with_memory(0), &mut machine.world);
    assert!(!machine.chipset.is_busy());
    assert_eq!(machine.world.console, b"!?");
    machine.out(0x518, Width::Dword, 0x1000_0000);
    assert!(machine.chipset.is_busy());
    machine.chipset.work(&vcpu::fake::FakeSpace::with_memory(0), &mut machine.world);
    assert!(!machine.chipset.is_busy(), "there is no memory at all");
    machine.out(0x501, Width::Dword, 0x1_0002);
    assert_eq!(machine.chipset.take_power_event(), Some(PowerEvent::DebugExit(0x1_0002)));
}

#[test]
fn the_port_map_has_no_conflict() {
    assert!(IntervalMap::<_, { PORT_RANGES.len() }>::build(&PORT_RANGES).is_ok());
}

#[test]
fn wide_accesses_are_split_into_bytes() {
    let mut machine = Machine::new();
    machine.out(0x3fb, Width::Byte, 0x80);
    machine.out(0x3f8, Width::Word, 0x1234);
    assert_eq!(machine.read(0x3f8, Width::Word), 0x1234);
    machine.out(0x3fb, Width::Byte, 0x03);
    machine.out(0x3f8, Width::Byte, b'!'.into());
    assert_eq!(machine.world.console, b"!");
    machine.out(0x3fe, Width::Dword, 0x0000_5a00);
    assert_eq!(machine.inb(0x3ff), 0x5a);
    assert_eq!(machine.chipset.counters().unclaimed_writes, 2);
    machine.out(0x4d0, Width::Word, 0x0c00);
    assert_eq!(machine.read(0x4d0, Width::Word), 0x0c00);
}

#[test]
fn nobody_home_reads_ones_and_is_counted() {
    let mut machine = Machine::new();
    assert_eq!(machine.read(0x1f0, Width::Dword), u32::MAX);
    assert_eq!(machine.chipset.counters().unclaimed_reads, 4);
    assert_eq!(machine.read(0xffff, Width::Word), 0xffff);
    machine.out(0xfffe, Width::Dword, 0);
    assert_eq!(machine.inb(0x70), 0xff);
    assert_eq!(machine.chipset.counters().refused, 1);
    let gpa = Gpa(0xfed0_0000);
    assert_eq!(machine.chipset.mmio_read(gpa, Width::Dword, Nanos::ZERO, &mut machine.world), None);
    let gpa = Gpa(IoApic::BASE.0 + 0x20);
    assert_eq!(machine.chipset.mmio_read(gpa, Width::Word, Nanos::ZERO, &mut machine.world), Some(0xffff));
}

#[test]
fn the_timer_interrupts_through_pin_two_and_through_the_8259() {
    let mut machine = Machine::new();
    machine.program_pics();
    machine.ioapic(0x14, 0x30);
    machine.outb(0x43, 0x34);
    assert!(machine.world.messages.is_empty() && !machine.chipset.pic_interrupt());
    machine.outb(0x40, 0xa9);
    machine.outb(0x40, 0x04);
    let mut ticks = 0;
    while let Some(deadline) = machine.chipset.next_deadline().filter(|at| *at <= Nanos::from_millis(100)) {
        machine.advance(deadline);
        ticks += 1;
        assert!(ticks <= 100 && machine.chipset.pic_interrupt());
        assert_eq!(machine.chipset.pic_acknowledge(), 0x20);
        machine.outb(0x20, 0x20);
    }
    // 1193 ticks of 838 ns are a millisecond.
    assert_eq!(ticks, 100);
    assert_eq!(machine.world.messages.len(), 100);
    assert_eq!(machine.world.messages[0], ApicMessage::fixed(0, 0x30));
}

#[test]
fn serial_input_interrupts() {
    let mut machine = Machine::new();
    machine.ioapic(0x18, 0x34);
    machine.outb(0x3fc, 0x0b);
    machine.outb(0x3fa, 0x01);
    machine.outb(0x3f9, 0x01);
    assert_eq!(machine.chipset.console_room(), 16);
    assert!(machine.chipset.receive(b'a', &mut machine.world));
    assert!(machine.chipset.receive(b'b', &mut machine.world));
    assert_eq!(machine.world.messages.len(), 1, "one edge");
    assert_eq!((machine.inb(0x3f8), machine.inb(0x3f8)), (b'a', b'b'));
    machine.chipset.receive(b'c', &mut machine.world);
    assert_eq!(machine.world.messages.len(), 2);
}

#[test]
fn console_back_pressure_is_retried() {
    let mut machine = Machine::new();
    machine.world.room = 0;
    machine.outb(0x3f8, b'x');
    assert_eq!(machine.inb(0x3fd) & 0x20, 0);
    assert!(machine.chipset.console_pending());
    machine.world.room = 10;
    machine.chipset.flush_console(&mut machine.world);
    assert_eq!(machine.inb(0x3fd) & 0x20, 0x20);
    assert_eq!(machine.world.console, b"x");
}

#[test]
fn power_button_is_a_level_interrupt() {
    let mut machine = Machine::new();
    machine.ioapic(0x22, 0x8049);
    machine.out(PowerManagement::PORT + 2, Width::Word, 0x0100);
    machine.chipset.press_power_button(&mut machine.world);
    assert_eq!(machine.world.messages.len(), 1);
    machine.chipset.eoi_broadcast(0x49, &mut machine.world);
    assert_eq!(machine.world.messages.len(), 2, "still asserted");
    machine.out(PowerManagement::PORT, Width::Word, 0x0100);
    machine.chipset.eoi_broadcast(0x49, &mut machine.world);
    assert_eq!(machine.world.messages.len(), 2);
    machine.out(PowerManagement::PORT + 4, Width::Word, 0x3400);
    assert_eq!(machine.chipset.take_power_event(), Some(PowerEvent::PowerOff));
    assert_eq!(machine.chipset.take_power_event(), None);
}

#[test]
fn every_way_to_reset() {
    for writes in [&[(0xcf9, 0x02), (0xcf9, 0x06)][..], &[(0x64, 0xfe)], &[(0x92, 0x01)]] {
        let mut machine = Machine::new();
        for &(port, value) in writes {
            assert_eq!(machine.chipset.take_power_event(), None);
            machine.outb(port, value);
        }
        assert_eq!(machine.chipset.take_power_event(), Some(PowerEvent::Reset));
        machine.outb(0x3ff, 0x77);
        machine.chipset.reset(machine.now);
        assert_eq!(machine.inb(0x3ff), 0);
        machine.outb(0x70, 0x32);
        assert_eq!(machine.inb(0x71), 0x20, "the clock survives");
    }
}

#[test]
fn pci_configuration_shares_its_ports_with_the_reset_register() {
    let mut machine = Machine::new();
    machine.out(0xcf8, Width::Dword, 0x8000_0600);
    assert_eq!(machine.chipset.take_power_event(), None);
    assert_eq!(machine.read(0xcf8, Width::Dword), 0x8000_0600);
    assert_eq!(machine.read(0xcfc, Width::Dword), u32::MAX, "no such function");
    machine.out(0xcf8, Width::Dword, 0x8000_0008);
    assert_eq!(machine.read(0xcfe, Width::Word), 0x0600);
    assert_eq!(machine.inb(0xcff), 0x06);
    assert_eq!(machine.read(0xcfe, Width::Dword), 0xffff_0600, "past the register nobody answers");
}

fn function() -> ConfigSpace {
    let header =
        Header { vendor: 1, device: 2, revision: 0, class: 0xff_00_00, subsystem_vendor: 0, subsystem: 0 };
    ConfigSpace::new(&header)
}

#[test]
fn devices_share_a_line_of_the_pci_bus() {
    let mut machine = Machine::new();
    let (first, second) = (FunctionAddress::new(0, 1, 0), FunctionAddress::new(0, 5, 0));
    // GSI 17, level-triggered, active low as PCI has it.
    machine.ioapic(0x10 + 2 * 17, 0xa051);
    machine.chipset.drive_pci(first, true, &mut machine.world);
    machine.chipset.drive_pci(second, true, &mut machine.world);
    assert_eq!(machine.world.messages.len(), 1);
    machine.chipset.drive_pci(first, false, &mut machine.world);
    machine.chipset.eoi_broadcast(0x51, &mut machine.world);
    assert_eq!(machine.world.messages.len(), 2, "the other still drives it");
    machine.chipset.drive_pci(second, false, &mut machine.world);
    machine.chipset.eoi_broadcast(0x51, &mut machine.world);
    assert_eq!(machine.world.messages.len(), 2);
}

#[test]
fn lines_of_the_pci_bus_arrive_at_the_8259s_too() {
    let mut machine = Machine::new();
    let devices = [1, 3, 5].map(|device| FunctionAddress::new(0, device, 0));
    assert_eq!(devices.map(Chipset::pci_irq), [11; 3]);
    assert_eq!(machine.inb(0x4d1) & 0x0c, 0x0c, "level-triggered");
    let drive = |machine: &mut Machine, device: usize, high| {
        machine.chipset.drive_pci(devices[device], high, &mut machine.world);
        // Requests of the second 8259.
        machine.out(0xa0, Width::Byte, 0x0a);
        machine.inb(0xa0) & 1 << 3 != 0
    };
    // Two devices of one line, and one of a line that shares the IRQ.
    assert!(drive(&mut machine, 0, true));
    assert!(drive(&mut machine, 1, true));
    assert!(drive(&mut machine, 2, true));
    assert!(drive(&mut machine, 0, false));
    assert!(drive(&mut machine, 2, false));
    assert!(!drive(&mut machine, 1, false));
}

#[test]
fn writes_of_a_functions_configuration_are_told_once() {
    let mut machine = Machine::new();
    let address = FunctionAddress::new(0, 3, 0);
    machine.chipset.add_pci_function(address, function()).unwrap();
    assert_eq!(machine.chipset.add_pci_function(address, function()), Err(AddFunctionError::Taken(address)));
    machine.out(PciBus::PORT, Width::Dword, 0x8000_1804);
    machine.out(PciBus::PORT + PciBus::DATA, Width::Word, 6);
    let (found, space) = machine.chipset.take_configured().expect("written");
    assert_eq!((found, space.read(register::COMMAND, Width::Word)), (address, 6));
    assert!(machine.chipset.take_configured().is_none());
    machine.chipset.mmio_write(
        Gpa(Ecam::BASE.0 + (3 << 15) + 4),
        Width::Word,
        2,
        machine.now,
        &mut machine.world,
    );
    assert!(machine.chipset.take_configured().is_some());
    // The host bridge and functions that are not there matter to nobody.
    for selector in [0x8000_0004, 0x8000_2004] {
        machine.out(PciBus::PORT, Width::Dword, selector);
        machine.out(PciBus::PORT + PciBus::DATA, Width::Word, 6);
        assert!(machine.chipset.take_configured().is_none());
    }
    machine.chipset.reset(machine.now);
    assert_eq!(machine.chipset.add_pci_function(address, function()), Ok(()), "a reset has taken it off");
}

#[test]
fn the_configuration_window_takes_every_width_and_alignment() {
    let mut machine = Machine::new();
    assert_eq!(machine.ecam(0, Width::Qword), Some(0x0d57_8086));
    assert_eq!(machine.ecam(8, Width::Qword), Some(0x0600_0000));
    assert_eq!(machine.ecam(3, Width::Dword), Some(0x0d), "in bytes");
    assert_eq!(machine.ecam(0xfc, Width::Qword), Some(0xffff_ffff_0000_0000), "past the 256 bytes");
    assert_eq!(machine.ecam(0xff, Width::Word), Some(0xff00));
    assert_eq!(machine.ecam(0x100, Width::Dword), Some(0xffff_ffff), "no extended registers");
    assert_eq!(machine.ecam(0x1_0000, Width::Byte), Some(0xff), "no such function");
    assert_eq!(machine.ecam(0xfff, Width::Word), Some(0xffff), "two functions");
    assert_eq!(machine.ecam(Ecam::SIZE - 1, Width::Qword), Some(u64::MAX));
    assert_eq!(
        machine.chipset.mmio_read(Gpa(Ecam::BASE.0 - 1), Width::Byte, machine.now, &mut machine.world),
        None
    );
    for (offset, width, value) in [(0, Width::Qword, u64::MAX), (0x3a, Width::Qword, 0x5a << 16)] {
        let gpa = Gpa(Ecam::BASE.0 + offset);
        machine.chipset.mmio_write(gpa, width, value, machine.now, &mut machine.world).unwrap();
    }
    assert_eq!(machine.ecam(0, Width::Qword), Some(0x0507_0d57_8086));
    assert_eq!(machine.ecam(0x3c, Width::Byte), Some(0x5a), "the interrupt line");
    assert_eq!(machine.chipset.counters().refused, 0);
}

#[test]
fn pm_timer_counts() {
    let mut machine = Machine::new();
    machine.now = Nanos::from_secs(1);
    assert_eq!(machine.read(PowerManagement::PORT + 8, Width::Dword), 3_579_545);
}

proptest! {
    /// No access sequence panics, lines follow their devices, and deadlines lie ahead.
    #[test]
    fn any_access_sequence_is_survived(steps in prop::collection::vec(any::<(u8, u8, u16, u32, u32)>(), 0..120)) {
        let mut machine = Machine::new();
        for (action, which, port, value, wait) in steps {
            machine.now = machine.now + Nanos(u64::from(wait) >> (action % 24));
            let (first, length, _) = PORT_RANGES[usize::from(which) % PORT_RANGES.len()];
            // Mostly ports where something is, and their neighbours.
            let port = if action & 0x80 == 0 { first as u16 + port % (length as u16 + 1) } else { port };
            let width = [Width::Byte, Width::Byte, Width::Word, Width::Dword][usize::from(which >> 6)];
            match action % 8 {
                0..=2 => machine.out(port, width, value),
                3..=4 => { machine.read(port, width); }
                5 => machine.ioapic(which % 0x42, value),
                6 => { machine.chipset.receive(which, &mut machine.world); }
                _ => machine.chipset.eoi_broadcast(which, &mut machine.world),
            }
            machine.chipset.pic_interrupt();
            if action & 0x40 != 0 {
                machine.chipset.pic_acknowledge();
            }
            machine.advance(machine.now);
            if let Some(deadline) = machine.chipset.next_deadline() {
                prop_assert!(deadline > machine.now);
                if action & 0x20 != 0 {
                    machine.advance(deadline);
                    prop_assert!(machine.chipset.next_deadline().is_none_or(|next| next > deadline));
                }
            }
            let lines = machine.chipset.lines;
            let expected = [
                (isa_line::COM1, machine.chipset.uart.irq()),
                (isa_line::RTC, machine.chipset.rtc.irq()),
                (isa_line::SCI, machine.chipset.pm.sci()),
                (isa_line::KEYBOARD, machine.chipset.i8042.irq()),
                (isa_line::TIMER, machine.chipset.pit.output()),
            ];
            for (line, level) in expected {
                prop_assert_eq!(lines & 1 << line != 0, level, "line {}", line);
            }
            machine.chipset.take_power_event();
        }
    }
}
