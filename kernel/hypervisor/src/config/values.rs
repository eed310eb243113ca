//! What several words of networks say: numbers, VLANs, rates and addresses, as they are read and as they are shown.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use vswitch::Mac;
use vswitch::frame::v4;
use vswitch::meter::Rate;
use vswitch::settings::{Prefix, VLANS, VlanSet};

use super::{Size, parse_size};

/// Bits a second of a rate.
pub(crate) const RATES: RangeInclusive<u64> = 1_000..=1_000_000_000_000;
/// Bytes of a burst.
pub(crate) const BURSTS: RangeInclusive<u64> = 1..=1 << 30;
/// Multiples of bits, the largest first.
const MULTIPLES: [(char, u64); 3] = [('G', 1_000_000_000), ('M', 1_000_000), ('k', 1_000)];

/// A decimal number in this range.
pub(crate) fn number(text: &str, range: RangeInclusive<u64>) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && range.contains(number))
}

/// The same of 16 bits.
pub(crate) fn word(text: &str, range: RangeInclusive<u16>) -> Option<u16> {
    number(text, u64::from(*range.start())..=u64::from(*range.end())).map(|number| number as u16)
}

/// The number of a VLAN.
pub(crate) fn vlan(text: &str) -> Option<u16> {
    word(text, VLANS)
}

/// A number such as `22`, or a range of them such as `1024-65535`.
pub(crate) fn range(text: &str, of: RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (word(first, of.clone())?, word(last, of)?);
    (first <= last).then_some(first..=last)
}

/// VLANs such as `10,20-30`, or `all`.
pub(crate) fn vlans(text: &str) -> Option<VlanSet> {
    if text == "all" {
        return Some(VlanSet::all());
    }
    let mut set = VlanSet::NONE;
    for part in text.split(',') {
        range(part, VLANS)?.for_each(|vlan| set.add(vlan));
    }
    Some(set)
}

/// Bits a second such as `100M` (k, M and G are powers of 1000), and behind a colon the bytes of a burst such as `256K` (as memory is
/// given: powers of 1024).
pub(crate) fn rate(text: &str) -> Option<Rate> {
    let (bits, burst) = match text.split_once(':') {
        Some((bits, burst)) => (bits, Some(parse_size(burst).filter(|burst| BURSTS.contains(burst))?)),
        None => (text, None),
    };
    let multiple = MULTIPLES.iter().find_map(|(unit, multiple)| Some((bits.strip_suffix(*unit)?, *multiple)));
    let (digits, multiple) = multiple.unwrap_or((bits, 1));
    let bits = number(digits, 0..=u64::MAX)?.checked_mul(multiple)?;
    let usual = RATES.contains(&bits).then(|| Rate::bits(bits))?;
    Some(Rate { burst: burst.unwrap_or(usual.burst), ..usual })
}

/// Six bytes in hexadecimal with colons between them.
pub(crate) fn mac(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// An IP address, or one and how many of its bits count, such as `10.0.0.0/24`. The others must be 0, so that nobody takes an address with the
/// size of its network for that one address.
pub(crate) fn prefix(text: &str) -> Option<Prefix> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let (v6, address, most) = match address.parse().ok()? {
        IpAddr::V4(address) => (false, v4(address.octets()), 32),
        IpAddr::V6(address) => (true, address.octets(), 128),
    };
    let bits = bits.map_or(Some(most), |bits| word(bits, 0..=most))?;
    let others = u128::MAX.checked_shr(u32::from(128 - most + bits)).unwrap_or(0);
    let fits = u128::from_be_bytes(address) & others == 0;
    fits.then_some(Prefix { v6, address, bits: bits as u8 })
}

/// An address of a network device, as [`mac`] reads it.
pub(crate) struct MacText(pub(crate) Mac);

impl fmt::Display for MacText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A range, as [`range`] reads it.
pub(crate) struct RangeText(pub(crate) RangeInclusive<u16>);

impl fmt::Display for RangeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// VLANs, as [`vlans`] reads them.
pub(crate) struct VlansText<'a>(pub(crate) &'a VlanSet);

