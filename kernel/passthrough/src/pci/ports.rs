//! Configuration mechanism 1: the address and the data register at ports CF8H and CFCH.
//!
//! Source: PCI 3.0, "Software Generation of Configuration Transactions". Dom0's address register is its own.

use devices::Width;
use vcpu::PciFunction;

use super::{Answer, Filter, Withdraw, lanes};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const DATA_LAST: u16 = 0xcff;
const ENABLE: u32 = 1 << 31;
/// Bits 30 to 24 are reserved: some chipsets take them as the upper part of the register where they are told to, this one never.
const WRITABLE: u32 = 0x80ff_fffc;

/// Whether an access that begins before the data register reaches it. No software means that.
const fn reaches(port: u16, width: Width) -> bool {
    port < DATA && port + width.bytes() as u16 > DATA
}

impl Filter<'_> {
    /// Reads a port. `None` where that is no access to configuration space: bytes and words at CF8H to CFBH are ports like others.
    pub fn port_read(&mut self, port: u16, width: Width, withdraw: &mut Withdraw<'_>) -> Option<Answer<u32>> {
        match port {
            ADDRESS if width == Width::Dword => Some(Answer::Done(self.address)),
            DATA..=DATA_LAST => Some(match self.target(port) {
                Some((function, register)) => self.read(function, register, width, withdraw),
                // With the real data register, it would be an access by the machine's address register.
                None => Answer::Done(lanes::ones(width)),
            }),
            _ if reaches(port, width) => Some(Answer::Done(lanes::ones(width))),
            _ => None,
        }
    }

    /// Writes a port. `None` as for [`Self::port_read`].
    pub fn port_write(
        &mut self,
        port: u16,
        width: Width,
        value: u32,
        withdraw: &mut Withdraw<'_>,
    ) -> Option<Answer<()>> {
        match port {
            ADDRESS if width == Width::Dword => {
                self.address = value & WRITABLE;
                Some(Answer::Done(()))
            }
            DATA..=DATA_LAST => Some(match self.target(port) {
                Some((function, register)) => self.write(function, register, width, value, withdraw),
                None => Answer::Done(()),
            }),
            _ if reaches(port, width) => Some(Answer::Done(())),
            _ => None,
        }
    }

    /// What the data register stands for from a port on, where it stands for something.
    fn target(&self, port: u16) -> Option<(PciFunction, u16)> {
        let register = self.address as u16 & 0xfc | port & 3;
        (self.address & ENABLE != 0).then_some((PciFunction((self.address >> 8) as u16), register))
    }
}
