//! The proleptic Gregorian calendar: seconds since 1970-01-01 00:00:00 to date and time, and back.

const SECONDS_PER_DAY: u64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_FROM_MARCH_ZERO: u64 = 719_468;
/// Days of 400 years.
const DAYS_PER_ERA: u64 = 146_097;

/// A date and a time of day. Fields as written by a guest may be out of range; see [`DateTime::seconds`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DateTime {
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// Day of the month, from 1.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl DateTime {
    /// The moment `seconds` after the start of 1970; beyond year 9999 it stays at that year's digits modulo 10000.
    pub(super) const fn from_seconds(seconds: u64) -> Self {
        let time = seconds % SECONDS_PER_DAY;
        // Years are taken from March on, so that the leap day is a year's last.
        let days = seconds / SECONDS_PER_DAY + EPOCH_FROM_MARCH_ZERO;
        let era = days / DAYS_PER_ERA;
        let day_of_era = days % DAYS_PER_ERA;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
        Self {
            year: (year % 10_000) as u16,
            month: month as u8,
            day: day as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// Seconds since the start of 1970; earlier dates give 0. Fields out of range are carried over (the 31st of April
    /// is the 1st of May), a month out of range is taken modulo 12.
    pub(super) const fn seconds(self) -> u64 {
        let month = (self.month as u64 + 11) % 12 + 1;
        let year = self.year as u64 + 400 - if month <= 2 { 1 } else { 0 };
        let month_from_march = (month + 9) % 12;
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_era =
            year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month_from_march + 2) / 5;
        // One era and one day ahead, so that a day 0 in year 0 is no underflow.
        let days = era * DAYS_PER_ERA + day_of_era + self.day as u64;
        let days = days.saturating_sub(DAYS_PER_ERA + EPOCH_FROM_MARCH_ZERO + 1);
        days * SECONDS_PER_DAY + self.hour as u64 * 3600 + self.minute as u64 * 60 + self.second as u64
    }
}

/// The day of the week at `seconds` since 1970, 1 (Sunday) to 7.
pub(super) const fn day_of_week(seconds: u64) -> u8 {
    // 1970-01-01 was a Thursday.
    ((seconds / SECONDS_PER_DAY + 4) % 7) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn date(year: u16, month: u8, day: u8) -> DateTime {
        DateTime { year, month, day, hour: 0, minute: 0, second: 0 }
    }

    #[test]
    fn known_moments() {
        assert_eq!(DateTime::from_seconds(0), date(1970, 1, 1));
        let moment = DateTime { hour: 22, minute: 13, second: 20, ..date(2023, 11, 14) };
        assert_eq!(DateTime::from_seconds(1_700_000_000), moment);
        assert_eq!(moment.seconds(), 1_700_000_000);
        assert_eq!(day_of_week(1_700_000_000), 3);
        assert_eq!(date(2000, 2, 29).seconds() + 86_400, date(2000, 3, 1).seconds());
        assert_eq!(date(2100, 2, 28).seconds() + 86_400, date(2100, 3, 1).seconds());
        for edge in
            [date(2100, 2, 28), date(2100, 3, 1), date(2200, 3, 1), date(2400, 2, 29), date(2400, 3, 1)]
        {
            assert_eq!(DateTime::from_seconds(edge.seconds()), edge);
        }
    }

    #[test]
    fn nonsense_is_carried_over() {
        assert_eq!(date(2021, 4, 31).seconds(), date(2021, 5, 1).seconds());
        assert_eq!(date(0, 0, 0).seconds(), 0);
        assert_eq!(date(1969, 12, 31).seconds(), 0);
        let absurd = DateTime { hour: 255, minute: 255, second: 255, ..date(9999, 255, 255) };
        assert!(absurd.seconds() > 0);
    }

    proptest! {
        #[test]
        fn both_ways(seconds in 0u64..253_402_300_800) {
            let moment = DateTime::from_seconds(seconds);
            prop_assert_eq!(moment.seconds(), seconds);
            prop_assert!((1..=12).contains(&moment.month) && (1..=31).contains(&moment.day));
        }

        /// A day-by-day walk is the plain model of the calendar.
        #[test]
        fn the_next_day_follows(day in 0u64..2_900_000) {
            let today = DateTime::from_seconds(day * 86_400);
            let leap = today.year.is_multiple_of(4) && (!today.year.is_multiple_of(100) || today.year.is_multiple_of(400));
            let length = match today.month {
                4 | 6 | 9 | 11 => 30,
                2 => if leap { 29 } else { 28 },
                _ => 31,
            };
            let (year, month, day_of_month) = match (today.month, today.day == length) {
                (month, false) => (today.year, month, today.day + 1),
                (12, true) => (today.year + 1, 1, 1),
                (month, true) => (today.year, month + 1, 1),
            };
            prop_assert_eq!(DateTime::from_seconds((day + 1) * 86_400), date(year, month, day_of_month));
        }
    }
}
