//! The switch against a model of it: whatever ports send, under whatever settings and rules, each port sees what the model says.

mod acts;
mod cases;
mod compare;
mod frames;
mod guard;
mod model;
mod reader;
mod removed;
mod rules;
mod talks;
mod wire;

use proptest::prelude::*;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use acts::{acts, plain_worlds, trains, worlds};
use compare::Pair;
use reader::{Part, Seen, Transport, What};

/// Some, or as many as `PROPTEST_CASES` says where that is more.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.max(1000), max_shrink_iters: 20_000, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_port_sees_what_the_model_says(world in worlds(), acts in acts()) {
        let mut pair = Pair::new(&world);
        for act in &acts {
            if !pair.act(act)? {
                break;
            }
        }
    }

    #[test]
    fn trains_go_where_each_of_their_frames_would(world in plain_worlds(), acts in trains()) {
        let mut pair = Pair::new(&world);
        for act in &acts {
            if !pair.act(act)? {
                break;
            }
        }
    }

    /// The model's reader is another one than the switch's, and is itself tried against a third one.
    #[test]
    fn the_model_reads_frames_as_others_do(recipe in frames::recipes(0, &[1, 0, 5])) {
        let wire = recipe.wire();
        let seen = Seen::of(&wire.bytes);
        let Ok(packet) = SlicedPacket::from_ethernet(&wire.bytes) else { return Ok(()) };
        match (&packet.net, &seen.what) {
            (Some(NetSlice::Ipv4(ip)), What::Ip(found)) => {
                prop_assert_eq!(&found.source[12..], ip.header().source());
                prop_assert_eq!(&found.destination[12..], ip.header().destination());
                prop_assert_eq!(found.part != Part::Whole, ip.header().is_fragmenting_payload());
            }
            (Some(NetSlice::Ipv6(ip)), What::Ip(found)) => {
                prop_assert_eq!((found.source, found.destination), (ip.header().source(), ip.header().destination()));
            }
            (Some(NetSlice::Arp(_)), What::Arp { .. } | What::Broken) => {}
            (None, What::Other | What::Broken) => {}
            // There are more tags than a switch looks through.
            (_, What::Other) if matches!(seen.kind, 0x8100 | 0x88a8) => {}
            (net, what) => prop_assert!(false, "{:?} is {:?}", net, what),
        }
        let Some(found) = seen.ip() else { return Ok(()) };
        let is_hidden = found.transport == Transport::Hidden;
        match &packet.transport {
            _ if is_hidden => {}
            Some(TransportSlice::Tcp(tcp)) => {
                let Transport::Tcp { from, to, .. } = found.transport else { panic!("{found:?}") };
                prop_assert_eq!((from, to), (tcp.source_port(), tcp.destination_port()));
            }
            Some(TransportSlice::Udp(udp)) => {
                let (from, to) = (udp.source_port(), udp.destination_port());
                prop_assert_eq!(found.transport, Transport::Ports { from, to });
            }
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => {
                let is_icmp = matches!(found.transport, Transport::Icmp { .. });
                prop_assert!(is_icmp);
            }
            Some(TransportSlice::Igmp(_)) | None => {}
        }
    }
}
