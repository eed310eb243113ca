//! Rules and mirrors in the words that make them.

use core::fmt;

use vswitch::PortSet;
use vswitch::mirror::{Session, Target};
use vswitch::rules::{ANY_PORT, Rule};

use super::{Device, Network};
use crate::config::network::{ETHER_TYPES, PROTOCOLS, Place, verdict_name};
use crate::config::values::{MacText, PrefixText, RangeText};

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name and a number below 100.
        let mut text = arrayvec::ArrayString::<{ crate::config::MAX_NAME + 3 }>::new();
        fmt::Write::write_fmt(&mut text, format_args!("{}.{}", self.vm, self.number))?;
        f.pad(&text)
    }
}

/// What stands for no port at all. No VM has such a name.
const NOBODY: &str = "nobody.";

/// A word for each place of a set of ports: a VM where it has several devices on the network, and all of them are in the set; else one device.
struct Places<'n> {
    key: &'static str,
    network: &'n Network,
    ports: PortSet,
}

impl fmt::Display for Places<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.ports;
        while let Some(port) = left.take_first() {
            let Some(device) = self.network.device(port) else { continue };
            let all = self.network.ports_of(Place { vm: &device.vm, number: None });
            if all.count() > 1 && all.minus(self.ports).is_empty() {
                left = left.minus(all);
                write!(f, " {}={}", self.key, device.vm)?;
            } else {
                write!(f, " {}={device}", self.key)?;
            }
        }
        Ok(())
    }
}

/// A rule in words.
pub(crate) struct RuleText<'n>(pub(crate) &'n Rule, pub(crate) &'n Network);

impl fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Rule { allow, fits }, network) = (self.0, self.1);
        f.write_str(verdict_name(*allow))?;
        for (key, ports) in [("from", fits.from), ("to", fits.to)] {
            if ports != PortSet::ALL {
                if ports.is_empty() {
                    // Those that it was about are gone: without a word it would look as if it were about all.
                    write!(f, " {key}={NOBODY}")?;
                }
                write!(f, "{}", Places { key, network, ports })?;
            }
        }
        if let Some(number) = fits.ether_type {
            match ETHER_TYPES.iter().find(|(_, known)| *known == number) {
                Some((name, _)) => write!(f, " ether={name}")?,
                None => write!(f, " ether={number:#06x}")?,
            }
        }
        if let Some(vlan) = fits.vlan {
            write!(f, " vlan={vlan}")?;
        }
        for (key, mac) in [("source-mac", fits.source_mac), ("destination-mac", fits.destination_mac)] {
            if let Some(mac) = mac {
                write!(f, " {key}={}", MacText(mac))?;
            }
        }
        for (key, prefix) in [("source", fits.source), ("destination", fits.destination)] {
            if let Some(prefix) = prefix {
                write!(f, " {key}={}", PrefixText(prefix))?;
            }
        }
        if let Some(number) = fits.protocol {
            match PROTOCOLS.iter().find(|(_, known)| *known == number) {
                Some((name, _)) => write!(f, " protocol={name}")?,
                None => write!(f, " protocol={number}")?,
            }
        }
        for (key, range) in [("source-port", &fits.source_ports), ("port", &fits.destination_ports)] {
            if *range != ANY_PORT {
                write!(f, " {key}={}", RangeText(range.clone()))?;
            }
        }
        fits.icmp.map_or(Ok(()), |kind| write!(f, " icmp={kind}"))
    }
}

/// A mirror in words.
pub(crate) struct SessionText<'n>(pub(crate) &'n Session, pub(crate) &'n Network);

