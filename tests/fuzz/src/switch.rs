//! A switch, and frames of any bytes from any of its ports.
//!
//! [`crate::switch_input`] makes settings, rules, sessions and frames of bytes; here is what must hold for all of them.

use arbitrary::{Result, Unstructured};
use vswitch::frame::{ETHERNET_BYTES, HEAD_BYTES, MOST_BYTES};
use vswitch::mirror::Target;
use vswitch::output::{BLOCK_BYTES, Next, Output, Waiting};
use vswitch::segment::{MAX_SEGMENTS, Plan, segments_of};
use vswitch::settings::{Settings, Vlans};
use vswitch::switch::Sent;
use vswitch::tag::Tag;
use vswitch::{Frame, Nanos, PortId, PortSet, Switch};

use crate::switch_input as input;

/// Bytes that a port's queue has room for.
const QUEUE_BYTES: u32 = 256 * BLOCK_BYTES as u32;

struct Bench {
    switch: Switch,
    now: Nanos,
}

fn port(number: usize) -> PortId {
    PortId::new(number).expect("a port")
}

fn is_member(settings: &Settings, vlan: u16) -> bool {
    match &settings.vlans {
        Vlans::Access(own) => *own == vlan,
        Vlans::Trunk { tagged, native } => tagged.has(vlan) || *native == Some(vlan),
    }
}

impl Bench {
    fn settings(&self, id: PortId) -> Settings {
        self.switch.port(id).expect("it is there").settings()
    }

    fn output(&self, id: PortId) -> &Output {
        &self.switch.port(id).expect("it is there").output
    }

    fn act(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let number = input.int_in_range(0..=self.switch.ports().count() - 1)?;
        match input.int_in_range(0_u8..=15)? {
            0 => {
                let settings = input::settings(input)?;
                self.switch.change(port(number), self.now, |its| *its = settings);
            }
            1 => self.switch.set_ready(port(number), input.arbitrary()?),
            2 => {
                let rules = input::rules(input)?;
                assert!(self.switch.rules.replace(&rules, input.arbitrary()?));
            }
            3 => {
                let sessions = input::sessions(input)?;
                self.switch.mirrors.change(|its| *its = sessions.into_iter().collect());
            }
            4 => self.now += u64::from(input.arbitrary::<u16>()?) << 24,
            5 | 6 => self.receive(port(number)),
            _ => {
                if let Some(frame) = input::frame(input)? {
                    self.send(port(number), &frame);
                }
            }
        }
        Ok(())
    }

    fn send(&self, from: PortId, frame: &Frame) {
        let counters = &self.switch.port(from).expect("it is there").counters;
        let before = counters.lost_in_all();
        let mut sent = Sent::nothing();
        let accepted = self.switch.accept(from, frame, self.now, &mut sent);
        assert_eq!(counters.lost_in_all() - before, u64::from(accepted.is_err()), "each loss is counted");
        if accepted.is_err() {
            return;
        }
        assert!(sent.packets != 0 && sent.wire_bytes >= frame.length().into());
        let own = self.settings(from);
        assert!(own.up && is_member(&own, sent.vlan) && !self.switch.mirrors.watchers().has(from));
        if let Some(only) = self.switch.only_receiver(&sent) {
            assert_eq!(sent.to, PortSet::one(only));
        }
        let mut copies = self.switch.copies_of_sent(&sent);
        for to in sent.to {
            self.look_at_receiver(&sent, &own, to);
            if let Ok(tag) = self.switch.admit(&sent, frame, to) {
                self.deliver(&sent, frame, (to, tag, None));
            }
            copies.extend(
                self.switch.copies_of_received(&sent, to).into_iter().take(copies.remaining_capacity()),
            );
        }
        for copy in copies {
            let (ports, tag) = self.switch.watchers(&sent, copy.target);
            for to in ports {
                let settings = self.settings(to);
                let is_wanted = match copy.target {
                    Target::Port(port) => port == to,
                    Target::Vlan(vlan) => is_member(&settings, vlan) && to != from,
                };
                assert!(settings.up && is_wanted, "copies go to who watches");
                self.deliver(&sent, frame, (to, tag, copy.snap));
            }
        }
    }

    /// Where a frame may not go, whatever it is.
    fn look_at_receiver(&self, sent: &Sent, own: &Settings, to: PortId) {
        let settings = self.settings(to);
        assert!(to != sent.from, "no frame comes back");
        assert!(settings.up && is_member(&settings, sent.vlan), "VLANs are separate");
        assert!(!(own.isolated && settings.isolated), "isolated ports are");
        assert!(!self.switch.mirrors.watchers().has(to), "who watches gets copies only");
    }

    /// The frame as a port sees it goes into its queue.
    fn deliver(&self, sent: &Sent, frame: &Frame, (to, tag, snap): (PortId, Tag, Option<u16>)) {
        let Some(mut seen) = tag.apply(frame) else { return };
        look_at_tag(sent, &seen, (tag, &self.settings(to).vlans));
        if let Some(snap) = snap {
            seen = seen.cut(snap);
            assert!(seen.length() <= u32::from(snap).max(ETHERNET_BYTES as u32).min(frame.length() + 4));
        }
        assert!((ETHERNET_BYTES as u32..=MOST_BYTES).contains(&seen.length()));
        assert!(seen.head().len() as u32 + seen.rest_bytes() == seen.length());
        // Its sender has all that is behind the head.
        assert!(seen.rest_at() + seen.rest_bytes() <= frame.length());
        divide(&seen);
        let mut done = seen.clone();
        let completed = vswitch::checksum::complete(&mut done, |at, bytes| {
            assert!(at + bytes.len() as u32 <= frame.length());
            Ok::<(), ()>(())
        });
        assert!(completed.is_ok() && done.length() == seen.length());
        self.enqueue(sent, &seen, to, snap.is_some());
    }

