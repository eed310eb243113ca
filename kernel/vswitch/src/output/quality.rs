//! Whether ports get what they are set to, over simulated time: five seconds of frames of mixed sizes, at rates from 1 Mbit/s to 10 Gbit/s.

use super::{Next, Waiting};
use crate::frame::{HEAD_BYTES, tests::ethernet};
use crate::meter::Rate;
use crate::port::PortId;
use crate::settings::{Settings, Storm};
use crate::switch::Sent;
use crate::{Frame, Nanos, Offload, Switch};

const SECOND: Nanos = 1_000_000_000;
const TIME: Nanos = 5 * SECOND;
/// Bits per second.
const RATES: [u64; 5] = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000];
/// The port that receives; those of lower numbers send.
const RECEIVER: usize = 3;

const fn port(number: usize) -> PortId {
    PortId::new(number).expect("a port")
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % most
    }

    /// Bytes of a frame: on a slow port as on any wire, on a fast one undivided, too.
    fn size(&mut self, bits: u64) -> u32 {
        let sizes: &[u32] = match bits {
            0..=99_999_999 => &[64, 64, 300, 1514],
            _ => &[64, 1514, 9014, 60_000],
        };
        sizes[self.below(sizes.len() as u64) as usize]
    }
}

/// Ports that send to one, with what that one has received from each.
struct Bench {
    switch: Switch,
    dice: Dice,
    now: Nanos,
    bits: u64,
    got: [u64; RECEIVER],
}

impl Bench {
    /// The last port receives so many bits per second.
    fn new(bits: u64) -> Self {
        let switch = Switch::new(1).expect("memory");
        let storm = Storm { broadcast: None, multicast: None, unknown: None };
        for number in 0..=RECEIVER {
            let receive = (number == RECEIVER).then_some(Rate::bits(bits));
            let id = switch.add(Settings { receive, storm, ..Settings::default() }).expect("a port");
            switch.set_ready(id, true);
        }
        Self { switch, dice: Dice(bits), now: 0, bits, got: [0; RECEIVER] }
    }

    fn guarantee(&self, from: usize, bits: u64) {
        self.switch.change(port(from), 0, |settings| settings.guaranteed = Some(Rate::bits(bits)));
    }

    /// A port puts a frame into the receiver's queue. False where it has no room.
    fn offer(&mut self, from: usize, priority: u8, length: u32) -> bool {
        self.switch.refill();
        let receiver = self.switch.port(port(RECEIVER)).expect("a port");
        let output = &receiver.output;
        let Some(room) = self.switch.room(receiver, port(from), length) else { return false };
        let (offload, wire_bytes) = (Offload::default(), length.into());
        output.push(
            &room,
            Waiting { from: port(from), priority, length, offload, packets: 1, wire_bytes, cut: false },
        );
        true
    }

    /// As many frames as there is room for.
    fn fill(&mut self, from: usize, priority: u8) {
        while {
            let size = self.dice.size(self.bits);
            self.offer(from, priority, size)
        } {}
    }

    /// Nobody is called at once: so much later, but not so late that who sends all the time has filled its part of the queue.
    fn lateness(&mut self) -> Nanos {
        const BYTES: u64 = 10_000;
        self.dice.below((BYTES * 8 * SECOND / self.bits).min(5_000_000))
    }

    /// Receives what may be received now; else time goes on until more may, and a little longer.
    fn receive(&mut self) {
        let output = &self.switch.port(port(RECEIVER)).expect("a port").output;
        match output.next(self.switch.guaranteed(self.now), self.now) {
            Next::Frame(front) => {
                output.pop(&front, true, self.now);
                self.switch.was_received(front.frame.from, front.frame.wire_bytes, self.now);
                self.got[front.frame.from.index()] += front.frame.wire_bytes;
            }
            Next::NotBefore(at) => self.now = at + self.lateness(),
            Next::Nothing => self.now += 100_000,
        }
    }

