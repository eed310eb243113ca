//! The port map: who is where, which widths it takes, and the calls into the devices.

use super::{Chipset, Environment, isa_line};
use crate::bus::{IntervalMap, IoError, Width};
use crate::debug_port::DebugConsole;
use crate::fw_cfg::FwCfg;
use crate::pci::{FunctionAddress, PciBus};
use crate::pic::PicSelect;
use crate::pm::PowerManagement;
use crate::power::{PowerEvent, ResetControl, SystemControlA};
use crate::rtc::Rtc;
use crate::uart::Uart;
use vcpu::Nanos;

/// First port of the first serial port.
pub const COM1: u16 = 0x3f8;

/// What a range of ports belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PortDevice {
    PicMaster,
    PicSlave,
    Pit,
    SystemControlB,
    I8042Data,
    I8042Command,
    Rtc,
    SystemControlA,
    /// Written to pass time; nothing is there.
    Delay,
    Uart,
    Elcr,
    PowerManagement,
    /// PCI configuration mechanism 1 and the reset control register in its midst.
    Pci,
    FwCfg,
    FwCfgDma,
    DebugConsole,
    DebugExit,
    Vga,
}

/// Ranges that devices can claim beside those of [`PORT_RANGES`].
pub(super) const OPTIONAL_RANGES: usize = 5;

/// `(first port, ports, device)`.
pub(super) const PORT_RANGES: [(u64, u64, PortDevice); 14] = [
    (0x20, 2, PortDevice::PicMaster),
    (0x40, 4, PortDevice::Pit),
    (0x60, 1, PortDevice::I8042Data),
    (0x61, 1, PortDevice::SystemControlB),
    (0x64, 1, PortDevice::I8042Command),
    (0x70, 2, PortDevice::Rtc),
    (0x80, 1, PortDevice::Delay),
    (SystemControlA::PORT as u64, 1, PortDevice::SystemControlA),
    (0xa0, 2, PortDevice::PicSlave),
    (0xed, 1, PortDevice::Delay),
    (COM1 as u64, Uart::PORTS as u64, PortDevice::Uart),
    (0x4d0, 2, PortDevice::Elcr),
    (PciBus::PORT as u64, 8, PortDevice::Pci),
    (PowerManagement::PORT as u64, PowerManagement::PORTS as u64, PortDevice::PowerManagement),
];

/// Those that there are beside the machine's own devices.
const RANGES_BESIDE: [(u64, u64, PortDevice); 8] = [
    (0x20, 2, PortDevice::PicMaster),
    (0x40, 4, PortDevice::Pit),
    (0x61, 1, PortDevice::SystemControlB),
    (0x80, 1, PortDevice::Delay),
    (0xa0, 2, PortDevice::PicSlave),
    (COM1 as u64, Uart::PORTS as u64, PortDevice::Uart),
    (0x4d0, 2, PortDevice::Elcr),
    (PciBus::PORT as u64, 8, PortDevice::Pci),
];

/// Who has which ports.
pub(super) fn map(outside: bool) -> IntervalMap<PortDevice, { PORT_RANGES.len() + OPTIONAL_RANGES }> {
    // The ranges are constants without conflict, as a test shows; without a map no port would answer.
    if outside { IntervalMap::build(&RANGES_BESIDE) } else { IntervalMap::build(&PORT_RANGES) }
        .unwrap_or_default()
}

/// Offset of the reset control register among the PCI ports.
const RESET_CONTROL: u16 = ResetControl::PORT - PciBus::PORT;

impl PortDevice {
    /// Whether the device takes an access of `width` at `offset` in one piece.
    #[inline(always)]
    pub(super) fn takes_whole(self, offset: u16, width: Width) -> bool {
        width == Width::Byte || self.takes_more(offset, width)
    }

