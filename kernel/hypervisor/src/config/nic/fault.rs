//! What can be wrong with the words of a network device.

use core::fmt;

use vswitch::settings::{MOST_ADDRESSES, VLANS};

use super::MAX_NICS;
use super::words::{KNOWN, MTUS};
use crate::config::MAX_NAME;

/// What is wrong with the words of a network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NicFault<'a> {
    /// No name of a network.
    BadNetwork(&'a str),
    /// A word of a network device before there is one.
    NoNetwork(&'a str),
    /// There are more network devices than a VM can have.
    ManyNics,
    /// There is no memory for one more.
    NoMemory,
    /// No word of a port.
    Unknown(&'a str),
    /// A word of a device that stays as it was made.
    Fixed(&'a str),
    /// No address of a network device.
    BadMac(&'a str),
    /// No size of packets.
    BadMtu(&'a str),
    /// No VLAN.
    BadVlan(&'a str),
    /// No list of VLANs.
    BadTrunk(&'a str),
    /// No VLAN without tags.
    BadNative(&'a str),
    /// A word of a trunk where there is none.
    NoTrunk(&'a str),
    /// No priority.
    BadPriority(&'a str),
    /// A word with a rate that is none.
    BadRate(&'a str),
    /// A word with a limit that is none.
    BadStorm(&'a str),
    /// No IP address, or a size of a network that does not go with it.
    BadAddress(&'a str),
    /// There are more IP addresses than a port can be bound to.
    ManyAddresses,
    /// A port is bound to IP addresses, and not to its own hardware address.
    Spoofing(&'a str),
    /// A word that says one of two, and says neither.
    BadChoice(&'a str, &'static str),
}

impl fmt::Display for NicFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (VLANS.start(), VLANS.end());
        match self {
            Self::BadNetwork(name) => write!(
                f,
                "'{name}' is no name of a network; write 1 to {MAX_NAME} of the characters a-z, 0-9 and '-' after net="
            ),
            Self::NoNetwork(word) => write!(f, "'{word}' belongs behind the net=NETWORK that it is for"),
            Self::ManyNics => write!(f, "this VM has more than {MAX_NICS} network devices; leave some out"),
            Self::NoMemory => f.write_str(
                "there is no memory for one more network device; start fewer VMs or give the machine more",
            ),
            Self::Unknown(word) => write!(f, "'{word}' is unknown; write {KNOWN}"),
            Self::Fixed(word) => write!(
                f,
                "'{word}' has its place in the VM's line: a device keeps its network and its address while the machine runs"
            ),
            Self::BadMac(text) => write!(
                f,
                "'{text}' is no address of a network device; write six bytes such as mac=02:00:00:00:00:01, the first of them even"
            ),
            Self::BadMtu(text) => write!(
                f,
                "mtu='{text}' is no number from {} to {}; write mtu=1500, or mtu=off for no limit",
                MTUS.start(),
                MTUS.end()
            ),
            Self::BadVlan(text) => {
                write!(f, "vlan='{text}' is no number from {least} to {most}; write one such as vlan=10")
            }
            Self::BadTrunk(text) => write!(
                f,
                "trunk='{text}' is no list of VLANs from {least} to {most}; write one such as trunk=10,20-30, or trunk=all"
            ),
            Self::BadNative(text) => write!(
                f,
                "native='{text}' is no number from {least} to {most}; write the VLAN without tags, such as native=10, or native=none"
            ),
            Self::NoTrunk(word) => {
                write!(f, "'{word}' belongs behind trunk=; write vlan= for a port with one VLAN")
            }
            of_limits => of_limits.write_of_limits(f),
        }
    }
}

impl NicFault<'_> {
    fn write_of_limits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadPriority(text) => {
                write!(
                    f,
                    "priority='{text}' is no number from 0 to 7; write one, or priority=off for what tags say"
                )
            }
            Self::BadRate(word) => write!(
                f,
                "'{word}' is no rate; write bits a second from 1k to 1000G, such as 100M, with the bytes of a burst behind it where you want (100M:256K), or off"
            ),
            Self::BadStorm(word) => {
                write!(f, "'{word}' is no limit; write frames a second, 1 or more, or off for no limit")
            }
            Self::BadAddress(text) => write!(
                f,
                "'{text}' is no IP address; write one such as 10.0.0.5 or fd00::5, or 10.0.0.0/24 for all that begin so, with zeros behind those bits"
            ),
            Self::ManyAddresses => {
                write!(f, "ip= has more than {MOST_ADDRESSES} addresses; write ranges such as 10.0.0.0/24")
            }
            Self::Spoofing(word) => write!(
                f,
                "'{word}': a port that is bound to IP addresses is bound to its own hardware address, too; leave spoof=yes or ip= out (ip=off lifts it)"
            ),
            Self::BadChoice(word, choice) => write!(f, "'{word}' is unknown; write {choice}"),
            _ => Ok(()),
        }
    }
}
