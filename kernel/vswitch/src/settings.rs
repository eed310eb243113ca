//! What can be set of a port.

use arrayvec::ArrayVec;

use crate::frame::Address;
use crate::meter::Rate;
use crate::port::Mac;

/// VLANs' numbers: 0 stands for none, 4095 is reserved.
pub const VLANS: core::ops::RangeInclusive<u16> = 1..=4094;
/// The VLAN of a port that says nothing.
pub const USUAL_VLAN: u16 = 1;
/// IP addresses that a port may be bound to at most.
pub const MOST_ADDRESSES: usize = 8;
/// Frames a second of each of the three kinds that go to many, by default.
pub const USUAL_STORM: u32 = 20_000;

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VlanSet([u64; 64]);

impl VlanSet {
    /// None.
    pub const NONE: Self = Self([0; 64]);

    /// All that there are.
    pub const fn all() -> Self {
        let mut words = [u64::MAX; 64];
        words[0] = !1;
        words[63] = u64::MAX >> 1;
        Self(words)
    }

    /// One more, where it is a VLAN's number.
    pub fn add(&mut self, vlan: u16) {
        if let Some(word) = self.0.get_mut(usize::from(vlan / 64)).filter(|_| VLANS.contains(&vlan)) {
            *word |= 1 << (vlan % 64);
        }
    }

    /// Whether it is one of them.
    pub fn has(&self, vlan: u16) -> bool {
        self.0.get(usize::from(vlan / 64)).is_some_and(|word| word >> (vlan % 64) & 1 != 0)
    }
}

/// Which VLANs a port is in.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "it is changed without a heap")]
pub enum Vlans {
    /// One, whose frames have no tags at the port.
    Access(u16),
    /// Several, whose frames have tags there, and one whose frames may have none.
    Trunk {
        /// Those with tags.
        tagged: VlanSet,
        /// The one without, if any.
        native: Option<u16>,
    },
}

/// An IP address, or a range of them that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// It is of IPv6.
    pub v6: bool,
    /// The address: see [`crate::frame::v4`].
    pub address: Address,
    /// How many of its first bits count: up to 32 for IPv4, up to 128 for IPv6.
    pub bits: u8,
}

impl Prefix {
    /// Whether an address begins so.
    pub fn has(&self, v6: bool, address: &Address) -> bool {
        if v6 != self.v6 {
            return false;
        }
        let bits = if v6 { u32::from(self.bits.min(128)) } else { 96 + u32::from(self.bits.min(32)) };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        (u128::from_be_bytes(*address) ^ u128::from_be_bytes(self.address)) & mask == 0
    }
}

/// Whose frames a port lets in.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Guard {
    /// Those from this address only.
    pub mac: Option<Mac>,
    /// IP, ARP and neighbour discovery from these addresses only, and nothing that is neither; without one, from any.
    pub addresses: ArrayVec<Prefix, MOST_ADDRESSES>,
}

/// How many frames a second a port may send that go to many, at least 1; `None` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Storm {
    /// To all.
    pub broadcast: Option<u32>,
    /// To groups.
    pub multicast: Option<u32>,
    /// To an address that is behind no port known.
    pub unknown: Option<u32>,
}

/// What can be set of a port. It can be changed at any time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// It is in use.
    pub up: bool,
    /// Its VLANs.
    pub vlans: Vlans,
    /// The priority, 0 to 7, of all that its device sends; `None` for what tags say.
    pub priority: Option<u8>,
    /// Bytes behind the Ethernet header that its device takes at most; `None` for any.
    pub mtu: Option<u16>,
    /// How much its device may send.
    pub send: Option<Rate>,
    /// How much it receives.
    pub receive: Option<Rate>,
    /// How much it can send even where its receiver does not take all that is sent to it.
    pub guaranteed: Option<Rate>,
    /// Limits on what goes to many.
    pub storm: Storm,
    /// Whose frames are let in.
    pub guard: Guard,
    /// Nothing goes between it and other isolated ports.
    pub isolated: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let storm = Some(USUAL_STORM);
        Self {
            up: true,
            vlans: Vlans::Access(USUAL_VLAN),
            priority: None,
            mtu: None,
            send: None,
            receive: None,
            guaranteed: None,
            storm: Storm { broadcast: storm, multicast: storm, unknown: storm },
            guard: Guard::default(),
            isolated: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::v4;

    #[test]
    fn sets_of_vlans_have_what_was_added_and_only_vlans() {
        let mut set = VlanSet::NONE;
        [0, 1, 77, 4094, 4095, 9000].into_iter().for_each(|vlan| set.add(vlan));
        let has: std::vec::Vec<u16> = (0..=u16::MAX).filter(|vlan| set.has(*vlan)).collect();
        assert_eq!(has, [1, 77, 4094]);
        assert!((0..=u16::MAX).all(|vlan| VlanSet::all().has(vlan) == VLANS.contains(&vlan)));
    }

    #[test]
    fn prefixes_are_of_one_family() {
        let net = Prefix { v6: false, address: v4([10, 1, 0, 0]), bits: 16 };
        assert!(net.has(false, &v4([10, 1, 255, 9])) && !net.has(false, &v4([10, 2, 0, 0])));
        assert!(!net.has(true, &v4([10, 1, 0, 0])), "an IPv6 address that looks like it");
        let all = Prefix { v6: true, address: [0; 16], bits: 0 };
        assert!(all.has(true, &[0xfe; 16]) && !all.has(false, &v4([1; 4])));
        let one = Prefix { v6: true, address: [1; 16], bits: 128 };
        assert!(one.has(true, &[1; 16]) && !one.has(true, &[0; 16]));
    }
}
