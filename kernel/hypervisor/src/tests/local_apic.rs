//! The local APIC where the CPU does a part of it.

use std::vec;
use std::vec::Vec;

use devices::lapic::X2APIC_MSR_FIRST;
use vcpu::fake::{Action, Guest};
use vcpu::{ApicAssists, Event, Exit, rflags};

use super::bench::{Bench, Step, injected, step};
use crate::msr::number;

const LOW: u8 = 0x41;
const HIGH: u8 = 0x91;
const SPURIOUS: u32 = X2APIC_MSR_FIRST + 0xf;
const TASK_PRIORITY: u32 = X2APIC_MSR_FIRST + 0x8;
const IN_SERVICE_4: u32 = X2APIC_MSR_FIRST + 0x14;
const SELF_IPI: u32 = X2APIC_MSR_FIRST + 0x3f;
const APIC_BASE_X2APIC: u64 = 0xfee0_0d00;

fn run(assists: ApicAssists, steps: Vec<Step>) -> Vec<Action> {
    let mut bench = Bench::new();
    bench.backend.apic_assists = assists;
    let mut all = vec![
        step(|guest| guest.write_msr(number::APIC_BASE, APIC_BASE_X2APIC)),
        step(|guest| guest.write_msr(SPURIOUS, 0x1ff)),
    ];
    all.extend(steps);
    let journal = bench.add_vm("demo", all);
    let run = bench.run();
    assert!(run.logged("vm demo: stopped: powered off"), "{:#?}", run.log);
    journal.take()
}

fn interrupts_on(guest: &mut Guest<'_>) {
    guest.cpu.rflags |= rflags::IF;
}

fn delivered(guest: &Guest<'_>) -> Vec<Event> {
    guest.cpu.delivered.clone()
}

fn interrupts(vectors: &[u8]) -> Vec<Event> {
    vectors.iter().map(|vector| Event::Interrupt { vector: *vector }).collect()
}

#[test]
fn the_cpu_delivers_and_ends_what_was_requested_meanwhile() {
    let all = ApicAssists::TASK_PRIORITY | ApicAssists::REGISTERS | ApicAssists::DELIVERY;
    let actions = run(
        all,
        vec![
            // Requested by an exit, delivered by the CPU.
            step(|guest| guest.write_msr(SELF_IPI, HIGH.into())),
            step(|guest| {
                assert!(delivered(guest).is_empty(), "interrupts are off");
                interrupts_on(guest);
                guest.cpuid(0, 0)
            }),
            step(|guest| {
                assert_eq!(delivered(guest), interrupts(&[HIGH]));
                guest.read_msr(IN_SERVICE_4)
            }),
            step(|guest| {
                // 91H is bit 17 of the register for 80H to 9FH.
                assert_eq!(guest.cpu.registers.rax(), 1 << 17);
                // An end without an exit; the state is with the CPU again.
                assert_eq!(guest.cpu.apic.end_of_interrupt(), None);
                guest.read_msr(IN_SERVICE_4)
            }),
            step(|guest| {
                assert_eq!(guest.cpu.registers.rax(), 0);
                guest.cpuid(0, 0)
            }),
        ],
    );
    assert!(injected(&actions).is_empty(), "nothing was injected");
    assert!(!actions.contains(&Action::InterruptWindow(true)), "nobody waited for a window");
}

#[test]
fn a_falling_task_priority_lets_a_request_through() {
    run(
        ApicAssists::TASK_PRIORITY,
        vec![
            step(|guest| guest.write_msr(TASK_PRIORITY, 0x50)),
            step(|guest| {
                interrupts_on(guest);
                guest.write_msr(SELF_IPI, LOW.into())
            }),
            step(|guest| {
                assert!(delivered(guest).is_empty(), "its class is masked");
                // Without an exit, but for the one that says so.
                guest.cpu.apic.write_task_priority(0x30).expect("the request is no longer masked")
            }),
            step(|guest| {
                assert_eq!(delivered(guest), interrupts(&[LOW]));
                guest.read_msr(TASK_PRIORITY)
            }),
            step(|guest| {
                assert_eq!(guest.cpu.registers.rax(), 0x30, "what the CPU has is what software reads");
                guest.cpuid(0, 0)
            }),
        ],
    );
}

#[test]
fn an_offer_takes_the_place_of_a_window() {
    let actions = run(
        ApicAssists::OFFER,
        vec![
            step(|guest| guest.write_msr(SELF_IPI, LOW.into())),
            step(|guest| guest.write_msr(SELF_IPI, HIGH.into())),
            // The higher one is offered; the lower one follows once it is ended.
            step(|guest| {
                interrupts_on(guest);
                guest.cpuid(0, 0)
            }),
            step(|guest| {
                assert_eq!(delivered(guest), interrupts(&[HIGH]));
                interrupts_on(guest);
                guest.cpuid(0, 0)
            }),
            step(|guest| {
                assert_eq!(delivered(guest), interrupts(&[HIGH]), "its class is served");
                guest.write_msr(X2APIC_MSR_FIRST + 0xb, 0)
            }),
            step(|guest| {
                assert_eq!(delivered(guest), interrupts(&[HIGH, LOW]));
                guest.cpuid(0, 0)
            }),
        ],
    );
    assert!(!actions.contains(&Action::InterruptWindow(true)));
    // The second one found interrupts on, and was injected at once.
    assert_eq!(injected(&actions), interrupts(&[LOW]));
}

/// What guests see is the same, whatever the CPU does of it.
#[test]
fn all_ways_give_the_same() {
    let sets = [
        ApicAssists::empty(),
        ApicAssists::TASK_PRIORITY,
        ApicAssists::OFFER,
        ApicAssists::TASK_PRIORITY | ApicAssists::OFFER,
        ApicAssists::DELIVERY | ApicAssists::TASK_PRIORITY,
    ];
    for assists in sets {
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let last = std::rc::Rc::clone(&seen);
        let mut steps: Vec<Step> = Vec::new();
        for vector in [LOW, HIGH, LOW + 1, HIGH + 1] {
            steps.push(step(move |guest| guest.write_msr(SELF_IPI, vector.into())));
        }
        // A handler for each: on, served, ended, and out again.
        for _ in 0..4 {
            steps.push(step(|guest| {
                interrupts_on(guest);
                guest.cpuid(0, 0)
            }));
            steps.push(step(|guest| {
                guest.cpu.rflags &= !rflags::IF;
                match guest.cpu.apic.assists().contains(ApicAssists::DELIVERY) {
                    true => guest.cpu.apic.end_of_interrupt().unwrap_or(Exit::Cpuid),
                    false => guest.write_msr(X2APIC_MSR_FIRST + 0xb, 0),
                }
            }));
        }
        steps.push(step(move |guest| {
            *last.borrow_mut() = delivered(guest);
            guest.cpuid(0, 0)
        }));
        run(assists, steps);
        assert_eq!(*seen.borrow(), interrupts(&[HIGH + 1, HIGH, LOW + 1, LOW]), "{assists:?}");
    }
}
