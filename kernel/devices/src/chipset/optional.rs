//! Devices that only some machines have.

use vcpu::GuestMemory;

use super::ports::PortDevice;
use super::{Chipset, Environment};
use crate::debug_port::DebugConsole;
use crate::fw_cfg::FwCfg;
use crate::uart::ConsoleSink;
use crate::vga::Vga;

/// A device cannot have the port: another one is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortTaken {
    /// The port.
    pub port: u16,
}

/// The devices that were added. They survive a reset.
#[derive(Clone, Debug, Default)]
pub(super) struct Optional<'a> {
    pub(super) fw_cfg: Option<FwCfg<'a>>,
    pub(super) debug_console: Option<DebugConsole>,
    pub(super) vga: Option<Vga>,
}

impl Optional<'_> {
    pub(super) fn reset(&mut self) {
        if let Some(fw_cfg) = &mut self.fw_cfg {
            fw_cfg.reset();
        }
        self.vga = self.vga.take().map(|_| Vga::default());
    }

    #[inline]
    pub(super) fn console_pending(&self) -> bool {
        self.debug_console.as_ref().is_some_and(DebugConsole::has_unsent)
    }

    pub(super) fn flush_console(&mut self, sink: &mut impl ConsoleSink) {
        if let Some(console) = &mut self.debug_console {
            console.flush(sink);
        }
    }
}

impl<'a> Chipset<'a> {
    /// Adds the firmware configuration device.
    ///
    /// # Errors
    /// [`PortTaken`] where it, or another device at its ports, was added before.
    pub fn add_fw_cfg(&mut self, fw_cfg: FwCfg<'a>) -> Result<(), PortTaken> {
        self.claim(FwCfg::PORT, FwCfg::PORTS, PortDevice::FwCfg)?;
        self.claim(FwCfg::DMA_PORT, FwCfg::DMA_PORTS, PortDevice::FwCfgDma)?;
        self.optional.fw_cfg = Some(fw_cfg);
        Ok(())
    }

    /// Adds the console at ports 0xe9 and 0x402. Its bytes go where those of the serial port go.
    ///
    /// # Errors
    /// [`PortTaken`] where it, or another device at its port, was added before.
    pub fn add_debug_console(&mut self) -> Result<(), PortTaken> {
        self.claim(DebugConsole::PORT, 1, PortDevice::DebugConsole)?;
        self.claim(DebugConsole::FIRMWARE_PORT, 1, PortDevice::DebugConsole)?;
        self.optional.debug_console = Some(DebugConsole::default());
        Ok(())
    }

    /// Adds the debug-exit port: what is written there, in any width, ends the VM. It reads as zero.
    ///
    /// # Errors
    /// [`PortTaken`] where another device has the port.
    pub fn add_debug_exit(&mut self, port: u16) -> Result<(), PortTaken> {
        self.claim(port, 1, PortDevice::DebugExit)
    }

    /// Adds a VGA adapter. Its text memory is for the owner to give.
    ///
    /// # Errors
    /// [`PortTaken`] where it, or another device at its ports, was added before.
    pub fn add_vga(&mut self) -> Result<(), PortTaken> {
        self.claim(Vga::PORT, Vga::PORTS, PortDevice::Vga)?;
        self.optional.vga = Some(Vga::default());
        Ok(())
    }

    /// The VGA adapter, where there is one.
    pub fn vga(&self) -> Option<&Vga> {
        self.optional.vga.as_ref()
    }

    fn claim(&mut self, port: u16, count: u16, device: PortDevice) -> Result<(), PortTaken> {
        self.ports.insert(port.into(), count.into(), device).map_err(|_| PortTaken { port })
    }

    /// Whether a device is at work for the guest, which must not go on before: see [`Self::work`].
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.optional.fw_cfg.as_ref().is_some_and(FwCfg::is_busy) || self.console_stalls()
    }

    /// Whether [`Self::is_busy`] can ever say yes.
    #[inline(always)]
    pub const fn can_be_busy(&self) -> bool {
        self.optional.fw_cfg.is_some() || self.optional.debug_console.is_some()
    }

    /// Whether that work waits for room in the console.
    #[inline]
    pub fn console_stalls(&self) -> bool {
        self.optional.console_pending()
    }

    /// Does a step of that work: a copy of [`crate::fw_cfg::STEP`] bytes at most, or as many bytes of the debug console as
    /// the sink takes.
    pub fn work<M: GuestMemory>(&mut self, memory: &M, env: &mut impl Environment) {
        if let Some(fw_cfg) = &mut self.optional.fw_cfg {
            fw_cfg.step(memory);
        }
        self.optional.flush_console(env);
    }
}