    /// All that was received, and by whom it was sent, must be these parts in a hundred of the rate.
    fn check(&self, parts: [u64; RECEIVER]) {
        for (number, (got, part)) in self.got.into_iter().zip(parts).enumerate() {
            assert_near(got, self.bits * part / 100, &std::format!("{} of port {number}", self.bits));
        }
        assert_near(self.got.iter().sum(), self.bits * parts.iter().sum::<u64>() / 100, "all");
    }
}

/// Bytes of the time must be so many bits per second, give or take 5 %.
fn assert_near(bytes: u64, bits: u64, what: &str) {
    let wanted = bits / 8 * (TIME / SECOND);
    assert!(bytes.abs_diff(wanted) * 20 <= wanted, "{bytes} bytes instead of {wanted}: {what}");
}

#[test]
fn a_port_receives_at_its_rate() {
    for bits in RATES {
        let mut bench = Bench::new(bits);
        while bench.now < TIME {
            bench.fill(0, 0);
            bench.receive();
        }
        bench.check([100, 0, 0]);
    }
}

#[test]
fn a_port_sends_at_its_rate() {
    for bits in RATES {
        let Bench { switch, mut dice, mut now, .. } = Bench::new(bits);
        let sender = switch.port(port(0)).expect("a port");
        switch.change(port(0), 0, |settings| settings.send = Some(Rate::bits(bits)));
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&ethernet([2; 6], [4; 6], &[], 0x88b5, &[0; HEAD_BYTES - 14]));
        let mut sent = Sent::nothing();
        while now < TIME {
            match sender.send.opens_at(now) {
                Some(at) => now = at + dice.below(5_000_000),
                None => {
                    let frame = Frame::new(&head, dice.size(bits), Offload::default()).expect("a frame");
                    switch.accept(port(0), &frame, now, &mut sent).expect("it may pass");
                }
            }
        }
        assert_near(sender.counters.sent.read().1, bits, "sent");
    }
}

#[test]
fn senders_share_a_port_equally() {
    for bits in RATES {
        let mut bench = Bench::new(bits);
        while bench.now < TIME {
            (0..RECEIVER).for_each(|from| bench.fill(from, 0));
            bench.receive();
        }
        bench.got.iter().for_each(|got| assert_near(got * 3, bits, "a third"));
    }
}

#[test]
fn who_is_guaranteed_something_gets_it_whatever_others_send() {
    for bits in RATES {
        let mut bench = Bench::new(bits);
        bench.guarantee(1, bits / 2);
        while bench.now < TIME {
            for (from, priority) in [(0, 0), (2, 0), (1, 0)] {
                bench.fill(from, priority);
            }
            bench.receive();
        }
        bench.check([25, 50, 25]);
        let mut bench = Bench::new(bits);
        bench.guarantee(1, bits * 2 / 5);
        while bench.now < TIME {
            // What the other one sends is more urgent.
            for (from, priority) in [(0, 7), (1, 0)] {
                bench.fill(from, priority);
            }
            bench.receive();
        }
        bench.check([60, 40, 0]);
    }
}

#[test]
fn what_is_urgent_goes_first_and_the_rest_is_for_others() {
    for bits in RATES {
        let mut bench = Bench::new(bits);
        // The urgent one sends 30 % of what may be received, and no more.
        let mut offered = 0;
        let most = if bits < RATES[3] { 1514 } else { 9014 };
        while bench.now < TIME {
            while offered < u128::from(bench.now) * u128::from(bits) * 3 / 10 / 8 / u128::from(SECOND) {
                let size = most - bench.dice.below(1400) as u32;
                assert!(bench.offer(1, 5, size), "others leave it room");
                offered += u128::from(size);
            }
            while bench.offer(0, 0, 9014) {}
            while bench.offer(2, 1, most) {}
            bench.receive();
        }
        assert!(bench.got[0] * 50 < bench.got[2], "priority 1 goes before 0: {:?}", bench.got);
        bench.got[2] += bench.got[0];
        bench.got[0] = 0;
        bench.check([0, 30, 70]);
    }
}
