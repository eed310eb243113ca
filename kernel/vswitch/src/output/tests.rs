use super::*;
use crate::meter::Rate;
use proptest::prelude::*;
use std::vec::Vec;

fn port(number: usize) -> PortId {
    PortId::new(number).expect("a port")
}

fn waiting(from: usize, priority: u8, length: u32) -> Waiting {
    let from = port(from);
    Waiting {
        from,
        priority,
        length,
        offload: Offload::default(),
        packets: 1,
        wire_bytes: length.into(),
        cut: false,
    }
}

/// A port's queue, for which there is more memory whenever it wants some.
struct Queue {
    output: Output,
    reserve: Reserve,
}

impl core::ops::Deref for Queue {
    type Target = Output;

    fn deref(&self) -> &Output {
        &self.output
    }
}

impl Queue {
    fn room(&self, from: PortId, length: u32) -> Option<Room> {
        self.reserve.fill();
        self.output.room(from, length, &self.reserve)
    }
}

fn output() -> Queue {
    Queue { output: Output::new().expect("memory"), reserve: Reserve::default() }
}

/// Puts a frame of these bytes into the queue.
fn send(output: &Queue, from: usize, priority: u8, bytes: &[u8]) -> bool {
    let Some(mut room) = output.room(port(from), bytes.len() as u32) else { return false };
    let mut rest = bytes;
    for length in [bytes.len() / 3, bytes.len() - bytes.len() / 3] {
        output
            .fill(&mut room, length as u32, |part| {
                let (now, later) = rest.split_at(part.len());
                part.copy_from_slice(now);
                rest = later;
                Ok::<(), ()>(())
            })
            .expect("room");
    }
    output.push(&room, waiting(from, priority, bytes.len() as u32));
    true
}

/// Takes the next frame out.
fn receive(output: &Output, guaranteed: PortSet, now: Nanos) -> Option<(usize, Vec<u8>)> {
    let Next::Frame(front) = output.next(guaranteed, now) else { return None };
    let mut bytes = Vec::new();
    output
        .read(&front, 0, front.frame.length, |part| {
            bytes.extend_from_slice(part);
            Ok::<(), ()>(())
        })
        .expect("bytes");
    output.pop(&front, true, now);
    Some((front.frame.from.index(), bytes))
}

#[test]
fn a_flood_leaves_room_for_others() {
    let output = output();
    let sent = (0..1000).filter(|_| send(&output, 0, 0, &[1; 1000])).count();
    assert!((100..=BLOCKS / 2).contains(&sent), "{sent}");
    assert!(send(&output, 1, 0, &[2; 1500]) && send(&output, 2, 0, &[3; 60_000]));
    output.clear();
    assert!(output.is_empty());
    assert_eq!((0..1000).filter(|_| send(&output, 0, 0, &[1; 1000])).count(), sent, "nothing was lost");
}

#[test]
fn priorities_are_strict_and_guarantees_come_before_them() {
    let output = output();
    for (from, priority) in [(0, 0), (1, 7), (2, 3), (0, 0), (1, 7), (2, 0)] {
        assert!(send(&output, from, priority, &[from as u8; 100]));
    }
    let next = |guaranteed| receive(&output, guaranteed, 0).map(|(from, _)| from);
    assert_eq!(next(PortSet::one(port(2))), Some(2));
    let order: Vec<_> = core::iter::from_fn(|| next(PortSet::NONE)).collect();
    assert_eq!(order[..2], [1, 1]);
    assert_eq!(order.len(), 5);
}

#[test]
fn senders_have_equal_shares_whatever_their_frames() {
    let output = output();
    let mut got = [0_usize; 3];
    for _ in 0..3000 {
        while send(&output, 0, 0, &[0; 64]) {}
        while send(&output, 1, 0, &[1; 1500]) {}
        while send(&output, 2, 0, &[2; 9000]) {}
        let (from, bytes) = receive(&output, PortSet::NONE, 0).expect("a frame");
        got[from] += bytes.len();
    }
    let most = *got.iter().max().expect("three");
    assert!(got.iter().all(|bytes| most - bytes <= 2 * 9000), "{got:?}");
}

#[test]
fn a_rate_holds_frames_back() {
    let output = output();
    output.rate.set(Some(Rate { per_second: 1000, burst: 1 }), 0);
    assert!(send(&output, 0, 0, &[0; 500]) && send(&output, 0, 0, &[0; 500]));
    assert!(receive(&output, PortSet::NONE, 0).is_some());
    let Next::NotBefore(at) = output.next(PortSet::NONE, 0) else { panic!("it is too early") };
    assert_eq!(at, 499_000_000);
    assert!(receive(&output, PortSet::NONE, at).is_some());
    assert_eq!(output.next(PortSet::NONE, at), Next::Nothing);
}

#[test]
fn what_was_taken_and_not_used_comes_back() {
    let output = output();
    for _ in 0..1000 {
        let room = output.room(port(5), 64_000).expect("room");
        output.cancel(&room);
    }
    assert!(send(&output, 5, 1, &[7; 2000]));
    let Next::Frame(front) = output.next(PortSet::NONE, 0) else { panic!("a frame") };
    output.clear();
    output.pop(&front, true, 0);
    assert!(output.is_empty());
    for blocks in [BLOCKS / 2, BLOCKS] {
        let room = output.room(port(0), (blocks * BLOCK_BYTES) as u32).expect("all of it");
        output.cancel(&room);
    }
}

#[test]
fn a_port_has_more_blocks_when_more_wait() {
    let output = output();
    let frame = [3; 60_000];
    assert!(send(&output, 0, 0, &[1; 16_000]), "the first blocks are there");
    let none = Reserve::default();
    assert!(output.output.room(port(1), 60_000, &none).is_none(), "there are no others");
    none.refill();
    assert!(none.take().is_some(), "it is refilled when it was found empty");
    assert!(send(&output, 1, 0, &frame) && send(&output, 2, 0, &frame), "now there are");
    let got: Vec<_> = core::iter::from_fn(|| receive(&output, PortSet::NONE, 0)).collect();
    assert_eq!(got.len(), 3);
    assert!(got.contains(&(1, frame.to_vec())) && got.contains(&(0, std::vec![1; 16_000])));
    // What it has it keeps.
    assert!(output.output.room(port(3), 100_000, &Reserve::default()).is_some());
}

proptest! {
    /// Frames come out as they went in, each sender's of one priority in order, and none is lost that was taken.
    #[test]
    fn frames_come_out_as_they_went_in(
        acts in prop::collection::vec((0_usize..4, 0_u8..8, 1_usize..5000, any::<bool>()), 1..200),
    ) {
        let output = output();
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (number, (from, priority, length, takes)) in acts.into_iter().enumerate() {
            let mut bytes: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
            if let Some(first) = bytes.first_mut() {
                *first = priority;
            }
            if send(&output, from, priority, &bytes) {
                sent.push((from, bytes));
            }
            if takes {
                got.extend(receive(&output, PortSet::NONE, 0));
            }
        }
        got.extend(core::iter::from_fn(|| receive(&output, PortSet::NONE, 0)));
        let of = |all: &[(usize, Vec<u8>)], from, priority| -> Vec<Vec<u8>> {
            let its = all.iter().filter(|(it, bytes)| *it == from && bytes.first() == Some(&priority));
            its.map(|(_, bytes)| bytes.clone()).collect()
        };
        for from in 0..4 {
            for priority in 0..8 {
                prop_assert_eq!(of(&sent, from, priority), of(&got, from, priority));
            }
        }
        prop_assert!(output.is_empty());
    }
}
