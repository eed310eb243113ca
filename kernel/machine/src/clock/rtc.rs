//! The wall clock, read once at boot.
//!
//! Source: Motorola MC146818A data sheet; ACPI Specification, FADT field CENTURY.

// UNSAFETY: reads CMOS registers through I/O ports.
#![allow(unsafe_code)]

use x86_64::instructions::port::Port;

use crate::fault::{self, Fault};

const INDEX_PORT: u16 = 0x70;
const DATA_PORT: u16 = 0x71;
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;

/// Status A: an update is in progress, or will start within 244 µs.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Status B: values are binary and not BCD.
const BINARY: u8 = 1 << 2;
/// Status B: hours count from 0 to 23.
const HOURS_24: u8 = 1 << 1;
/// Hours in 12-hour mode: afternoon.
const AFTERNOON: u8 = 1 << 7;
/// Looks at the update flag before giving up: an update takes 2 ms, a look about 1 µs.
const PATIENCE: u32 = 20_000;
/// Readings until two in a row agree.
const READINGS: u32 = 5;

/// Registers as they were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Raw {
    seconds: u8,
    minutes: u8,
    hours: u8,
    day: u8,
    month: u8,
    year: u8,
    century: Option<u8>,
    status_b: u8,
}

/// Seconds since 1970-01-01 00:00 UTC, or `None` where the clock shows no valid time. `century` is the
/// register that holds the century.
pub(super) fn read(century: Option<u8>) -> Option<u64> {
    let mut last = None;
    for _ in 0..READINGS {
        let raw = read_raw(century)?;
        if last == Some(raw) {
            return raw.unix_seconds();
        }
        last = Some(raw);
    }
    None
}

fn read_raw(century: Option<u8>) -> Option<Raw> {
    (0..PATIENCE).find(|_| register(STATUS_A) & UPDATE_IN_PROGRESS == 0)?;
    Some(Raw {
        seconds: register(SECONDS),
        minutes: register(MINUTES),
        hours: register(HOURS),
        day: register(DAY),
        month: register(MONTH),
        year: register(YEAR),
        century: century.map(register),
        status_b: register(STATUS_B),
    })
}

fn register(index: u8) -> u8 {
    if fault::is(Fault::NoWallClock) {
        return u8::MAX;
    }
    // SAFETY: selecting and reading a CMOS register has no effect on memory; the top bit is left clear, so
    // NMIs stay on.
    unsafe {
        Port::new(INDEX_PORT).write(index & 0x7f);
        Port::new(DATA_PORT).read()
    }
}

impl Raw {
    fn unix_seconds(self) -> Option<u64> {
        let number = |raw: u8| {
            if self.status_b & BINARY != 0 {
                return Some(u64::from(raw));
            }
            let (tens, ones) = (raw >> 4, raw & 0xf);
            (tens < 10 && ones < 10).then(|| u64::from(tens * 10 + ones))
        };
        let mut hours = number(self.hours & !AFTERNOON)?;
        if self.status_b & HOURS_24 == 0 {
            // Twelve o'clock is hour zero of its half of the day.
            hours = hours % 12 + if self.hours & AFTERNOON != 0 { 12 } else { 0 };
        }
        let (minutes, seconds) = (number(self.minutes)?, number(self.seconds)?);
        let (day, month) = (number(self.day)?, number(self.month)?);
        let century = self.century.and_then(number).filter(|century| (19..=29).contains(century));
        let year = century.unwrap_or(20) * 100 + number(self.year).filter(|year| *year < 100)?;
        let valid = hours < 24 && minutes < 60 && seconds < 60 && year >= 1970;
        let days = days_since_1970(year, month, day).filter(|_| valid)?;
        Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` where there is no such date.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    let length = *lengths.get(month)?;
    if day == 0 || day > length {
        return None;
    }
    let before = year - 1;
    let days_before = before * 365 + before / 4 - before / 100 + before / 400;
    let in_year: u64 = lengths[..month].iter().sum();
    /// Days from the calendar's start to 1970-01-01.
    const EPOCH: u64 = 719_162;
    (days_before + in_year + day - 1).checked_sub(EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCD: Raw = Raw {
        seconds: 0x59,
        minutes: 0x30,
        hours: 0x23,
        day: 0x29,
        month: 0x02,
        year: 0x24,
        century: Some(0x20),
        status_b: HOURS_24,
    };

    #[test]
    fn bcd_and_binary_mean_the_same_time() {
        let expected = 1_709_249_459;
        assert_eq!(BCD.unix_seconds(), Some(expected));
        let binary = Raw {
            seconds: 59,
            minutes: 30,
            hours: 23,
            day: 29,
            month: 2,
            year: 24,
            century: Some(20),
            status_b: HOURS_24 | BINARY,
        };
        assert_eq!(binary.unix_seconds(), Some(expected));
        assert_eq!(Raw { century: None, ..BCD }.unix_seconds(), Some(expected));
    }

    #[test]
    fn twelve_hour_clocks_have_two_twelves() {
        let at = |hours| Raw { hours, status_b: 0, ..BCD }.unix_seconds().unwrap() / 3600 % 24;
        assert_eq!([0x12, 0x01, 0x11, 0x92, 0x81, 0x91].map(at), [0, 1, 11, 12, 13, 23]);
    }

    #[test]
    fn nonsense_is_no_time() {
        for raw in [
            Raw { month: 0x13, ..BCD },
            Raw { day: 0x30, ..BCD },
            Raw { seconds: 0x5a, ..BCD },
            Raw { hours: 0x24, ..BCD },
            Raw { day: 0, ..BCD },
            Raw { seconds: 0xff, minutes: 0xff, hours: 0xff, day: 0xff, month: 0xff, year: 0xff, ..BCD },
        ] {
            assert_eq!(raw.unix_seconds(), None, "{raw:?}");
        }
    }

    #[test]
    fn the_calendar_knows_its_fixed_points() {
        assert_eq!(days_since_1970(1970, 1, 1), Some(0));
        assert_eq!(days_since_1970(2000, 3, 1), Some(11_017));
        assert_eq!(days_since_1970(2023, 11, 15), Some(19_676));
        assert_eq!(days_since_1970(2100, 2, 29), None);
    }
}
