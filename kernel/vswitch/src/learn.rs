//! Which address is behind which port.
//!
//! A table of fixed size, in buckets. Who reads takes no lock; a read that meets a change may miss, or find a port that had the address a
//! moment ago. Where a port has as many addresses as it may, or a bucket is full of others', an address is not learnt, and frames for it
//! go to all: no port can push out what another has.
//!
//! Source: IEEE 802.1Q-2018, "The Learning Process", "Ageing of Dynamic Filtering Entries".

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use spin::Mutex;

use crate::port::{MAX_PORTS, Mac, PortId};

const WAYS: usize = 4;
/// Addresses that one port may have.
pub const MOST_PER_PORT: u32 = 256;
/// Seconds after which an address is forgotten that nothing came from.
pub const USUAL_AGE: u32 = 300;
const VALID: u64 = 1 << 63;

/// One address. Zero stands for none.
#[derive(Debug, Default)]
struct Slot {
    /// [`VALID`], the VLAN in bits 59 to 48, the address below.
    key: AtomicU64,
    /// The port in bits 39 to 32, the second when something last came from there below.
    value: AtomicU64,
}

/// The table.
#[derive(Debug)]
pub struct Addresses {
    slots: Box<[[Slot; WAYS]]>,
    /// Who changes more than the time of an entry.
    writer: Mutex<()>,
    per_port: [AtomicU32; MAX_PORTS],
    age: AtomicU32,
}

