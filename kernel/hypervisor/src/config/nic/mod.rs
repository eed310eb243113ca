//! Network devices in a kernel's line: `net=NETWORK`, and what the words behind it say of that one.

mod fault;
mod words;

use alloc::vec::Vec;

use virtio::net::Mac;
use vswitch::port::is_group;
use vswitch::settings::Settings;

use super::line::is_name;
use super::{Name, name, values};
pub use fault::NicFault;
pub(crate) use words::{KEYS, Words, apply};

/// Network devices of one VM at most.
pub const MAX_NICS: usize = 8;

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nic {
    /// The network that it is on.
    pub network: Name,
    /// Its address; `None` for one that its VM's name gives.
    pub mac: Option<Mac>,
    /// What its words say of its port. Where that lets in frames from one hardware address only, it is the device's own, whatever stands here:
    /// see [`Self::settings`].
    words: Settings,
}

impl Nic {
    /// A device on that network of which no more is said.
    pub fn on(network: &str) -> Self {
        let mut words = Settings::default();
        words.guard.mac = Some(Mac::default());
        Self { network: name(network), mac: None, words }
    }

    /// The largest packet, without the Ethernet header, that it takes; `None` where it says nothing of that.
    pub fn mtu(&self) -> Option<u16> {
        self.words.mtu
    }

    /// The address that it has, as that device of that VM.
    pub(crate) fn address(&self, vm: &str, number: usize) -> Mac {
        self.mac.unwrap_or_else(|| address_of(vm, number))
    }

    /// The settings of its port, where it has this address.
    pub(crate) fn settings(&self, mac: Mac) -> Settings {
        let mut settings = self.words.clone();
        settings.guard.mac = settings.guard.mac.map(|_| mac);
        settings
    }
}

/// Reads a word of a network device. `None` where it is none of these.
pub(super) fn parse<'a>(word: &'a str, nics: &mut Vec<Nic>) -> Option<Result<(), NicFault<'a>>> {
    let (key, value) = word.split_once('=')?;
    let is_full = nics.len() >= MAX_NICS;
    let last = nics.last_mut().ok_or(NicFault::NoNetwork(word));
    Some(match key {
        "net" if !is_name(value) => Err(NicFault::BadNetwork(value)),
        "net" if is_full => Err(NicFault::ManyNics),
        "net" => match nics.try_reserve(1) {
            Ok(()) => {
                nics.push(Nic::on(value));
                Ok(())
            }
            Err(_) => Err(NicFault::NoMemory),
        },
        "mac" => last.and_then(|nic| {
            let mac = values::mac(value).filter(|mac| !is_group(mac) && *mac != Mac::default());
            nic.mac = Some(mac.ok_or(NicFault::BadMac(value))?);
            Ok(())
        }),
        _ if KEYS.contains(&key) => last.and_then(|nic| apply(word, &mut nic.words, Mac::default())),
        _ => return None,
    })
}

/// The address of a VM's network device by default: always the same for the same name and number, in the range that nobody owns.
fn address_of(vm: &str, number: usize) -> Mac {
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
    use std::string::ToString;

    use proptest::prelude::*;
    use vswitch::settings::Vlans;

    use super::*;

    fn read(words: &str) -> Result<Vec<Nic>, NicFault<'_>> {
        let mut nics = Vec::new();
        for word in words.split_ascii_whitespace() {
            parse(word, &mut nics).unwrap_or(Err(NicFault::Unknown(word)))?;
        }
        Ok(nics)
    }

    #[test]
    fn words_are_for_the_device_before_them() {
        let nics = read("net=lan vlan=7 net=other mac=02:00:00:00:00:01 mtu=9000").expect("two devices");
        let [lan, other] = nics.as_slice() else { panic!("two devices") };
        assert_eq!((lan.network.as_str(), lan.mac, lan.mtu()), ("lan", None, None));
        assert_eq!(lan.settings([2; 6]).vlans, Vlans::Access(7));
        assert_eq!(
            (other.network.as_str(), other.mac, other.mtu()),
            ("other", Some([2, 0, 0, 0, 0, 1]), Some(9000))
        );
        assert_eq!(other.settings([2; 6]).vlans, Vlans::Access(1));
    }

    #[test]
    fn a_device_is_bound_to_its_own_address_whatever_the_order_of_words() {
        for words in ["net=lan", "net=lan mac=02:00:00:00:00:01", "net=lan spoof=no mac=02:00:00:00:00:01"] {
            let nics = read(words).expect("a device");
            let mac = nics[0].address("web", 0);
            assert_eq!(nics[0].settings(mac).guard.mac, Some(mac), "{words}");
        }
        let nics = read("net=lan spoof=yes").expect("a device");
        assert_eq!(nics[0].settings([2; 6]).guard.mac, None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (words, fault) in [
            ("net=", NicFault::BadNetwork("")),
            ("net=LAN", NicFault::BadNetwork("LAN")),
            ("vlan=7 net=lan", NicFault::NoNetwork("vlan=7")),
            ("mac=02:00:00:00:00:01", NicFault::NoNetwork("mac=02:00:00:00:00:01")),
            ("net=lan mac=03:00:00:00:00:01", NicFault::BadMac("03:00:00:00:00:01")),
            ("net=lan mac=00:00:00:00:00:00", NicFault::BadMac("00:00:00:00:00:00")),
            ("net=lan mac=", NicFault::BadMac("")),
            ("net=lan vlan=0", NicFault::BadVlan("0")),
            ("net=1 net=2 net=3 net=4 net=5 net=6 net=7 net=8 net=9", NicFault::ManyNics),
            ("net=lan pin=1", NicFault::Unknown("pin=1")),
        ] {
            assert_eq!(read(words), Err(fault), "{words}");
            assert!(fault.to_string().len() > 20, "{words}");
        }
        assert!(NicFault::NoMemory.to_string().contains("start fewer VMs"));
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
        assert_eq!(all.len(), 4 * MAX_NICS);
    }

    proptest! {
        #[test]
        fn no_words_panic(words in "(net=a )?([a-z]{2,10}=[0-9a-zA-Z:.,/-]{0,12} ){0,5}") {
            if let Err(fault) = read(&words) {
                prop_assert!(!fault.to_string().is_empty());
            }
        }
    }
}