    fn enqueue(&self, sent: &Sent, frame: &Frame, to: PortId, cut: bool) {
        self.switch.refill();
        let Some(port) = self.switch.port(to) else { return };
        let output = &port.output;
        let Some(mut room) = self.switch.room(port, sent.from, frame.length()) else { return };
        let (mut head, mut rest) = (frame.head(), frame.rest_bytes());
        let filled = output.fill(&mut room, head.len() as u32, |places| {
            let (now, later) = head.split_at(places.len());
            places.copy_from_slice(now);
            head = later;
            Ok::<(), ()>(())
        });
        assert!(filled.is_ok() && head.is_empty());
        let filled = output.fill(&mut room, rest, |places| {
            rest -= places.len() as u32;
            Ok::<(), ()>(())
        });
        assert!(filled.is_ok() && rest == 0);
        let (packets, wire_bytes) = segments_of(frame);
        let (from, priority, length, offload) = (sent.from, sent.priority, frame.length(), frame.offload);
        output.push(&room, Waiting { from, priority, length, offload, packets, wire_bytes, cut });
    }

    /// A port takes the next frame, whose bytes are all there.
    fn receive(&self, to: PortId) {
        let output = self.output(to);
        let Next::Frame(front) = output.next(self.switch.guaranteed(self.now), self.now) else { return };
        let mut left = front.frame.length;
        let read = output.read(&front, 0, left, |part| {
            left -= part.len() as u32;
            Ok::<(), ()>(())
        });
        assert!(read.is_ok() && left == 0);
        output.pop(&front, true, self.now);
        self.switch.was_received(front.frame.from, front.frame.wire_bytes, self.now);
    }

    /// Nothing is left of what was in the queues.
    fn finish(mut self) {
        for (id, port) in self.switch.ports() {
            self.switch.change(id, self.now, |settings| settings.receive = None);
            if id.index().is_multiple_of(2) {
                port.output.clear();
            }
        }
        self.now += 1 << 40;
        for (id, port) in self.switch.ports() {
            while !port.output.is_empty() {
                self.receive(id);
            }
            // What a port gets at once is limited by what is in reserve.
            for part in [2, 1] {
                self.switch.refill();
                let all = self.switch.room(port, id, QUEUE_BYTES / part).expect("all blocks are free again");
                assert!(part == 2 || self.switch.room(port, id, 1).is_none());
                port.output.cancel(&all);
            }
        }
    }
}

/// What a device sees in front is a tag of the VLAN that the frame is in, or no tag of the switch's.
fn look_at_tag(sent: &Sent, seen: &Frame, (tag, vlans): (Tag, &Vlans)) {
    let layers = seen.layers();
    if let Tag::Add(tag) | Tag::Replace(tag) = tag {
        assert_eq!(layers.tag, Some(tag));
        assert_eq!((tag >> 13) as u8, sent.priority);
    }
    if let (Vlans::Trunk { .. }, Some(vlan), false) = (vlans, layers.vlan(), tag == Tag::Keep) {
        let is_copy = matches!(tag, Tag::Add(it) | Tag::Replace(it) if it & 0xfff != sent.vlan);
        assert!(is_copy || vlan == sent.vlan, "no tag takes it to another VLAN");
    }
    if tag == Tag::Remove {
        assert!(sent.layers.tag.is_some());
    }
}

/// A large frame is divided into segments that are frames, and that together have its payload.
fn divide(frame: &Frame) {
    let Ok(plan) = Plan::new(frame, &frame.layers()) else { return };
    let large = frame.offload.large.expect("it is a large one");
    let (count, headers) = (plan.segments(), u32::from(plan.header_bytes()));
    assert!((1..=MAX_SEGMENTS).contains(&count) && headers <= HEAD_BYTES as u32 + 4);
    let mut bytes = 0;
    for number in 0..count {
        let segment = plan.segment(frame, number).expect("there are so many");
        assert!(segment.length() > headers && segment.length() <= headers + u32::from(large.size));
        assert!(segment.rest_at() + segment.rest_bytes() <= frame.rest_at() + frame.rest_bytes());
        assert!(segment.offload.large.is_none() && segment.offload.checksum.is_some());
        bytes += u64::from(segment.length());
    }
    assert_eq!(bytes, plan.wire_bytes());
    assert!(plan.segment(frame, count).is_none());
}

fn attempt(input: &mut Unstructured<'_>) -> Result<()> {
    let mut bench = Bench { switch: Switch::new(input.arbitrary()?).expect("memory"), now: 0 };
    for _ in 0..input.int_in_range(2_u8..=5)? {
        let settings = if input.ratio(1, 3)? { input::settings(input)? } else { Settings::default() };
        let id = bench.switch.add(settings).expect("a port");
        bench.switch.set_ready(id, true);
    }
    let mut end = Ok(());
    while !input.is_empty() && end.is_ok() {
        end = bench.act(input);
    }
    bench.finish();
    end
}

pub(crate) fn run(bytes: &[u8]) {
    // An input that ends early has done what it says until there.
    let _ = attempt(&mut Unstructured::new(bytes));
}
