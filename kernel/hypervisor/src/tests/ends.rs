use std::vec;
use std::vec::Vec;

use vcpu::{EntryFailure, Event, Exit, Gpa, GuestMemory, NestedFault, rflags};

use super::bench::{Bench, Step, halt, step};
use crate::Options;

/// Runs one VM that ends badly beside one that must not notice.
#[track_caller]
fn crash(steps: Vec<Step>, reason: &str) {
    let mut bench = Bench::new();
    bench.add_vm("bad", steps);
    bench.add_vm("good", (0..5).map(|_| step(|guest| guest.cpuid(0, 0))).collect());
    let run = bench.run();
    assert!(run.logged(&std::format!("vm bad: stopped: {reason}")), "{:#?}", run.log);
    for part in ["Rax=", "RIP=", "CR0=", "Cs=", "GDTR=", "code at RIP:", "fake vCPU"] {
        assert!(run.log.iter().any(|line| line.starts_with("vm bad: ") && line.contains(part)), "{part}");
    }
    assert!(run.log.iter().all(|line| line.len() < 230), "a line that the log would cut");
    assert!(run.logged("vm good: stopped: powered off"));
    assert_eq!(run.count("vm good: exits cpuid"), 5);
}

fn fault(gpa: u64, access: vcpu::Access, table_walk: bool) -> Exit {
    Exit::NestedFault(NestedFault { gpa: Gpa(gpa), access, linear: None, table_walk })
}

#[test]
fn crashes_stop_their_vm_with_a_dump() {
    crash(vec![step(|_| Exit::TripleFault)], "triple fault");
    crash(vec![step(|_| Exit::TaskSwitch)], "hardware task switch");
    crash(
        vec![step(|_| {
            Exit::EntryFailure(EntryFailure {
                code: 33,
                reason: "invalid guest state",
                culprit: Some("RFLAGS"),
            })
        })],
        "the CPU refused to enter the guest: invalid guest state (0x21), by RFLAGS",
    );
    crash(vec![step(|_| Exit::Unknown { code: 99, qualification: 1 })], "unknown exit 0x63");
    crash(
        vec![step(|guest| {
            guest.cpu.rflags &= !rflags::IF;
            Exit::Halt
        })],
        "HLT with interrupts off",
    );
    crash(vec![step(|_| fault(0xd000_0000, vcpu::Access::Fetch, false))], "instruction fetch at 0xd0000000");
    crash(vec![step(|_| fault(0xd000_0000, vcpu::Access::Read, true))], "page table at 0xd0000000");
    crash(vec![step(|_| fault(0x1000, vcpu::Access::Write, false))], "access to RAM at 0x1000 was refused");
    crash(
        vec![step(|guest| {
            guest.cpu.pending.set_interrupted(Event::Interrupt { vector: 0x20 });
            fault(0xd000_0000, vcpu::Access::Write, false)
        })],
        "delivering Interrupt { vector: 32 } touched 0xd0000000",
    );
    crash(
        vec![step(|guest| {
            // FILD qword [RBX].
            guest.place_code(&[0xdf, 0x2b]);
            guest.cpu.registers.set_rbx(0xd000_0000);
            fault(0xd000_0000, vcpu::Access::Read, false)
        })],
        "instruction df 2b on device memory is not supported",
    );
}

/// HLT with interrupts off.
fn masked_halt() -> Step {
    step(|guest| {
        guest.cpu.rflags &= !rflags::IF;
        // The CPU tells it again, which placed code had ended.
        guest.cpu.instruction_length = Some(1);
        Exit::Halt
    })
}

/// The PIT's channel 0 counts, mode 2, from 65536: its interrupt comes each 55 ms.
fn timer_runs() -> Vec<Step> {
    let write = |port, value| step(move |guest| guest.port_write(port, 1, value));
    vec![write(0x43, 0x34), write(0x40, 0), write(0x40, 0)]
}

/// Writes a register of the I/O APIC.
fn io_apic_write(index: u32, value: u32) -> [Step; 2] {
    [(0xfec0_0000, index), (0xfec0_0010, value)].map(|(at, value)| {
        step(move |guest| {
            // MOV [RBX], EAX.
            guest.place_code(&[0x89, 0x03]);
            guest.cpu.registers.set_rbx(at);
            guest.cpu.registers.set_rax(value.into());
            fault(at, vcpu::Access::Write, false)
        })
    })
}

