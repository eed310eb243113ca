//! The TSC-deadline mode of the timer (SDM vol. 3, "TSC-Deadline Mode").

use selftest::apic::{self, DEADLINE, MASKED, read, register, write};
use selftest::cpu::{self, msr, rdmsr, rdtsc, wrmsr};
use selftest::exception::vector::GP;
use selftest::interrupt::{self, Acknowledge, count};
use selftest::{
    Global, Test, TestResult, catch, check, check_eq, expect_exception, need, platform, tests, tsc,
};

use crate::timer::VECTOR;

pub(crate) const TESTS: &[Test] = tests![
    deadline_fires_once,
    deadline_is_never_early,
    deadline_in_the_past_fires_at_once,
    deadline_zero_disarms,
    deadline_reads_back_until_fired,
    deadline_can_be_moved,
    deadline_masked_is_silent,
    deadline_outside_its_mode_is_ignored,
    deadline_ends_with_its_mode,
    deadline_ignores_initial_count,
    deadline_in_halt,
    deadline_rearmed_in_handler,
    deadline_absent_is_gp,
];

static FIRED_AT: Global<u64> = Global::new(0);
static TO_REARM: Global<u32> = Global::new(0);

/// Skips the test, or switches the mode on.
macro_rules! deadline_mode {
    () => {
        need!(apic::has_deadline(), "no TSC-deadline timer");
        interrupt::on(VECTOR, Acknowledge::LocalApic, |_| FIRED_AT.set(rdtsc()));
        write(register::LVT_TIMER, u32::from(VECTOR) | DEADLINE);
    };
}

fn listen(us: u64) {
    interrupt::enabled(|| tsc::delay_us(us));
}

fn wait_for(wanted: u32) -> bool {
    interrupt::enabled(|| tsc::wait_us(500_000, || count(VECTOR) >= wanted))
}

fn check_disarmed(when: &str) -> TestResult {
    // Bochs keeps the old value.
    if !platform::bare() {
        check_eq!(rdmsr(msr::TSC_DEADLINE), 0, "the MSR {when}");
    }
    Ok(())
}

fn deadline_fires_once() -> TestResult {
    deadline_mode!();
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(1000));
    check!(wait_for(1), "no interrupt");
    listen(3000);
    check_eq!(count(VECTOR), 1, "interrupts");
    check_disarmed("after the interrupt")
}

fn deadline_is_never_early() -> TestResult {
    deadline_mode!();
    for (i, us) in [50, 200, 1000, 3000, 10].into_iter().enumerate() {
        let deadline = rdtsc() + tsc::us(us);
        wrmsr(msr::TSC_DEADLINE, deadline);
        check!(wait_for(i as u32 + 1), "no interrupt after {us} us");
        check!(FIRED_AT.get() >= deadline, "{} ticks early", deadline - FIRED_AT.get());
        check!(
            FIRED_AT.get() - deadline < tsc::us(platform::lateness_us()),
            "{} ticks late",
            FIRED_AT.get() - deadline
        );
    }
    Ok(())
}

fn deadline_in_the_past_fires_at_once() -> TestResult {
    deadline_mode!();
    for (i, deadline) in [1, rdtsc() - 1, rdtsc()].into_iter().enumerate() {
        wrmsr(msr::TSC_DEADLINE, deadline);
        cpu::take_interrupts();
        check!(wait_for(i as u32 + 1), "no interrupt for {deadline:#x}");
        check_disarmed("after the interrupt")?;
    }
    Ok(())
}

fn deadline_zero_disarms() -> TestResult {
    deadline_mode!();
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(3000));
    wrmsr(msr::TSC_DEADLINE, 0);
    listen(6000);
    check_eq!(count(VECTOR), 0, "interrupts");
    Ok(())
}

fn deadline_reads_back_until_fired() -> TestResult {
    deadline_mode!();
    let deadline = rdtsc() + tsc::us(20_000);
    wrmsr(msr::TSC_DEADLINE, deadline);
    check_eq!(rdmsr(msr::TSC_DEADLINE), deadline, "the armed MSR");
    wrmsr(msr::TSC_DEADLINE, u64::MAX);
    check_eq!(rdmsr(msr::TSC_DEADLINE), u64::MAX, "the MSR, armed as late as can be");
    listen(1000);
    check_eq!(count(VECTOR), 0, "interrupts");
    wrmsr(msr::TSC_DEADLINE, 0);
    Ok(())
}