impl fmt::Display for VlansText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.0 == VlanSet::all() {
            return f.write_str("all");
        }
        let (mut first, mut comma) = (None, "");
        for vlan in *VLANS.start()..=*VLANS.end() + 1 {
            // None has the number behind the last one.
            match (first, self.0.has(vlan)) {
                (None, true) => first = Some(vlan),
                (Some(from), false) => {
                    write!(f, "{comma}{}", RangeText(from..=vlan - 1))?;
                    (first, comma) = (None, ",");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A rate, as [`rate`] reads it.
pub(crate) struct RateText(pub(crate) Rate);

impl fmt::Display for RateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.per_second.saturating_mul(8);
        match MULTIPLES.iter().find(|(_, multiple)| bits.is_multiple_of(*multiple)) {
            Some((unit, multiple)) => write!(f, "{}{unit}", bits / multiple)?,
            None => write!(f, "{bits}")?,
        }
        if Rate::bits(bits) == self.0 { Ok(()) } else { write!(f, ":{}", Size(self.0.burst)) }
    }
}

/// Addresses, as [`prefix`] reads them.
pub(crate) struct PrefixText(pub(crate) Prefix);

impl fmt::Display for PrefixText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prefix { v6, address, bits } = self.0;
        let [.., a, b, c, d] = address;
        let (address, most) = match v6 {
            true => (IpAddr::V6(Ipv6Addr::from(address)), 128),
            false => (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), 32),
        };
        if bits == most { write!(f, "{address}") } else { write!(f, "{address}/{bits}") }
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_ranges_are_decimal_and_in_order() {
        assert_eq!(
            (word("7", 1..=9), word("10", 1..=9), word("+7", 1..=9), word("", 0..=9)),
            (Some(7), None, None, None)
        );
        assert_eq!((range("22", 0..=99), range("22-30", 0..=99)), (Some(22..=22), Some(22..=30)));
        for wrong in ["", "-", "3-2", "1-", "-1", "1-2-3", "100", "0x1", "1 "] {
            assert_eq!(range(wrong, 0..=99), None, "{wrong}");
        }
        assert_eq!((vlan("1"), vlan("4094"), vlan("0"), vlan("4095")), (Some(1), Some(4094), None, None));
    }

    #[test]
    fn vlans_are_lists() {
        let set = vlans("10,20-22,4094").expect("a list");
        assert!([10, 20, 21, 22, 4094].into_iter().all(|vlan| set.has(vlan)) && !set.has(11) && !set.has(23));
        assert_eq!(VlansText(&set).to_string(), "10,20-22,4094");
        assert_eq!(vlans("all"), Some(VlanSet::all()));
        assert_eq!(vlans("1-4094").map(|set| VlansText(&set).to_string()).as_deref(), Some("all"));
        for wrong in ["", ",", "1,", "0", "4095", "5-3", "a", "10;20", "10, 20"] {
            assert_eq!(vlans(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates_have_decimal_bits_and_binary_bursts() {
        for (text, per_second, burst) in [
            ("100M", 12_500_000, 625_000),
            ("1G:256K", 125_000_000, 256 << 10),
            ("8k", 1_000, 6_000),
            ("1000", 125, 6_000),
            ("1000G:1G", 125_000_000_000, 1 << 30),
            ("64k:1", 8_000, 1),
        ] {
            assert_eq!(rate(text), Some(Rate { per_second, burst }), "{text}");
        }
        for wrong in [
            "",
            "M",
            "100m",
            "100K",
            "999",
            "1001G",
            "100MM",
            "1.5G",
            "+1M",
            "1M:",
            "1M:0",
            "1M:2G",
            "99999999999999G",
        ] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
        for text in ["100M", "1G:256K", "1500k", "64k:1"] {
            assert_eq!(rate(text).map(|rate| RateText(rate).to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn addresses_are_whole_or_of_a_network() {
        for (text, v6, bits) in [
            ("10.0.0.5", false, 32),
            ("10.0.0.0/24", false, 24),
            ("0.0.0.0/0", false, 0),
            ("fd00::5", true, 128),
            ("fd00::/64", true, 64),
            ("::/0", true, 0),
        ] {
            let read = prefix(text).expect(text);
            assert_eq!((read.v6, read.bits), (v6, bits), "{text}");
            assert_eq!(PrefixText(read).to_string(), text);
        }
        assert_eq!(prefix("10.1.2.3").map(|read| read.address), Some(v4([10, 1, 2, 3])));
        for wrong in [
            "",
            "/",
            "10.0.0",
            "10.0.0.5/24",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "fd00::5/64",
            "fd00::/129",
            "host",
        ] {
            assert_eq!(prefix(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_of_devices_are_read_as_they_are_written() {
        let read = mac("02:00:5e:10:aB:ff");
        assert_eq!(read, Some([2, 0, 0x5e, 0x10, 0xab, 0xff]));
        assert_eq!(read.map(|mac| MacText(mac).to_string()).as_deref(), Some("02:00:5e:10:ab:ff"));
        for wrong in ["", "02:00:5e:10:ab", "02:00:5e:10:ab:ff:00", "2:0:5e:10:ab:ff", "02:00:5e:10:ab:+f"] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}|[0-9kMG:.,/-]{0,20}") {
            let _ = (range(&text, 0..=u16::MAX), vlans(&text), rate(&text), prefix(&text), mac(&text));
        }

        #[test]
        fn what_is_shown_reads_back(bits in RATES, burst in BURSTS, vlan in prop::collection::vec(1_u16..=4094, 1..40), octets: [u8; 16], length in 0_u16..=128) {
            let usual = Rate::bits(bits);
            for rate in [usual, Rate { burst, ..usual }] {
                prop_assert_eq!(super::rate(&RateText(rate).to_string()), Some(rate));
            }
            let mut set = VlanSet::NONE;
            vlan.iter().for_each(|vlan| set.add(*vlan));
            prop_assert_eq!(vlans(&VlansText(&set).to_string()), Some(set));
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            let address = Ipv6Addr::from(u128::from_be_bytes(octets) & mask);
            let text = format!("{address}/{length}");
            let read = prefix(&text).expect("it is one");
            prop_assert_eq!(prefix(&PrefixText(read).to_string()), Some(read));
        }
    }
}
