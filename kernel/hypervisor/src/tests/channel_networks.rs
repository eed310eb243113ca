//! Ports, rules and mirrors over the channel, and pins.

use std::string::ToString;

use abi::{ALL_VCPUS, Link, MAX_WORDS, Name, NetworkList, Refusal, Request};

use super::channel::{Domain, Told};
use super::yard::{LOOPS, Place, Yard};

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// A VM with a network device on each of these networks.
fn on(domain: &mut Domain, place: &mut Place<'_, '_>, vm: &str, networks: &[&str]) -> u64 {
    for network in networks {
        let add = Request::AddNetwork { network: name(network), mac: 0 };
        assert_eq!(domain.ask(place, &add), Told::Done);
    }
    domain.create(place, vm)
}

fn misread(domain: &mut Domain, place: &mut Place<'_, '_>, request: &Request<'_>, part: &str) {
    match domain.ask(place, request) {
        Told::Misread(why) => assert!(why.contains(part), "{request:?}: {why}"),
        other => panic!("{request:?}: {other:?}"),
    }
}

#[test]
fn a_port_is_changed_by_all_words_or_by_none() {
    Yard::new(1, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let vm = on(&mut domain, place, "web", &["lan", "dmz"]);
        let port = |device, network: &str, link, words: &str| {
            let (network, none, words) = (name(network), [0; 2], words.to_string());
            (
                Request::Port { vm, device },
                Told::Port { network, link, sent: none, received: none, lost: 0, words },
            )
        };
        let (ask, told) = port(1, "dmz", Link::NoDriver, "vlan=1");
        assert_eq!(domain.ask(place, &ask), told);
        let change = |device, words| Request::ChangePort { vm, device, words };
        assert_eq!(domain.ask(place, &change(1, b" vlan=7  outbound=100M link=down ")), Told::Done);
        let (ask, told) = port(1, "dmz", Link::Down, "vlan=7 outbound=100M link=down");
        assert_eq!(domain.ask(place, &ask), told);
        misread(&mut domain, place, &change(1, b"vlan=8 mtu=1"), "'1' is no number from 68");
        misread(&mut domain, place, &change(1, b"vlan=8 mac=02:00:00:00:00:01"), "keeps its network");
        misread(&mut domain, place, &change(1, &[0xff]), "UTF-8");
        assert_eq!(domain.ask(place, &ask), told, "nothing has changed");
        let (ask, told) = port(0, "lan", Link::NoDriver, "vlan=1");
        assert_eq!(domain.ask(place, &ask), told, "the other one is as it was");
        let range = |asked, most| Told::Refused(Refusal::Range, asked, most);
        assert_eq!(domain.ask(place, &Request::Port { vm, device: 2 }), range(2, 1));
        assert_eq!(domain.ask(place, &change(9, b"vlan=7")), range(9, 1));
        let long = [b' '; MAX_WORDS + 1];
        assert_eq!(domain.ask(place, &change(0, &long)), range(long.len() as u64, MAX_WORDS as u64));
        let gone = Request::Port { vm: vm + (2 << 16), device: 0 };
        assert_eq!(domain.ask(place, &gone), Told::Refused(Refusal::NoVm, vm + (2 << 16), 0));
    });
}

