//! KVM's paravirtual features as a guest uses them.

use std::vec;
use std::vec::Vec;

use devices::lapic::X2APIC_MSR_FIRST;
use vcpu::fake::{Action, Guest};
use vcpu::{Event, Exit, Gpa, Gpr, GuestMemory};

use super::bench::{Bench, Step, kernel, power_off, step};
use crate::msr::number;

const KICK_CPU: u64 = 5;
const SEND_IPI: u64 = 10;
const VECTOR: u8 = 0x41;
/// x2APIC registers as MSRs.
const SPURIOUS: u32 = X2APIC_MSR_FIRST + 0xf;
const SELF_IPI: u32 = X2APIC_MSR_FIRST + 0x3f;
const EOI: u32 = X2APIC_MSR_FIRST + 0xb;
const IN_SERVICE_2: u32 = X2APIC_MSR_FIRST + 0x12;
const APIC_BASE_X2APIC: u64 = 0xfee0_0c00;

fn hypercall(guest: &mut Guest<'_>, number: u64, arguments: [u64; 4]) -> Exit {
    let registers = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi];
    let [a, b, c, d] = arguments;
    for (gpr, value) in registers.into_iter().zip([number, a, b, c, d]) {
        guest.cpu.registers.values[gpr as usize] = value;
    }
    Exit::Hypercall
}

/// The bootstrap processor switches its local APIC on, in x2APIC mode.
fn apic_on(steps: Vec<Step>) -> Vec<Step> {
    let mut all = vec![
        step(|guest| guest.write_msr(number::APIC_BASE, APIC_BASE_X2APIC | 1 << 8)),
        step(|guest| guest.write_msr(SPURIOUS, 0x1ff)),
    ];
    all.extend(steps);
    all
}

#[test]
fn the_end_of_an_interrupt_needs_no_exit() {
    const AREA: u64 = 0x1000;
    let (run, actions) = Bench::run_steps(apic_on(vec![
        step(|guest| guest.write_msr(number::KVM_EOI_EN, AREA | 1)),
        step(|guest| {
            guest.cpu.rflags |= vcpu::rflags::IF;
            guest.write_msr(SELF_IPI, VECTOR.into())
        }),
        // In the handler: the bit is set, and is cleared instead of a write to the EOI register.
        step(|guest| {
            assert_eq!(guest.memory.load_u32(Gpa(AREA)), Ok(1));
            guest.memory.write(Gpa(AREA), &[0]).unwrap();
            guest.read_msr(IN_SERVICE_2)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rax(), 0, "it is no longer in service");
            guest.cpu.rflags |= vcpu::rflags::IF;
            guest.write_msr(SELF_IPI, VECTOR.into())
        }),
        // An exit in the handler takes the bit back, and the guest tells.
        step(|guest| guest.read_msr(IN_SERVICE_2)),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rax(), 2);
            assert_eq!(guest.memory.load_u32(Gpa(AREA)), Ok(1), "and it is offered again");
            // A second one comes: the end of the first has to be told.
            guest.write_msr(SELF_IPI, (VECTOR - 1).into())
        }),
        step(|guest| {
            assert_eq!(guest.memory.load_u32(Gpa(AREA)), Ok(0));
            guest.cpu.rflags |= vcpu::rflags::IF;
            guest.write_msr(EOI, 0)
        }),
        step(|guest| {
            assert_eq!(guest.memory.load_u32(Gpa(AREA)), Ok(1), "only one is served, and none waits");
            guest.write_msr(EOI, 0)
        }),
        step(|guest| {
            assert_eq!(guest.memory.load_u32(Gpa(AREA)), Ok(0));
            guest.cpuid(0, 0)
        }),
    ]));
    assert!(run.logged("stopped: powered off"), "{:#?}", run.log);
    let injected = super::bench::injected(&actions);
    assert_eq!(injected.iter().filter(|event| **event == Event::Interrupt { vector: VECTOR }).count(), 2);
}

#[test]
fn areas_and_calls_that_are_not_offered_do_not_exist() {
    let mut bench = Bench::new();
    bench.add_module("vm=demo memory=16M paravirtual=none kernel", &kernel());
    let registers = [
        number::KVM_SYSTEM_TIME_NEW,
        number::KVM_WALL_CLOCK_NEW,
        number::KVM_STEAL_TIME,
        number::KVM_EOI_EN,
        number::KVM_POLL_CONTROL,
    ];
    let journal = bench.backend.add_program(move |guest| match guest.step {
        at if at < registers.len() => guest.read_msr(registers[at]),
        5 => hypercall(guest, KICK_CPU, [0; 4]),
        6 => {
            assert_eq!(guest.cpu.registers.rax().cast_signed(), -1000);
            hypercall(guest, SEND_IPI, [1, 0, 0, VECTOR.into()])
        }
        7 => {
            assert_eq!(guest.cpu.registers.rax().cast_signed(), -1000);
            guest.cpuid(0x4000_0001, 0)
        }
        _ => {
            assert_eq!(guest.cpu.registers.rax(), 2, "no I/O delays are needed, and no more");
            power_off(guest)
        }
    });
    assert!(bench.run().logged("stopped: powered off"));
    let faults = super::bench::injected(&journal.take());
    assert_eq!(faults, vec![Event::GENERAL_PROTECTION; registers.len()]);
}

