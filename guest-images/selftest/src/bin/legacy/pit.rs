//! The 8254: counting, modes, latches, and its channel 2 behind port 61H.

use selftest::cpu::{inb, outb, rdtsc};
use selftest::interrupt::{self, count};
use selftest::pit::{self, CONTROL, COUNTER, HZ, PORT_B};
use selftest::{Test, TestResult, check, check_eq, need, pic, platform, tests, tsc};

use crate::pic::connect;

pub(crate) const TESTS: &[Test] = tests![
    pit_counts_at_its_rate,
    pit_latch_holds_until_read,
    pit_access_modes,
    pit_zero_counts_65536,
    pit_one_shot_interrupt,
    pit_rate_generator_interrupts,
    pit_square_wave_interrupts,
    pit_reprogramming_stops_interrupts,
    pit_channel_2_output,
    pit_channel_2_gate,
    pit_read_back_status,
    pit_read_back_latches_both,
    pit_refresh_toggle,
    pit_square_wave_halves,
];

const TIMER: u8 = pic::BASE;
const OUTPUT: u8 = 0x20;
const GATE: u8 = 1;

fn set_gate(open: bool) {
    let kept = inb(PORT_B) & 0x0e;
    outb(PORT_B, kept | u8::from(open));
}

fn output() -> bool {
    inb(PORT_B) & OUTPUT != 0
}

fn elapsed_us(start: u64) -> u64 {
    (rdtsc() - start) * 1_000_000 / tsc::frequency()
}

fn pit_counts_at_its_rate() -> TestResult {
    set_gate(true);
    pit::program(2, 2, 0);
    tsc::delay_us(100);
    let (start, first) = (rdtsc(), pit::latch(2));
    tsc::delay_us(10_000);
    let (end, last) = (rdtsc(), pit::latch(2));
    let counted = u64::from(first.wrapping_sub(last));
    let expected = (end - start) * HZ / tsc::frequency();
    check!(
        expected > 0xffff || counted.abs_diff(expected) < expected / 10 + 50,
        "{counted} ticks instead of {expected}"
    );
    Ok(())
}

fn pit_latch_holds_until_read() -> TestResult {
    set_gate(true);
    pit::program(2, 2, 0);
    tsc::delay_us(50);
    outb(CONTROL, 2 << 6);
    tsc::delay_us(500);
    // A second latch command before the read changes nothing.
    outb(CONTROL, 2 << 6);
    let latched = pit::read(2);
    let now = pit::latch(2);
    let apart = latched.wrapping_sub(now);
    check!(apart > 400, "latched {latched:#x}, then {now:#x}: the latch did not hold");
    Ok(())
}

fn pit_access_modes() -> TestResult {
    need!(!platform::bare_tcg(), "QEMU counts with the gate closed");
    set_gate(false);
    // Low byte only, high byte only, in mode 0 with a closed gate: the count stands.
    for (access, write, expected) in [(1_u8, 0x34_u8, 0x0034_u16), (2, 0x12, 0x1200)] {
        outb(CONTROL, 2 << 6 | access << 4);
        outb(COUNTER + 2, write);
        tsc::delay_us(20);
        let value = inb(COUNTER + 2);
        check_eq!(value, write, "count, access mode {access}");
        check_eq!(inb(COUNTER + 2), value, "second read, access mode {access}, of {expected:#x}");
    }
    pit::program(2, 0, 0x5678);
    tsc::delay_us(20);
    check_eq!(pit::read(2), 0x5678, "both bytes");
    check_eq!(pit::latch(2), 0x5678, "latched");
    Ok(())
}

fn pit_zero_counts_65536() -> TestResult {
    set_gate(true);
    pit::program(2, 0, 0);
    let start = rdtsc();
    let ended = tsc::wait_us(500_000, output);
    let us = elapsed_us(start);
    check!(ended, "the output did not rise");
    check!(us >= 53_000, "the output rose after {us} us instead of 54925");
    Ok(())
}

fn pit_one_shot_interrupt() -> TestResult {
    connect(&[0]);
    for us in [200, 3000, 20_000] {
        let before = count(TIMER);
        let start = rdtsc();
        pit::program(0, 0, (HZ * us / 1_000_000) as u16);
        interrupt::enabled(|| tsc::wait_us(500_000, || count(TIMER) > before));
        let took = elapsed_us(start);
        check!(took * 100 >= us * 95, "interrupt after {took} us instead of {us}");
        interrupt::enabled(|| tsc::delay_us(2 * us));
        check_eq!(count(TIMER) - before, 1, "interrupts");
    }
    Ok(())
}

