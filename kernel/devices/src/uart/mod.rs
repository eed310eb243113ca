//! A 16550A serial port without a baud-rate clock: a byte is sent as soon as the console takes it.
//!
//! Sources: National Semiconductor PC16550D data sheet, "Registers" and "FIFO Interrupt Mode Operation".
//! Differences: no line errors, no break, and the receiver's character timeout comes at once instead of after four
//! character times. The modem lines say that a terminal is connected.

mod fifo;
#[cfg(test)]
mod tests;

use crate::bus::IoError;
use bitflags::bitflags;
use fifo::{FIFO_SIZE, Fifo};

/// Where the bytes go that a guest sends through its serial port.
pub trait ConsoleSink {
    /// Takes `byte`, or returns false when there is no room: the UART keeps the byte, its transmitter stays busy
    /// (LSR.THRE clear), and [`crate::Chipset::flush_console`] tries again.
    fn put(&mut self, byte: u8) -> bool;
}

/// Registers by offset from the base port; those at 0 and 1 change with LCR.DLAB, that at 2 with the direction.
mod offset {
    pub(super) const DATA: u16 = 0;
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    pub(super) const INTERRUPT_ID_OR_FIFO_CONTROL: u16 = 2;
    pub(super) const LINE_CONTROL: u16 = 3;
    pub(super) const MODEM_CONTROL: u16 = 4;
    pub(super) const LINE_STATUS: u16 = 5;
    pub(super) const MODEM_STATUS: u16 = 6;
    pub(super) const SCRATCH: u16 = 7;
}

bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct InterruptEnable: u8 {
        const RECEIVED_DATA = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// Gates the interrupt output in a PC.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ModemStatus: u8 {
        const DELTA_CTS = 1 << 0;
        const DELTA_DSR = 1 << 1;
        const TRAILING_EDGE_RI = 1 << 2;
        const DELTA_DCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
    }
}

const LINE_CONTROL_DIVISOR_LATCH: u8 = 1 << 7;

const LINE_STATUS_DATA_READY: u8 = 1 << 0;
const LINE_STATUS_OVERRUN: u8 = 1 << 1;
const LINE_STATUS_TRANSMITTER_HOLDING_EMPTY: u8 = 1 << 5;
const LINE_STATUS_TRANSMITTER_EMPTY: u8 = 1 << 6;

const FIFO_ENABLE: u8 = 1 << 0;
const FIFO_CLEAR_RECEIVER: u8 = 1 << 1;
const FIFO_CLEAR_TRANSMITTER: u8 = 1 << 2;
const FIFO_TRIGGER_SHIFT: u32 = 6;
/// Bytes in the receive FIFO that raise the interrupt, by the trigger field of the FIFO control register.
const FIFO_TRIGGER_LEVELS: [usize; 4] = [1, 4, 8, 14];

const INTERRUPT_NONE: u8 = 0x01;
const INTERRUPT_LINE_STATUS: u8 = 0x06;
const INTERRUPT_RECEIVED_DATA: u8 = 0x04;
const INTERRUPT_CHARACTER_TIMEOUT: u8 = 0x0c;
const INTERRUPT_TRANSMITTER_EMPTY: u8 = 0x02;
const INTERRUPT_MODEM_STATUS: u8 = 0x00;
const INTERRUPT_ID_FIFOS_ENABLED: u8 = 0xc0;

