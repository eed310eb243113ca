mod recipe;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::checksum::{complete, tests::plain};
use crate::frame::{Network, protocol};
use crate::{Large, retag};
use recipe::{Kind, Recipe, recipes};

/// A frame's bytes, where its sender has these.
fn delivered(frame: &Frame, sent: &[u8]) -> Vec<u8> {
    let rest = &sent[frame.rest_at() as usize..][..frame.rest_bytes() as usize];
    let bytes = [frame.head(), rest].concat();
    assert_eq!(bytes.len(), frame.length() as usize);
    bytes
}

/// The frame's bytes with all checksums.
fn finished(mut frame: Frame, sent: &[u8]) -> Vec<u8> {
    let read = |at: u32, piece: &mut [u8]| {
        piece.copy_from_slice(&sent[at as usize..][..piece.len()]);
        Ok::<(), ()>(())
    };
    assert_eq!(complete(&mut frame, read), Ok(None));
    assert_eq!(frame.offload, Offload::default());
    delivered(&frame, sent)
}

/// A segment's headers and payload, as an independent reader has them.
struct Seen<'a> {
    packet: SlicedPacket<'a>,
}

impl<'a> Seen<'a> {
    /// Reads a frame, whose lengths must all be right.
    fn read(bytes: &'a [u8]) -> Self {
        Self { packet: SlicedPacket::from_ethernet(bytes).expect("a frame") }
    }

