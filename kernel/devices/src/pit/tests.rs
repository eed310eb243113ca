use super::*;
use proptest::prelude::*;

fn at(tick: u64) -> Nanos {
    FREQUENCY.time_of(tick)
}

fn program(pit: &mut Pit, channel: u16, mode: u8, count: u16, tick: u64) {
    pit.write(3, (channel as u8) << 6 | 0x30 | mode << 1, at(tick)).unwrap();
    for byte in count.to_le_bytes() {
        pit.write(channel, byte, at(tick)).unwrap();
    }
}

fn count(pit: &mut Pit, channel: u16, tick: u64) -> u16 {
    pit.write(3, (channel as u8) << 6, at(tick)).unwrap();
    let low = pit.read(channel, at(tick)).unwrap();
    u16::from_le_bytes([low, pit.read(channel, at(tick)).unwrap()])
}

#[test]
fn rate_generator_ticks_on_its_grid() {
    let mut pit = Pit::new(Nanos::ZERO);
    program(&mut pit, 0, 2, 1000, 0);
    assert!(!pit.take_edge(), "the output was high before");
    assert_eq!(pit.next_deadline(), Some(at(1001)));
    pit.advance(at(1000));
    assert!(!pit.take_edge());
    pit.advance(at(1001));
    assert!(pit.take_edge());
    // Ten ticks lost: one edge, and the next lies on the grid.
    pit.advance(at(11_500));
    assert!(pit.take_edge());
    assert!(!pit.take_edge());
    assert_eq!(pit.next_deadline(), Some(at(12_001)));
}

#[test]
fn one_shot_count_fires_once() {
    let mut pit = Pit::new(Nanos::ZERO);
    program(&mut pit, 0, 0, 100, 0);
    assert!(!pit.output());
    assert_eq!(pit.next_deadline(), Some(at(101)));
    pit.advance(at(500));
    assert!(pit.take_edge() && pit.output());
    assert_eq!(pit.next_deadline(), None);
    assert_eq!(count(&mut pit, 0, 501), 0u16.wrapping_sub(400), "it counts on past zero");
    program(&mut pit, 0, 0, 100, 600);
    program(&mut pit, 0, 4, 100, 650);
    assert!(pit.take_edge(), "the control word raised the output");
    assert_eq!(pit.next_deadline(), Some(at(752)));
}

#[test]
fn channel_two_calibrates_a_clock() {
    let mut pit = Pit::new(Nanos::ZERO);
    pit.write_system_control(0x01, at(10));
    program(&mut pit, 2, 0, 11_932, 10);
    assert_eq!(pit.read_system_control(at(11_942)) & 0x20, 0);
    assert_eq!(pit.read_system_control(at(11_943)) & 0x21, 0x21);
    program(&mut pit, 2, 0, 1000, 20_000);
    pit.write_system_control(0x00, at(20_101));
    assert_eq!(count(&mut pit, 2, 90_000), 900, "a low gate holds it");
    pit.write_system_control(0x01, at(100_000));
    assert_eq!(count(&mut pit, 2, 100_100), 800);
}

#[test]
fn square_wave_counts_by_two_and_changes_at_the_half() {
    let mut pit = Pit::new(Nanos::ZERO);
    program(&mut pit, 0, 3, 10, 0);
    assert_eq!(count(&mut pit, 0, 1), 10);
    assert_eq!(count(&mut pit, 0, 5), 2);
    assert_eq!(count(&mut pit, 0, 6), 10);
    assert!(!pit.output());
    pit.write(0, 20, at(7)).unwrap();
    pit.write(0, 0, at(7)).unwrap();
    // The low half ends at 11; from there the new count.
    assert_eq!(count(&mut pit, 0, 11), 20);
    assert_eq!(pit.next_deadline(), Some(at(31)));
}

#[test]
fn gate_triggered_modes_wait_for_the_edge() {
    let mut pit = Pit::new(Nanos::ZERO);
    program(&mut pit, 2, 1, 50, 0);
    assert_eq!(pit.read_system_control(at(100)) & 0x20, 0x20);
    pit.write_system_control(1, at(100));
    assert_eq!(pit.read_system_control(at(102)) & 0x20, 0);
    assert_eq!(pit.read_system_control(at(151)) & 0x20, 0x20);
    pit.write_system_control(0, at(160));
    pit.write_system_control(1, at(200));
    assert_eq!(pit.read_system_control(at(202)) & 0x20, 0);
    program(&mut pit, 2, 5, 50, 300);
    pit.write_system_control(0, at(310));
    pit.write_system_control(1, at(320));
    assert_eq!(pit.read_system_control(at(371)) & 0x20, 0);
    assert_eq!(pit.read_system_control(at(372)) & 0x20, 0x20);
}

