//! ACPI fixed hardware: PM timer, PM1 registers (ACPI specification, "ACPI Hardware Specification").

use selftest::acpi::{self, Fadt};
use selftest::cpu::{inl, inw, outw, rdtsc};
use selftest::tsc::{PM_TIMER_HZ, PM_TIMER_MASK};
use selftest::{Test, TestResult, Verdict, check, check_eq, need, pit, platform, tests, tsc, verdict};

pub(crate) const TESTS: &[Test] = tests![
    pm_timer_runs_at_its_rate,
    pm_timer_is_monotonic,
    pm_timer_agrees_with_pit,
    pm1_control_is_in_acpi_mode,
    pm1_status_is_cleared_by_ones,
    pm1_enable_round_trip,
    pm1_harmless_sleep_type,
];

fn fadt() -> Result<Fadt, Verdict> {
    acpi::fadt().ok_or_else(|| verdict::skip(format_args!("no FADT")))
}

fn pm_timer_runs_at_its_rate() -> TestResult {
    let port = fadt()?.pm_timer;
    // Against the PIT, since the TSC was calibrated by the PM timer itself.
    for _ in 0..3 {
        let start = inl(port);
        pit_wait(10_000);
        let ticks = u64::from(inl(port).wrapping_sub(start) & PM_TIMER_MASK);
        let expected = PM_TIMER_HZ / 100;
        check!(ticks >= expected * 95 / 100 && ticks < expected * 4, "{ticks} ticks instead of {expected}");
    }
    Ok(())
}

fn pit_wait(us: u64) {
    use selftest::cpu::{inb, outb};
    outb(pit::PORT_B, inb(pit::PORT_B) & 0x0c | 1);
    pit::program(2, 0, (pit::HZ * us / 1_000_000) as u16);
    tsc::wait_us(us * 20, || inb(pit::PORT_B) & 0x20 != 0);
}

fn pm_timer_is_monotonic() -> TestResult {
    let port = fadt()?.pm_timer;
    let mut last = inl(port);
    for _ in 0..5000 {
        let now = inl(port);
        check!(now.wrapping_sub(last) & PM_TIMER_MASK < 0x80_0000, "{now:#x} after {last:#x}");
        last = now;
    }
    Ok(())
}

fn pm_timer_agrees_with_pit() -> TestResult {
    let port = fadt()?.pm_timer;
    let (start, first) = (rdtsc(), inl(port));
    tsc::delay_us(20_000);
    let (end, last) = (rdtsc(), inl(port));
    let by_timer = u64::from(last.wrapping_sub(first) & PM_TIMER_MASK) * 1_000_000 / PM_TIMER_HZ;
    let by_tsc = (end - start) * 1_000_000 / tsc::frequency();
    check!(by_timer.abs_diff(by_tsc) < by_tsc / 20 + 500, "PM timer {by_timer} us, TSC {by_tsc} us");
    Ok(())
}

fn pm1_control_is_in_acpi_mode() -> TestResult {
    need!(platform::hypervisor(), "firmware leaves that to the operating system");
    check_eq!(inw(fadt()?.pm1a_control) & 1, 1, "SCI_EN");
    Ok(())
}

fn pm1_status_is_cleared_by_ones() -> TestResult {
    let port = fadt()?.pm1a_event;
    need!(port != 0, "no PM1 event block");
    outw(port, 0xffff);
    check_eq!(inw(port) & 0x0700, 0, "button and clock status after writing ones");
    Ok(())
}

fn pm1_enable_round_trip() -> TestResult {
    let port = fadt()?.pm1a_event + 2;
    let before = inw(port);
    for value in [0x0120, 0x0000] {
        outw(port, value);
        check_eq!(inw(port) & 0x0120, value, "PM1 enable");
    }
    outw(port, before);
    Ok(())
}

fn pm1_harmless_sleep_type() -> TestResult {
    const SLEEP_TYPE: u16 = 7 << 10;
    // Without the sleep-enable bit nothing happens.
    let port = fadt()?.pm1a_control;
    let before = inw(port);
    outw(port, before & !SLEEP_TYPE | 5 << 10);
    let read = inw(port);
    outw(port, before);
    check_eq!(read & SLEEP_TYPE, 5 << 10, "sleep type");
    Ok(())
}
