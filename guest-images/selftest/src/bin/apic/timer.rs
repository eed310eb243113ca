//! The local APIC timer in one-shot and periodic mode (SDM vol. 3, "APIC Timer"). Never early; late only within reason.

use selftest::apic::{self, MASKED, PERIODIC, read, register, write};
use selftest::cpu::{self, rdtsc};
use selftest::interrupt::{self, Acknowledge, count};
use selftest::{Global, Test, TestResult, check, check_eq, platform, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    timer_counts_down,
    timer_one_shot_fires_once,
    timer_one_shot_is_never_early,
    timer_periodic_rate,
    timer_periodic_count_stays_in_range,
    timer_masked_counts_but_is_silent,
    timer_divides,
    timer_zero_count_stops,
    timer_rewrite_restarts,
    timer_vector_can_change,
    timer_mode_change_while_running,
    timer_reads_initial_count,
    timer_shortest_count,
    timer_in_halt,
    timer_while_interrupts_are_off,
];

pub(crate) const VECTOR: u8 = 0x41;

static FIRED_AT: Global<u64> = Global::new(0);

/// Ticks a second at divisor 1.
pub(crate) fn frequency() -> u64 {
    const SAMPLE_US: u64 = 2000;
    write(register::LVT_TIMER, MASKED);
    write(register::INITIAL_COUNT, u32::MAX);
    let start = rdtsc();
    let first = read(register::CURRENT_COUNT);
    tsc::delay_us(SAMPLE_US);
    let last = read(register::CURRENT_COUNT);
    let ticks = rdtsc() - start;
    write(register::INITIAL_COUNT, 0);
    u64::from(first - last) * tsc::frequency() / ticks
}

fn expect_timer() {
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| FIRED_AT.set(rdtsc()));
}

/// Waits with interrupts on until that many have come.
fn wait_for(wanted: u32, at_most_us: u64) -> bool {
    interrupt::enabled(|| tsc::wait_us(at_most_us, || count(VECTOR) >= wanted))
}

/// Waits with interrupts on.
fn listen(us: u64) {
    interrupt::enabled(|| tsc::delay_us(us));
}

fn timer_counts_down() -> TestResult {
    write(register::LVT_TIMER, MASKED);
    write(register::INITIAL_COUNT, u32::MAX);
    let mut last = u32::MAX;
    for _ in 0..100 {
        let now = read(register::CURRENT_COUNT);
        check!(now <= last, "the count went up from {last:#x} to {now:#x}");
        last = now;
    }
    tsc::delay_us(100);
    check!(read(register::CURRENT_COUNT) < last, "the count stands still at {last:#x}");
    let hz = frequency();
    check!(hz > 1_000_000, "the timer counts {hz} a second");
    Ok(())
}

fn timer_one_shot_fires_once() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR));
    write(register::INITIAL_COUNT, (hz / 1000) as u32);
    check!(wait_for(1, 500_000), "no interrupt");
    check_eq!(read(register::CURRENT_COUNT), 0, "current count after the end");
    listen(5000);
    check_eq!(count(VECTOR), 1, "interrupts");
    Ok(())
}

fn timer_one_shot_is_never_early() -> TestResult {
    expect_timer();
    let hz = frequency();
    for us in [100, 1000, 5000, 300] {
        write(register::LVT_TIMER, u32::from(VECTOR));
        let before = count(VECTOR);
        let start = rdtsc();
        write(register::INITIAL_COUNT, (hz * us / 1_000_000) as u32);
        check!(wait_for(before + 1, 500_000), "no interrupt after {us} us");
        let took = (FIRED_AT.get() - start) * 1_000_000 / tsc::frequency();
        // The two clocks are compared over a short sample: leave five per cent and some microseconds to that.
        check!(took * 100 + 2000 >= us * 95, "{took} us instead of {us}");
        check!(took < us * 3 + platform::lateness_us(), "{took} us instead of {us}");
    }
    Ok(())
}

