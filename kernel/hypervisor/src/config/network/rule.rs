//! A rule in words: `allow|deny[,WORD]...`.

use core::ops::RangeInclusive;

use vswitch::PortSet;
use vswitch::frame::{ether_type, protocol};
use vswitch::rules::{ANY_PORT, Match, Rule};
use vswitch::settings::Prefix;

use super::{Find, NetworkFault, ports, verdict};
use crate::config::values;

/// The words, for messages.
const KNOWN: &str = "from=VM, to=VM, ether=TYPE, vlan=N, source-mac=ADDRESS, destination-mac=ADDRESS, source=ADDRESS, destination=ADDRESS, protocol=NAME, source-port=N, port=N or icmp=TYPE";
/// What is behind an Ethernet header, by its name.
pub(crate) const ETHER_TYPES: [(&str, u16); 3] =
    [("arp", ether_type::ARP), ("ipv4", ether_type::IPV4), ("ipv6", ether_type::IPV6)];
/// Transports by their names.
pub(crate) const PROTOCOLS: [(&str, u8); 5] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmp", protocol::ICMP),
    ("icmpv6", protocol::ICMPV6),
    ("sctp", protocol::SCTP),
];

/// Those that have ports.
const WITH_PORTS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// Reads a rule. What could never fit any frame is refused: it would look as if it protected somebody.
pub(crate) fn rule<'a>(
    mut words: impl Iterator<Item = &'a str>,
    find: Find<'_>,
) -> Result<Rule, NetworkFault<'a>> {
    let first = words.next().unwrap_or_default();
    let allow = verdict(first).ok_or(NetworkFault::NoVerdict(first))?;
    let mut fits = Match::default();
    for word in words {
        let (key, value) = word.split_once('=').ok_or(NetworkFault::Unknown(word, KNOWN))?;
        let is_new = match key {
            "from" => put_set(&mut fits.from, ports(value, find)?),
            "to" => put_set(&mut fits.to, ports(value, find)?),
            _ => set(word, key, value, &mut fits)?,
        };
        if !is_new {
            return Err(NetworkFault::Twice(word));
        }
    }
    check(&fits)?;
    Ok(Rule { allow, fits })
}

/// Reads one word. False where another one has said the same.
fn set<'a>(word: &'a str, key: &str, value: &str, fits: &mut Match) -> Result<bool, NetworkFault<'a>> {
    let wrong = |form| NetworkFault::Value(word, form);
    let mac = || values::mac(value).ok_or(wrong("six bytes such as 02:00:00:00:00:01"));
    let prefix = || {
        values::prefix(value)
            .ok_or(wrong("an IP address, or 10.0.0.0/24 for all that begin so, with zeros behind those bits"))
    };
    let range = || {
        values::range(value, ANY_PORT).ok_or(wrong("a port from 0 to 65535, or a range such as 1024-65535"))
    };
    Ok(match key {
        "ether" => {
            let form = "arp, ipv4, ipv6 or a number from 0x0600 on, such as ether=0x88cc";
            put(&mut fits.ether_type, ether(value).ok_or(wrong(form))?)
        }
        "vlan" => put(&mut fits.vlan, values::vlan(value).ok_or(wrong("vlan=N from 1 to 4094"))?),
        "source-mac" => put(&mut fits.source_mac, mac()?),
        "destination-mac" => put(&mut fits.destination_mac, mac()?),
        "source" => put(&mut fits.source, prefix()?),
        "destination" => put(&mut fits.destination, prefix()?),
        "protocol" => {
            let form = "tcp, udp, icmp, icmpv6, sctp or a number up to 255";
            put(&mut fits.protocol, named(value, &PROTOCOLS).or_else(|| byte(value)).ok_or(wrong(form))?)
        }
        "source-port" => put_range(&mut fits.source_ports, range()?),
        "port" => put_range(&mut fits.destination_ports, range()?),
        "icmp" => put(
            &mut fits.icmp,
            byte(value).ok_or(wrong("a type up to 255, such as icmp=8 for echo requests"))?,
        ),
        _ => return Err(NetworkFault::Unknown(word, KNOWN)),
    })
}