#[test]
fn rules_come_and_go_and_are_told_in_their_words() {
    Yard::new(1, 3, &[]).run(3, |place| {
        let mut domain = Domain::greeted(place);
        let web = on(&mut domain, place, "web", &["lan"]);
        on(&mut domain, place, "db", &["lan"]);
        let (network, list) = (name("lan"), NetworkList::Rules);
        let add = |words| Request::AddEntry { network, list, words };
        let entry = |number| Request::Entry { network, list, number };
        let told = |number, words: &str| Told::Entry(number, words.to_string());
        let first = "allow from=web.0 protocol=tcp port=22";
        assert_eq!(domain.ask(place, &add(b"allow from=web, protocol=tcp port=22")), told(0, first));
        assert_eq!(domain.ask(place, &add(b"deny to=db.0")), told(1, "deny to=db.0"));
        misread(&mut domain, place, &add(b"deny from=who"), "'who' has no network device there");
        misread(&mut domain, place, &add(b"from=web"), "begin with allow or deny");
        assert_eq!(domain.ask(place, &entry(1)), told(1, "deny to=db.0"));
        let change = Request::ChangeNetwork { network, words: b"default=deny" };
        assert_eq!(domain.ask(place, &change), Told::Done);
        let state = |rules, ports| Told::Network { network, ports, rules, mirrors: 0, allows: false };
        assert_eq!(domain.ask(place, &Request::Network { number: 0 }), state(2, 2));
        assert_eq!(domain.ask(place, &Request::DestroyVm { vm: web }), Told::Done);
        let empty = "allow from=nobody. protocol=tcp port=22";
        assert_eq!(domain.ask(place, &entry(0)), told(0, empty), "it is about nobody now, not about all");
        assert_eq!(domain.ask(place, &Request::DeleteEntry { network, list, number: 0 }), Told::Done);
        assert_eq!(domain.ask(place, &entry(0)), told(0, "deny to=db.0"));
        let range = |asked, most| Told::Refused(Refusal::Range, asked, most);
        assert_eq!(domain.ask(place, &entry(1)), range(1, 0));
        assert_eq!(domain.ask(place, &Request::DeleteEntry { network, list, number: 1 }), range(1, 0));
        assert_eq!(domain.ask(place, &Request::Network { number: 0 }), state(1, 1));
        assert_eq!(domain.ask(place, &Request::Network { number: 1 }), range(1, 0));
        let other = Request::Entry { network: name("wan"), list, number: 0 };
        assert_eq!(domain.ask(place, &other), Told::Refused(Refusal::NoNetwork, 0, 0));
        misread(&mut domain, place, &Request::ChangeNetwork { network, words: b"default=x" }, "default=deny");
    });
}

#[test]
fn mirrors_come_and_go() {
    Yard::new(1, 3, &[]).run(3, |place| {
        let mut domain = Domain::greeted(place);
        let _web = on(&mut domain, place, "web", &["lan"]);
        let probe = on(&mut domain, place, "probe", &["lan"]);
        let (network, list) = (name("lan"), NetworkList::Mirrors);
        let add = |words| Request::AddEntry { network, list, words };
        let words = "to=probe.0 both=web.0 snap=128";
        let told = domain.ask(place, &add(b"both=web to=probe snap=128"));
        assert_eq!(told, Told::Entry(0, words.to_string()));
        misread(&mut domain, place, &add(b"both=web"), "write to=VM.N");
        let Told::Port { link, .. } = domain.ask(place, &Request::Port { vm: probe, device: 0 }) else {
            panic!("a port")
        };
        assert_eq!(link, Link::NoDriver);
        assert_eq!(domain.ask(place, &Request::DeleteEntry { network, list, number: 0 }), Told::Done);
        let gone = domain.ask(place, &Request::Entry { network, list, number: 0 });
        assert_eq!(gone, Told::Refused(Refusal::Range, 0, 0));
    });
}

#[test]
fn vcpus_are_pinned_where_their_pool_has_cpus() {
    Yard::new(2, 2, &[]).run(2, |place| {
        let mut domain = Domain::greeted(place);
        let vm = domain.begin(place, "web", LOOPS);
        let pin = |vcpu, cpus| Request::Pin { vm, vcpu, cpus };
        let range = |asked, most| Told::Refused(Refusal::Range, asked, most);
        for (request, told) in [
            (pin(0, 0b10), Told::Done),
            (pin(ALL_VCPUS, 0b01), Told::Done),
            (pin(ALL_VCPUS, 0b100), range(0b100, 0b11)),
            (pin(0, 0), range(0, 0b11)),
            (pin(1, 0b1), range(1, 0)),
            (pin(ALL_VCPUS - 1, 0b1), range(u64::from(ALL_VCPUS) - 1, 0)),
            (pin(ALL_VCPUS, u64::MAX), Told::Done),
            (
                Request::Pin { vm: vm + (2 << 16), vcpu: 0, cpus: 1 },
                Told::Refused(Refusal::NoVm, vm + (2 << 16), 0),
            ),
        ] {
            assert_eq!(domain.ask(place, &request), told, "{request:?}");
        }
    });
}
