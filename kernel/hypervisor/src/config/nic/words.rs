//! The words that say how a port is, in a VM's line and at the prompt.

use core::fmt;
use core::ops::RangeInclusive;

use arrayvec::ArrayVec;
use virtio::net::Mac;
use vswitch::meter::Rate;
use vswitch::settings::{Settings, Storm, USUAL_VLAN, Vlans};

use super::NicFault;
use crate::config::values::{self, PrefixText, RateText, VlansText};

/// The words, for messages.
pub(super) const KNOWN: &str = "vlan=N, trunk=LIST, native=N, mtu=N, priority=N, inbound=RATE, outbound=RATE, guaranteed=RATE, broadcast=N, multicast=N, unknown=N, ip=ADDRESS, spoof=yes, isolated=yes or link=down";
/// What they begin with.
pub(crate) const KEYS: [&str; 15] = [
    "vlan",
    "trunk",
    "native",
    "mtu",
    "priority",
    "inbound",
    "outbound",
    "guaranteed",
    "broadcast",
    "multicast",
    "unknown",
    "ip",
    "spoof",
    "isolated",
    "link",
];
/// What IP can do with: the least that IPv4 allows, and the most that its length says.
pub(super) const MTUS: RangeInclusive<u16> = 68..=65_535;
/// What lifts a limit.
const OFF: &str = "off";

/// Changes the settings of a port by one word; `mac` is the address of its device. Where the word is wrong, nothing is changed.
pub(crate) fn apply<'a>(word: &'a str, settings: &mut Settings, mac: Mac) -> Result<(), NicFault<'a>> {
    let (key, value) = word.split_once('=').ok_or(NicFault::Unknown(word))?;
    let number = |range| values::word(value, range);
    let rate = || unless_off(value, values::rate).ok_or(NicFault::BadRate(word));
    let frames = |text: &str| values::number(text, 1..=u32::MAX.into()).map(|count| count as u32);
    let storm = || unless_off(value, frames).ok_or(NicFault::BadStorm(word));
    match key {
        "vlan" => settings.vlans = Vlans::Access(values::vlan(value).ok_or(NicFault::BadVlan(value))?),
        "trunk" => {
            let tagged = values::vlans(value).ok_or(NicFault::BadTrunk(value))?;
            let native = match settings.vlans {
                Vlans::Trunk { native, .. } => native,
                Vlans::Access(_) => Some(USUAL_VLAN),
            };
            settings.vlans = Vlans::Trunk { tagged, native };
        }
        "native" => {
            let Vlans::Trunk { native, .. } = &mut settings.vlans else {
                return Err(NicFault::NoTrunk(word));
            };
            *native = match value {
                "none" => None,
                _ => Some(values::vlan(value).ok_or(NicFault::BadNative(value))?),
            };
        }
        "mtu" => settings.mtu = unless_off(value, |_| number(MTUS)).ok_or(NicFault::BadMtu(value))?,
        "priority" => {
            let priority = unless_off(value, |_| number(0..=7)).ok_or(NicFault::BadPriority(value))?;
            settings.priority = priority.map(|priority| priority as u8);
        }
        "inbound" => settings.receive = rate()?,
        "outbound" => settings.send = rate()?,
        "guaranteed" => settings.guaranteed = rate()?,
        "broadcast" => settings.storm.broadcast = storm()?,
        "multicast" => settings.storm.multicast = storm()?,
        "unknown" => settings.storm.unknown = storm()?,
        "ip" => bind(word, value, settings)?,
        "spoof" => {
            let spoofs = choice(word, value, ["yes", "no"], "spoof=yes or spoof=no")?;
            if spoofs && !settings.guard.addresses.is_empty() {
                return Err(NicFault::Spoofing(word));
            }
            settings.guard.mac = (!spoofs).then_some(mac);
        }
        "isolated" => settings.isolated = choice(word, value, ["yes", "no"], "isolated=yes or isolated=no")?,
        "link" => settings.up = choice(word, value, ["up", "down"], "link=up or link=down")?,
        "mac" | "net" => return Err(NicFault::Fixed(word)),
        _ => return Err(NicFault::Unknown(word)),
    }
    Ok(())
}