    /// What must be so for any frame on a wire.
    fn check(&self) {
        let payload = self.packet.ip_payload().expect("IP").payload;
        let (addresses, number) = match self.packet.net.as_ref().expect("IP") {
            NetSlice::Ipv4(it) => {
                let header = it.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                ([header.source, header.destination].concat(), it.payload().ip_number)
            }
            NetSlice::Ipv6(it) => {
                let header = it.header().to_header();
                ([header.source, header.destination].concat(), it.payload().ip_number)
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        let pseudo = [&addresses[..], &[0, number.0], &(payload.len() as u16).to_be_bytes()].concat();
        assert_eq!(plain(&[&pseudo[..], payload].concat()), 0xffff, "the transport's checksum");
        if let Some(TransportSlice::Udp(udp)) = &self.packet.transport {
            assert_eq!(usize::from(udp.length()), payload.len());
            assert_ne!(udp.checksum(), 0);
        }
    }

    fn payload(&self) -> &'a [u8] {
        match self.packet.transport.as_ref().expect("a transport") {
            TransportSlice::Tcp(it) => it.payload(),
            TransportSlice::Udp(it) => it.payload(),
            _ => panic!("neither TCP nor UDP"),
        }
    }
}

fn check_tcp(recipe: &Recipe, seen: &Seen, (index, segments): (u32, u32)) {
    let Some(TransportSlice::Tcp(tcp)) = &seen.packet.transport else { panic!("no TCP") };
    let (first, last) = (index == 0, index + 1 == segments);
    let done = index * u32::from(recipe.size);
    let had = |flag| recipe.flags & flag != 0;
    assert_eq!(tcp.sequence_number(), recipe.sequence.wrapping_add(done));
    assert_eq!((tcp.fin(), tcp.psh()), (last && had(Flags::FIN), last && had(Flags::PSH)));
    assert_eq!((tcp.cwr(), tcp.ece()), (first && had(Flags::CWR), had(0x40)));
    assert_eq!((tcp.ack(), tcp.syn(), tcp.rst()), (had(Flags::ACK), false, false));
    let urgent = u32::from(recipe.urgent);
    if had(Flags::URG) {
        assert_eq!(tcp.urg(), first || urgent > done);
        assert_eq!(u32::from(tcp.urgent_pointer()), urgent.saturating_sub(done));
    } else {
        assert!(!tcp.urg());
    }
    assert_eq!(tcp.options(), &recipe.transport()[20..]);
}

/// The headers, without what is checked one by one.
fn repeated(bytes: &[u8], frame: &Frame, plan: &Plan) -> Vec<u8> {
    let mut headers = bytes[..plan.header_bytes().into()].to_vec();
    let found = *frame.layers().internet().expect("IP");
    let mut blank = |at: u16, places: &[usize]| {
        places.iter().for_each(|place| headers[usize::from(at) + place] = 0);
    };
    blank(found.at, if found.v6 { &[4, 5] } else { &[2, 3, 4, 5, 10, 11] });
    let tcp = found.protocol == protocol::TCP;
    blank(found.transport_at, if tcp { &[4, 5, 6, 7, 13, 16, 17, 18, 19] } else { &[4, 5, 6, 7] });
    headers
}

fn check_all(recipe: &Recipe, frame: &Frame, sent: &[u8]) {
    let plan = Plan::new(frame, &frame.layers()).expect("a plan");
    let (mut payload, mut bytes) = (Vec::<u8>::new(), 0);
    for index in 0..plan.segments() {
        let segment = plan.segment(frame, index).expect("a segment");
        assert!(segment.offload.large.is_none() && segment.offload.checksum.is_some());
        let made = finished(segment, sent);
        bytes += made.len() as u64;
        let seen = Seen::read(&made);
        seen.check();
        assert!(index + 1 == plan.segments() || seen.payload().len() == usize::from(recipe.size));
        assert!((1..=usize::from(recipe.size)).contains(&seen.payload().len()));
        payload.extend(seen.payload());
        if recipe.is_tcp() {
            check_tcp(recipe, &seen, (index, plan.segments()));
        }
        if let Some(NetSlice::Ipv4(it)) = &seen.packet.net {
            let number = recipe.identification.wrapping_add(index as u16);
            assert_eq!(it.header().identification(), number);
        }
        assert_eq!(made.len() - seen.payload().len(), usize::from(plan.header_bytes()));
        assert_eq!(repeated(&made, frame, &plan), repeated(frame.head(), frame, &plan));
    }
    assert_eq!(payload, recipe.payload);
    assert_eq!(bytes, plan.wire_bytes());
    assert!(plan.segment(frame, plan.segments()).is_none());
    if recipe.behind == 0 {
        assert_eq!(segments_of(frame), (plan.segments(), bytes));
    }
}

proptest! {
    #[test]
    fn segments_are_what_the_frame_stands_for(recipe in recipes()) {
        let (sent, frame) = recipe.made();
        check_all(&recipe, &frame, &sent);
        // The switch has given it a tag, or taken it.
        if let Some(tagged) = retag::tag(&frame, 5).filter(|_| recipe.tags.len() < 3) {
            check_all(&recipe, &tagged, &sent);
        }
        check_all(&recipe, &retag::untag(&frame).expect("a frame"), &sent);
    }

    #[test]
    fn tags_can_be_changed_after_dividing(recipe in recipes(), index: u32) {
        let (sent, frame) = recipe.made();
        let plan = Plan::new(&frame, &frame.layers()).expect("a plan");
        let segment = plan.segment(&frame, index % plan.segments()).expect("a segment");
        let bare = retag::untag(&segment).expect("a frame");
        Seen::read(&finished(bare.clone(), &sent)).check();
        let tagged = retag::tag(&bare, 9).expect("a tagged frame");
        prop_assert_eq!(tagged.layers().tag, Some(9));
        if recipe.tags.len() < 3 {
            Seen::read(&finished(tagged, &sent)).check();
        }
    }

    #[test]
    fn nonsense_is_refused_or_stays_in_bounds(
        recipe in recipes(),
        other in recipes(),
        changes in prop::collection::vec((0_usize..HEAD_BYTES, any::<u8>()), 0..6),
        cut in prop::option::of(14_usize..300),
        (size, start, offset) in (any::<u16>(), prop::option::of(any::<u16>()), prop::option::of(any::<u16>())),
        foreign: bool,
        kind in 0_usize..4,
    ) {
        let (mut bytes, valid) = recipe.made();
        for (at, value) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = value;
            }
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let mut frame = crate::frame::tests::frame(&bytes);
        frame.offload = valid.offload;
        if let (Some(checksum), Some(large)) = (&mut frame.offload.checksum, &mut frame.offload.large) {
            checksum.start = start.unwrap_or(checksum.start);
            checksum.offset = offset.unwrap_or(checksum.offset);
            large.size = size >> (size % 16);
            large.kind = [LargeKind::Tcp4, LargeKind::Tcp6, LargeKind::Udp].get(kind).copied().unwrap_or(large.kind);
        }
        let (packets, wire_bytes) = segments_of(&frame);
        prop_assert!(packets >= 1 && wire_bytes >= u64::from(frame.length()));
        let layers = if foreign { other.made().1.layers() } else { frame.layers() };
        let Ok(plan) = Plan::new(&frame, &layers) else { return Ok(()) };
        prop_assert!((1..=MAX_SEGMENTS).contains(&plan.segments()));
        let most = u32::from(plan.header_bytes()) + u32::from(frame.offload.large.map_or(0, |it| it.size));
        for frame in [&frame, &other.made().1] {
            let made = (0..plan.segments()).filter_map(|index| plan.segment(frame, index));
            prop_assert!(made.into_iter().all(|it| it.length() <= most));
        }
        let sum: u64 = (0..plan.segments()).filter_map(|it| plan.segment(&frame, it)).map(|it| u64::from(it.length())).sum();
        prop_assert_eq!(sum, plan.wire_bytes());
    }
}

