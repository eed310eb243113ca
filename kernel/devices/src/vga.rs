//! A VGA adapter's registers, as far as software in text mode uses them. Its text memory is RAM of the guest at
//! [`Vga::TEXT`], so that writing there costs no exit; what its owner shows of it starts at [`Vga::start`].
//!
//! Registers are kept and read back; of all of them only the start address and the cursor have a meaning here. There are no
//! graphics modes, no fonts and no retrace: the status register's bits alternate, so that nobody waits for ever.
//!
//! Source: IBM VGA XGA technical reference, "VGA Function": "CRT Controller Registers", "Attribute Controller Registers",
//! "Video Digital-to-Analog Converter"; OSDev's description of the ports.

use vcpu::Gpa;

use crate::bus::IoError;

/// Offsets from [`Vga::PORT`].
mod offset {
    pub(super) const ATTRIBUTE: u16 = 0x0;
    pub(super) const ATTRIBUTE_READ: u16 = 0x1;
    pub(super) const MISC_WRITE: u16 = 0x2;
    pub(super) const SEQUENCER_INDEX: u16 = 0x4;
    pub(super) const SEQUENCER: u16 = 0x5;
    pub(super) const PIXEL_MASK: u16 = 0x6;
    pub(super) const PALETTE_READ_INDEX: u16 = 0x7;
    pub(super) const PALETTE_WRITE_INDEX: u16 = 0x8;
    pub(super) const PALETTE: u16 = 0x9;
    pub(super) const MISC_READ: u16 = 0xc;
    pub(super) const GRAPHICS_INDEX: u16 = 0xe;
    pub(super) const GRAPHICS: u16 = 0xf;
    pub(super) const CRTC_INDEX: u16 = 0x14;
    pub(super) const CRTC: u16 = 0x15;
    pub(super) const STATUS: u16 = 0x1a;
}

/// Registers of the CRT controller with a meaning.
mod crtc {
    pub(super) const START_HIGH: u8 = 0x0c;
    pub(super) const CURSOR_HIGH: u8 = 0x0e;
}

/// Colour, RAM enabled, 28 MHz, 400 lines.
const MISC_TEXT_MODE: u8 = 0x67;
/// Retrace and display-disabled.
const STATUS_RETRACE: u8 = 0x09;

/// Registers behind an index of five bits.
#[derive(Clone, Debug, Default)]
struct Indexed {
    index: u8,
    values: [u8; 32],
}

impl Indexed {
    fn get(&self, index: u8) -> u8 {
        self.values.get(usize::from(index & 0x1f)).copied().unwrap_or_default()
    }

    fn read(&self) -> u8 {
        self.get(self.index)
    }

    fn write(&mut self, value: u8) {
        if let Some(slot) = self.values.get_mut(usize::from(self.index & 0x1f)) {
            *slot = value;
        }
    }
}

/// The adapter.
#[derive(Clone, Debug)]
pub struct Vga {
    sequencer: Indexed,
    graphics: Indexed,
    attribute: Indexed,
    /// The next write to the attribute port is data.
    attribute_data: bool,
    crtc: Indexed,
    misc: u8,
    palette_index: u8,
    retrace: bool,
}

impl Default for Vga {
    fn default() -> Self {
        Self {
            sequencer: Indexed::default(),
            graphics: Indexed::default(),
            attribute: Indexed::default(),
            attribute_data: false,
            crtc: Indexed::default(),
            misc: MISC_TEXT_MODE,
            palette_index: 0,
            retrace: false,
        }
    }
}

impl Vga {
    /// Its first port.
    pub const PORT: u16 = 0x3c0;
    /// Ports from there: the last is the colour adapter's status register.
    pub const PORTS: u16 = 0x1b;
    /// Text memory: two bytes a character, its code and its colours.
    pub const TEXT: Gpa = Gpa(0xb_8000);
    /// Bytes of text memory.
    pub const TEXT_SIZE: u64 = 0x8000;
    /// Characters in a row.
    pub const COLUMNS: u8 = 80;
    /// Rows.
    pub const ROWS: u8 = 25;