/// Reads something that may be switched off.
fn unless_off<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == OFF { Some(None) } else { read(text).map(Some) }
}

/// Whether it says the first of two.
fn choice<'a>(
    word: &'a str,
    value: &str,
    [first, second]: [&str; 2],
    form: &'static str,
) -> Result<bool, NicFault<'a>> {
    let says = |what: &str| (value == what).then_some(what == first);
    says(first).or_else(|| says(second)).ok_or(NicFault::BadChoice(word, form))
}

/// Binds a port to IP addresses.
fn bind<'a>(word: &'a str, list: &'a str, settings: &mut Settings) -> Result<(), NicFault<'a>> {
    let mut addresses = ArrayVec::new();
    if list != OFF {
        for text in list.split(',') {
            let prefix = values::prefix(text).ok_or(NicFault::BadAddress(text))?;
            addresses.try_push(prefix).map_err(|_| NicFault::ManyAddresses)?;
        }
        if settings.guard.mac.is_none() {
            return Err(NicFault::Spoofing(word));
        }
    }
    settings.guard.addresses = addresses;
    Ok(())
}

/// A port's settings in words, as [`apply`] reads them: its VLANs, and what else is not as usual.
pub(crate) struct Words<'a>(pub(crate) &'a Settings);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settings, usual) = (self.0, Settings::default());
        match &settings.vlans {
            Vlans::Access(vlan) => write!(f, "vlan={vlan}")?,
            Vlans::Trunk { tagged, native } => {
                write!(f, "trunk={}", VlansText(tagged))?;
                match native {
                    Some(native) => write!(f, " native={native}")?,
                    None => f.write_str(" native=none")?,
                }
            }
        }
        if let Some(mtu) = settings.mtu {
            write!(f, " mtu={mtu}")?;
        }
        if let Some(priority) = settings.priority {
            write!(f, " priority={priority}")?;
        }
        let rates =
            [("inbound", settings.receive), ("outbound", settings.send), ("guaranteed", settings.guaranteed)];
        for (key, rate) in rates.into_iter().filter_map(|(key, rate): (_, Option<Rate>)| Some((key, rate?))) {
            write!(f, " {key}={}", RateText(rate))?;
        }
        let storms = |storm: Storm| [storm.broadcast, storm.multicast, storm.unknown];
        let kinds = ["broadcast", "multicast", "unknown"].into_iter().zip(storms(settings.storm));
        for ((key, storm), usual) in
            kinds.zip(storms(usual.storm)).filter(|((_, storm), usual)| storm != usual)
        {
            match storm.filter(|_| storm != usual) {
                Some(frames) => write!(f, " {key}={frames}")?,
                None => write!(f, " {key}={OFF}")?,
            }
        }
        for (number, prefix) in settings.guard.addresses.iter().enumerate() {
            let before = if number == 0 { " ip=" } else { "," };
            write!(f, "{before}{}", PrefixText(*prefix))?;
        }
        let flags = [
            (settings.guard.mac.is_none(), " spoof=yes"),
            (settings.isolated, " isolated=yes"),
            (!settings.up, " link=down"),
        ];
        flags.into_iter().filter(|(is, _)| *is).try_for_each(|(_, word)| f.write_str(word))
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;
    use vswitch::settings::VlanSet;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn usual() -> Settings {
        let mut settings = Settings::default();
        settings.guard.mac = Some(MAC);
        settings
    }

    fn read(words: &str) -> Result<Settings, NicFault<'_>> {
        let mut settings = usual();
        words.split(' ').try_for_each(|word| apply(word, &mut settings, MAC))?;
        Ok(settings)
    }

    #[test]
    fn each_word_has_its_effect() {
        let rate = |bits| Some(Rate::bits(bits));
        type Effect = fn(&mut Settings, Option<Rate>);
        let effects: [(&str, Effect); 16] = [
            ("vlan=4094", |it, _| it.vlans = Vlans::Access(4094)),
            ("trunk=all", |it, _| it.vlans = Vlans::Trunk { tagged: VlanSet::all(), native: Some(1) }),
            ("trunk=all native=none", |it, _| {
                it.vlans = Vlans::Trunk { tagged: VlanSet::all(), native: None }
            }),
            ("mtu=68", |it, _| it.mtu = Some(68)),
            ("priority=7", |it, _| it.priority = Some(7)),
            ("inbound=1G", |it, rate| it.receive = rate),
            ("outbound=1G", |it, rate| it.send = rate),
            ("guaranteed=1G", |it, rate| it.guaranteed = rate),
            ("broadcast=off", |it, _| it.storm.broadcast = None),
            ("multicast=5", |it, _| it.storm.multicast = Some(5)),
            ("unknown=off", |it, _| it.storm.unknown = None),
            ("ip=10.0.0.5,fd00::/64", |it, _| {
                it.guard
                    .addresses
                    .extend(["10.0.0.5", "fd00::/64"].map(|text| values::prefix(text).unwrap()));
            }),
            ("spoof=yes", |it, _| it.guard.mac = None),
            ("spoof=yes spoof=no", |_, _| ()),
            ("isolated=yes", |it, _| it.isolated = true),
            ("link=down", |it, _| it.up = false),
        ];
        for (words, effect) in effects {
            let mut wanted = usual();
            effect(&mut wanted, rate(1_000_000_000));
            assert_eq!(read(words), Ok(wanted.clone()), "{words}");
            let shown = Words(&wanted).to_string();
            assert_eq!(read(&shown), Ok(wanted), "{words}: {shown}");
        }
        let lifted = "mtu=9000 mtu=off priority=3 priority=off inbound=1M inbound=off ip=10.0.0.1 ip=off isolated=no link=up vlan=1";
        assert_eq!(read(lifted), Ok(usual()));
        for key in KEYS {
            assert!(KNOWN.contains(&std::format!("{key}=")), "{key}");
            assert!(!matches!(read(&std::format!("{key}=")), Ok(_) | Err(NicFault::Unknown(_))), "{key}");
        }
    }

    #[test]
    fn each_wrong_word_is_named_with_the_way_out() {
        for (words, fault, remedy) in [
            ("vlan=4095", NicFault::BadVlan("4095"), "vlan=10"),
            ("trunk=10,", NicFault::BadTrunk("10,"), "trunk=all"),
            ("native=5", NicFault::NoTrunk("native=5"), "behind trunk="),
            ("trunk=5 native=0", NicFault::BadNative("0"), "native=none"),
            ("mtu=67", NicFault::BadMtu("67"), "mtu=1500"),
            ("priority=8", NicFault::BadPriority("8"), "0 to 7"),
            ("outbound=fast", NicFault::BadRate("outbound=fast"), "100M"),
            ("inbound=1M:", NicFault::BadRate("inbound=1M:"), "100M:256K"),
            ("guaranteed=", NicFault::BadRate("guaranteed="), "off"),
            ("broadcast=0", NicFault::BadStorm("broadcast=0"), "frames a second"),
            ("ip=10.0.0.5/24", NicFault::BadAddress("10.0.0.5/24"), "10.0.0.0/24"),
            ("ip=10.0.0.5,", NicFault::BadAddress(""), "10.0.0.5"),
            (
                "ip=1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5,1.1.1.6,1.1.1.7,1.1.1.8,1.1.1.9",
                NicFault::ManyAddresses,
                "ranges",
            ),
            ("ip=10.0.0.5 spoof=yes", NicFault::Spoofing("spoof=yes"), "ip=off"),
            ("spoof=yes ip=10.0.0.5", NicFault::Spoofing("ip=10.0.0.5"), "spoof=yes"),
            ("spoof=maybe", NicFault::BadChoice("spoof=maybe", "spoof=yes or spoof=no"), "spoof=no"),
            ("isolated=1", NicFault::BadChoice("isolated=1", "isolated=yes or isolated=no"), "isolated=no"),
            ("link=on", NicFault::BadChoice("link=on", "link=up or link=down"), "link=up"),
            ("mac=02:00:00:00:00:01", NicFault::Fixed("mac=02:00:00:00:00:01"), "VM's line"),
            ("speed=5", NicFault::Unknown("speed=5"), "vlan=N"),
            ("up", NicFault::Unknown("up"), "vlan=N"),
        ] {
            assert_eq!(read(words), Err(fault), "{words}");
            let text = fault.to_string();
            assert!(text.contains(remedy), "{words}: {text}");
        }
    }

    #[test]
    fn a_trunk_keeps_its_native_vlan_and_a_wrong_word_changes_nothing() {
        let settings = read("trunk=10 native=5 trunk=20").expect("a trunk");
        assert_eq!(Words(&settings).to_string(), "trunk=20 native=5");
        for word in ["trunk=x", "native=x", "ip=10.0.0.1,x", "vlan=x", "mtu=x"] {
            let mut same = settings.clone();
            assert!(apply(word, &mut same, MAC).is_err() && same == settings, "{word}");
        }
    }

    fn any_word() -> impl Strategy<Value = String> {
        let rate = || {
            (1_u64..1_000, prop::option::of(1_u32..4096)).prop_map(|(rate, burst)| {
                burst.map_or_else(|| std::format!("{rate}M"), |burst| std::format!("{rate}M:{burst}K"))
            })
        };
        prop_oneof![
            (1_u16..=4094).prop_map(|vlan| std::format!("vlan={vlan}")),
            (1_u16..4000, 0_u16..90).prop_map(|(from, more)| std::format!("trunk={from}-{}", from + more)),
            (0_usize..3, rate()).prop_map(|(key, rate)| std::format!(
                "{}={rate}",
                ["inbound", "outbound", "guaranteed"][key]
            )),
            (0_usize..3, 1_u32..).prop_map(|(key, count)| std::format!(
                "{}={count}",
                ["broadcast", "multicast", "unknown"][key]
            )),
            any::<[u8; 4]>().prop_map(|ip| std::format!("ip={}", core::net::Ipv4Addr::from(ip))),
            any::<[u8; 16]>().prop_map(|ip| std::format!("ip={}", core::net::Ipv6Addr::from(ip))),
            (68_u16..).prop_map(|mtu| std::format!("mtu={mtu}")),
            (0_u8..8).prop_map(|priority| std::format!("priority={priority}")),
            prop::sample::select(
                ["spoof=yes", "isolated=yes", "link=down", "native=none", "native=7"]
                    .map(String::from)
                    .to_vec()
            ),
        ]
    }

    proptest! {
        /// What is shown of settings makes the same ones.
        #[test]
        fn settings_read_back(words in prop::collection::vec(any_word(), 0..12)) {
            let mut settings = usual();
            let _refused: Vec<_> = words.iter().filter(|word| apply(word, &mut settings, MAC).is_err()).collect();
            let shown = Words(&settings).to_string();
            prop_assert_eq!(read(&shown), Ok(settings), "{}", shown);
        }

        #[test]
        fn no_text_panics(word in ".{0,30}", key in prop::sample::select(KEYS.to_vec()), value in ".{0,20}|[0-9kMG:./,-]{0,20}") {
            for word in [word, std::format!("{key}={value}")] {
                let mut settings = usual();
                if let Err(fault) = apply(&word, &mut settings, MAC) {
                    prop_assert!(!fault.to_string().is_empty() && settings == usual());
                }
            }
        }
    }
}