/// One 16550A. Its line level is [`Uart::irq`].
#[derive(Clone, Debug)]
pub struct Uart {
    interrupt_enable: InterruptEnable,
    line_control: u8,
    modem_control: ModemControl,
    modem_status: ModemStatus,
    scratch: u8,
    divisor: u16,
    fifos_enabled: bool,
    trigger: usize,
    overrun: bool,
    /// The transmitter ran empty and the interrupt for it has not been taken yet.
    transmitter_interrupt: bool,
    receive: Fifo,
    transmit: Fifo,
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart {
    /// Ports it occupies.
    pub const PORTS: u16 = 8;
    /// The divisor for 115200 baud; only ever read back.
    const DEFAULT_DIVISOR: u16 = 1;
    /// The lines of a connected terminal.
    const CONNECTED: ModemStatus = ModemStatus::CTS.union(ModemStatus::DSR).union(ModemStatus::DCD);

    /// The state after a master reset.
    pub const fn new() -> Self {
        Self {
            interrupt_enable: InterruptEnable::empty(),
            line_control: 0,
            modem_control: ModemControl::empty(),
            modem_status: Self::CONNECTED,
            scratch: 0,
            divisor: Self::DEFAULT_DIVISOR,
            fifos_enabled: false,
            trigger: 1,
            overrun: false,
            transmitter_interrupt: false,
            receive: Fifo::new(),
            transmit: Fifo::new(),
        }
    }

    /// The level of the interrupt line, as gated by OUT2.
    #[inline]
    pub fn irq(&self) -> bool {
        self.modem_control.contains(ModemControl::OUT2)
            && !self.modem_control.contains(ModemControl::LOOPBACK)
            && self.interrupt_id() != INTERRUPT_NONE
    }

    /// Reads the register at `offset`.
    pub fn read(&mut self, offset: u16) -> Result<u8, IoError> {
        Ok(match offset {
            offset::DATA if self.divisor_latch() => self.divisor as u8,
            offset::DATA => self.receive.pop().unwrap_or(0),
            offset::INTERRUPT_ENABLE if self.divisor_latch() => (self.divisor >> 8) as u8,
            offset::INTERRUPT_ENABLE => self.interrupt_enable.bits(),
            offset::INTERRUPT_ID_OR_FIFO_CONTROL => self.read_interrupt_id(),
            offset::LINE_CONTROL => self.line_control,
            offset::MODEM_CONTROL => self.modem_control.bits(),
            offset::LINE_STATUS => self.read_line_status(),
            offset::MODEM_STATUS => self.read_modem_status(),
            offset::SCRATCH => self.scratch,
            _ => return Err(IoError::NoRegister { offset }),
        })
    }

    /// Writes the register at `offset`; a sent byte goes to `sink`.
    pub fn write(&mut self, offset: u16, value: u8, sink: &mut impl ConsoleSink) -> Result<(), IoError> {
        match offset {
            offset::DATA if self.divisor_latch() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            offset::DATA => self.send(value, sink),
            offset::INTERRUPT_ENABLE if self.divisor_latch() => {
                self.divisor = self.divisor & 0x00ff | u16::from(value) << 8;
            }
            offset::INTERRUPT_ENABLE => self.write_interrupt_enable(value),
            offset::INTERRUPT_ID_OR_FIFO_CONTROL => self.write_fifo_control(value),
            offset::LINE_CONTROL => self.line_control = value,
            offset::MODEM_CONTROL => self.write_modem_control(value),
            // The line status is written by factory tests only, the modem status is read-only.
            offset::LINE_STATUS | offset::MODEM_STATUS => {}
            offset::SCRATCH => self.scratch = value,
            _ => return Err(IoError::NoRegister { offset }),
        }
        Ok(())
    }

    /// Offers kept bytes to `sink` again.
    pub fn flush(&mut self, sink: &mut impl ConsoleSink) {
        let was_empty = self.transmit.is_empty();
        while let Some(byte) = self.transmit.peek() {
            if !sink.put(byte) {
                return;
            }
            self.transmit.pop();
        }
        self.transmitter_interrupt |= !was_empty;
    }

    /// Whether bytes wait for the console to take them.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        !self.transmit.is_empty()
    }

    /// Takes one byte of console input; false when there is no room (the byte stays with the caller).
    pub fn receive(&mut self, byte: u8) -> bool {
        let room = self.room() > 0;
        if room {
            self.receive.push(byte);
        }
        room
    }

    /// How many bytes of console input it would take now. None in loopback mode.
    pub fn room(&self) -> usize {
        if self.modem_control.contains(ModemControl::LOOPBACK) {
            return 0;
        }
        self.depth().saturating_sub(self.receive.len())
    }

    fn divisor_latch(&self) -> bool {
        self.line_control & LINE_CONTROL_DIVISOR_LATCH != 0
    }

    fn depth(&self) -> usize {
        if self.fifos_enabled { FIFO_SIZE } else { 1 }
    }

    fn send(&mut self, byte: u8, sink: &mut impl ConsoleSink) {
        self.transmitter_interrupt = false;
        if self.modem_control.contains(ModemControl::LOOPBACK) {
            if self.receive.len() < self.depth() {
                self.receive.push(byte);
            } else {
                self.overrun = true;
            }
            self.transmitter_interrupt = true;
            return;
        }
        if self.transmit.is_empty() && sink.put(byte) {
            self.transmitter_interrupt = true;
            return;
        }
        // A full transmitter loses the byte, as the real one does.
        if self.transmit.len() < self.depth() {
            self.transmit.push(byte);
        }
    }

