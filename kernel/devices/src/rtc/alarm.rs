//! The alarm: a time of day of which each field may match anything.

/// Seconds of a day.
const DAY: u32 = 86_400;

/// The three alarm registers; `None` matches any value. Values out of range never match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarm {
    pub(super) second: Option<u8>,
    pub(super) minute: Option<u8>,
    pub(super) hour: Option<u8>,
}

impl Alarm {
    /// Seconds from `second_of_day` to the first match, 0 when that second matches itself.
    pub(super) fn seconds_until(self, second_of_day: u32) -> Option<u32> {
        let out_of_range = |field: Option<u8>, end: u8| field.is_some_and(|value| value >= end);
        if out_of_range(self.second, 60) || out_of_range(self.minute, 60) || out_of_range(self.hour, 24) {
            return None;
        }
        // Each step skips to the next hour, minute or second, so the steps are at most 24 + 60 + 60.
        let mut candidate = second_of_day;
        while candidate <= second_of_day + DAY {
            let time = candidate % DAY;
            candidate += if self.hour.is_some_and(|hour| u32::from(hour) != time / 3600) {
                3600 - time % 3600
            } else if self.minute.is_some_and(|minute| u32::from(minute) != time / 60 % 60) {
                60 - time % 60
            } else if self.second.is_some_and(|second| u32::from(second) != time % 60) {
                1
            } else {
                return Some(candidate - second_of_day);
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a look at every second of the day.
        #[test]
        fn agrees_with_a_search(
            second in prop::option::of(0u8..62),
            minute in prop::option::of(0u8..62),
            hour in prop::option::of(0u8..26),
            start in 0u32..DAY,
        ) {
            let alarm = Alarm { second, minute, hour };
            let matches = |field: Option<u8>, value: u32| field.is_none_or(|field| u32::from(field) == value);
            let expected = (0..DAY).find(|wait| {
                let time = (start + wait) % DAY;
                matches(hour, time / 3600) && matches(minute, time / 60 % 60) && matches(second, time % 60)
            });
            prop_assert_eq!(alarm.seconds_until(start), expected);
        }
    }
}
