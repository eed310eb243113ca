//! The table against one that has no bounds and no short cuts, and under several threads.

use core::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;

/// An address, as its last byte, and a port.
type End = (u8, u16);

/// A flow as the rules of this module have it, between ends instead of keys.
#[derive(Clone, Debug)]
struct Known {
    between: (End, End),
    tcp: bool,
    from: PortId,
    to: Option<PortId>,
    verdict: Verdict,
    generation: u32,
    cached: bool,
    state: State,
    fins: [bool; 2],
    counts: [Count; 2],
    last: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    between: (End, End),
    packet: Packet,
    generation: u32,
}

#[derive(Default)]
struct Model {
    flows: Vec<Known>,
    asked: Vec<Question>,
}

impl Known {
    fn expires(&self) -> Nanos {
        let seconds = match self.state {
            _ if !self.verdict.allowed => 10,
            State::SynSent => 120,
            State::Established => 3600,
            State::Closing => 240,
            State::Closed => 10,
            State::Unreplied => 30,
            State::Replied => 180,
        };
        self.last + seconds * SECOND
    }

    fn said(&self) -> Said {
        let Self { between: (a, b), from, to, verdict, generation, state, counts, .. } = *self;
        let [a, b] = [a, b].map(|end| v4([10, 0, 0, end.0]));
        (a, b, from, to, verdict, generation, state, counts, self.expires())
    }

    fn is_own(&self, sent: &Sent) -> bool {
        self.between == sent.between && self.from == sent.packet.from
    }

    fn is_answered(&self, sent: &Sent) -> bool {
        let Packet { from, to, .. } = sent.packet;
        self.between == (sent.between.1, sent.between.0)
            && self.verdict.allowed
            && self.to.is_none_or(|port| port == from)
            && to.is_none_or(|to| to == self.from)
    }

    fn is_over(&self, sent: &Sent) -> bool {
        let syn = self.tcp && sent.packet.flags == Some(Flags(SYN));
        let reply = self.between != sent.between;
        match self.state {
            State::Closed => syn,
            State::Established | State::Closing => syn && reply,
            _ => false,
        }
    }

    fn count(&mut self, sent: &Sent) {
        let reply = usize::from(self.between != sent.between);
        self.counts[reply].packets += u64::from(sent.packet.packets);
        self.counts[reply].bytes += sent.packet.bytes;
        self.last = sent.packet.now;
        if !self.verdict.allowed {
            return;
        }
        let flags = sent.packet.flags.unwrap_or_default();
        if !self.tcp {
            self.state = if reply == 1 { State::Replied } else { self.state };
        } else if flags.any(RST) {
            self.state = State::Closed;
        } else if self.state != State::Closed {
            self.fins[reply] |= flags.any(FIN);
            self.state = match (self.fins, self.state) {
                ([true, true], _) => State::Closed,
                ([false, false], State::SynSent) if reply == 1 => State::Established,
                ([false, false], state) => state,
                _ => State::Closing,
            };
        }
    }

    fn judge(&mut self, to: Option<PortId>, verdict: Verdict, generation: u32, cached: bool) {
        if verdict.allowed != self.verdict.allowed {
            self.state = if self.tcp { State::SynSent } else { State::Unreplied };
            (self.fins, self.counts) = ([false; 2], [Count::default(); 2]);
        }
        (self.to, self.verdict, self.generation, self.cached) = (to, verdict, generation, cached);
    }
}

impl Model {
    fn ask(&mut self, question: Question, generation: u32) -> Verdict {
        self.asked.push(question);
        rules(question, generation)
    }

    fn at(&mut self, which: impl Fn(&Known) -> bool) -> Option<&mut Known> {
        self.flows.iter_mut().filter(|flow| which(flow)).min_by_key(|flow| flow.from)
    }

    fn pass(&mut self, sent: &Sent) -> Passed {
        let Sent { packet, generation, .. } = *sent;
        self.flows.retain(|flow| packet.now < flow.expires());
        if packet.cacheable {
            let knows = |flow: &Known| {
                let own = flow.is_own(sent) && flow.cached && flow.to == packet.to;
                let reply = flow.is_answered(sent) && packet.to.is_some();
                (own || reply) && flow.generation == generation && !flow.is_over(sent)
            };
            let allowed = self.flows.iter().filter(|flow| knows(flow) && flow.verdict.allowed).count();
            assert!(allowed <= 1, "two flows for one packet");
            if let Some(flow) = self.at(|flow| knows(flow) && (allowed == 0 || flow.verdict.allowed)) {
                flow.count(sent);
                return Passed::Known(flow.verdict);
            }
            let stale = |flow: &Known| flow.is_answered(sent) && packet.to.is_some() && !flow.is_over(sent);
            if let Some(flow) = self.at(stale) {
                let Known { from, to, cached, .. } = *flow;
                let to = to.or(Some(packet.from));
                let verdict = self.ask(Question { reply: true, from, to }, generation);
                let flow = self.at(stale).expect("the same");
                flow.judge(to, verdict, generation, cached);
                if verdict.allowed {
                    flow.count(sent);
                    return Passed::Decided(verdict);
                }
                flow.last = packet.now;
            }
        }
        let question = Question { reply: false, from: packet.from, to: packet.to };
        let verdict = self.ask(question, generation);
        self.decide(sent, verdict)
    }

