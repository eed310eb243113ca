//! What happens to a switch: settings, rules, sessions, frames, time.

use proptest::prelude::*;
use std::vec::Vec;

use super::frames::{Following, Recipe, STATIONS, answers, followings, ip4, ip6, mac, recipes, repetitions};
use super::model::id;
use crate::Nanos;
use crate::frame::v4;
use crate::mirror::{Session, Target};
use crate::port::PortSet;
use crate::rules::{ANY_PORT, Match, Rule};
use crate::settings::{Guard, Prefix, Settings, Storm, VlanSet, Vlans};

/// VLANs that there are, those of copies at the end; and numbers in tags.
pub(super) const VLANS: [u16; 5] = [1, 2, 10, 20, 99];
const TAGS: &[u16] = &[1, 1, 2, 2, 10, 20, 0, 0, 99, 4095, 7];
const SECOND: Nanos = 1_000_000_000;

/// A switch at first.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) ports: Vec<Settings>,
    pub(super) rules: (Vec<Rule>, bool),
    pub(super) sessions: Vec<Session>,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Send(usize, Recipe),
    /// A frame that follows one that was sent, by its number from the last one on.
    Follow(usize, Following),
    Change(usize, Box<Settings>),
    Ready(usize, bool),
    Rules(Vec<Rule>, bool),
    Sessions(Vec<Session>),
    Wait(Nanos),
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    let bits = prop::sample::select(std::vec![(32_u8, 128_u8), (32, 128), (30, 126), (31, 127), (0, 0)]);
    (any::<bool>(), 0..STATIONS, bits).prop_map(|(v6, station, (four, six))| Prefix {
        v6,
        address: if v6 { ip6(station) } else { v4(ip4(station)) },
        bits: if v6 { six } else { four },
    })
}

fn vlans() -> impl Strategy<Value = Vlans> {
    let some = prop::sample::subsequence(VLANS.to_vec(), 0..=5);
    let trunk = (some, prop::option::of(prop::sample::select(VLANS.to_vec()))).prop_map(|(vlans, native)| {
        let mut tagged = VlanSet::NONE;
        vlans.into_iter().for_each(|vlan| tagged.add(vlan));
        Vlans::Trunk { tagged, native }
    });
    prop_oneof![4 => Just(Vlans::Access(1)), 1 => Just(Vlans::Access(2)), 3 => trunk]
}

fn guards(port: usize) -> impl Strategy<Value = Guard> {
    let station = port as u8 % STATIONS;
    let own = [
        Prefix { v6: false, address: v4(ip4(station)), bits: 32 },
        Prefix { v6: true, address: ip6(station), bits: 128 },
    ];
    (prop::bool::weighted(0.5), prop::bool::weighted(0.3), any::<bool>()).prop_map(
        move |(with, bound, all)| {
            let mut guard = Guard { mac: with.then_some(mac(station)), ..Guard::default() };
            if bound {
                guard.addresses.extend(own.into_iter().take(if all { 2 } else { 1 }));
            }
            guard
        },
    )
}

fn settings(port: usize) -> impl Strategy<Value = Settings> {
    // Numbers that divide a second, as meters count in nanoseconds.
    let limit = || prop_oneof![6 => Just(Some(20_000)), 2 => Just(None), 1 => prop::sample::select(std::vec![Some(1), Some(2), Some(10), Some(50)])];
    let storm = (limit(), limit(), limit()).prop_map(|(broadcast, multicast, unknown)| Storm {
        broadcast,
        multicast,
        unknown,
    });
    let guard = prop_oneof![3 => Just(Guard::default()), 2 => guards(port)];
    let priority = prop_oneof![4 => Just(None), 1 => (0_u8..8).prop_map(Some)];
    let mtu =
        prop_oneof![5 => Just(None), 1 => prop::sample::select(std::vec![Some(60), Some(500), Some(1500)])];
    (vlans(), priority, mtu, storm, guard, prop::bool::weighted(0.25), prop::bool::weighted(0.95)).prop_map(
        |(vlans, priority, mtu, storm, guard, isolated, up)| Settings {
            up,
            vlans,
            priority,
            mtu,
            storm,
            guard,
            isolated,
            ..Settings::default()
        },
    )
}

fn sets() -> impl Strategy<Value = PortSet> {
    prop_oneof![4 => Just(PortSet::ALL), 2 => any::<u8>().prop_map(|bits| PortSet::from_bits(bits.into()))]
}

fn matches() -> impl Strategy<Value = Match> {
    let ports = || {
        prop_oneof![
            5 => Just(ANY_PORT),
            1 => Just(80..=80),
            1 => Just(0..=999),
            1 => Just(0..=u16::MAX - 1),
        ]
    };
    let rarely =
        |one: std::vec::Vec<u16>| prop_oneof![5 => Just(None), 1 => prop::sample::select(one).prop_map(Some)];
    let macs = || prop_oneof![9 => Just(None), 1 => (0..STATIONS).prop_map(|station| Some(mac(station)))];
    let address = || prop_oneof![3 => Just(None), 1 => prefixes().prop_map(Some)];
    let protocol = prop_oneof![2 => Just(None), 2 => prop::sample::select(std::vec![6_u8, 17, 1, 58, 132]).prop_map(Some)];
    let icmp =
        prop_oneof![6 => Just(None), 1 => prop::sample::select(std::vec![8_u8, 0, 128, 3]).prop_map(Some)];
    let frame = (
        sets(),
        sets(),
        rarely(std::vec![0x800, 0x86dd, 0x806, 0x88b5]),
        rarely(std::vec![1, 2]),
        macs(),
        macs(),
    );
    (frame, address(), address(), protocol, ports(), ports(), icmp).prop_map(
        |(
            (from, to, ether_type, vlan, source_mac, destination_mac),
            source,
            destination,
            protocol,
            a,
            b,
            icmp,
        )| Match {
            from,
            to,
            ether_type,
            vlan,
            source_mac,
            destination_mac,
            source,
            destination,
            protocol,
            source_ports: a,
            destination_ports: b,
            icmp,
        },
    )
}

