//! The MC146818: time, flags, interrupts on line 8, memory.

use selftest::cpu::rdtsc;
use selftest::interrupt::{self, Acknowledge, count};
use selftest::rtc::{
    ALARM_INTERRUPT, BINARY, HOURS_24, PERIODIC_INTERRUPT, SECONDS, SET, STATUS_A, STATUS_B, STATUS_C,
    STATUS_D, UPDATE_INTERRUPT, baseline, read, write,
};
use selftest::{Global, Test, TestResult, check, check_eq, need, pic, platform, tests, tsc};

use crate::pic::connect;

pub(crate) const TESTS: &[Test] = tests![
    rtc_fields_are_plausible,
    rtc_binary_mode,
    rtc_memory_round_trip,
    rtc_periodic_flag_without_interrupt,
    rtc_periodic_interrupts,
    rtc_status_c_gates_the_line,
    rtc_update_and_alarm,
    rtc_set_stops_the_clock,
];

const CLOCK: u8 = pic::BASE + 8;
/// Status C: interrupt line.
const LINE: u8 = 0x80;

fn from_bcd(value: u8) -> u8 {
    (value >> 4) * 10 + (value & 15)
}

fn rtc_fields_are_plausible() -> TestResult {
    baseline();
    check!(read(STATUS_D) & 0x80 != 0, "status D says that the battery is flat");
    for (name, register, least, most) in [
        ("second", 0, 0, 59),
        ("minute", 2, 0, 59),
        ("hour", 4, 0, 23),
        ("day", 7, 1, 31),
        ("month", 8, 1, 12),
    ] {
        let value = read(register);
        check!(value & 15 < 10, "{name} {value:#x} is no BCD");
        check!((least..=most).contains(&from_bcd(value)), "{name} is {value:x}");
    }
    check!(from_bcd(read(9)) < 100, "year is {:x}", read(9));
    Ok(())
}

fn rtc_binary_mode() -> TestResult {
    write(STATUS_B, HOURS_24 | BINARY);
    let month = read(8);
    baseline();
    check!((1..=12).contains(&month), "month is {month}");
    check_eq!(from_bcd(read(8)), month, "month in BCD");
    Ok(())
}

fn rtc_memory_round_trip() -> TestResult {
    for register in [0x40_u8, 0x55, 0x7f] {
        let before = read(register);
        for value in [0xa5, 0x5a] {
            write(register, value);
            check_eq!(read(register), value, "CMOS byte {register:#x}");
        }
        write(register, before);
    }
    Ok(())
}

fn rtc_periodic_flag_without_interrupt() -> TestResult {
    need!(platform::hypervisor(), "QEMU and Bochs set the flag only with its interrupt");
    baseline();
    connect(&[8]);
    read(STATUS_C);
    let came = tsc::wait_us(50_000, || read(STATUS_C) & PERIODIC_INTERRUPT != 0);
    check!(came, "no periodic flag");
    interrupt::enabled(|| tsc::delay_us(3000));
    check_eq!(count(CLOCK), 0, "interrupts that nobody enabled");
    Ok(())
}

fn rtc_periodic_interrupts() -> TestResult {
    static FLAGS: Global<u8> = Global::new(0);
    baseline();
    connect(&[8]);
    interrupt::on(CLOCK, Acknowledge::Pic, |_| FLAGS.set(read(STATUS_C)));
    write(STATUS_B, HOURS_24 | PERIODIC_INTERRUPT);
    let start = rdtsc();
    interrupt::enabled(|| tsc::delay_us(50_000));
    let periods = (rdtsc() - start) * 1024 / tsc::frequency();
    baseline();
    let fired = u64::from(count(CLOCK));
    check!(
        fired <= periods + 2 && fired >= platform::least_ticks(periods),
        "{fired} interrupts in {periods} periods at 1024 Hz"
    );
    let expected = LINE | PERIODIC_INTERRUPT;
    check_eq!(FLAGS.get() & expected, expected, "status C in the handler");
    Ok(())
}

fn rtc_status_c_gates_the_line() -> TestResult {
    baseline();
    connect(&[8]);
    // Never read: the line stays up, and there is no second edge.
    write(STATUS_B, HOURS_24 | PERIODIC_INTERRUPT);
    interrupt::enabled(|| tsc::delay_us(10_000));
    check_eq!(count(CLOCK), 1, "interrupts with status C unread");
    check!(read(STATUS_C) & LINE != 0, "status C without its line flag");
    check!(
        interrupt::enabled(|| tsc::wait_us(50_000, || count(CLOCK) >= 2)),
        "no interrupt after reading status C"
    );
    baseline();
    Ok(())
}

fn rtc_update_and_alarm() -> TestResult {
    static FLAGS: Global<u8> = Global::new(0);
    const ANY: u8 = 0xff;
    baseline();
    FLAGS.set(0);
    connect(&[8]);
    for alarm in [1, 3, 5] {
        write(alarm, ANY);
    }
    interrupt::on(CLOCK, Acknowledge::Pic, |_| FLAGS.set(FLAGS.get() | read(STATUS_C)));
    let first = read(SECONDS);
    write(STATUS_B, HOURS_24 | UPDATE_INTERRUPT | ALARM_INTERRUPT);
    let wanted = UPDATE_INTERRUPT | ALARM_INTERRUPT;
    let came = interrupt::enabled(|| tsc::wait_us(3_000_000, || FLAGS.get() & wanted == wanted));
    let second = read(SECONDS);
    baseline();
    check!(came, "update and alarm did not come in three seconds; status C {:#x}", FLAGS.get());
    check!(first != second, "the second is still {first:x}");
    check!(count(CLOCK) <= 6, "{} interrupts", count(CLOCK));
    Ok(())
}

fn rtc_set_stops_the_clock() -> TestResult {
    baseline();
    write(STATUS_B, HOURS_24 | SET);
    let second = read(SECONDS);
    let moved = tsc::wait_us(1_200_000, || read(SECONDS) != second);
    baseline();
    check!(!moved, "the clock runs while it is set");
    check_eq!(read(STATUS_A) & 0x7f, 0x26, "status A");
    Ok(())
}