    fn decide(&mut self, sent: &Sent, verdict: Verdict) -> Passed {
        let Sent { packet, generation, between } = *sent;
        self.flows.retain(|flow| {
            let ends = verdict.allowed && flow.is_answered(sent) || flow.is_own(sent);
            !(ends && flow.is_over(sent))
        });
        let flooded = packet.to.is_none() && self.flows.iter().any(|flow| flow.is_answered(sent));
        let own = self.flows.iter().find(|flow| flow.is_own(sent)).cloned();
        let replies = self.flows.iter().any(|flow| flow.is_answered(sent));
        if !packet.cacheable || flooded {
            // The verdict is for this packet alone.
            let same = |flow: &Known| flow.verdict.allowed == verdict.allowed;
            if own.as_ref().is_some_and(|own| (own.cached || replies) && same(own))
                || own.as_ref().is_none_or(|own| !same(own)) && replies && verdict.allowed
            {
                let is_own = own.as_ref().is_some_and(same);
                let flow = self
                    .at(|flow| if is_own { flow.is_own(sent) } else { flow.is_answered(sent) })
                    .expect("it is there");
                flow.count(sent);
                return Passed::Decided(verdict);
            }
            if own.as_ref().map_or(replies, |own| own.cached) {
                return Passed::Untracked(verdict);
            }
        }
        if own.is_none() {
            let tcp = packet.flags.is_some();
            self.flows.push(Known {
                between,
                tcp,
                from: packet.from,
                to: packet.to,
                verdict,
                generation,
                cached: packet.cacheable,
                state: if tcp { State::SynSent } else { State::Unreplied },
                fins: [false; 2],
                counts: [Count::default(); 2],
                last: packet.now,
            });
        }
        let flow = self.at(|flow| flow.is_own(sent)).expect("it is there");
        flow.judge(packet.to, verdict, generation, packet.cacheable);
        flow.count(sent);
        Passed::Decided(verdict)
    }
}

/// Some rules or other: each generation allows other pairs of ports.
fn rules(question: Question, generation: u32) -> Verdict {
    let to = question.to.map_or(7, PortId::index) as u32;
    let pair = (question.from.index() as u32) << 3 | to;
    let mixed = (generation * 64 + pair + 1).wrapping_mul(0x9e37_79b1);
    Verdict { allowed: mixed >> 30 != 0, rule: (mixed >> 16) as u16 & 0xff }
}

fn packet_of((source, from): End, (destination, to): End, flags: Option<Flags>) -> Internet {
    let transport = flags.map_or(Transport::Ports { from, to }, |flags| Transport::Tcp { from, to, flags });
    let number = if flags.is_some() { protocol::TCP } else { protocol::UDP };
    internet(v4([10, 0, 0, source]), v4([10, 0, 0, destination]), number, transport)
}

#[derive(Clone, Debug)]
enum Step {
    Send { ends: (u8, u8), from: usize, to: Option<usize>, flags: Option<u8>, often: bool, size: u64 },
    Wait(u64),
    Rules,
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(ACK), Just(FIN | ACK), Just(RST)];
    let to = prop_oneof![4 => (0_usize..3).prop_map(Some), 1 => Just(None)];
    let pairs = prop_oneof![Just((0_u8, 1_u8)), Just((1, 0)), Just((0, 2)), Just((2, 0))];
    let send = (pairs, 0_usize..3, to, prop::option::of(flags), prop::bool::weighted(0.9), 60_u64..1500)
        .prop_map(|(ends, from, to, flags, often, size)| Step::Send { ends, from, to, flags, often, size });
    let wait = prop_oneof![Just(1_u64), Just(9), Just(10), Just(31), Just(121), Just(241), Just(3600)];
    prop::collection::vec(
        prop_oneof![20 => send, 2 => wait.prop_map(Step::Wait), 1 => Just(Step::Rules), 1 => Just(Step::Sweep)],
        1..120,
    )
}

/// What a flow is, as both can say it.
type Said = (Address, Address, PortId, Option<PortId>, Verdict, u32, State, [Count; 2], Nanos);

fn said(flow: &Flow) -> Said {
    let Flow { ends, from, to, verdict, generation, state, counts, expires, .. } = *flow;
    (ends.source, ends.destination, from, to, verdict, generation, state, counts, expires)
}