fn timer_periodic_rate() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR) | PERIODIC);
    write(register::INITIAL_COUNT, (hz / 1000) as u32);
    let start = rdtsc();
    listen(30_000);
    let milliseconds = (rdtsc() - start) * 1000 / tsc::frequency();
    write(register::INITIAL_COUNT, 0);
    let fired = u64::from(count(VECTOR));
    check!(fired <= milliseconds * 21 / 20 + 2, "{fired} interrupts in {milliseconds} periods");
    check!(fired >= platform::least_ticks(milliseconds), "only {fired} interrupts in {milliseconds} periods");
    listen(3000);
    check!(u64::from(count(VECTOR)) <= fired + 1, "interrupts after the stop");
    Ok(())
}

fn timer_periodic_count_stays_in_range() -> TestResult {
    expect_timer();
    let initial = (frequency() / 2000) as u32;
    write(register::LVT_TIMER, VECTOR.into());
    write(register::LVT_TIMER, u32::from(VECTOR) | PERIODIC);
    write(register::INITIAL_COUNT, initial);
    let mut went_up = 0;
    let mut last = initial;
    interrupt::enabled(|| {
        tsc::wait_us(20_000, || {
            let now = read(register::CURRENT_COUNT);
            went_up += u32::from(now > last);
            last = now;
            now > initial
        })
    });
    check!(last <= initial, "current count {last:#x} above the initial {initial:#x}");
    check!(went_up > 2, "the count was reloaded {went_up} times in 40 periods");
    Ok(())
}

fn timer_masked_counts_but_is_silent() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR) | MASKED);
    write(register::INITIAL_COUNT, (hz / 1000) as u32);
    listen(3000);
    check_eq!(read(register::CURRENT_COUNT), 0, "current count");
    // What was masked when it ended does not come later.
    write(register::LVT_TIMER, u32::from(VECTOR));
    listen(1000);
    check_eq!(count(VECTOR), 0, "interrupts");
    // Unmasked in time, it comes.
    write(register::LVT_TIMER, u32::from(VECTOR) | MASKED);
    write(register::INITIAL_COUNT, (hz / 100) as u32);
    write(register::LVT_TIMER, u32::from(VECTOR));
    check!(wait_for(1, 500_000), "no interrupt after unmasking");
    Ok(())
}

fn timer_divides() -> TestResult {
    const DIVISORS: [(u32, u64); 8] =
        [(0b1011, 1), (0, 2), (1, 4), (2, 8), (3, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128)];
    const SAMPLE_US: u64 = 4000;
    let hz = frequency();
    for (configuration, divisor) in DIVISORS {
        write(register::DIVIDE, configuration);
        check_eq!(read(register::DIVIDE) & 0b1011, configuration, "divide configuration");
        write(register::LVT_TIMER, MASKED);
        write(register::INITIAL_COUNT, u32::MAX);
        let (start, first) = (rdtsc(), read(register::CURRENT_COUNT));
        tsc::delay_us(SAMPLE_US);
        let (end, last) = (rdtsc(), read(register::CURRENT_COUNT));
        let counted = u64::from(first - last) * divisor;
        let expected = (end - start) * hz / tsc::frequency();
        check!(
            counted.abs_diff(expected) < expected / 8 + 2 * divisor,
            "divisor {divisor}: {counted} instead of {expected} ticks"
        );
    }
    Ok(())
}

fn timer_zero_count_stops() -> TestResult {
    expect_timer();
    let hz = frequency();
    for mode in [0, PERIODIC] {
        write(register::LVT_TIMER, u32::from(VECTOR) | mode);
        write(register::INITIAL_COUNT, (hz / 200) as u32);
        write(register::INITIAL_COUNT, 0);
        check_eq!(read(register::CURRENT_COUNT), 0, "current count");
        listen(8000);
        check_eq!(count(VECTOR), 0, "interrupts");
    }
    Ok(())
}