    fn takes_more(self, offset: u16, width: Width) -> bool {
        match self {
            Self::Pci => match offset {
                0 => width == Width::Dword,
                PciBus::DATA.. => offset + u16::from(width.bytes()) <= PciBus::DATA + 4,
                _ => false,
            },
            Self::FwCfg => FwCfg::takes_whole(offset, width),
            Self::FwCfgDma => FwCfg::dma_takes_whole(offset, width),
            Self::DebugExit => true,
            Self::PowerManagement => offset == PowerManagement::TIMER && width == Width::Dword,
            _ => false,
        }
    }
}

impl Chipset<'_> {
    /// Calls the device that an access was found to belong to, and drives the lines that reading may change.
    #[inline]
    pub(super) fn read_device(
        &mut self,
        device: PortDevice,
        offset: u16,
        width: Width,
        now: Nanos,
        env: &mut impl Environment,
    ) -> Result<u32, IoError> {
        let byte = match device {
            PortDevice::Uart => {
                let value = self.uart.read(offset)?;
                self.drive(isa_line::COM1, self.uart.irq(), env);
                value
            }
            PortDevice::PowerManagement => {
                let value = self.pm.read(offset, width, now)?;
                self.drive(isa_line::SCI, self.pm.sci(), env);
                self.note_deadline();
                return Ok(value);
            }
            PortDevice::PicMaster => self.pic.read(PicSelect::Master, offset)?,
            PortDevice::PicSlave => self.pic.read(PicSelect::Slave, offset)?,
            PortDevice::Elcr => self.pic.read_elcr(offset),
            PortDevice::Pit => {
                let value = self.pit.read(offset, now);
                self.drive_timer(env);
                self.note_deadline();
                value?
            }
            PortDevice::SystemControlB => {
                let value = self.pit.read_system_control(now);
                self.note_deadline();
                value
            }
            PortDevice::Rtc => {
                let value = self.rtc.read(offset, now);
                self.drive(isa_line::RTC, self.rtc.irq(), env);
                self.note_deadline();
                value?
            }
            PortDevice::I8042Data => {
                let value = self.i8042.read_data();
                self.drive(isa_line::KEYBOARD, self.i8042.irq(), env);
                value
            }
            PortDevice::I8042Command => self.i8042.read_status(),
            PortDevice::SystemControlA => self.system_control_a.read(),
            PortDevice::Delay => 0xff,
            PortDevice::Pci => return self.read_pci(offset, width, env),
            PortDevice::FwCfg => match &mut self.optional.fw_cfg {
                Some(fw_cfg) => fw_cfg.read(offset)?,
                None => 0xff,
            },
            PortDevice::FwCfgDma => return FwCfg::read_dma(offset, width),
            PortDevice::DebugConsole => DebugConsole::read(),
            PortDevice::DebugExit => 0,
            PortDevice::Vga => match &mut self.optional.vga {
                Some(vga) => vga.read(offset)?,
                None => 0xff,
            },
        };
        Ok(byte.into())
    }

    /// Writes to a register that only keeps what was written: no line, timer or other register hangs on it. False where it is another one.
    #[inline]
    pub(super) fn stores(&mut self, device: PortDevice, offset: u64, value: u32) -> bool {
        match device {
            PortDevice::Delay => true,
            PortDevice::Rtc if offset == Rtc::SELECT.into() => {
                self.rtc.select(value as u8);
                true
            }
            _ => false,
        }
    }

    /// Calls the device that a write was found to belong to, and drives its lines.
    #[inline]
    pub(super) fn write_device(
        &mut self,
        device: PortDevice,
        offset: u16,
        width: Width,
        value: u32,
        now: Nanos,
        env: &mut impl Environment,
    ) -> Result<(), IoError> {
        let byte = value as u8;
        match device {
            PortDevice::Uart => {
                self.uart.write(offset, byte, env)?;
                self.drive(isa_line::COM1, self.uart.irq(), env);
            }
            PortDevice::PicMaster => self.pic.write(PicSelect::Master, offset, byte)?,
            PortDevice::PicSlave => self.pic.write(PicSelect::Slave, offset, byte)?,
            PortDevice::Elcr => self.pic.write_elcr(offset, byte),
            PortDevice::Pit => {
                self.pit.write(offset, byte, now)?;
                self.drive_timer(env);
                self.note_deadline();
            }
            PortDevice::SystemControlB => {
                self.pit.write_system_control(byte, now);
                self.note_deadline();
            }
            PortDevice::Rtc => {
                self.rtc.write(offset, byte, now)?;
                self.drive(isa_line::RTC, self.rtc.irq(), env);
                self.note_deadline();
            }
            PortDevice::PowerManagement => {
                let event = self.pm.write(offset, byte, now)?;
                self.note_power(event);
                self.drive(isa_line::SCI, self.pm.sci(), env);
                self.note_deadline();
            }
            PortDevice::I8042Data => {
                let event = self.i8042.write_data(byte);
                self.note_power(event);
                self.drive(isa_line::KEYBOARD, self.i8042.irq(), env);
            }
            PortDevice::I8042Command => {
                let event = self.i8042.write_command(byte);
                self.note_power(event);
                self.drive(isa_line::KEYBOARD, self.i8042.irq(), env);
            }
            PortDevice::SystemControlA => {
                let event = self.system_control_a.write(byte);
                self.note_power(event);
            }
            PortDevice::Delay => {}
            PortDevice::Pci => self.write_pci(offset, width, value, env)?,
            PortDevice::FwCfg | PortDevice::FwCfgDma => self.write_fw_cfg(device, offset, width, value)?,
            PortDevice::DebugConsole => {
                if let Some(console) = &mut self.optional.debug_console
                    && !console.write(byte, env)
                {
                    self.counters.refused += 1;
                }
            }
            PortDevice::Vga => {
                if let Some(vga) = &mut self.optional.vga {
                    vga.write(offset, byte)?;
                }
            }
            PortDevice::DebugExit => self.note_power(Some(PowerEvent::DebugExit(value))),
        }
        Ok(())
    }

    fn write_fw_cfg(
        &mut self,
        device: PortDevice,
        offset: u16,
        width: Width,
        value: u32,
    ) -> Result<(), IoError> {
        match &mut self.optional.fw_cfg {
            Some(fw_cfg) if device == PortDevice::FwCfgDma => fw_cfg.write_dma(offset, width, value),
            Some(fw_cfg) => fw_cfg.write(offset, width, value),
            None => Ok(()),
        }
    }

    /// A function that is not there is no error: its registers read all ones.
    fn read_pci(&mut self, offset: u16, width: Width, env: &mut impl Environment) -> Result<u32, IoError> {
        match offset {
            0 if width == Width::Dword => Ok(self.pci.read_address()),
            RESET_CONTROL => Ok(self.reset_control.read().into()),
            PciBus::DATA.. => {
                if let Some((function, register)) = self.outside_target(offset - PciBus::DATA, width) {
                    return Ok(env.outside_config_read(function, register.into(), width));
                }
                let absent = width.mask() as u32;
                Ok(self.pci.read_data(offset - PciBus::DATA, width).unwrap_or(absent))
            }
            _ => Err(IoError::Width { offset, width }),
        }
    }

    /// The function of the machine's, and its register, that an access to the data port is for.
    fn outside_target(&mut self, lane: u16, width: Width) -> Option<(FunctionAddress, u8)> {
        if !self.outside {
            return None;
        }
        let (function, register) = self.pci.data_target(lane, width)?;
        self.pci.function(function).is_none().then_some((function, register))
    }

    fn write_pci(
        &mut self,
        offset: u16,
        width: Width,
        value: u32,
        env: &mut impl Environment,
    ) -> Result<(), IoError> {
        match offset {
            0 if width == Width::Dword => self.pci.write_address(value),
            RESET_CONTROL => {
                let event = self.reset_control.write(value as u8);
                self.note_power(event);
            }
            PciBus::DATA.. => {
                if let Some((function, register)) = self.outside_target(offset - PciBus::DATA, width) {
                    env.outside_config_write(function, register.into(), width, value);
                    return Ok(());
                }
                let written = self.pci.write_data(offset - PciBus::DATA, width, value);
                self.note_configured(written);
            }
            _ => return Err(IoError::Width { offset, width }),
        }
        Ok(())
    }
}
