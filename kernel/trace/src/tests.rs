use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use proptest::prelude::*;

use super::*;

const EMPTY: [u8; EVENT_BYTES] = [0; EVENT_BYTES];

fn event(number: u64) -> Event {
    Event::new(number, Kind::State, Subject::vm(7), number.wrapping_mul(3), !number)
}

/// Reads at most so many events, from one of that number on.
fn read(ring: &Ring, from: u64, most: usize) -> (Taken, Vec<Event>) {
    let mut bytes = vec![EMPTY; most];
    let taken = ring.read(from, &mut bytes);
    (taken, bytes[..taken.count].iter().map(Event::from_bytes).collect())
}

/// What is asserted here is what the other side of the channel relies on.
#[test]
fn layouts_are_as_the_reference_says() {
    let ring = Ring::new();
    ring.record(Event::new(0x0102, Kind::Moved, Subject::vcpu(0x0003_0005, 9), 1, 2));
    let mut bytes = [EMPTY];
    assert_eq!(ring.read(0, &mut bytes).count, 1);
    let mut wanted = EMPTY;
    (wanted[0], wanted[1]) = (2, 1);
    (wanted[8], wanted[10], wanted[12], wanted[14]) = (6, 9, 5, 3);
    (wanted[16], wanted[24]) = (1, 2);
    assert_eq!(bytes[0], wanted);
    let event = Event::from_bytes(&bytes[0]);
    assert_eq!((event.tsc(), event.kind()), (0x0102, Some(Kind::Moved)));
    assert_eq!((event.subject(), event.numbers()), (Subject::vcpu(0x0003_0005, 9), [1, 2]));
}

#[test]
fn reports_name_kind_and_subject() {
    let line = |subject| Event::new(0, Kind::Asked, subject, 3, 0x10).to_string();
    assert_eq!(line(Subject::vcpu(0x1_0002, 63)), "asked vm 0x10002 vcpu 63 0x3 0x10");
    assert_eq!(line(Subject::vm(2)), "asked vm 0x2 0x3 0x10");
    assert_eq!(line(Subject::NOBODY), "asked 0x3 0x10");
    assert_eq!(Event::from_bytes(&[0xff; EVENT_BYTES]).kind(), None);
}

#[test]
fn the_last_ones_are_kept_and_the_others_counted() {
    let ring = Ring::new();
    assert_eq!(read(&ring, 0, 8).0, Taken { count: 0, lost: 0, next: 0 });
    assert_eq!(read(&ring, u64::MAX, 8).0, Taken { count: 0, lost: 0, next: 0 }, "there is none yet");
    (0..5).map(event).for_each(|event| ring.record(event));
    assert_eq!(read(&ring, 0, 2), (Taken { count: 2, lost: 0, next: 2 }, vec![event(0), event(1)]));
    assert_eq!(read(&ring, 4, 2), (Taken { count: 1, lost: 0, next: 5 }, vec![event(4)]));
    (5..300).map(event).for_each(|event| ring.record(event));
    let (taken, events) = read(&ring, 2, 1000);
    assert_eq!(taken, Taken { count: KEPT, lost: 300 - KEPT as u64 - 2, next: 300 });
    assert_eq!(events, (300 - KEPT as u64..300).map(event).collect::<Vec<_>>());
    assert_eq!(read(&ring, 300, 8).0, Taken { count: 0, lost: 0, next: 300 });
    assert_eq!(read(&ring, 10, 0).0.count, 0);
}

/// Whatever a reader is told is whole, in order, and what is missing is counted.
#[test]
fn nothing_is_torn_while_the_cpu_writes() {
    const EVENTS: u64 = 2_000_000;
    const READERS: [usize; 3] = [1, 7, 64];
    let (ring, is_done) = (Ring::new(), AtomicBool::new(false));
    let start = Barrier::new(1 + READERS.len());
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            (0..EVENTS).map(event).for_each(|event| ring.record(event));
            is_done.store(true, SeqCst);
        });
        for most in READERS {
            let (ring, is_done, start) = (&ring, &is_done, &start);
            scope.spawn(move || {
                start.wait();
                let (mut next, mut seen, mut lost) = (0, 0, 0);
                loop {
                    let was_done = is_done.load(SeqCst);
                    let (taken, events) = read(ring, next, most);
                    for (number, found) in (next + taken.lost..).zip(&events) {
                        assert_eq!(*found, event(number));
                    }
                    assert_eq!(taken.next, next + taken.lost + taken.count as u64);
                    (next, seen, lost) = (taken.next, seen + taken.count as u64, lost + taken.lost);
                    if was_done && next == EVENTS {
                        break;
                    }
                }
                assert_eq!(seen + lost, EVENTS);
            });
        }
    });
}

/// The same with a CPU that writes between any two words, more than a ring in all.
#[test]
fn what_is_overwritten_while_it_is_read_is_lost() {
    for (pace, before) in [(1, 300), (2, 300), (7, 200), (50, 127), (300, 128), (3, 10)] {
        let ring = Ring::new();
        let mut written = before;
        (0..before).map(event).for_each(|event| ring.record(event));
        let (mut bytes, mut words) = (vec![EMPTY; 64], 0);
        let taken = ring.read_while(0, &mut bytes, || {
            words += 1;
            if words % pace == 0 {
                ring.record(event(written));
                written += 1;
            }
        });
        let events: Vec<_> = bytes[..taken.count].iter().map(Event::from_bytes).collect();
        let end = taken.lost + taken.count as u64;
        assert_eq!(events, (taken.lost..end).map(event).collect::<Vec<_>>(), "{pace}");
        assert_eq!(taken.next, end);
        assert_eq!(end, before.saturating_sub(KEPT as u64) + before.min(64), "all that were looked at");
        assert!(taken.lost >= written.saturating_sub(KEPT as u64).min(end));
    }
}

/// Whoever adds a kind says in the reference what it is.
#[test]
fn the_reference_has_all_kinds() {
    let reference = include_str!("../../../docs/abi.md");
    for kind in Kind::ALL {
        let row = format!("| {} | `{}` |", *kind as u16, kind.name());
        assert!(reference.contains(&row), "docs/abi.md lacks {row}");
    }
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(written in 0_u64..400, from in 0_u64..500, most in 0_usize..200) {
        let ring = Ring::new();
        (0..written).map(event).for_each(|event| ring.record(event));
        let (taken, events) = read(&ring, from, most);
        let from = from.min(written);
        let first = from.max(written.saturating_sub(KEPT as u64));
        let end = written.min(first + most as u64);
        prop_assert_eq!(events, (first..end).map(event).collect::<Vec<_>>());
        prop_assert_eq!(taken, Taken { count: (end - first) as usize, lost: first - from, next: end });
    }

    #[test]
    fn any_bytes_are_an_event(bytes: [u8; EVENT_BYTES]) {
        let event = Event::from_bytes(&bytes);
        prop_assert!(!event.to_string().is_empty());
        let again = event.0.map(u64::to_le_bytes);
        prop_assert_eq!(again.as_flattened(), &bytes[..]);
    }
}