/// A timer whose interrupts are maskable wakes nobody who has interrupts off: the VM ends at once.
#[test]
fn a_masked_halt_that_nothing_can_end_ends_the_vm_at_once() {
    let mut bench = Bench::new();
    let mut steps = timer_runs();
    // Pin 2, where the timer is: vector 0x40, not masked.
    steps.extend(io_apic_write(0x14, 0x40));
    steps.push(masked_halt());
    steps.push(step(|_| panic!("something woke it")));
    bench.add_vm("masked", steps);
    let run = bench.run();
    assert!(run.logged("vm masked: stopped: HLT with interrupts off"), "{:#?}", run.log);
    assert!(run.logged("code at RIP:"), "{:#?}", run.log);
    // The last bytes of the console are all that is waited for.
    assert!(run.host.waits < 6, "{}", run.host.waits);
}

/// But where the I/O APIC sends it as an NMI, it does.
#[test]
fn a_timer_that_sends_nmis_ends_a_masked_halt() {
    let mut bench = Bench::new();
    let mut steps = timer_runs();
    steps.extend(io_apic_write(0x14, 4 << 8));
    steps.push(masked_halt());
    steps.push(step(|guest| {
        assert_eq!(guest.cpu.delivered, [Event::Nmi]);
        guest.cpuid(0, 0)
    }));
    bench.add_vm("woken", steps);
    let run = bench.run();
    assert!(run.logged("vm woken: stopped: powered off"), "{:#?}", run.log);
}

#[test]
fn reset_starts_the_kernel_again_in_clean_memory() {
    let mut bench = Bench::new();
    let mut steps: Vec<Step> = vec![
        step(|guest| {
            let mut old = [0; 4];
            guest.memory.read(Gpa(0x80_0000), &mut old).unwrap();
            assert_eq!(old, [0; 4]);
            guest.memory.write(Gpa(0x80_0000), b"mess").unwrap();
            guest.write_msr(0x1b, 0xfee0_0d00)
        }),
        step(|guest| {
            if guest.resets > 1 {
                return guest.cpuid(0, 0);
            }
            guest.port_write(0xcf9, 1, 6)
        }),
    ];
    steps.push(step(|guest| {
        assert_eq!(guest.resets, 2);
        guest.cpuid(0, 0)
    }));
    bench.add_vm("demo", steps);
    let run = bench.run();
    assert!(run.logged("vm demo: restarting") && run.logged("vm demo: restarted"));
    assert_eq!(run.log.iter().filter(|line| line.contains("restarted")).count(), 1);
    assert!(run.logged("vm demo: stopped: powered off"), "{:#?}", run.log);
    assert_eq!(run.count("vm demo: exits msr-write"), 2, "the APIC was in xAPIC mode again");
}

#[test]
fn broken_vms_are_told_and_the_others_start() {
    let mut bench = Bench::new();
    bench.add_module("vm=text memory=16M kernel", b"this is no kernel at all");
    bench.add_module("vm=huge memory=8G kernel", &super::bench::kernel());
    bench.add_module("vm=typo memroy=8G kernel", &super::bench::kernel());
    // The one with the text takes a program and gives it back.
    bench.add_vm("good", vec![]);
    let run = bench.run();
    assert!(run.logged("vm text: not started: this is no kernel"), "{:#?}", run.log);
    assert!(run.logged("vm huge: not started: not enough memory"));
    assert!(run.logged("'memroy=8G' is unknown"));
    assert!(run.logged("vm good: stopped: powered off"));
    assert!(run.logged("all VMs have ended"));
}

#[test]
fn the_console_stays_and_its_keys_work() {
    let mut bench = Bench::new();
    bench.host.input.extend(b"\x01l\x01h\x01x");
    bench.add_vm("demo", vec![step(halt)]);
    let run = bench.run_with(&Options::default());
    assert!(
        run.shown.contains("1   demo             starting         1    16M        0     0.0      0.0"),
        "{}",
        run.shown
    );
    assert!(run.shown.contains("Ctrl-A x"));
    assert!(run.logged("vm demo: stopped: ended by the user"));
    assert!(run.logged("goodbye"));
}

#[test]
fn without_a_vm_the_console_waits_for_its_user() {
    let mut bench = Bench::new();
    bench.host.input.extend(b"\x01x");
    let run = bench.run_with(&Options::default());
    assert!(run.logged("goodbye"));
}
