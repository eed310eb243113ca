use std::boxed::Box;
use std::string::String;
use std::vec;
use std::vec::Vec;

use vcpu::fake::Action;
use vcpu::{Event, Exit, rflags};

use super::bench::{Bench, Step, TSC_HZ, halt, injected, step};
use crate::{End, FirstView, Options};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;

/// Prints a text on COM1, byte by byte.
fn print(text: &'static str) -> Vec<Step> {
    text.bytes().map(|byte| step(move |guest| guest.port_write(COM1, 1, byte.into()))).collect()
}

fn write(msr: u32, value: u64) -> Step {
    step(move |guest| guest.write_msr(msr, value))
}

/// Switches the local APIC to x2APIC mode and on.
fn x2apic_on() -> Vec<Step> {
    vec![write(0x1b, 0xfee0_0d00), write(0x80f, 0x1ff)]
}

#[test]
fn the_console_shows_lines_with_the_vms_name() {
    let (run, _) = Bench::run_steps(print("hello\r\nworld\r\n"));
    assert!(run.shown.contains("[demo] hello\r\n[demo] world\r\n"), "{:?}", run.shown);
}

/// The 8259s with vectors from 0x30 and only IRQ 4 open, the UART with its interrupt output on and these interrupts
/// enabled.
fn serial_interrupts(enable: u32) -> Vec<Step> {
    let port = |port, value| step(move |guest| guest.port_write(port, 1, value));
    let ports =
        [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xef), (COM1 + 4, 8), (COM1 + 1, enable)];
    ports.into_iter().map(|(number, value)| port(number, value)).collect()
}

/// The guest prints 20,000 bytes as a driver does: until the transmitter is busy, then waits for its interrupt. The
/// machine takes 100 bytes a millisecond at most.
#[test]
fn a_slow_machine_loses_no_byte_of_a_shown_console() {
    const TRANSMITTER_EMPTY: u64 = 0x20;
    let text: Vec<u8> = (0..20_000u32).map(|index| b'a' + (index % 26) as u8).collect();
    let expected = String::from_utf8(text.clone()).unwrap();
    let mut bench = Bench::new();
    bench.host.output_burst = 100;
    bench.host.output_room = 0;
    bench.add_module("vm=demo memory=16M kernel", &super::bench::kernel());
    let mut set_up = serial_interrupts(2);
    let (mut sent, mut looked) = (0, false);
    bench.backend.add_program(move |guest| {
        if let Some(step) = set_up.get_mut(guest.step) {
            return step(guest);
        }
        if sent == text.len() {
            return super::bench::power_off(guest);
        }
        if guest.cpu.delivered.pop().is_some() {
            // The handler acknowledges the 8259 and takes the UART's interrupt away by reading what it is.
            looked = false;
            return guest.port_write(0x20, 1, 0x20);
        }
        looked = !looked;
        if looked {
            return guest.port_read(LINE_STATUS, 1);
        }
        if guest.cpu.registers.rax() & TRANSMITTER_EMPTY == 0 {
            return guest.halt();
        }
        sent += 1;
        guest.port_write(COM1, 1, text[sent - 1].into())
    });
    let run =
        bench.run_with(&Options { end: End::PowerOff, view: FirstView::Guest("demo"), ..Options::default() });
    assert!(run.logged("powered off"), "{:#?}", run.log);
    assert!(run.shown.contains(&expected), "{} bytes shown", run.shown.len());
    assert!(run.count("vm demo: exits halt") > 2);
}

#[test]
fn typed_bytes_raise_the_serial_interrupt_and_are_read() {
    let mut bench = Bench::new();
    bench.host.input.extend(b"ls\n");
    let mut steps = serial_interrupts(1);
    steps.push(step(halt));
    for (index, byte) in b"ls\n".iter().enumerate() {
        steps.push(step(move |guest| {
            assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: 0x34 }], "at {index}");
            guest.port_read(COM1, 1)
        }));
        steps.push(step(move |guest| {
            assert_eq!(guest.cpu.registers.rax() as u8, *byte);
            Exit::Pause
        }));
    }
    bench.add_vm("demo", steps);
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
    assert_eq!(run.count("vm demo: exits halt"), 1);
}

/// A timer that fires early, while the CPU looks for other work, is set again: nobody sleeps on.
#[test]
fn guests_sleep_and_wake_with_a_timer_that_fires_early() {
    let mut steps = x2apic_on();
    steps.push(write(0x832, 2 << 17 | 0x40));
    for _ in 0..10 {
        steps.extend([
            step(|guest| {
                guest.cpu.delivered.clear();
                let deadline = guest.clock.tsc().wrapping_add(guest.cpu.tsc_offset) + TSC_HZ / 1000;
                guest.write_msr(0x6e0, deadline)
            }),
            step(halt),
            step(|guest| {
                assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: 0x40 }]);
                guest.write_msr(0x80b, 0)
            }),
        ]);
    }
    let mut bench = Bench::new();
    bench.add_vm("demo", steps);
    bench.host.clock.early.set(vcpu::Nanos::from_millis(2));
    let run = bench.run();
    assert!(run.logged("powered off"), "{:#?}", run.log);
}