#[inline]
fn key(mac: Mac, vlan: u16) -> u64 {
    let [a, b, c, d, e, f] = mac;
    VALID | u64::from(vlan) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

const fn value(port: PortId, second: u32) -> u64 {
    (port.index() as u64) << 32 | second as u64
}

const fn port_of(value: u64) -> Option<PortId> {
    PortId::new((value >> 32) as usize)
}

impl Addresses {
    /// A table for so many addresses. `None` where there is no memory for it.
    pub fn new(addresses: usize) -> Option<Self> {
        let buckets = addresses.div_ceil(WAYS).next_power_of_two();
        let mut slots = Vec::new();
        slots.try_reserve_exact(buckets).ok()?;
        slots.resize_with(buckets, Default::default);
        Some(Self {
            slots: slots.into_boxed_slice(),
            writer: Mutex::new(()),
            per_port: [const { AtomicU32::new(0) }; MAX_PORTS],
            age: AtomicU32::new(USUAL_AGE),
        })
    }

    /// Seconds after which an address is forgotten; 0 for never.
    pub fn set_age(&self, seconds: u32) {
        self.age.store(seconds, Relaxed);
    }

    #[inline]
    fn bucket(&self, key: u64) -> Option<&[Slot; WAYS]> {
        // The product's highest bits: the VLAN, which is high up in the key, changes no others.
        let bits = self.slots.len().trailing_zeros();
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 >> 32_u32.saturating_sub(bits);
        self.slots.get(hash as usize)
    }

    fn is_old(&self, value: u64, second: u32) -> bool {
        let age = self.age.load(Relaxed);
        age != 0 && second.wrapping_sub(value as u32) as i32 > age as i32
    }

    /// The port that an address is behind.
    #[inline]
    pub fn find(&self, mac: Mac, vlan: u16, second: u32) -> Option<PortId> {
        let key = key(mac, vlan);
        let slot = self.bucket(key)?.iter().find(|slot| slot.key.load(Relaxed) == key)?;
        let value = slot.value.load(Relaxed);
        // It may be another address' by now.
        if slot.key.load(Relaxed) != key || self.is_old(value, second) {
            return None;
        }
        port_of(value)
    }

    /// Something has come from an address behind a port.
    #[inline]
    pub fn learn(&self, mac: Mac, vlan: u16, port: PortId, second: u32) {
        let key = key(mac, vlan);
        let Some(bucket) = self.bucket(key) else { return };
        let fresh = value(port, second);
        let known = bucket.iter().find(|slot| slot.key.load(Relaxed) == key);
        if known.is_some_and(|slot| slot.value.load(Relaxed) == fresh) {
            return;
        }
        self.change(bucket, key, (port, second));
    }

    #[cold]
    fn change(&self, bucket: &[Slot; WAYS], key: u64, (port, second): (PortId, u32)) {
        // Another CPU is at it: the next frame will do.
        let Some(_writer) = self.writer.try_lock() else { return };
        let is = |slot: &&Slot| slot.key.load(Relaxed) == key;
        if let Some(slot) = bucket.iter().find(is) {
            let before = slot.value.load(Relaxed);
            if port_of(before) != Some(port) && !self.may_have_more(port) {
                // It is no longer where it was.
                self.clear(slot);
                return;
            }
            self.count(before, port);
            slot.value.store(value(port, second), Relaxed);
            return;
        }
        let has_room = self.may_have_more(port);
        let free =
            |slot: &&Slot| slot.key.load(Relaxed) == 0 || self.is_old(slot.value.load(Relaxed), second);
        let own = |slot: &&Slot| port_of(slot.value.load(Relaxed)) == Some(port);
        let place = if has_room { bucket.iter().find(free) } else { None };
        let oldest = || {
            bucket
                .iter()
                .filter(|slot| slot.key.load(Relaxed) != 0)
                .filter(own)
                .max_by_key(|slot| second.wrapping_sub(slot.value.load(Relaxed) as u32))
        };
        let Some(slot) = place.or_else(oldest) else { return };
        self.clear(slot);
        self.add(port, 1);
        slot.value.store(value(port, second), Relaxed);
        slot.key.store(key, Relaxed);
    }

    fn may_have_more(&self, port: PortId) -> bool {
        self.per_port.get(port.index()).is_some_and(|count| count.load(Relaxed) < MOST_PER_PORT)
    }

    fn add(&self, port: PortId, more: u32) {
        if let Some(count) = self.per_port.get(port.index()) {
            count.fetch_add(more, Relaxed);
        }
    }

    /// An address moves from where `before` says to a port.
    fn count(&self, before: u64, port: PortId) {
        if let Some(count) = port_of(before).and_then(|it| self.per_port.get(it.index())) {
            count.fetch_sub(1, Relaxed);
        }
        self.add(port, 1);
    }

    fn clear(&self, slot: &Slot) {
        if slot.key.swap(0, Relaxed) == 0 {
            return;
        }
        if let Some(count) = port_of(slot.value.load(Relaxed)).and_then(|it| self.per_port.get(it.index())) {
            count.fetch_sub(1, Relaxed);
        }
    }

    /// Forgets what is behind a port, in every VLAN.
    pub fn forget(&self, port: PortId) {
        let _writer = self.writer.lock();
        for slot in self.slots.iter().flatten() {
            if self.count_of(port) == 0 {
                return;
            }
            if slot.key.load(Relaxed) != 0 && port_of(slot.value.load(Relaxed)) == Some(port) {
                self.clear(slot);
            }
        }
    }

    /// How many addresses are behind a port.
    pub fn count_of(&self, port: PortId) -> u32 {
        self.per_port.get(port.index()).map_or(0, |count| count.load(Relaxed))
    }

    /// `with(address, VLAN, port, age in seconds)` for all that are not forgotten.
    pub fn list(&self, second: u32, mut with: impl FnMut(Mac, u16, PortId, u32)) {
        for slot in self.slots.iter().flatten() {
            let (key, value) = (slot.key.load(Relaxed), slot.value.load(Relaxed));
            let Some(port) = port_of(value).filter(|_| key != 0 && !self.is_old(value, second)) else {
                continue;
            };
            let [_, _, a, b, c, d, e, f] = key.to_be_bytes();
            let vlan = (key >> 48) as u16 & 0xfff;
            with([a, b, c, d, e, f], vlan, port, second.wrapping_sub(value as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn port(number: usize) -> PortId {
        PortId::new(number).expect("a port")
    }

    const fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        [2, 0, a, b, c, d]
    }

    #[test]
    fn addresses_are_learnt_move_and_are_forgotten() {
        let table = Addresses::new(64).expect("memory");
        assert_eq!(table.find(mac(1), 1, 0), None);
        table.learn(mac(1), 1, port(3), 0);
        assert_eq!((table.find(mac(1), 1, 300), table.find(mac(1), 2, 0)), (Some(port(3)), None));
        assert_eq!(table.find(mac(1), 1, 301), None, "it is too old");
        table.learn(mac(1), 1, port(4), 200);
        assert_eq!(table.find(mac(1), 1, 500), Some(port(4)));
        assert_eq!((table.count_of(port(3)), table.count_of(port(4))), (0, 1));
        table.set_age(0);
        assert_eq!(table.find(mac(1), 1, 100_000), Some(port(4)));
        table.forget(port(4));
        assert_eq!((table.find(mac(1), 1, 200), table.count_of(port(4))), (None, 0));
    }

    #[test]
    fn one_address_has_a_place_in_each_of_many_vlans() {
        let table = Addresses::new(2048).expect("memory");
        (1..=64).for_each(|vlan| table.learn(mac(1), vlan, port(1), 0));
        assert!((1..=64).all(|vlan| table.find(mac(1), vlan, 0) == Some(port(1))), "as a router's");
    }

    #[test]
    fn a_flood_of_addresses_pushes_out_only_its_own() {
        let table = Addresses::new(256).expect("memory");
        (0..40).for_each(|number| table.learn(mac(number), 1, port(1), 0));
        let known =
            |table: &Addresses| (0..40).filter(|number| table.find(mac(*number), 1, 1).is_some()).count();
        let before = known(&table);
        (1000..50_000).for_each(|number| table.learn(mac(number), 1, port(2), 1));
        assert_eq!(known(&table), before);
        assert!(table.count_of(port(2)) <= MOST_PER_PORT);
        let mut listed = 0;
        table.list(1, |_, _, at, _| listed += u32::from(at == port(2)));
        assert_eq!(listed, table.count_of(port(2)));
    }

    proptest! {
        /// What the table says is what was learnt last, or nothing.
        #[test]
        fn it_never_says_what_was_not_learnt(
            acts in prop::collection::vec((0_u32..60, 1_u16..4, 0_usize..5, 0_u32..40), 1..300),
        ) {
            let table = Addresses::new(32).expect("memory");
            let (mut model, mut second) = (HashMap::new(), 0);
            for (number, vlan, at, later) in acts {
                second += later;
                table.learn(mac(number), vlan, port(at), second);
                model.insert((number, vlan), (port(at), second));
                for ((number, vlan), (at, seen)) in &model {
                    if let Some(found) = table.find(mac(*number), *vlan, second) {
                        prop_assert_eq!(found, *at);
                        prop_assert!(second - seen <= USUAL_AGE);
                    }
                }
            }
            for number in 0..5 {
                let mut listed = 0;
                table.set_age(0);
                table.list(second, |_, _, at, _| listed += u32::from(at == port(number)));
                prop_assert_eq!(listed, table.count_of(port(number)));
            }
        }
    }
}
