//! The two cascaded 8259A interrupt controllers of a PC, with the edge/level registers (ELCR) of PCI chipsets.
//!
//! Sources: Intel 8259A data sheet, "Programming the 8259A"; Intel 82371AB (PIIX4) data sheet, "Interrupt Controller
//! Registers" for the ELCR. Differences: an edge stays latched when its line falls before it is acknowledged, as in
//! other virtual machines (no spurious IRQ 7 for it); ICW3 and the buffered modes are accepted and have no effect.

mod controller;
#[cfg(test)]
mod tests;

use crate::bus::IoError;
use controller::Controller;

/// The master's input that the slave drives.
const CASCADE: u8 = 2;

/// Which of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PicSelect {
    /// Ports 0x20 and 0x21, IRQ 0 to 7.
    Master,
    /// Ports 0xa0 and 0xa1, IRQ 8 to 15.
    Slave,
}

/// The pair. Its output to the processor is [`PicPair::interrupt`].
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Controller,
    slave: Controller,
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}

impl PicPair {
    /// ELCR bits that exist: IRQ 0 to 2, 8 and 13 are always edge-triggered.
    const ELCR_MASTER: u8 = 0xf8;
    const ELCR_SLAVE: u8 = 0xde;

    /// Both uninitialised, all requests masked.
    pub const fn new() -> Self {
        let mut master = Controller::new();
        // The slave's output counts as it stands: each look at the master sees the slave's present state.
        master.level_triggered = 1 << CASCADE;
        Self { master, slave: Controller::new() }
    }

    /// Makes `irq` (0 to 15) level-triggered, as firmware does for the SCI.
    pub fn set_level_triggered(&mut self, irq: u8) {
        let elcr =
            u16::from_le_bytes([self.read_elcr(0), self.read_elcr(1)]) | 1u16.unbounded_shl(irq.into());
        let [low, high] = elcr.to_le_bytes();
        self.write_elcr(0, low);
        self.write_elcr(1, high);
    }

    /// Makes `irq` (0 to 7) high from the start: that is no edge.
    pub fn start_high(&mut self, irq: u8) {
        self.master.start_high(irq);
    }

    /// Drives the input line `irq` (0 to 15).
    #[inline]
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..=7 => self.master.set_line(irq, level),
            8..=15 => {
                self.slave.set_line(irq - 8, level);
                self.cascade();
            }
            _ => {}
        }
    }

    /// The level of the output to the processor (INTR).
    #[inline(always)]
    pub fn interrupt(&self) -> bool {
        self.master.has_requests() && self.master.pending().is_some()
    }

    /// The processor's acknowledge cycle: the vector, which is that of IRQ 7 (15) when the request is gone.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.acknowledge() {
            Some(CASCADE) => {
                let irq = self.slave.acknowledge().unwrap_or(Controller::SPURIOUS);
                self.slave.vector(irq)
            }
            Some(irq) => self.master.vector(irq),
            None => self.master.vector(Controller::SPURIOUS),
        };
        self.cascade();
        vector
    }

    /// Reads port 0 (command) or 1 (data) of one controller.
    pub fn read(&mut self, which: PicSelect, offset: u16) -> Result<u8, IoError> {
        let controller = self.controller(which);
        let value = match offset {
            0 => controller.read_command(),
            1 => controller.read_data(),
            _ => return Err(IoError::NoRegister { offset }),
        };
        self.cascade();
        Ok(value)
    }

    /// Writes port 0 (command) or 1 (data) of one controller.
    pub fn write(&mut self, which: PicSelect, offset: u16, value: u8) -> Result<(), IoError> {
        let controller = self.controller(which);
        match offset {
            0 => controller.write_command(value),
            1 => controller.write_data(value),
            _ => return Err(IoError::NoRegister { offset }),
        }
        self.cascade();
        Ok(())
    }

    /// Reads an edge/level register: offset 0 for the master's, 1 for the slave's.
    pub fn read_elcr(&self, offset: u16) -> u8 {
        if offset == 0 {
            self.master.level_triggered & Self::ELCR_MASTER
        } else {
            self.slave.level_triggered & Self::ELCR_SLAVE
        }
    }

    /// Writes an edge/level register: offset 0 for the master's, 1 for the slave's.
    pub fn write_elcr(&mut self, offset: u16, value: u8) {
        if offset == 0 {
            self.master.level_triggered = value & Self::ELCR_MASTER | 1 << CASCADE;
        } else {
            self.slave.level_triggered = value & Self::ELCR_SLAVE;
        }
        self.cascade();
    }

    fn controller(&mut self, which: PicSelect) -> &mut Controller {
        match which {
            PicSelect::Master => &mut self.master,
            PicSelect::Slave => &mut self.slave,
        }
    }

    #[inline]
    fn cascade(&mut self) {
        self.master.set_line(CASCADE, self.slave.pending().is_some());
    }
}