fn deadline_can_be_moved() -> TestResult {
    deadline_mode!();
    let later = rdtsc() + tsc::us(6000);
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(3000));
    wrmsr(msr::TSC_DEADLINE, later);
    check!(wait_for(1), "no interrupt");
    check!(FIRED_AT.get() >= later, "fired by the old deadline");
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(400_000));
    let sooner = rdtsc() + tsc::us(500);
    wrmsr(msr::TSC_DEADLINE, sooner);
    check!(wait_for(2), "no interrupt by the sooner deadline");
    check!(FIRED_AT.get() < sooner + tsc::us(200_000), "fired by the later deadline");
    Ok(())
}

fn deadline_masked_is_silent() -> TestResult {
    deadline_mode!();
    write(register::LVT_TIMER, u32::from(VECTOR) | DEADLINE | MASKED);
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(500));
    listen(2000);
    write(register::LVT_TIMER, u32::from(VECTOR) | DEADLINE);
    listen(1000);
    check_eq!(count(VECTOR), 0, "interrupts");
    Ok(())
}

fn deadline_outside_its_mode_is_ignored() -> TestResult {
    deadline_mode!();
    write(register::LVT_TIMER, u32::from(VECTOR));
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(500));
    check_eq!(rdmsr(msr::TSC_DEADLINE), 0, "the MSR in one-shot mode");
    listen(2000);
    check_eq!(count(VECTOR), 0, "interrupts");
    Ok(())
}

fn deadline_ends_with_its_mode() -> TestResult {
    deadline_mode!();
    wrmsr(msr::TSC_DEADLINE, rdtsc() + tsc::us(2000));
    write(register::LVT_TIMER, u32::from(VECTOR));
    listen(4000);
    write(register::LVT_TIMER, u32::from(VECTOR) | DEADLINE);
    check_disarmed("after leaving and entering the mode")?;
    listen(1000);
    check_eq!(count(VECTOR), 0, "interrupts");
    Ok(())
}

fn deadline_ignores_initial_count() -> TestResult {
    deadline_mode!();
    write(register::INITIAL_COUNT, 1000);
    check_eq!(read(register::CURRENT_COUNT), 0, "current count");
    listen(2000);
    check_eq!(count(VECTOR), 0, "interrupts");
    Ok(())
}

fn deadline_in_halt() -> TestResult {
    deadline_mode!();
    for us in [1, 20, 300, 2000] {
        for _ in 0..10 {
            let deadline = rdtsc() + tsc::us(us);
            wrmsr(msr::TSC_DEADLINE, deadline);
            cpu::wait_for_interrupt();
            check!(rdtsc() >= deadline, "woken before the deadline");
        }
    }
    check_eq!(count(VECTOR), 40, "interrupts");
    Ok(())
}

fn deadline_rearmed_in_handler() -> TestResult {
    deadline_mode!();
    const ROUNDS: u32 = 500;
    TO_REARM.set(ROUNDS - 1);
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
        let left = TO_REARM.get();
        if left > 0 {
            TO_REARM.set(left - 1);
            wrmsr(msr::TSC_DEADLINE, 1);
        }
    });
    wrmsr(msr::TSC_DEADLINE, 1);
    check!(wait_for(ROUNDS), "{} of {ROUNDS} interrupts", count(VECTOR));
    listen(500);
    check_eq!(count(VECTOR), ROUNDS, "interrupts");
    Ok(())
}

fn deadline_absent_is_gp() -> TestResult {
    need!(!apic::has_deadline(), "there is a TSC-deadline timer");
    need!(!platform::bare_tcg(), "TCG ignores the MSR");
    expect_exception("write to the TSC-deadline MSR", GP, 0, || wrmsr(msr::TSC_DEADLINE, 1))?;
    let read = catch(|| {
        rdmsr(msr::TSC_DEADLINE);
    });
    check!(read.is_err(), "the TSC-deadline MSR reads");
    Ok(())
}
