//! Commands of the driver's: which frames it wants, its address, how many pairs of queues it uses.
//!
//! Source: VIRTIO 1.2, "Control Virtqueue" of the network device.

use core::sync::atomic::Ordering::SeqCst;

use vcpu::GuestMemory;

use super::filter::Addresses;
use super::{Net, feature};
use crate::queue::{Broken, Chain, Cursor};

const OK: u8 = 0;
const ERROR: u8 = 1;

/// Classes, and their commands.
mod class {
    pub(super) const RECEIVE: u8 = 0;
    pub(super) const MAC: u8 = 1;
    pub(super) const VLAN: u8 = 2;
    pub(super) const PAIRS: u8 = 4;
}
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDRESS_SET: u8 = 1;
const VLAN_ADD: u8 = 0;
const VLAN_REMOVE: u8 = 1;
const PAIRS_SET: u8 = 0;

/// Addresses that a command says at most: what the largest of drivers might have, and no more work than a large frame's.
const MOST_SAID: u32 = 1024;

/// The command cannot be carried out, and nothing was.
struct Refused;

impl From<Broken> for Refused {
    fn from(_: Broken) -> Self {
        Self
    }
}

struct Said<'a, M> {
    chain: &'a Chain,
    memory: &'a M,
    rest: Cursor,
}

impl<M: GuestMemory> Said<'_, M> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.rest.read(self.chain, self.memory, &mut bytes)?;
        Ok(bytes)
    }

    fn addresses(&mut self) -> Result<Addresses, Refused> {
        let count = u32::from_le_bytes(self.bytes()?);
        if count > MOST_SAID {
            return Err(Refused);
        }
        let mut addresses = Addresses::default();
        for _ in 0..count {
            addresses.add(self.bytes()?);
        }
        Ok(addresses)
    }
}

impl Net {
    /// Carries out a command. Returns how many bytes were written.
    ///
    /// # Errors
    /// [`Broken`] where it is none, or there is no place for its end.
    pub(crate) fn command<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Result<u32, Broken> {
        let mut said = Said { chain, memory, rest: chain.readable() };
        let [class, command] = said.bytes()?;
        let done = self.carry_out(class, command, &mut said);
        let result = if done.is_ok() { OK } else { ERROR };
        chain.writable().write(chain, memory, &[result])?;
        Ok(1)
    }

    fn carry_out<M: GuestMemory>(
        &self,
        class: u8,
        command: u8,
        said: &mut Said<'_, M>,
    ) -> Result<(), Refused> {
        match (class, command) {
            (class::RECEIVE, _) if self.has(feature::CTRL_RX) => {
                let [on] = said.bytes()?;
                self.switch(command, on != 0)
            }
            (class::MAC, MAC_TABLE_SET) if self.has(feature::CTRL_RX) => {
                let (unicast, multicast) = (said.addresses()?, said.addresses()?);
                let mut filter = self.filter.lock();
                (filter.unicast, filter.multicast) = (unicast, multicast);
                Ok(())
            }
            (class::MAC, MAC_ADDRESS_SET) if self.has(feature::CTRL_MAC_ADDR) => {
                self.filter.lock().set_mac(said.bytes()?);
                Ok(())
            }
            (class::VLAN, VLAN_ADD | VLAN_REMOVE) if self.has(feature::CTRL_VLAN) => {
                let vlan = u16::from_le_bytes(said.bytes()?);
                self.filter.lock().set_vlan(vlan, command == VLAN_ADD);
                Ok(())
            }
            (class::PAIRS, PAIRS_SET) if self.has(feature::MQ) => {
                let pairs = u16::from_le_bytes(said.bytes()?);
                if !(1..=self.pairs).contains(&pairs) {
                    return Err(Refused);
                }
                self.active.store(pairs, SeqCst);
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    fn switch(&self, command: u8, on: bool) -> Result<(), Refused> {
        let extra = self.has(feature::CTRL_RX_EXTRA);
        let mut filter = self.filter.lock();
        let modes = &mut filter.modes;
        let place = match command {
            0 => &mut modes.promiscuous,
            1 => &mut modes.all_multicast,
            2 if extra => &mut modes.all_unicast,
            3 if extra => &mut modes.no_multicast,
            4 if extra => &mut modes.no_unicast,
            5 if extra => &mut modes.no_broadcast,
            _ => return Err(Refused),
        };
        *place = on;
        Ok(())
    }
}