#[test]
fn a_tsc_deadline_wakes_a_halted_guest_on_time() {
    let mut steps = x2apic_on();
    steps.extend([
        // LVT timer: TSC-deadline mode, vector 0x40.
        write(0x832, 2 << 17 | 0x40),
        step(|guest| {
            let deadline = guest.clock.tsc().wrapping_add(guest.cpu.tsc_offset) + TSC_HZ / 20;
            guest.cpu.registers.values[15] = deadline;
            guest.write_msr(0x6e0, deadline)
        }),
        step(halt),
        step(|guest| {
            assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: 0x40 }]);
            let late = guest.clock.tsc().wrapping_add(guest.cpu.tsc_offset) - guest.cpu.registers.values[15];
            assert!(late < TSC_HZ / 1_000_000, "{late} ticks late");
            guest.write_msr(0x80b, 0)
        }),
    ]);
    let (run, _) = Bench::run_steps(steps);
    assert!(run.logged("powered off"), "{:#?}", run.log);
    // 50 ms at one look each 10 ms.
    assert!(run.host.waits < 12, "{}", run.host.waits);
    let ticks = run.log.iter().find(|line| line.contains("ticks guest")).unwrap();
    let idle: u64 = ticks.split(' ').skip_while(|word| *word != "idle").nth(1).unwrap().parse().unwrap();
    assert!(idle > TSC_HZ / 21 && idle < TSC_HZ / 19, "{ticks}");
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let mut steps = x2apic_on();
    steps.extend([
        // A self interrupt with interrupts off, then another exit, then interrupts on.
        write(0x83f, 0x55),
        step(|guest| {
            assert!(guest.cpu.delivered.is_empty());
            guest.cpuid(0, 0)
        }),
        step(|guest| {
            guest.cpu.rflags |= rflags::IF;
            guest.cpuid(0, 0)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: 0x55 }]);
            guest.cpuid(0, 0)
        }),
    ]);
    let (run, actions) = Bench::run_steps(steps);
    assert_eq!(run.count("vm demo: exits interrupt-window"), 1);
    let windows: Vec<bool> = actions
        .iter()
        .filter_map(|action| if let Action::InterruptWindow(wanted) = action { Some(*wanted) } else { None })
        .collect();
    assert_eq!(windows, [false, true, false], "at the start, asked for once, called off once");
}

#[test]
fn priorities_hold_an_interrupt_back_until_the_end_of_the_other() {
    let mut steps = x2apic_on();
    steps.extend([
        write(0x83f, 0x55),
        step(|guest| {
            guest.cpu.rflags |= rflags::IF;
            guest.write_msr(0x83f, 0x41)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.delivered, [Event::Interrupt { vector: 0x55 }]);
            guest.cpu.rflags |= rflags::IF;
            guest.write_msr(0x80b, 0)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.delivered.len(), 2);
            guest.write_msr(0x80b, 0)
        }),
    ]);
    let (_, actions) = Bench::run_steps(steps);
    let interrupt = |vector| Event::Interrupt { vector };
    assert_eq!(injected(&actions), [interrupt(0x55), interrupt(0x41)]);
}

#[test]
fn an_nmi_message_is_injected() {
    let mut steps = x2apic_on();
    steps.extend([
        // ICR: NMI to APIC id 0.
        write(0x830, 4 << 8 | 1 << 14),
        step(|guest| {
            assert_eq!(guest.cpu.delivered, [Event::Nmi]);
            guest.cpuid(0, 0)
        }),
    ]);
    let (run, _) = Bench::run_steps(steps);
    assert!(run.logged("powered off"));
}

#[test]
fn the_timer_is_armed_only_when_something_changes() {
    let steps: Vec<Step> = (0..200)
        .map(|_| -> Step { Box::new(|guest: &mut vcpu::fake::Guest<'_>| guest.cpuid(0, 0)) })
        .collect();
    let (run, _) = Bench::run_steps(steps);
    assert!(run.host.timer_writes < 5, "{}", run.host.timer_writes);
}

#[test]
fn two_vms_share_the_cpu() {
    let mut bench = Bench::new();
    for name in ["a", "b"] {
        let steps = (0..50)
            .map(|_| {
                step(|guest| {
                    guest.clock.pass(TSC_HZ / 1000);
                    guest.cpuid(0, 0)
                })
            })
            .collect();
        bench.add_vm(name, steps);
    }
    let run = bench.run();
    let position = |text: &str| run.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(position("vm a: stopped").abs_diff(position("vm b: stopped")) > 0);
    for name in ["a", "b"] {
        let line = run.log.iter().find(|line| line.starts_with(&std::format!("vm {name}: exits host-event")));
        assert!(line.is_some(), "{name} had its slice ended by the timer");
    }
}