#[test]
fn a_small_frame_by_hand() {
    let mut recipe = Recipe::plain(Kind::Tcp4, 25, 10);
    recipe.flags = Flags::ACK | Flags::PSH | Flags::FIN | Flags::CWR;
    let (sent, frame) = recipe.made();
    let plan = recipe.plan().expect("a plan");
    assert_eq!((plan.segments(), plan.header_bytes(), plan.wire_bytes()), (3, 54, 25 + 3 * 54));
    let last = plan.segment(&frame, 2).expect("the last one");
    assert_eq!(last.length(), 59);
    let expected = [0x45, 0, 0, 45, 0, 9, 0, 0, 64, 6, 0x66, 0xc0, 10, 0, 0, 1, 10, 0, 0, 2];
    assert_eq!(last.head()[14..34], expected);
    assert_eq!(last.head()[38..42], 21_u32.to_be_bytes());
    assert_eq!(last.head()[47], Flags::ACK | Flags::PSH | Flags::FIN);
    // 10.0.0.1 and 10.0.0.2, TCP, 25 bytes.
    assert_eq!(last.head()[50..52], (0x0a00_u16 + 1 + 0x0a00 + 2 + 6 + 25).to_be_bytes());
    assert_eq!(&finished(last, &sent)[54..], [20, 21, 22, 23, 24]);
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let with = |change: fn(&mut Recipe)| {
        let mut recipe = Recipe::plain(Kind::Tcp4, 4000, 1000);
        change(&mut recipe);
        recipe.plan().map(|plan| plan.segments())
    };
    assert_eq!(with(|_| ()), Ok(4));
    assert_eq!(with(|it| it.flags = Flags::SYN), Err(Unsuited::Flags));
    assert_eq!(with(|it| (it.flags, it.size) = (Flags::SYN, 4000)), Ok(1));
    assert_eq!(with(|it| it.size = LEAST_TCP_SIZE - 1), Err(Unsuited::Size));
    assert_eq!(with(|it| (it.kind, it.size) = (Kind::Udp6, 0)), Err(Unsuited::Size));
    assert_eq!(with(|it| (it.kind, it.size) = (Kind::Udp6, 1)), Err(Unsuited::Size), "too many");
    assert_eq!(with(|it| (it.kind, it.size) = (Kind::Udp6, 2)), Ok(2000));
    assert_eq!(with(|it| it.payload.clear()), Err(Unsuited::Empty));
    assert_eq!(with(|it| (it.kind, it.extras, it.options) = (Kind::Tcp6, 4, 10)), Ok(4));
    let cut =
        |it: &mut Recipe| (it.kind, it.extras, it.options, it.tags) = (Kind::Tcp6, 4, 10, [1; 3].into());
    assert_eq!(with(cut), Ok(4), "158 bytes");
    let cut =
        |it: &mut Recipe| (it.kind, it.extras, it.options, it.tags) = (Kind::Tcp6, 5, 10, [1; 2].into());
    assert_eq!(with(cut), Err(Unsuited::Headers), "162 bytes");
}

