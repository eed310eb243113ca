//! A disk from a guest's instructions to its bytes and back to an interrupt, without a heap.

use std::vec;
use std::vec::Vec;

use vcpu::fake::Guest;
use vcpu::{Access, ApicAssists, Event, Exit, Gpa, GuestMemory, NestedFault, rflags};

use super::bench::{Bench, Step, halt, kernel, step};

/// Where the first device's registers are.
pub(super) const BAR: u64 = 0xc010_0000;
pub(super) const NOTIFY: u64 = BAR + 0x3000;
pub(super) const DESCRIPTORS: u64 = 0x10_0000;
pub(super) const DRIVER: u64 = 0x10_1000;
pub(super) const DEVICE: u64 = 0x10_2000;
pub(super) const BUFFER: u64 = 0x10_3000;
const VECTOR: u8 = 0x51;

/// MOV [RBX], CL, CX or ECX.
pub(super) fn store(guest: &mut Guest<'_>, gpa: u64, bytes: u8, value: u64) -> Exit {
    guest.place_code(match bytes {
        1 => &[0x88, 0x0b],
        2 => &[0x66, 0x89, 0x0b],
        _ => &[0x89, 0x0b],
    });
    guest.cpu.registers.set_rbx(gpa);
    guest.cpu.registers.set_rcx(value);
    Exit::NestedFault(NestedFault { gpa: Gpa(gpa), access: Access::Write, linear: None, table_walk: false })
}

pub(super) fn stores(all: &[(u64, u8, u64)]) -> Vec<Step> {
    let one = |&(gpa, bytes, value): &(u64, u8, u64)| step(move |guest| store(guest, gpa, bytes, value));
    all.iter().map(one).collect()
}

/// From here on the CPU tells how long instructions are, and none need be there.
pub(super) fn told(guest: &mut Guest<'_>) {
    guest.cpu.instruction_length = Some(1);
}

/// The local APIC in x2APIC mode, pin 17 of the I/O APIC as a level, the function's memory and bus mastering on.
pub(super) fn board() -> Vec<Step> {
    let mut steps = vec![
        step(|guest| guest.write_msr(0x1b, 0xfee0_0d00)),
        step(|guest| guest.write_msr(0x80f, 0x1ff)),
        step(|guest| guest.port_write(0xcf8, 4, 0x8000_0804)),
        step(|guest| guest.port_write(0xcfc, 2, 6)),
    ];
    steps.extend(stores(&[(0xfec0_0000, 4, 0x32), (0xfec0_0010, 4, 0xa000 | u64::from(VECTOR))]));
    steps
}

/// As a driver takes the device into use.
pub(super) fn driver() -> Vec<Step> {
    stores(&[
        (BAR + 0x14, 1, 3),
        (BAR + 0x08, 4, 1),
        (BAR + 0x0c, 4, 1),
        (BAR + 0x14, 1, 0xb),
        (BAR + 0x18, 2, 8),
        (BAR + 0x20, 4, DESCRIPTORS),
        (BAR + 0x28, 4, DRIVER),
        (BAR + 0x30, 4, DEVICE),
        (BAR + 0x1c, 2, 1),
        (BAR + 0x14, 1, 0xf),
    ])
}

pub(super) fn describe(guest: &Guest<'_>, index: u64, gpa: u64, length: u32, flags: u16) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&gpa.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&(index as u16 + 1).to_le_bytes());
    guest.memory.write(Gpa(DESCRIPTORS + 16 * index), &bytes).unwrap();
}

/// Offers a read of one sector, and tells.
pub(super) fn read_sector(guest: &mut Guest<'_>, sector: u64) -> Exit {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    guest.memory.write(Gpa(BUFFER + 8), &sector.to_le_bytes()).unwrap();
    describe(guest, 0, BUFFER, 16, NEXT);
    describe(guest, 1, BUFFER + 0x200, 512, NEXT | WRITE);
    describe(guest, 2, BUFFER + 0x100, 1, WRITE);
    guest.memory.write(Gpa(DRIVER + 2), &[1, 0, 0, 0]).unwrap();
    store(guest, NOTIFY, 2, 0)
}

pub(super) fn bytes<const N: usize>(guest: &Guest<'_>, gpa: u64) -> [u8; N] {
    let mut bytes = [0; N];
    guest.memory.read(Gpa(gpa), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_guest_reads_its_disk_and_is_interrupted() {
    let mut bench = Bench::new();
    let mut steps = board();
    steps.extend(driver());
    steps.push(step(|guest| read_sector(guest, 1)));
    steps.push(step(|guest| {
        told(guest);
        halt(guest)
    }));
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: VECTOR }]);
        assert_eq!(bytes(guest, BUFFER + 0x200), [0xd1; 512]);
        // Head 0 is used, and 513 bytes were written.
        assert_eq!(bytes(guest, DEVICE + 2), [1, 0, 0, 0, 0, 0, 1, 2]);
        Exit::Pause
    }));
    bench.add_vm("demo", steps);
    bench.add_module("vm=demo disk", &[[0xd0; 512], [0xd1; 512]].concat());
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
    assert_eq!(run.count("vm demo: exits halt"), 1);
}

/// The interrupt comes up while the CPU has the state of the local APIC, and the guest makes no further exit.
#[test]
fn an_interrupt_is_there_at_once_where_the_cpu_delivers_it() {
    let mut bench = Bench::new();
    bench.backend.apic_assists = ApicAssists::TASK_PRIORITY | ApicAssists::REGISTERS | ApicAssists::DELIVERY;
    let mut steps = board();
    steps.extend(driver());
    steps.push(step(|guest| {
        guest.cpu.rflags |= rflags::IF;
        read_sector(guest, 1)
    }));
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: VECTOR }]);
        told(guest);
        Exit::Pause
    }));
    bench.add_vm("demo", steps);
    bench.add_module("vm=demo disk", &[[0xd0; 512], [0xd1; 512]].concat());
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
}

