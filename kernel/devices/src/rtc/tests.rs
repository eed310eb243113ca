use super::*;
use proptest::prelude::*;

/// 2023-11-14 22:13:20, a Tuesday.
const WALL_CLOCK: u64 = 1_700_000_000;

fn rtc() -> Rtc {
    Rtc::new(WALL_CLOCK, MemorySize { below_4_gib: 256 << 20, above_4_gib: 3 << 30 }, Nanos::ZERO)
}

fn read(rtc: &mut Rtc, index: u8, now: Nanos) -> u8 {
    rtc.write(0, index, now).unwrap();
    rtc.read(1, now).unwrap()
}

fn write(rtc: &mut Rtc, index: u8, value: u8, now: Nanos) {
    rtc.write(0, index, now).unwrap();
    rtc.write(1, value, now).unwrap();
}

fn date(rtc: &mut Rtc, now: Nanos) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(rtc, index, now))
}

#[test]
fn shows_the_wall_clock_in_all_formats() {
    let mut rtc = rtc();
    assert_eq!(date(&mut rtc, Nanos::ZERO), [0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20]);
    assert_eq!(date(&mut rtc, Nanos::from_secs(6_400)), [0x20, 0x23, 0x11, 0x15, 4, 0x00, 0x00, 0x00]);
    write(&mut rtc, 0x0b, 0x06, Nanos::ZERO);
    assert_eq!(date(&mut rtc, Nanos::ZERO), [20, 23, 11, 14, 3, 22, 13, 20]);
    write(&mut rtc, 0x0b, 0x00, Nanos::ZERO);
    assert_eq!(read(&mut rtc, 4, Nanos::ZERO), 0x90);
    assert_eq!(read(&mut rtc, 4, Nanos::from_secs(6_400)), 0x12);
}

#[test]
fn cmos_reports_memory() {
    let mut rtc = rtc();
    let mut bytes = |first: u8, count: u8| {
        (0..count)
            .rev()
            .fold(0u32, |value, at| value << 8 | u32::from(read(&mut rtc, first + at, Nanos::ZERO)))
    };
    assert_eq!(bytes(0x15, 2), 640);
    assert_eq!(bytes(0x17, 2), 0xffff);
    assert_eq!(bytes(0x30, 2), 0xffff);
    assert_eq!(bytes(0x34, 2), 240 * 16);
    assert_eq!(bytes(0x5b, 3), 3 * 16_384);
    let sum: u16 = (0x10..=0x2d).map(|at| u16::from(read(&mut rtc, at, Nanos::ZERO))).sum();
    let stored = [0x2e, 0x2f].map(|at| read(&mut rtc, at, Nanos::ZERO));
    assert_eq!(u16::from_be_bytes(stored), sum);
    write(&mut rtc, 0x0f, 0x0a, Nanos::ZERO);
    rtc.reset(Nanos::from_secs(1));
    assert_eq!(read(&mut rtc, 0x0f, Nanos::from_secs(1)), 0x0a);
}

#[test]
fn setting_the_time_as_linux_does() {
    let mut rtc = rtc();
    let t = Nanos::from_millis(3_700);
    let [b, a] = [read(&mut rtc, 0x0b, t), read(&mut rtc, 0x0a, t)];
    write(&mut rtc, 0x0b, b | 0x80, t);
    write(&mut rtc, 0x0a, a | 0x70, t);
    for (index, value) in [(9, 0x24), (8, 0x02), (7, 0x29), (4, 0x23), (2, 0x59), (0, 0x59), (0x32, 0x20)] {
        write(&mut rtc, index, value, t);
    }
    assert_eq!(read(&mut rtc, 0, t + Nanos::from_secs(5)), 0x59, "held while it is being set");
    write(&mut rtc, 0x0b, b, t);
    write(&mut rtc, 0x0a, a, t);
    // Half a second later comes the first update.
    assert_eq!(read(&mut rtc, 0, t + Nanos::from_millis(499)), 0x59);
    assert_eq!(date(&mut rtc, t + Nanos::from_millis(500)), [0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00]);
}

#[test]
fn update_is_announced() {
    let mut rtc = rtc();
    assert_eq!(read(&mut rtc, 0x0a, Nanos::from_micros(999_755)), 0x26);
    assert_eq!(read(&mut rtc, 0x0a, Nanos::from_micros(999_756)), 0xa6);
    assert_eq!(read(&mut rtc, 0x0a, Nanos::from_micros(1_000_000)), 0x26);
}