#[test]
fn read_back_gives_status_then_count() {
    let mut pit = Pit::new(Nanos::ZERO);
    program(&mut pit, 0, 2, 1000, 0);
    pit.write(3, 0xc2, at(11)).unwrap();
    assert_eq!(pit.read(0, at(20)).unwrap(), 0xb4);
    assert_eq!(pit.read(0, at(20)).unwrap(), 0xde);
    assert_eq!(pit.read(0, at(20)).unwrap(), 0x03);
    pit.write(3, 0x34, at(30)).unwrap();
    pit.write(3, 0xe2, at(30)).unwrap();
    assert_eq!(pit.read(0, at(30)).unwrap(), 0xf4, "null count until a count is loaded");
}

#[test]
fn bcd_and_single_byte_accesses() {
    let mut pit = Pit::new(Nanos::ZERO);
    pit.write(3, 0x31, at(0)).unwrap();
    pit.write(0, 0x00, at(0)).unwrap();
    pit.write(0, 0x10, at(0)).unwrap();
    assert_eq!(count(&mut pit, 0, 2), 0x0999);
    pit.write(3, 0x14, at(10)).unwrap();
    pit.write(0, 0x20, at(10)).unwrap();
    assert_eq!(pit.read(0, at(11)).unwrap(), 0x20);
    assert_eq!(pit.read(0, at(12)).unwrap(), 0x1f);
}

#[test]
fn absurdly_short_periods_do_not_storm() {
    let mut pit = Pit::new(Nanos::ZERO);
    program(&mut pit, 0, 2, 1, 0);
    pit.advance(at(1000));
    let deadline = pit.next_deadline().unwrap();
    assert!(deadline >= at(1000 + SHORTEST_INTERVAL - 2) && deadline <= at(1000 + SHORTEST_INTERVAL + 2));
}

/// The 8254 clocked tick by tick, for one running channel with the gate high.
struct Model {
    mode: u8,
    reload: u64,
    value: u64,
    high: bool,
    /// Ticks until the count is loaded.
    delay: u64,
    strobe: bool,
    done: bool,
}

impl Model {
    fn new(mode: u8, reload: u64) -> Self {
        Self { mode, reload, value: reload, high: mode != 0, delay: 1, strobe: false, done: false }
    }

    /// One clock; returns whether the output rose.
    fn clock(&mut self) -> bool {
        let before = self.high;
        if self.delay > 0 {
            self.delay -= 1;
            self.value = if self.mode == 3 { self.reload & !1 } else { self.reload };
            return false;
        }
        match self.mode {
            0 => {
                self.value = (self.value + 0xffff) & 0xffff;
                self.high |= self.value == 0;
            }
            2 => {
                self.value = if self.value == 1 { self.reload } else { self.value - 1 };
                self.high = self.value != 1;
            }
            3 => {
                // Odd counts hold zero for one clock of the high half.
                let turn = if self.high && self.reload % 2 == 1 { self.value == 0 } else { self.value == 2 };
                if turn {
                    self.value = self.reload & !1;
                    self.high = !self.high;
                } else {
                    self.value -= 2;
                }
            }
            _ => {
                self.value = (self.value + 0xffff) & 0xffff;
                self.strobe = self.value == 0 && !self.done;
                self.done |= self.strobe;
                self.high = !self.strobe;
            }
        }
        !before && self.high
    }
}

proptest! {
    #[test]
    fn counters_agree_with_the_clocked_model(
        mode in prop::sample::select(&[0u8, 2, 3, 4][..]),
        reload in 2u64..60,
        looks in prop::collection::vec(1u64..40, 1..30),
    ) {
        let mut pit = Pit::new(Nanos::ZERO);
        program(&mut pit, 0, mode, reload as u16, 100);
        pit.take_edge();
        let mut model = Model::new(mode, reload);
        let mut tick = 100;
        for look in looks {
            let mut rose = false;
            for _ in 0..look {
                rose |= model.clock();
                tick += 1;
            }
            prop_assert_eq!(u64::from(count(&mut pit, 0, tick)), model.value & 0xffff, "tick {}", tick);
            prop_assert_eq!(pit.output(), model.high);
            prop_assert_eq!(pit.take_edge(), rose);
        }
    }

    #[test]
    fn deadlines_lie_ahead_and_nothing_panics(steps in prop::collection::vec(any::<(u8, u8, u8, u32)>(), 0..200)) {
        let mut pit = Pit::new(Nanos::ZERO);
        let mut now = Nanos::ZERO;
        for (action, port, value, wait) in steps {
            now = now + Nanos(u64::from(wait) >> (port % 24));
            match action % 5 {
                0 | 1 => { pit.write(u16::from(port % 4), value, now).unwrap(); }
                2 => { let _ = pit.read(u16::from(port % 4), now); }
                3 => pit.write_system_control(value, now),
                _ => { pit.read_system_control(now); }
            }
            pit.advance(now);
            if let Some(deadline) = pit.next_deadline() {
                prop_assert!(deadline > now);
                if action % 3 == 0 {
                    now = deadline;
                    pit.take_edge();
                    pit.advance(now);
                    prop_assert!(pit.take_edge());
                }
            }
        }
    }
}