/// OUT, and IN of the data port.
fn out(port: u16, bytes: u8, value: u32) -> Step {
    step(move |guest| {
        told(guest);
        guest.port_write(port, bytes, value)
    })
}

fn input(bytes: u8) -> Step {
    step(move |guest| {
        told(guest);
        guest.port_read(0xcfc, bytes)
    })
}

/// A request of a time without bus mastering is served with the write that switches that on, and not with some later exit.
#[test]
fn what_waits_for_bus_mastering_goes_on_at_once() {
    let mut bench = Bench::new();
    let mut steps = board();
    steps.extend(driver());
    steps.extend([out(0xcf8, 4, 0x8000_0804), out(0xcfc, 2, 2)]);
    steps.push(step(|guest| read_sector(guest, 1)));
    steps.push(step(|guest| {
        assert_eq!(bytes(guest, DEVICE + 2), [0, 0], "it reached memory");
        told(guest);
        guest.port_write(0xcfc, 2, 6)
    }));
    steps.push(step(|guest| {
        assert_eq!(bytes(guest, DEVICE + 2), [1, 0]);
        told(guest);
        Exit::Pause
    }));
    bench.add_vm("demo", steps);
    bench.add_module("vm=demo disk", &[[0xd0; 512], [0xd1; 512]].concat());
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
}

/// Sets the window in configuration space to so many bytes at an offset, by the ports and (the length) by memory.
fn open_window(offset: u32, length: u32) -> Vec<Step> {
    const ECAM: u64 = 0xc000_0000;
    let mut steps = vec![out(0xcf8, 4, 0x8000_0898), out(0xcfc, 4, offset)];
    steps.extend(stores(&[(ECAM + (1 << 15) + 0x9c, 4, length.into())]));
    steps.push(out(0xcf8, 4, 0x8000_08a0));
    steps
}

#[test]
fn the_registers_are_reached_through_configuration_space_as_well() {
    let mut bench = Bench::new();
    let mut steps = board();
    steps.extend(driver());
    steps.extend(open_window(0x14, 1));
    steps.push(input(1));
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.registers.rax() & 0xff, 0xf, "the status");
        told(guest);
        guest.port_write(0xcfc, 1, 0)
    }));
    steps.push(input(1));
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.registers.rax() & 0xff, 0, "it was reset");
        told(guest);
        guest.port_write(0xcf8, 4, 0x8000_0898)
    }));
    // What is not in the BAR reads as what was last written there: nothing.
    steps.extend(open_window(0x8000, 4));
    steps.push(input(4));
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.registers.rax() & 0xffff_ffff, 0);
        told(guest);
        Exit::Pause
    }));
    bench.add_vm("demo", steps);
    bench.add_module("vm=demo disk", &[0; 512]);
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
}

/// Rings, on a CPU that tells this length; then from an instruction that nobody can read.
fn rings(told_length: u8) -> super::bench::Run {
    let mut bench = Bench::new();
    let mut steps = board();
    steps.extend(driver());
    for _ in 0..20 {
        steps.push(step(move |guest| {
            guest.cpu.fault_instruction_length = Some(told_length);
            store(guest, NOTIFY, 2, 0)
        }));
    }
    steps.push(step(|guest| {
        let exit = store(guest, NOTIFY, 2, 0);
        guest.place_code(&[0x0f, 0x0b, 0x0f, 0x0b]);
        exit
    }));
    steps.push(step(|guest| {
        told(guest);
        Exit::Pause
    }));
    bench.add_vm("demo", steps);
    bench.add_module("vm=demo disk", &[0; 512]);
    bench.run()
}

#[test]
fn a_doorbell_needs_no_look_at_the_instruction_once_the_cpu_has_told_lengths_right() {
    let run = rings(3);
    assert!(run.logged("powered off"), "{:#?}", run.log);
}

#[test]
fn a_cpu_that_tells_wrong_lengths_is_not_believed() {
    let run = rings(2);
    assert!(!run.logged("powered off"), "the instruction is looked at, and is none: {:#?}", run.log);
}

#[test]
fn a_broken_ring_stops_nothing_but_its_device() {
    let mut bench = Bench::new();
    let mut steps = board();
    steps.extend(driver());
    steps.push(step(|guest| {
        guest.memory.write(Gpa(DRIVER + 2), &[99, 0]).unwrap();
        store(guest, NOTIFY, 2, 0)
    }));
    // MOV AL, [RBX]: the status says it.
    steps.push(step(|guest| {
        guest.place_code(&[0x8a, 0x03]);
        guest.cpu.registers.set_rbx(BAR + 0x14);
        let gpa = Gpa(BAR + 0x14);
        Exit::NestedFault(NestedFault { gpa, access: Access::Read, linear: None, table_walk: false })
    }));
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.registers.rax() & 0xff, 0x4f);
        told(guest);
        Exit::Pause
    }));
    bench.add_vm("demo", steps);
    bench.add_module("vm=demo disk", &[0; 1024]);
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
    assert_eq!(run.count("vm demo: devices broken by their drivers"), 1);
}

#[test]
fn a_disk_that_is_none_costs_its_vm() {
    let mut bench = Bench::new();
    bench.add_vm("good", vec![]);
    bench.add_module("vm=bad kernel", &kernel());
    bench.add_module("vm=bad disk", &[0; 100]);
    let run = bench.run();
    assert!(run.logged("smaller than a sector"), "{:#?}", run.log);
    assert!(run.logged("vm good: stopped: powered off"), "{:#?}", run.log);
}