impl fmt::Display for SessionText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (session, network) = (self.0, self.1);
        match session.target {
            Target::Port(port) => match network.device(port) {
                Some(device) => write!(f, "to={device}")?,
                None => write!(f, "to=port-{port}")?,
            },
            Target::Vlan(vlan) => write!(f, "to-vlan={vlan}")?,
        }
        let both = session.sent.and(session.received);
        let sets =
            [("both", both), ("sent", session.sent.minus(both)), ("received", session.received.minus(both))];
        for (key, ports) in sets {
            write!(f, "{}", Places { key, network, ports })?;
        }
        session.vlans.iter().try_for_each(|vlan| write!(f, " vlan={vlan}"))?;
        session.snap.map_or(Ok(()), |bytes| write!(f, " snap={bytes}"))
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;
    use virtio::net::Plug;

    use super::super::Networks;
    use super::*;
    use crate::config::Nic;
    use crate::config::network::{self, words};

    /// A network with web.0, web.2 and db.0.
    fn networks() -> (Networks, [Plug; 3]) {
        let networks = Networks::new(0);
        let plugs = [("web", 0), ("web", 2), ("db", 0)].map(|(vm, number)| {
            let device = Device { vm: crate::config::name(vm), number };
            networks.plug(&Nic::on("lan"), device).expect("a port")
        });
        (networks, plugs)
    }

    #[test]
    fn rules_and_mirrors_are_shown_in_their_words() {
        let (networks, _plugs) = networks();
        let lan = networks.find("lan").expect("it is there");
        let find = |place: Place<'_>| lan.ports_of(place);
        for text in [
            "deny",
            "allow from=web to=db.0",
            "deny from=web.2 ether=arp vlan=7 source-mac=02:00:00:00:00:01 destination-mac=ff:ff:ff:ff:ff:ff",
            "allow ether=0x88cc",
            "allow source=10.0.0.0/8 destination=10.0.0.1 protocol=tcp source-port=1024-65535 port=22",
            "deny protocol=89",
            "deny protocol=icmpv6 icmp=128",
        ] {
            let rule = network::rule(words(text), &find).expect(text);
            assert_eq!(RuleText(&rule, lan).to_string(), text);
        }
        for text in [
            "to=db.0 both=web",
            "to=db.0 both=web.0 sent=web.2 vlan=7 vlan=9 snap=128",
            "to-vlan=9 sent=web received=db.0",
        ] {
            let session = network::mirror(words(text), &find).expect(text);
            assert_eq!(SessionText(&session, lan).to_string(), text);
        }
    }

    fn any_word() -> impl Strategy<Value = String> {
        let form = |key: &'static str| move |value: u16| std::format!("{key}={value}");
        prop_oneof![
            prop::sample::select(
                ["from=web", "from=db", "to=web.2", "ether=ipv4", "protocol=tcp", "protocol=sctp"]
                    .map(String::from)
                    .to_vec()
            ),
            (1_u16..=4094).prop_map(form("vlan")),
            (0_u16..256).prop_map(form("protocol")),
            (0_u16..256).prop_map(form("icmp")),
            any::<u16>().prop_map(form("port")),
            (0_u16..99, 100_u16..).prop_map(|(from, to)| std::format!("source-port={from}-{to}")),
            any::<[u8; 4]>().prop_map(|ip| std::format!("source={}", core::net::Ipv4Addr::from(ip))),
            any::<[u8; 16]>().prop_map(|ip| std::format!("destination={}", core::net::Ipv6Addr::from(ip))),
            any::<[u8; 6]>().prop_map(|mac| std::format!("source-mac={}", MacText(mac))),
        ]
    }

    proptest! {
        #[test]
        fn rules_read_back(allow: bool, chosen in prop::collection::vec(any_word(), 0..6)) {
            let (networks, _plugs) = networks();
            let lan = networks.find("lan").expect("it is there");
            let find = |place: Place<'_>| lan.ports_of(place);
            let all: Vec<&str> = [verdict_name(allow)].into_iter().chain(chosen.iter().map(String::as_str)).collect();
            if let Ok(rule) = network::rule(all.into_iter(), &find) {
                let shown = RuleText(&rule, lan).to_string();
                prop_assert_eq!(network::rule(words(&shown), &find), Ok(rule));
            }
        }
    }
}