/// A VM with two vCPUs: the first one has these steps, the second is started and halts.
fn pair(
    steps: Vec<Step>,
    second: impl FnMut(&mut Guest<'_>) -> Exit + 'static,
) -> (Bench, vcpu::fake::Journal) {
    const COMMAND: u32 = X2APIC_MSR_FIRST + 0x30;
    let mut bench = Bench::new();
    bench.add_module("vm=demo memory=16M cpus=2 kernel", &kernel());
    let mut steps = apic_on({
        let mut all = vec![
            step(|guest| guest.write_msr(COMMAND, 1 << 32 | 0x4500)),
            step(|guest| guest.write_msr(COMMAND, 1 << 32 | 0x4610)),
        ];
        all.extend(steps);
        all
    });
    bench.backend.add_program(move |guest| match steps.get_mut(guest.step) {
        Some(step) => step(guest),
        None => power_off(guest),
    });
    let journal = bench.backend.add_program(second);
    (bench, journal)
}

#[test]
fn a_bitmap_reaches_many_vcpus_with_one_exit() {
    let send = |bitmap: u64, least: u64, command: u64, result: i64| {
        [
            step(move |guest| hypercall(guest, SEND_IPI, [bitmap, 0, least, command])),
            step(move |guest| {
                assert_eq!(guest.cpu.registers.rax().cast_signed(), result);
                guest.cpuid(0, 0)
            }),
        ]
    };
    let steps = [
        // To both; the own one is masked, as interrupts are off.
        send(0b11, 0, VECTOR.into(), 2),
        // Bits beyond the last vCPU are left out.
        send(u64::MAX, 1, VECTOR.into(), 1),
        send(1, u64::MAX, VECTOR.into(), 0),
        send(2, u64::MAX, VECTOR.into(), 0),
        // A command with a destination of its own, or of another kind.
        send(1, 0, 1 << 18, -22),
        send(1, 0, 1 << 11, -22),
        send(1, 0, 5 << 8, -22),
    ];
    let mut all = vec![step(halt_masked)];
    all.extend(steps.into_iter().flatten());
    all.push(step(halt_masked));
    // The second one is ready, gets an interrupt, and says so.
    let (bench, journal) = pair(all, |guest| match guest.step {
        0 => guest.write_msr(number::APIC_BASE, APIC_BASE_X2APIC),
        1 => guest.write_msr(SPURIOUS, 0x1ff),
        2 | 4 => hypercall(guest, KICK_CPU, [0; 4]),
        _ => guest.halt(),
    });
    let run = bench.run();
    assert!(run.logged("stopped: powered off"), "{:#?}", run.log);
    assert!(journal.take().contains(&Action::Inject(Event::Interrupt { vector: VECTOR })));
}

/// HLT with interrupts off.
fn halt_masked(guest: &mut Guest<'_>) -> Exit {
    guest.cpu.rflags &= !vcpu::rflags::IF;
    Exit::Halt
}

#[test]
fn a_kick_ends_a_halt_with_interrupts_off_and_one_that_is_to_come() {
    let steps = vec![
        step(halt_masked),
        step(|guest| hypercall(guest, KICK_CPU, [0, 1, 0, 0])),
        step(halt_masked),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rax(), 0);
            // To itself: the next HLT ends at once.
            hypercall(guest, KICK_CPU, [0; 4])
        }),
        step(halt_masked),
        // Nobody is there: nothing happens.
        step(|guest| hypercall(guest, KICK_CPU, [0, u64::MAX, 0, 0])),
    ];
    let woken = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = std::rc::Rc::clone(&woken);
    let (bench, _) = pair(steps, move |guest| {
        seen.set(guest.step);
        if guest.step % 2 == 0 { hypercall(guest, KICK_CPU, [0; 4]) } else { halt_masked(guest) }
    });
    let run = bench.run();
    assert!(run.logged("stopped: powered off"), "{:#?}", run.log);
    assert_eq!(woken.get(), 3, "it was kicked once, and halts again");
}

#[test]
fn steal_time_says_who_runs_and_takes_flushes() {
    const AREA: u64 = 0x1040;
    const PREEMPTED: Gpa = Gpa(AREA + 16);
    let (run, actions) = Bench::run_steps(vec![
        step(|guest| guest.write_msr(number::KVM_STEAL_TIME, AREA | 1)),
        step(|guest| {
            assert_eq!(guest.memory.load_u32(PREEMPTED), Ok(0));
            guest.write_msr(number::KVM_POLL_CONTROL, 0)
        }),
        step(|guest| guest.read_msr(number::KVM_POLL_CONTROL)),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rax(), 0);
            guest.write_msr(number::KVM_POLL_CONTROL, 2)
        }),
    ]);
    assert!(run.logged("stopped: powered off"));
    assert_eq!(super::bench::injected(&actions), vec![Event::GENERAL_PROTECTION]);
    assert!(!actions.contains(&Action::FlushTlb));
}

#[test]
fn without_a_steady_tsc_there_is_no_clock_page() {
    let mut bench = Bench::new();
    bench.host.tsc_is_steady = false;
    let journal = bench.add_vm(
        "demo",
        vec![
            step(|guest| guest.cpuid(0x4000_0001, 0)),
            step(|guest| {
                assert_eq!(guest.cpu.registers.rax() & 1 << 3, 0, "it is not offered");
                guest.write_msr(number::KVM_SYSTEM_TIME_NEW, 0x1001)
            }),
        ],
    );
    assert!(bench.run().logged("stopped: powered off"));
    assert_eq!(super::bench::injected(&journal.take()), vec![Event::GENERAL_PROTECTION]);
}