    /// The first character shown, counted from the start of text memory.
    pub fn start(&self) -> u16 {
        self.pair(crtc::START_HIGH)
    }

    /// The character under the cursor, counted likewise.
    pub fn cursor(&self) -> u16 {
        self.pair(crtc::CURSOR_HIGH)
    }

    fn pair(&self, high: u8) -> u16 {
        u16::from_be_bytes([self.crtc.get(high), self.crtc.get(high + 1)])
    }

    /// Reads a port.
    pub(crate) fn read(&mut self, offset: u16) -> Result<u8, IoError> {
        Ok(match offset {
            offset::ATTRIBUTE => self.attribute.index,
            offset::ATTRIBUTE_READ => self.attribute.read(),
            offset::SEQUENCER_INDEX => self.sequencer.index,
            offset::SEQUENCER => self.sequencer.read(),
            offset::PIXEL_MASK => 0xff,
            offset::PALETTE_READ_INDEX | offset::PALETTE => 0,
            offset::PALETTE_WRITE_INDEX => self.palette_index,
            offset::MISC_READ => self.misc,
            offset::GRAPHICS_INDEX => self.graphics.index,
            offset::GRAPHICS => self.graphics.read(),
            offset::CRTC_INDEX => self.crtc.index,
            offset::CRTC => self.crtc.read(),
            offset::STATUS => {
                self.attribute_data = false;
                self.retrace = !self.retrace;
                if self.retrace { STATUS_RETRACE } else { 0 }
            }
            _ => return Err(IoError::NoRegister { offset }),
        })
    }

    /// Writes a port.
    pub(crate) fn write(&mut self, offset: u16, value: u8) -> Result<(), IoError> {
        match offset {
            offset::ATTRIBUTE => {
                if self.attribute_data {
                    self.attribute.write(value);
                } else {
                    self.attribute.index = value;
                }
                self.attribute_data = !self.attribute_data;
            }
            offset::MISC_WRITE => self.misc = value,
            offset::SEQUENCER_INDEX => self.sequencer.index = value,
            offset::SEQUENCER => self.sequencer.write(value),
            offset::PALETTE_WRITE_INDEX => self.palette_index = value,
            offset::PIXEL_MASK | offset::PALETTE_READ_INDEX | offset::PALETTE => {}
            offset::GRAPHICS_INDEX => self.graphics.index = value,
            offset::GRAPHICS => self.graphics.write(value),
            offset::CRTC_INDEX => self.crtc.index = value,
            offset::CRTC => self.crtc.write(value),
            _ => return Err(IoError::NoRegister { offset }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_and_cursor_follow_their_registers() {
        let mut vga = Vga::default();
        assert_eq!((vga.start(), vga.cursor()), (0, 0));
        for (index, value) in [(0xc, 0x01), (0xd, 0x40), (0xe, 0x02), (0xf, 0x85)] {
            vga.write(offset::CRTC_INDEX, index).unwrap();
            vga.write(offset::CRTC, value).unwrap();
            assert_eq!(vga.read(offset::CRTC), Ok(value));
        }
        assert_eq!((vga.start(), vga.cursor()), (0x140, 0x285));
    }

    #[test]
    fn the_attribute_port_takes_index_and_data_in_turn() {
        let mut vga = Vga::default();
        for byte in [0x10, 0x5a, 0x11] {
            vga.write(offset::ATTRIBUTE, byte).unwrap();
        }
        let first = vga.read(offset::STATUS).unwrap();
        assert_ne!(first, vga.read(offset::STATUS).unwrap(), "retrace comes and goes");
        vga.write(offset::ATTRIBUTE, 0x30).unwrap();
        assert_eq!(vga.read(offset::ATTRIBUTE_READ), Ok(0x5a), "five bits of the index count");
        for port in 0..Vga::PORTS {
            let _ = (vga.write(port, 0xff), vga.read(port));
        }
        assert_eq!(vga.read(offset::CRTC), Ok(0xff));
    }
}
