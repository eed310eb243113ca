use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use vcpu::fake::Action;
use vcpu::{Event, Exit, SystemRegister};

use super::bench::{Bench, Step, injected, step};

fn write(msr: u32, value: u64) -> Step {
    step(move |guest| guest.write_msr(msr, value))
}

/// Reads an MSR and checks it at the next step.
fn expect(msr: u32, check: impl Fn(u64) + 'static) -> [Step; 2] {
    [
        step(move |guest| guest.read_msr(msr)),
        step(move |guest| {
            check(guest.cpu.registers.edx_eax());
            Exit::Pause
        }),
    ]
}

fn steps(parts: Vec<Vec<Step>>) -> Vec<Step> {
    parts.into_iter().flatten().collect()
}

#[test]
fn unknown_registers_are_denied_counted_and_logged_with_a_limit() {
    let accesses = (0..40).map(|_| step(|guest| guest.read_msr(0x1234))).collect();
    let (run, actions) = Bench::run_steps(accesses);
    assert_eq!(injected(&actions), [Event::GENERAL_PROTECTION; 40]);
    let lines = run.log.iter().filter(|line| line.contains("RDMSR 0x1234 denied")).count();
    assert_eq!(lines, 5);
    assert!(run.logged("denied MSRs 40"));
}

#[test]
fn time_is_the_guests_own() {
    let (_, actions) = Bench::run_steps(steps(vec![
        vec![write(0x10, 1 << 40)],
        expect(0x10, |tsc| assert!((1 << 40..(1 << 40) + 10_000).contains(&tsc), "{tsc:#x}")).into(),
        expect(0x3b, |adjust| assert!(adjust > (1 << 40) - 1_000_000)).into(),
        vec![write(0x3b, 0)],
        expect(0x10, |tsc| assert!(tsc < 1_000_000, "{tsc}")).into(),
    ]));
    let offsets = actions.iter().filter(|action| matches!(action, Action::TscOffset(_))).count();
    assert_eq!(offsets, 3, "the start, the TSC and TSC_ADJUST");
}

#[test]
fn efer_and_the_backends_registers_are_checked() {
    let (_, actions) = Bench::run_steps(steps(vec![
        expect(0xc000_0080, |efer| assert_eq!(efer, 0x500)).into(),
        vec![
            write(0xc000_0080, 0xd01),
            write(0xc000_0080, 0x1500),
            write(0xc000_0082, 1 << 62),
            write(0xc000_0082, 0xffff_ffff_8100_0000),
            write(0x277, 2),
            write(0xc000_0103, 1 << 40),
        ],
        expect(0xc000_0082, |lstar| assert_eq!(lstar, 0xffff_ffff_8100_0000)).into(),
        expect(0xc000_0080, |efer| assert_eq!(efer, 0xd01)).into(),
    ]));
    assert_eq!(injected(&actions), [Event::GENERAL_PROTECTION; 4]);
    assert!(actions.contains(&Action::Write(SystemRegister::Efer, 0xd01)));
}

#[test]
fn x2apic_mode_comes_by_its_base_register() {
    let (_, actions) = Bench::run_steps(steps(vec![
        vec![step(|guest| guest.read_msr(0x802))],
        expect(0x1b, |base| assert_eq!(base, 0xfee0_0900)).into(),
        vec![write(0x1b, 0xfee0_0d00)],
        expect(0x802, |id| assert_eq!(id, 0)).into(),
        vec![write(0x80b, 1), write(0x1b, 0xfee0_0100), step(|guest| guest.cpuid(1, 0))],
        vec![step(|guest| {
            assert_eq!(guest.cpu.registers.rdx() & 1 << 9, 0, "an APIC that is off is not shown");
            guest.write_msr(0x1b, 0xfee0_0900)
        })],
        vec![step(|guest| guest.cpuid(1, 0))],
        vec![step(|guest| {
            assert_ne!(guest.cpu.registers.rdx() & 1 << 9, 0);
            Exit::Pause
        })],
    ]));
    assert_eq!(injected(&actions), [Event::GENERAL_PROTECTION; 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a guest writes wherever, it never panics the hypervisor, and the VM lives on.
    #[test]
    fn any_msr_accesses_leave_the_vm_running(
        accesses in prop::collection::vec(
            (prop_oneof![0u32..0x1000, 0x6e0u32..0x6e1, 0x800u32..0x840, 0xc000_0080u32..0xc000_0110, any::<u32>()],
             any::<u64>(), any::<bool>()), 1..60),
    ) {
        let steps: Vec<Step> = accesses.into_iter().map(|(msr, value, is_write)| -> Step {
            Box::new(move |guest| if is_write { guest.write_msr(msr, value) } else { guest.read_msr(msr) })
        }).collect();
        let (run, _) = Bench::run_steps(steps);
        prop_assert!(run.logged("powered off") || run.logged("stopped"), "{:?}", run.log);
    }
}