fn timer_rewrite_restarts() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR));
    let start = rdtsc();
    write(register::INITIAL_COUNT, (hz / 200) as u32);
    tsc::delay_us(3000);
    let restarted = rdtsc();
    write(register::INITIAL_COUNT, (hz / 200) as u32);
    check!(wait_for(1, 500_000), "no interrupt");
    let us = (FIRED_AT.get() - start) * 1_000_000 / tsc::frequency();
    // On a loaded machine more than five milliseconds may pass before the second write.
    let in_time = (restarted - start) * 1_000_000 / tsc::frequency() < 4500;
    check!(!in_time || us >= 7500, "{us} us after the first start");
    listen(8000);
    check!(!in_time || count(VECTOR) == 1, "{} interrupts", count(VECTOR));
    Ok(())
}

fn timer_vector_can_change() -> TestResult {
    const OTHER: u8 = 0x42;
    expect_timer();
    interrupt::expect(OTHER, Acknowledge::LocalApic);
    write(register::LVT_TIMER, u32::from(VECTOR));
    write(register::INITIAL_COUNT, (frequency() / 200) as u32);
    write(register::LVT_TIMER, u32::from(VECTOR));
    write(register::INITIAL_COUNT, 10_000_000);
    write(register::LVT_TIMER, u32::from(OTHER));
    write(register::INITIAL_COUNT, 1000);
    interrupt::enabled(|| tsc::wait_us(500_000, || count(OTHER) >= 1));
    check_eq!(count(VECTOR), 0, "interrupts by the old vector");
    check_eq!(count(OTHER), 1, "interrupts by the new vector");
    Ok(())
}

fn timer_mode_change_while_running() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR) | PERIODIC);
    write(register::INITIAL_COUNT, (hz / 1000) as u32);
    check!(wait_for(3, 500_000), "no periodic interrupts");
    write(register::LVT_TIMER, u32::from(VECTOR));
    // At most one period is under way.
    let before = count(VECTOR);
    listen(6000);
    check!(count(VECTOR) <= before + 1, "{} interrupts after the change to one-shot", count(VECTOR) - before);
    Ok(())
}

fn timer_reads_initial_count() -> TestResult {
    write(register::LVT_TIMER, MASKED);
    for value in [1, 0x8000_0000, 0xdead_beef, u32::MAX] {
        write(register::INITIAL_COUNT, value);
        check_eq!(read(register::INITIAL_COUNT), value, "initial count");
    }
    Ok(())
}

fn timer_shortest_count() -> TestResult {
    expect_timer();
    write(register::LVT_TIMER, u32::from(VECTOR));
    for i in 1..=50 {
        write(register::INITIAL_COUNT, 1);
        check!(wait_for(i, 500_000), "interrupt {i} did not come");
    }
    // A period far shorter than anybody can serve: with interrupts off, it must not hang anything.
    write(register::LVT_TIMER, u32::from(VECTOR) | PERIODIC);
    write(register::INITIAL_COUNT, 1);
    tsc::delay_us(2000);
    write(register::INITIAL_COUNT, 0);
    cpu::take_interrupts();
    check_eq!(count(VECTOR), 51, "interrupts after the storm");
    Ok(())
}

fn timer_in_halt() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR) | PERIODIC);
    write(register::INITIAL_COUNT, (hz / 1000) as u32);
    let start = rdtsc();
    for _ in 0..20 {
        cpu::wait_for_interrupt();
    }
    let us = (rdtsc() - start) * 1_000_000 / tsc::frequency();
    // More than one may come in one halt when others held the processor.
    check!(count(VECTOR) >= 20, "{} interrupts in 20 halts", count(VECTOR));
    check!(us > 17_000, "20 halts of a millisecond took {us} us");
    Ok(())
}

fn timer_while_interrupts_are_off() -> TestResult {
    expect_timer();
    let hz = frequency();
    write(register::LVT_TIMER, u32::from(VECTOR) | PERIODIC);
    write(register::INITIAL_COUNT, (hz / 2000) as u32);
    tsc::delay_us(5000);
    write(register::LVT_TIMER, u32::from(VECTOR) | MASKED);
    check!(apic::bit(register::IRR, VECTOR), "no request is pending");
    cpu::take_interrupts();
    check_eq!(count(VECTOR), 1, "interrupts: one is kept");
    Ok(())
}