    /// The pending interrupt of the highest priority, without the FIFO bits.
    #[inline]
    fn interrupt_id(&self) -> u8 {
        let enabled = self.interrupt_enable;
        if enabled.contains(InterruptEnable::LINE_STATUS) && self.overrun {
            INTERRUPT_LINE_STATUS
        } else if enabled.contains(InterruptEnable::RECEIVED_DATA) && !self.receive.is_empty() {
            if self.receive.len() >= self.trigger {
                INTERRUPT_RECEIVED_DATA
            } else {
                INTERRUPT_CHARACTER_TIMEOUT
            }
        } else if enabled.contains(InterruptEnable::TRANSMITTER_EMPTY) && self.transmitter_interrupt {
            INTERRUPT_TRANSMITTER_EMPTY
        } else if enabled.contains(InterruptEnable::MODEM_STATUS) && self.modem_deltas() {
            INTERRUPT_MODEM_STATUS
        } else {
            INTERRUPT_NONE
        }
    }

    fn modem_deltas(&self) -> bool {
        self.modem_status.bits() & 0x0f != 0
    }

    /// Reading the identification of the transmitter interrupt takes it back; no other is touched.
    fn read_interrupt_id(&mut self) -> u8 {
        let id = self.interrupt_id();
        if id == INTERRUPT_TRANSMITTER_EMPTY {
            self.transmitter_interrupt = false;
        }
        if self.fifos_enabled { id | INTERRUPT_ID_FIFOS_ENABLED } else { id }
    }

    fn read_line_status(&mut self) -> u8 {
        let mut status = 0;
        if !self.receive.is_empty() {
            status |= LINE_STATUS_DATA_READY;
        }
        if self.overrun {
            status |= LINE_STATUS_OVERRUN;
            self.overrun = false;
        }
        if self.transmit.is_empty() {
            status |= LINE_STATUS_TRANSMITTER_HOLDING_EMPTY | LINE_STATUS_TRANSMITTER_EMPTY;
        }
        status
    }

    fn read_modem_status(&mut self) -> u8 {
        let status = self.modem_status.bits();
        self.modem_status = ModemStatus::from_bits_retain(status & 0xf0);
        status
    }

    /// Reserved bits stay clear, by which software tells a 16550A from larger siblings. Enabling the transmitter
    /// interrupt while the transmitter is empty raises it at once.
    fn write_interrupt_enable(&mut self, value: u8) {
        let new = InterruptEnable::from_bits_truncate(value);
        let risen = new - self.interrupt_enable;
        if risen.contains(InterruptEnable::TRANSMITTER_EMPTY) && self.transmit.is_empty() {
            self.transmitter_interrupt = true;
        }
        self.interrupt_enable = new;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let enable = value & FIFO_ENABLE != 0;
        let toggled = enable != self.fifos_enabled;
        self.fifos_enabled = enable;
        if toggled || enable && value & FIFO_CLEAR_RECEIVER != 0 {
            self.receive.clear();
        }
        if toggled || enable && value & FIFO_CLEAR_TRANSMITTER != 0 {
            self.transmitter_interrupt |= !self.transmit.is_empty();
            self.transmit.clear();
        }
        self.trigger = if enable { FIFO_TRIGGER_LEVELS[usize::from(value >> FIFO_TRIGGER_SHIFT)] } else { 1 };
    }

    fn write_modem_control(&mut self, value: u8) {
        self.modem_control = ModemControl::from_bits_truncate(value);
        let old = self.modem_status;
        let mut new = self.modem_lines();
        let changed = old ^ new;
        new.set(ModemStatus::DELTA_CTS, changed.contains(ModemStatus::CTS));
        new.set(ModemStatus::DELTA_DSR, changed.contains(ModemStatus::DSR));
        new.set(ModemStatus::DELTA_DCD, changed.contains(ModemStatus::DCD));
        new.set(ModemStatus::TRAILING_EDGE_RI, (old - new).contains(ModemStatus::RI));
        // Deltas stay until they are read.
        self.modem_status = new | ModemStatus::from_bits_retain(old.bits() & 0x0f);
    }

    /// In loopback mode the four outputs drive the four inputs.
    fn modem_lines(&self) -> ModemStatus {
        if !self.modem_control.contains(ModemControl::LOOPBACK) {
            return Self::CONNECTED;
        }
        let mut lines = ModemStatus::empty();
        lines.set(ModemStatus::CTS, self.modem_control.contains(ModemControl::RTS));
        lines.set(ModemStatus::DSR, self.modem_control.contains(ModemControl::DTR));
        lines.set(ModemStatus::RI, self.modem_control.contains(ModemControl::OUT1));
        lines.set(ModemStatus::DCD, self.modem_control.contains(ModemControl::OUT2));
        lines
    }
}