fn put<T>(place: &mut Option<T>, value: T) -> bool {
    place.replace(value).is_none()
}

fn put_set(place: &mut PortSet, value: PortSet) -> bool {
    core::mem::replace(place, value) == PortSet::ALL
}

fn put_range(place: &mut RangeInclusive<u16>, value: RangeInclusive<u16>) -> bool {
    core::mem::replace(place, value) == ANY_PORT
}

fn named<T: Copy>(text: &str, names: &[(&str, T)]) -> Option<T> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

fn byte(text: &str) -> Option<u8> {
    values::word(text, 0..=255).map(|number| number as u8)
}

/// What is behind an Ethernet header: a name, or a number in hexadecimal.
fn ether(text: &str) -> Option<u16> {
    named(text, &ETHER_TYPES).or_else(|| {
        let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'))?;
        u16::from_str_radix(digits, 16).ok().filter(|number| *number >= ether_type::LEAST)
    })
}

/// Whether there can be such a frame.
fn check(fits: &Match) -> Result<(), NetworkFault<'static>> {
    let has_ports = fits.source_ports != ANY_PORT || fits.destination_ports != ANY_PORT;
    let addresses =
        [fits.source, fits.destination].map(|prefix: Option<Prefix>| prefix.map(|prefix| prefix.v6));
    let is_of_packet = fits.source.is_some()
        || fits.destination.is_some()
        || fits.protocol.is_some()
        || fits.icmp.is_some()
        || has_ports;
    let by_type = match fits.ether_type {
        Some(ether_type::IPV4) => Some(false),
        Some(ether_type::IPV6) => Some(true),
        Some(_) if is_of_packet => {
            return Err(NetworkFault::Never(
                "with this ether=, frames are no IP and have no addresses, protocol, ports or ICMP types; leave ether= or those out",
            ));
        }
        _ => None,
    };
    let by_protocol = match fits.protocol {
        Some(protocol::ICMP) => Some(false),
        Some(protocol::ICMPV6) => Some(true),
        _ => None,
    };
    let [source, destination] = addresses;
    let is_of = |v6| [source, destination, by_type, by_protocol].contains(&Some(v6));
    if is_of(true) && is_of(false) {
        return Err(NetworkFault::Never(
            "it wants IPv4 and IPv6 of one frame; write addresses of one kind, with icmp for IPv4 and icmpv6 for IPv6",
        ));
    }
    let is_icmp = by_protocol.is_some();
    if has_ports && (fits.icmp.is_some() || fits.protocol.is_some_and(|number| !WITH_PORTS.contains(&number)))
    {
        return Err(NetworkFault::Never(
            "only tcp, udp and sctp have ports; write protocol=tcp, or leave port= out",
        ));
    }
    if fits.icmp.is_some() && fits.protocol.is_some() && !is_icmp {
        return Err(NetworkFault::Never(
            "only icmp and icmpv6 have types; write protocol=icmp, or leave icmp= out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use vswitch::PortId;
    use vswitch::frame::v4;

    use super::super::{Place, words};
    use super::*;

    /// A network with web.0 and web.1 at ports 0 and 1, and db.0 at port 2.
    fn find(place: Place<'_>) -> PortSet {
        let bits = match (place.vm, place.number) {
            ("web", None) => 3,
            ("web", Some(0)) => 1,
            ("web", Some(1)) => 2,
            ("db", None | Some(0)) => 4,
            _ => 0,
        };
        PortSet::from_bits(bits)
    }

    fn read(text: &str) -> Result<Rule, NetworkFault<'_>> {
        rule(words(text), &find)
    }

    #[test]
    fn each_word_has_its_effect() {
        let any = Match::default;
        let ten = Prefix { v6: false, address: v4([10, 0, 0, 0]), bits: 8 };
        let db = PortSet::one(PortId::new(2).expect("a port"));
        for (text, fits) in [
            ("allow", any()),
            ("allow,from=web", Match { from: PortSet::from_bits(3), ..any() }),
            ("allow,from=web.1,to=db", Match { from: PortSet::from_bits(2), to: db, ..any() }),
            ("allow,ether=arp", Match { ether_type: Some(0x0806), ..any() }),
            ("allow,ether=0x88cc", Match { ether_type: Some(0x88cc), ..any() }),
            ("allow,vlan=7", Match { vlan: Some(7), ..any() }),
            ("allow,source-mac=02:00:00:00:00:01", Match { source_mac: Some([2, 0, 0, 0, 0, 1]), ..any() }),
            ("allow,destination-mac=ff:ff:ff:ff:ff:ff", Match { destination_mac: Some([0xff; 6]), ..any() }),
            ("allow,source=10.0.0.0/8", Match { source: Some(ten), ..any() }),
            ("allow,destination=10.0.0.0/8", Match { destination: Some(ten), ..any() }),
            ("allow,protocol=tcp,port=22", Match { protocol: Some(6), destination_ports: 22..=22, ..any() }),
            ("allow,source-port=1024-65535", Match { source_ports: 1024..=65535, ..any() }),
            ("allow,protocol=89", Match { protocol: Some(89), ..any() }),
            ("allow,protocol=icmp,icmp=8", Match { protocol: Some(1), icmp: Some(8), ..any() }),
            ("allow,icmp=0", Match { icmp: Some(0), ..any() }),
            ("allow,ether=ipv4,protocol=udp", Match { ether_type: Some(0x800), protocol: Some(17), ..any() }),
        ] {
            assert_eq!(read(text), Ok(Rule { allow: true, fits }), "{text}");
        }
        assert_eq!(read("deny"), Ok(Rule { allow: false, fits: any() }));
    }

    #[test]
    fn each_wrong_word_is_named_with_the_way_out() {
        for (text, part) in [
            ("", "it begins with ''; begin with allow or deny"),
            ("from=web", "it begins with 'from=web'"),
            ("deny,log", "'log' is unknown; write from=VM"),
            ("deny,dst=1.1.1.1", "'dst=1.1.1.1' is unknown; write from=VM"),
            ("deny,", "'' is unknown"),
            ("deny,from=nobody", "'nobody' has no network device there; write a VM"),
            ("deny,to=web.2", "'web.2' has no network device there"),
            ("deny,from=web,from=db", "'from=db' says it a second time"),
            ("deny,port=1,port=2", "'port=2' says it a second time"),
            ("deny,vlan=1,vlan=1", "'vlan=1' says it a second time"),
            ("deny,ether=ip", "'ether=ip' is not possible; write arp"),
            ("deny,ether=0x5ff", "from 0x0600 on"),
            ("deny,vlan=0", "vlan=N from 1 to 4094"),
            ("deny,source-mac=1", "six bytes"),
            ("deny,destination-mac=", "six bytes"),
            ("deny,source=10.0.0.5/24", "'source=10.0.0.5/24' is not possible; write an IP address"),
            ("deny,destination=db", "an IP address"),
            ("deny,protocol=http", "tcp, udp"),
            ("deny,protocol=256", "a number up to 255"),
            ("deny,source-port=x", "a port from 0 to 65535"),
            ("deny,port=9-1", "a range such as 1024-65535"),
            ("deny,icmp=echo", "icmp=8"),
        ] {
            let fault = read(text).expect_err(text).to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn what_never_fits_is_refused() {
        for (text, part) in [
            ("deny,ether=arp,port=22", "are no IP"),
            ("deny,ether=0x88cc,source=10.0.0.1", "are no IP"),
            ("deny,source=10.0.0.1,destination=fd00::1", "IPv4 and IPv6"),
            ("deny,ether=ipv6,source=10.0.0.1", "IPv4 and IPv6"),
            ("deny,protocol=icmp,destination=fd00::1", "icmpv6 for IPv6"),
            ("deny,protocol=icmp,port=22", "have ports"),
            ("deny,protocol=89,source-port=1", "have ports"),
            ("deny,icmp=8,port=22", "have ports"),
            ("deny,protocol=tcp,icmp=8", "have types"),
        ] {
            let fault = read(text).expect_err(text).to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
        for fine in ["deny,protocol=tcp,port=1", "deny,protocol=sctp,port=1", "deny,protocol=icmpv6,icmp=128"]
        {
            assert!(read(fine).is_ok(), "{fine}");
        }
    }
}