/// Interrupts of channel 0 in a mode at 1 kHz, compared with the TSC.
fn periodic(mode: u8) -> TestResult {
    connect(&[0]);
    let divisor = (HZ / 1000) as u16;
    let start = rdtsc();
    pit::program(0, mode, divisor);
    interrupt::enabled(|| tsc::delay_us(30_000));
    let fired = u64::from(count(TIMER));
    let periods = elapsed_us(start) * HZ / u64::from(divisor) / 1_000_000;
    check!(fired <= periods + 2, "{fired} interrupts in {periods} periods");
    check!(fired >= platform::least_ticks(periods), "only {fired} interrupts in {periods} periods");
    Ok(())
}

fn pit_rate_generator_interrupts() -> TestResult {
    periodic(2)
}

fn pit_square_wave_interrupts() -> TestResult {
    periodic(3)
}

fn pit_reprogramming_stops_interrupts() -> TestResult {
    connect(&[0]);
    pit::program(0, 2, (HZ / 1000) as u16);
    interrupt::enabled(|| tsc::wait_us(200_000, || count(TIMER) >= 3));
    // A control word alone stops the counter.
    outb(CONTROL, 0x30);
    interrupt::enabled(|| tsc::delay_us(300));
    let before = count(TIMER);
    check!(before >= 3, "no interrupts");
    interrupt::enabled(|| tsc::delay_us(5000));
    check_eq!(count(TIMER), before, "interrupts after the control word");
    Ok(())
}

fn pit_channel_2_output() -> TestResult {
    set_gate(true);
    for us in [500, 5000] {
        let start = rdtsc();
        pit::program(2, 0, (HZ * us / 1_000_000) as u16);
        check!(!output() || elapsed_us(start) >= us, "the output is high at once");
        check!(tsc::wait_us(200_000, output), "the output did not rise");
        let took = elapsed_us(start);
        check!(took * 100 >= us * 95, "the output rose after {took} us instead of {us}");
        check!(output(), "the output fell again");
    }
    Ok(())
}

fn pit_channel_2_gate() -> TestResult {
    set_gate(true);
    pit::program(2, 0, 0xffff);
    tsc::delay_us(200);
    set_gate(false);
    check_eq!(inb(PORT_B) & GATE, 0, "gate bit read back");
    let held = pit::latch(2);
    tsc::delay_us(1000);
    let later = pit::latch(2);
    set_gate(true);
    tsc::delay_us(1000);
    let running = pit::latch(2);
    check!(
        platform::bare_tcg() || later == held,
        "the count ran from {held:#x} to {later:#x} with the gate closed"
    );
    check!(running < later, "the count stands with the gate open");
    Ok(())
}

fn pit_read_back_status() -> TestResult {
    need!(!platform::bare_tcg(), "QEMU shows mode 2's output inverted");
    set_gate(true);
    for mode in [0, 2, 3] {
        let start = rdtsc();
        pit::program(2, mode, 0xfffe);
        tsc::delay_us(100);
        let status = pit::status(2);
        let in_first_half = elapsed_us(start) < 20_000;
        check_eq!(status & 0x3f, 0x30 | mode << 1, "status: access and mode");
        check_eq!(status & 0x40, 0, "status: null count");
        check!(
            !in_first_half || status >> 7 == u8::from(mode != 0),
            "status {status:#x}: output of mode {mode}"
        );
    }
    Ok(())
}

fn pit_read_back_latches_both() -> TestResult {
    need!(!platform::bare_tcg(), "QEMU counts with the gate closed");
    set_gate(false);
    pit::program(2, 0, 0x4321);
    tsc::delay_us(20);
    outb(CONTROL, 0xc8); // status and count of channel 2
    let (status, count) = (inb(COUNTER + 2), pit::read(2));
    check_eq!(status & 0x3f, 0x30, "status comes first");
    check_eq!(count, 0x4321, "then the count");
    Ok(())
}

fn pit_refresh_toggle() -> TestResult {
    const TOGGLE: u8 = 0x10;
    let first = inb(PORT_B) & TOGGLE;
    check!(tsc::wait_us(10_000, || inb(PORT_B) & TOGGLE != first), "the refresh bit stands at {first:#x}");
    check!(tsc::wait_us(10_000, || inb(PORT_B) & TOGGLE == first), "the refresh bit does not come back");
    Ok(())
}

fn pit_square_wave_halves() -> TestResult {
    set_gate(true);
    pit::program(2, 3, (HZ / 500) as u16);
    let (mut high, mut low) = (0_u32, 0_u32);
    let start = rdtsc();
    tsc::wait_us(500_000, || {
        if output() {
            high += 1;
        } else {
            low += 1;
        }
        elapsed_us(start) > 20_000 && high > 20 && low > 20
    });
    // With few samples in each half they say nothing of its length.
    let even = high + low < 2000 || high > low / 3 && low > high / 3;
    check!(high > 20 && low > 20 && even, "{high} samples high, {low} low");
    Ok(())
}