fn lists() -> impl Strategy<Value = (Vec<Rule>, bool)> {
    let rule = (any::<bool>(), matches()).prop_map(|(allow, fits)| Rule { allow, fits });
    let ping = Match { protocol: Some(1), icmp: Some(8), ..Match::default() };
    let tcp = Match { from: PortSet::from_bits(1), protocol: Some(6), ..Match::default() };
    let few = [ping, tcp].map(|fits| Rule { allow: true, fits });
    prop_oneof![
        2 => Just((Vec::new(), true)),
        1 => Just((Vec::new(), false)),
        2 => prop::sample::subsequence(few.to_vec(), 1..=2).prop_map(|rules| (rules, false)),
        6 => (prop::collection::vec(rule, 1..=12), any::<bool>()),
    ]
}

fn sessions() -> impl Strategy<Value = Vec<Session>> {
    let target = prop_oneof![
        2 => (0_usize..8).prop_map(|port| Target::Port(id(port))),
        1 => Just(Target::Vlan(99)),
        1 => Just(Target::Vlan(20)),
    ];
    let few = || any::<(u8, u8)>().prop_map(|(a, b)| PortSet::from_bits(u64::from(a & b)));
    let vlans = prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(VLANS.to_vec(), 1..3)];
    let snap = prop_oneof![2 => Just(None), 1 => (0_u16..200).prop_map(Some)];
    let session = (few(), few(), vlans, target, snap).prop_map(|(sent, received, vlans, target, snap)| {
        Session { sent, received, vlans: vlans.into_iter().collect(), target, snap }
    });
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(session, 1..=4)]
}

fn some_settings() -> impl Strategy<Value = Vec<Settings>> {
    let first = (settings(0), settings(1), settings(2), settings(3));
    let later = (settings(4), settings(5), settings(6), settings(7));
    let ports = prop_oneof![2 => Just(2_usize), 6 => 3_usize..=8, 1 => Just(64_usize)];
    (first, later, ports, any::<bool>()).prop_map(|((a, b, c, d), (e, f, g, h), ports, plain)| {
        let mut all = std::vec![a, b, c, d, e, f, g, h];
        if plain {
            all.iter_mut().take(4).for_each(|settings| *settings = Settings::default());
        }
        all.resize(ports, Settings::default());
        all
    })
}

pub(super) fn worlds() -> impl Strategy<Value = World> {
    (some_settings(), lists(), sessions()).prop_map(|(ports, rules, sessions)| World {
        ports,
        rules,
        sessions,
    })
}

/// A switch on which frames get through.
pub(super) fn plain_worlds() -> impl Strategy<Value = World> {
    let trunk = Vlans::Trunk { tagged: VlanSet::all(), native: Some(1) };
    let trunk = Settings { vlans: trunk, ..Settings::default() };
    let mtu = Settings { mtu: Some(1500), ..Settings::default() };
    let port = || prop::sample::select(std::vec![Settings::default(), trunk.clone(), mtu.clone()]);
    let rules = prop_oneof![lists(), Just((Vec::new(), true))];
    (prop::collection::vec(port(), 3), rules).prop_map(|(ports, rules)| World {
        ports,
        rules,
        sessions: Vec::new(),
    })
}

/// Frames right behind each other between two stations, and what comes in between.
pub(super) fn trains() -> impl Strategy<Value = Vec<Act>> {
    let begin = recipes(0, TAGS).prop_map(|recipe| Act::Send(0, recipe.honest()));
    let answer = answers().prop_map(|by| Act::Follow(0, by));
    let others = prop::collection::vec(acts(), 0..2).prop_map(|acts| acts.into_iter().flatten().take(2));
    let train = prop::collection::vec(repetitions().prop_map(|by| Act::Follow(0, by)), 1..12);
    let part = (begin, answer, train, others).prop_map(|(begin, answer, train, others)| {
        [begin, answer].into_iter().chain(train).chain(others).collect::<Vec<_>>()
    });
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.into_iter().flatten().collect())
}

pub(super) fn acts() -> impl Strategy<Value = Vec<Act>> {
    let send = (0_usize..8)
        .prop_flat_map(|port| recipes(port as u8, TAGS).prop_map(move |recipe| Act::Send(port, recipe)));
    let change =
        (0_usize..8).prop_flat_map(|port| settings(port).prop_map(move |it| Act::Change(port, Box::new(it))));
    let wait = prop::sample::select(std::vec![
        1,
        SECOND / 1000,
        SECOND / 20,
        SECOND,
        9 * SECOND,
        10 * SECOND,
        31 * SECOND,
        121 * SECOND,
        301 * SECOND,
        3600 * SECOND,
    ]);
    let act = prop_oneof![
        25 => send,
        25 => (0_usize..4, followings()).prop_map(|(which, by)| Act::Follow(which, by)),
        25 => repetitions().prop_map(|by| Act::Follow(0, by)),
        1 => change,
        1 => (0_usize..8, prop::bool::weighted(0.7)).prop_map(|(port, ready)| Act::Ready(port, ready)),
        2 => lists().prop_map(|(rules, default)| Act::Rules(rules, default)),
        1 => sessions().prop_map(Act::Sessions),
        4 => wait.prop_map(Act::Wait),
    ];
    prop::collection::vec(act, 1..80)
}
