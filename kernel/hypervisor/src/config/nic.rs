//! Network devices in a kernel's line: `net=NETWORK`, and what the words behind it say of that one.

use core::fmt;

use arrayvec::ArrayVec;
use virtio::net::Mac;
use vswitch::settings::Settings;

use super::MAX_NAME;
use super::line::is_name;

/// Network devices of one VM at most.
pub const MAX_NICS: usize = 4;
/// What IP can do with: the least that IPv4 allows, and the most that its length says.
const MTUS: core::ops::RangeInclusive<u16> = 68..=65_535;

/// A network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nic<'a> {
    /// The network that it is on.
    pub network: &'a str,
    /// Its address; `None` for one that its VM's name gives.
    pub mac: Option<Mac>,
    /// The largest packet, without the Ethernet header, that it takes; `None` where it says nothing of that.
    pub mtu: Option<u16>,
}

impl Nic<'_> {
    /// The settings of its port.
    pub(crate) fn settings(&self) -> Settings {
        Settings { mtu: self.mtu, ..Settings::default() }
    }
}

/// What is wrong with the words of a network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NicFault<'a> {
    /// No name of a network.
    BadNetwork(&'a str),
    /// A word of a network device before there is one.
    NoNetwork(&'a str),
    /// There are more network devices than a VM can have.
    ManyNics,
    /// No address of a network device.
    BadMac(&'a str),
    /// No size of packets.
    BadMtu(&'a str),
}

impl fmt::Display for NicFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadNetwork(name) => write!(
                f,
                "'{name}' is no name of a network; write 1 to {MAX_NAME} of the characters a-z, 0-9 and '-' after net="
            ),
            Self::NoNetwork(word) => write!(f, "'{word}' belongs behind the net=NETWORK that it is for"),
            Self::ManyNics => write!(f, "this VM has more than {MAX_NICS} network devices; leave some out"),
            Self::BadMac(text) => write!(
                f,
                "'{text}' is no address of a network device; write six bytes such as mac=02:00:00:00:00:01, the first of them even"
            ),
            Self::BadMtu(text) => {
                write!(f, "mtu='{text}' is no number from 68 to 65535; write mtu=1500, or leave it out")
            }
        }
    }
}

/// Reads a word of a network device. `None` where it is none of these.
pub(super) fn parse<'a>(
    word: &'a str,
    nics: &mut ArrayVec<Nic<'a>, MAX_NICS>,
) -> Option<Result<(), NicFault<'a>>> {
    let (key, value) = word.split_once('=')?;
    let last = nics.last_mut().ok_or(NicFault::NoNetwork(word));
    Some(match key {
        "net" if !is_name(value) => Err(NicFault::BadNetwork(value)),
        "net" => {
            let nic = Nic { network: value, mac: None, mtu: None };
            nics.try_push(nic).map_err(|_| NicFault::ManyNics)
        }
        "mac" => last.and_then(|nic| {
            nic.mac = Some(parse_mac(value).ok_or(NicFault::BadMac(value))?);
            Ok(())
        }),
        "mtu" => last.and_then(|nic| {
            let mtu = value.parse().ok().filter(|mtu| MTUS.contains(mtu));
            nic.mtu = Some(mtu.ok_or(NicFault::BadMtu(value))?);
            Ok(())
        }),
        _ => return None,
    })
}

/// Six bytes in hexadecimal with colons between them, of one device.
fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let group = mac[0] & 1 != 0;
    (parts.next().is_none() && !group && mac != Mac::default()).then_some(mac)
}

/// The address of a VM's network device by default: always the same for the same name and number, in the range that nobody owns.
pub(crate) fn address_of(vm: &str, number: usize) -> Mac {
    // FNV-1a.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in vm.bytes().chain([0, number as u8]) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let [_, _, _, a, b, c, d, e] = (hash ^ hash >> 40).to_be_bytes();
    [0x02, a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        assert_eq!(parse_mac("02:00:5e:10:aB:ff"), Some([2, 0, 0x5e, 0x10, 0xab, 0xff]));
        for wrong in [
            "",
            "02:00:5e:10:ab",
            "02:00:5e:10:ab:ff:00",
            "2:0:5e:10:ab:ff",
            "03:00:00:00:00:01",
            "00:00:00:00:00:00",
            "02:00:5e:10:ab:+f",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_device_has_its_own_address_and_keeps_it() {
        let mut all: std::vec::Vec<Mac> = ["a", "b", "web", "web-1"]
            .into_iter()
            .flat_map(|vm| (0..MAX_NICS).map(move |number| address_of(vm, number)))
            .collect();
        assert!(all.iter().all(|mac| mac[0] == 2));
        assert_eq!(address_of("web", 1), address_of("web", 1));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 16);
    }
}