fn sorted(mut flows: Vec<Said>) -> Vec<Said> {
    flows.sort_by_key(|flow| (flow.0, flow.1, flow.2, flow.6 as u8));
    flows
}

fn sum<'a>(counts: impl Iterator<Item = &'a [Count; 2]>) -> [u64; 2] {
    counts.flatten().fold([0; 2], |[packets, bytes], count| [packets + count.packets, bytes + count.bytes])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn the_table_does_what_the_model_does(steps in steps()) {
        let table = Table::new(1024, 1000).expect("memory");
        let (mut model, mut now, mut generation) = (Model::default(), 0, 0);
        let (mut passed_sum, mut asked) = ([[0; 2]; 2], Vec::new());
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds * SECOND,
                Step::Rules => generation += 1,
                Step::Sweep => drop(table.sweep(now, 50)),
                Step::Send { ends: (a, b), from, to, flags, often, size } => {
                    let (flags, to) = (flags.map(Flags), to.map(port));
                    let packet =
                        Packet { from: port(from), to, bytes: size, packets: 2, flags, cacheable: often, now };
                    // TCP's ports are others, so that the model needs not look at the protocol.
                    let number = if flags.is_some() { 80 } else { 53 };
                    let between = ((a, number), (b, number));
                    let (key, way) = key(&packet_of(between.0, between.1, flags));
                    let passed = table.pass(&key, way, &packet, generation, |question| {
                        asked.push(question);
                        rules(question, generation)
                    });
                    prop_assert_eq!(passed, model.pass(&Sent { between, packet, generation }));
                    prop_assert_eq!(&asked, &model.asked);
                    if !matches!(passed, Passed::Untracked(_)) {
                        let sums = &mut passed_sum[usize::from(passed.allowed())];
                        *sums = [sums[0] + 2, sums[1] + size];
                    }
                }
            }
        }
        table.sweep(now, usize::MAX);
        model.flows.retain(|flow| now < flow.expires());
        let flows = flows(&table);
        let is = sorted(flows.iter().map(said).collect());
        prop_assert_eq!(is, sorted(model.flows.iter().map(Known::said).collect()));
        prop_assert_eq!(table.totals().ports.owned as usize, flows.len());
        // All that was counted is in records, or in flows and in no record yet.
        for number in 0..3 {
            let mut next = Some(0);
            while let Some(at) = next {
                next = table.forget_port(port(number), at);
            }
        }
        let records = records(&table);
        let recorded = [true, false].map(|denied| {
            sum(records.iter().filter(|record| record.denied == denied).map(|record| &record.counts))
        });
        prop_assert_eq!(recorded, passed_sum);
    }
}

#[test]
fn nothing_is_lost_among_threads() {
    const PACKETS: u64 = 20_000;
    let table = Table::new(256, 1 << 20).expect("memory");
    let clock = AtomicU64::new(0);
    let (tracked, untracked) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for seed in 0..3_u64 {
            let (table, clock, tracked, untracked) = (&table, &clock, &tracked, &untracked);
            scope.spawn(move || {
                let mut state = seed + 1;
                for _ in 0..PACKETS {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    let bits = state >> 33;
                    let flags =
                        (bits & 1 != 0).then_some(Flags([SYN, ACK, ACK, FIN][(bits >> 1) as usize & 3]));
                    let ends = ((bits >> 3) as u8 & 7, (bits >> 6) as u8 & 7);
                    let (key, way) = key(&packet_of((ends.0, 80), (ends.1, 80), flags));
                    let now = clock.fetch_add(SECOND / 50, Ordering::Relaxed);
                    let (from, to) = (port(ends.0.into()), Some(port(ends.1.into())));
                    let packet = Packet { from, to, bytes: 1, packets: 1, flags, cacheable: true, now };
                    let generation = (now / (500 * SECOND)) as u32;
                    let passed =
                        table.pass(&key, way, &packet, generation, |question| rules(question, generation));
                    let sum = if matches!(passed, Passed::Untracked(_)) { untracked } else { tracked };
                    sum.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..5000 {
                table.sweep(clock.load(Ordering::Relaxed), 4);
                thread::yield_now();
            }
        });
    });
    let owned = flows(&table).len();
    assert_eq!(table.totals().ports.owned as usize, owned);
    assert!(owned != 0);
    table.sweep(Nanos::MAX, usize::MAX);
    let totals = table.totals();
    assert_eq!((totals.ports.owned, totals.lost_records), (0, 0));
    let recorded = sum(records(&table).iter().map(|record| &record.counts));
    assert_eq!(recorded, [tracked.load(Ordering::Relaxed); 2]);
    assert_eq!(totals.ports.untracked, untracked.load(Ordering::Relaxed));
    assert_eq!(recorded[0] + totals.ports.untracked, 3 * PACKETS);
}