#[test]
fn update_interrupt_each_second() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0b, 0x12, Nanos::from_millis(200));
    assert_eq!(rtc.next_deadline(), Some(Nanos::from_secs(1)));
    rtc.advance(Nanos::from_secs(1));
    assert!(rtc.irq());
    assert_eq!(rtc.next_deadline(), None, "pending already");
    assert_eq!(read(&mut rtc, 0x0c, Nanos::from_millis(5_300)) & 0x90, 0x90);
    assert!(!rtc.irq());
    assert_eq!(rtc.next_deadline(), Some(Nanos::from_secs(6)));
}

#[test]
fn alarm_interrupt_at_its_time() {
    let mut rtc = rtc();
    for (index, value) in [(1, 0x00), (3, 0x15), (5, 0xff)] {
        write(&mut rtc, index, value, Nanos::ZERO);
    }
    write(&mut rtc, 0x0b, 0x22, Nanos::ZERO);
    // From 22:13:20 to 22:15:00.
    assert_eq!(rtc.next_deadline(), Some(Nanos::from_secs(100)));
    rtc.advance(Nanos::from_millis(99_999));
    assert!(!rtc.irq());
    rtc.advance(Nanos::from_secs(100));
    assert!(rtc.irq());
    assert_eq!(read(&mut rtc, 0x0c, Nanos::from_secs(100)) & 0xa0, 0xa0);
    assert_eq!(rtc.next_deadline(), Some(Nanos::from_secs(3_700)));
}

#[test]
fn periodic_interrupt_keeps_its_grid() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0a, 0x2f, Nanos::ZERO);
    write(&mut rtc, 0x0b, 0x42, Nanos::ZERO);
    assert_eq!(rtc.next_deadline(), Some(Nanos::from_millis(500)));
    rtc.advance(Nanos::from_millis(2_600));
    assert!(rtc.irq());
    assert_eq!(read(&mut rtc, 0x0c, Nanos::from_millis(2_600)) & 0xc0, 0xc0);
    assert_eq!(rtc.next_deadline(), Some(Nanos::from_millis(3_000)));
}

#[test]
fn enabling_an_interrupt_whose_flag_is_set_requests_it() {
    let mut rtc = rtc();
    rtc.advance(Nanos::from_secs(2));
    assert!(!rtc.irq());
    write(&mut rtc, 0x0b, 0x12, Nanos::from_secs(2));
    assert!(rtc.irq());
}

#[test]
fn an_impossible_hour_is_no_trouble() {
    let mut rtc = rtc();
    write(&mut rtc, 0x0b, 0x86, Nanos::ZERO);
    write(&mut rtc, 4, 0xff, Nanos::ZERO);
    write(&mut rtc, 0x0b, 0x84, Nanos::ZERO);
    assert_eq!(read(&mut rtc, 4, Nanos::ZERO), 0x80 | 3);
}

proptest! {
    /// What a guest writes to a stopped clock is what it reads back.
    #[test]
    fn time_registers_hold_what_is_set(
        year in 1970u16..=9999, month in 1u8..=12, day in 1u8..=28,
        hour in 0u8..24, minute in 0u8..60, second in 0u8..60, mode in 0u8..4,
    ) {
        let mut rtc = rtc();
        let now = Nanos::from_secs(10);
        write(&mut rtc, 0x0b, 0x80 | mode << 1, now);
        let set = DateTime { year, month, day, hour, minute, second };
        let registers = [
            (0, rtc.encode(second)), (2, rtc.encode(minute)), (4, rtc.encode_hour(hour)),
            (7, rtc.encode(day)), (8, rtc.encode(month)),
            (9, rtc.encode((year % 100) as u8)), (0x32, rtc.encode((year / 100) as u8)),
        ];
        for (index, value) in registers {
            write(&mut rtc, index, value, now);
        }
        prop_assert_eq!(rtc.now(now), set);
        for (index, value) in registers {
            prop_assert_eq!(read(&mut rtc, index, now), value);
        }
        write(&mut rtc, 0x0b, mode << 1, now);
        prop_assert_eq!(rtc.seconds(now + SECOND), Some(set.seconds() + 1));
    }

    #[test]
    fn deadlines_lie_ahead_and_nothing_panics(steps in prop::collection::vec(any::<(u8, u8, u8, u32)>(), 0..200)) {
        let mut rtc = rtc();
        let mut now = Nanos::ZERO;
        for (action, register, value, wait) in steps {
            now = now + Nanos(u64::from(wait) << (action % 12));
            let register = if action & 0x10 == 0 { register & 0x0f } else { register };
            if action & 1 == 0 {
                write(&mut rtc, register, value, now);
            } else {
                read(&mut rtc, register, now);
            }
            rtc.advance(now);
            if let Some(deadline) = rtc.next_deadline() {
                prop_assert!(deadline > now);
                if action & 2 == 0 {
                    now = deadline;
                    rtc.advance(now);
                    prop_assert!(rtc.irq());
                }
            }
        }
    }
}