#[test]
fn what_the_headers_do_not_say_is_refused() {
    let of = |kind, change: fn(&mut Vec<u8>), offload: fn(&mut Offload)| {
        let mut recipe = Recipe::plain(kind, 4000, 1000);
        recipe.extras = 2;
        let (mut bytes, valid) = recipe.made();
        change(&mut bytes);
        let mut frame = crate::frame::tests::frame(&bytes);
        frame.offload = valid.offload;
        offload(&mut frame.offload);
        Plan::new(&frame, &frame.layers()).map(|plan| plan.segments())
    };
    fn kind(offload: &mut Offload, kind: LargeKind) {
        offload.large = offload.large.map(|it| Large { kind, ..it });
    }
    assert_eq!(of(Kind::Tcp6, |_| (), |_| ()), Ok(4));
    assert_eq!(of(Kind::Tcp6, |_| (), |it| it.large = None), Err(Unsuited::NotLarge));
    assert_eq!(of(Kind::Tcp6, |_| (), |it| kind(it, LargeKind::Tcp4)), Err(Unsuited::Kind));
    assert_eq!(of(Kind::Tcp4, |_| (), |it| kind(it, LargeKind::Tcp6)), Err(Unsuited::Kind));
    assert_eq!(of(Kind::Tcp4, |_| (), |it| kind(it, LargeKind::Udp)), Err(Unsuited::Kind));
    assert_eq!(of(Kind::Udp4, |_| (), |it| kind(it, LargeKind::Tcp4)), Err(Unsuited::Kind));
    assert_eq!(of(Kind::Tcp4, |bytes| bytes[13] = 6, |_| ()), Err(Unsuited::Kind), "ARP");
    assert_eq!(of(Kind::Tcp4, |bytes| bytes[20] = 0x20, |_| ()), Err(Unsuited::Fragment));
    assert_eq!(of(Kind::Tcp4, |bytes| bytes[42 + 12] = 0x40, |_| ()), Err(Unsuited::Headers));
    assert_eq!(of(Kind::Tcp6, |_| (), |it| it.checksum = None), Err(Unsuited::Checksum));
    let elsewhere = |it: &mut Offload| it.checksum = Some(Checksum { start: 70, offset: 6 });
    assert_eq!(of(Kind::Tcp6, |_| (), elsewhere), Err(Unsuited::Checksum));
    // The first extension header's kind, and what the second one is.
    assert_eq!(of(Kind::Tcp6, |bytes| bytes[20] = 43, |_| ()), Err(Unsuited::Extensions), "routing");
    assert_eq!(of(Kind::Tcp6, |bytes| bytes[54] = 43, |_| ()), Err(Unsuited::Extensions), "routing");
    let atomic = |bytes: &mut Vec<u8>| (bytes[54], bytes[64], bytes[65]) = (44, 0, 0);
    assert_eq!(of(Kind::Tcp6, atomic, |_| ()), Err(Unsuited::Extensions), "a fragment's header");
}

#[test]
fn segments_are_no_larger_than_ip_allows() {
    // IPv6 does not count its own header, and a frame is never that long.
    for (kind, headers) in [(Kind::Udp4, 28), (Kind::Tcp4, 40)] {
        let most = 65_535 - headers;
        let mut recipe = Recipe::plain(kind, most, most as u16);
        recipe.no_length = true;
        assert_eq!(recipe.plan().map(|plan| plan.segments()), Ok(1));
        (recipe.payload, recipe.size) = (std::vec![1; most + 1], most as u16 + 1);
        assert_eq!(recipe.plan(), Err(Unsuited::Size));
        recipe.size -= 1;
        assert_eq!(recipe.plan().map(|plan| plan.segments()), Ok(2));
    }
}

#[test]
fn layers_of_another_frame_are_no_way_out_of_the_head() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        let (bytes, frame) = Recipe::plain(kind, 4000, 1000).made();
        let mut shorter = crate::frame::tests::frame(&bytes[..3000]);
        shorter.offload = frame.offload;
        assert_eq!(Plan::new(&shorter, &frame.layers()), Err(Unsuited::Headers));
        for (at, transport_at) in
            [(14, 13), (14, 18), (14, 53), (14, 200), (u16::MAX, 54), (50, u16::MAX), (54, 54)]
        {
            let mut layers = frame.layers();
            if let Network::Internet(found) = &mut layers.network {
                (found.at, found.transport_at) = (at, transport_at);
            }
            // What is there says that it is a header of TCP, as long as it can be.
            let mut bytes = bytes.clone();
            if let Some(place) = bytes.get_mut(usize::from(transport_at) + 12) {
                *place = 0x50;
            }
            let mut moved = crate::frame::tests::frame(&bytes);
            moved.offload = frame.offload;
            moved.offload.checksum = Some(Checksum { start: transport_at, offset: 16 });
            let refused = Plan::new(&moved, &layers).is_err();
            assert!(refused || kind == Kind::Tcp4 && transport_at == 53, "{at} and {transport_at}");
        }
    }
}
