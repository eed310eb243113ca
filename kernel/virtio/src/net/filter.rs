//! Whom a frame must be for, so that the driver wants it.
//!
//! Source: VIRTIO 1.2, "Packet Receive Filtering", "Setting MAC Address Filtering", "VLAN Filtering".

use arrayvec::ArrayVec;

use vswitch::Mac;
use vswitch::port::{BROADCAST, is_group};

use super::frame::Start;

/// Addresses that are kept; where there are more, all of their kind are wanted.
pub(super) const MOST_ADDRESSES: usize = 64;
const VLANS: usize = 4096;

/// Switches of the driver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Modes {
    pub(super) promiscuous: bool,
    pub(super) all_multicast: bool,
    pub(super) all_unicast: bool,
    pub(super) no_multicast: bool,
    pub(super) no_unicast: bool,
    pub(super) no_broadcast: bool,
}

/// Addresses of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    list: ArrayVec<Mac, MOST_ADDRESSES>,
    /// There were more than the list holds.
    overflow: bool,
}

impl Addresses {
    pub(super) fn add(&mut self, mac: Mac) {
        self.overflow |= self.list.try_push(mac).is_err();
    }

    fn has(&self, mac: &Mac) -> bool {
        self.overflow || self.list.contains(mac)
    }
}

#[derive(Debug)]
pub(super) struct Filter {
    /// The address after power-up, and now.
    first: Mac,
    mac: Mac,
    pub(super) modes: Modes,
    pub(super) unicast: Addresses,
    pub(super) multicast: Addresses,
    vlans: [u64; VLANS / 64],
}

impl Filter {
    pub(super) fn new(mac: Mac) -> Self {
        let (unicast, multicast) = (Addresses::default(), Addresses::default());
        // Until the driver says otherwise it wants everything.
        let modes = Modes { promiscuous: true, ..Modes::default() };
        Self { first: mac, mac, modes, unicast, multicast, vlans: [0; VLANS / 64] }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.first);
    }

    pub(super) const fn mac(&self) -> Mac {
        self.mac
    }

    pub(super) const fn set_mac(&mut self, mac: Mac) {
        self.mac = mac;
    }

    pub(super) fn set_vlan(&mut self, vlan: u16, wanted: bool) {
        let vlan = usize::from(vlan);
        if let Some(word) = self.vlans.get_mut(vlan / 64) {
            let bit = 1 << (vlan % 64);
            *word = if wanted { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the driver wants the frame; each of the two filters counts where it has agreed to it.
    pub(super) fn wants(&self, frame: Start<'_>, by_address: bool, by_vlan: bool) -> bool {
        let Some(to) = frame.destination() else { return false };
        if by_vlan && !self.modes.promiscuous && !frame.vlan().is_none_or(|vlan| self.has_vlan(vlan)) {
            return false;
        }
        if !by_address {
            return true;
        }
        let Modes { promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast } =
            self.modes;
        promiscuous
            || if to == BROADCAST {
                !no_broadcast
            } else if is_group(&to) {
                !no_multicast && (all_multicast || self.multicast.has(&to))
            } else {
                !no_unicast && (all_unicast || to == self.mac || self.unicast.has(&to))
            }
    }

    fn has_vlan(&self, vlan: u16) -> bool {
        let vlan = usize::from(vlan);
        self.vlans.get(vlan / 64).is_some_and(|word| word >> (vlan % 64) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const GROUP: Mac = [3, 0, 0, 0, 0, 1];

    fn wants(filter: &Filter, to: Mac) -> bool {
        filter.wants(Start(&[&to[..], &[0; 8]].concat()), true, true)
    }

    #[test]
    fn a_new_driver_gets_everything_and_then_what_it_asks_for() {
        let mut filter = Filter::new(OWN);
        assert!([OWN, OTHER, GROUP, BROADCAST].into_iter().all(|to| wants(&filter, to)));
        filter.modes.promiscuous = false;
        assert_eq!([OWN, OTHER, GROUP, BROADCAST].map(|to| wants(&filter, to)), [true, false, false, true]);
        filter.unicast.add(OTHER);
        filter.multicast.add(GROUP);
        assert!([OWN, OTHER, GROUP].into_iter().all(|to| wants(&filter, to)));
        filter.modes = Modes { no_unicast: true, no_multicast: true, no_broadcast: true, ..Modes::default() };
        assert!([OWN, OTHER, GROUP, BROADCAST].into_iter().all(|to| !wants(&filter, to)));
        filter.set_mac(OTHER);
        filter.reset();
        assert_eq!((filter.mac(), wants(&filter, OTHER)), (OWN, true));
    }

    #[test]
    fn more_addresses_than_fit_let_all_of_them_in() {
        let mut filter = Filter::new(OWN);
        filter.modes.promiscuous = false;
        (0..=MOST_ADDRESSES as u8).for_each(|at| filter.multicast.add([3, 0, 0, 0, 1, at]));
        assert!(wants(&filter, GROUP) && !wants(&filter, OTHER));
    }

    #[test]
    fn vlans_are_let_in_one_by_one() {
        let mut filter = Filter::new(OWN);
        filter.modes.promiscuous = false;
        let frame = |vlan: u8| [&OWN[..], &[0; 6], &[0x81, 0, 0x20, vlan, 8, 0]].concat();
        let wants = |filter: &Filter, vlan| filter.wants(Start(&frame(vlan)), true, true);
        assert!(!wants(&filter, 7));
        filter.set_vlan(7, true);
        assert!(wants(&filter, 7) && !wants(&filter, 8));
        filter.set_vlan(7, false);
        assert!(!wants(&filter, 7));
        assert!(filter.wants(Start(&frame(7)), true, false), "who has not agreed to it has no such filter");
    }
}
