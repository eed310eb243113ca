//! A VM with everything around it, as an exit handler sees it, and its way to the devices.

use devices::{Chipset, Width};
use vcpu::{Backend, Gpa, Host, Nanos, SegmentAccess, SegmentName, SystemRegister, Vcpu, cr0, efer, rflags};

use crate::console::Console;
use crate::control::ControlState;
use crate::processor::{Attention, Processor};
use crate::ratelimit::{RateLimits, Site};
use crate::screen::Screen;
use crate::wiring::Wiring;

/// What a VM's vCPUs share.
pub(crate) struct Board<'m, B: Backend> {
    pub(crate) space: B::Space,
    pub(crate) chipset: Chipset<'m>,
    /// When the chipset next needs the CPU, as of the last time a device was used.
    pub(crate) chipset_deadline: Option<Nanos>,
    pub(crate) limits: RateLimits,
    /// The guest must not go on before the console has taken what it wrote.
    pub(crate) waits_for_console: bool,
    /// What was shown of its VGA adapter's screen, where it has one.
    pub(crate) screen: Option<Screen>,
}

/// A vCPU that has left its guest, its VM, and the machine.
pub(crate) struct Guest<'a, 'm, B: Backend, H: Host> {
    pub(crate) cpu: &'a mut Processor<B>,
    pub(crate) board: &'a mut Board<'m, B>,
    pub(crate) console: &'a mut Console<'m>,
    pub(crate) host: &'a mut H,
    pub(crate) name: &'m str,
    /// The VM's number.
    pub(crate) number: usize,
}

/// Bytes of a local APIC's register page.
const APIC_PAGE: u64 = vcpu::PAGE_SIZE;

impl<'m, B: Backend, H: Host> Guest<'_, 'm, B, H> {
    /// The chipset, and what it needs of the rest.
    #[inline]
    pub(crate) fn devices(&mut self) -> (&mut Chipset<'m>, Wiring<'_, 'm>) {
        let wiring = Wiring {
            apic: &mut self.cpu.apic,
            attention: &mut self.cpu.attention,
            console: self.console,
            guest: self.number,
        };
        (&mut self.board.chipset, wiring)
    }

    /// Does a step of the work for which a device lets the guest wait.
    pub(crate) fn device_work(&mut self) {
        let mut wiring = Wiring {
            apic: &mut self.cpu.apic,
            attention: &mut self.cpu.attention,
            console: self.console,
            guest: self.number,
        };
        self.board.chipset.work(&self.board.space, &mut wiring);
    }

    /// IN.
    pub(crate) fn port_read(&mut self, port: u16, width: Width) -> u32 {
        let now = self.host.now();
        self.cpu.attention |= Attention::INPUT | Attention::INTERRUPTS;
        let (chipset, mut wiring) = self.devices();
        chipset.port_read(port, width, now, &mut wiring)
    }

    /// OUT.
    pub(crate) fn port_write(&mut self, port: u16, width: Width, value: u32) {
        let now = self.host.now();
        self.cpu.attention |= Attention::DEVICES | Attention::INTERRUPTS;
        let (chipset, mut wiring) = self.devices();
        chipset.port_write(port, width, value, now, &mut wiring);
    }

    /// A read where there is no RAM. All ones where no device is.
    pub(crate) fn mmio_read(&mut self, gpa: Gpa, width: Width) -> u64 {
        let now = self.host.now();
        if let Some(offset) = self.apic_offset(gpa) {
            return self.cpu.apic.mmio_read(offset, width, now);
        }
        let (chipset, mut wiring) = self.devices();
        match chipset.mmio_read(gpa, width, now, &mut wiring) {
            Some(value) => value,
            None => {
                self.unclaimed(gpa, now);
                width.mask()
            }
        }
    }

    /// A write where there is no RAM. Ignored where no device is.
    pub(crate) fn mmio_write(&mut self, gpa: Gpa, width: Width, value: u64) {
        let now = self.host.now();
        if let Some(offset) = self.apic_offset(gpa) {
            let effect = self.cpu.apic.mmio_write(offset, width, value, now);
            let (chipset, mut wiring) = self.devices();
            wiring.apply(effect, chipset);
            return;
        }
        self.cpu.attention |= Attention::INTERRUPTS;
        let (chipset, mut wiring) = self.devices();
        if chipset.mmio_write(gpa, width, value, now, &mut wiring).is_none() {
            self.unclaimed(gpa, now);
        }
    }

    #[inline]
    fn apic_offset(&self, gpa: Gpa) -> Option<u64> {
        gpa.0.checked_sub(self.cpu.apic.mmio_base()?.0).filter(|offset| *offset < APIC_PAGE)
    }

    #[cold]
    fn unclaimed(&mut self, gpa: Gpa, now: Nanos) {
        self.cpu.counters.unclaimed_memory += 1;
        if let Some(suppressed) = self.board.limits.allow(Site::UnclaimedMemory, now) {
            log::info!("vm {}: no device at {gpa} ({suppressed} lines left out)", self.name);
        }
    }

    /// Whether a line of `site` may be logged: how many were left out before.
    pub(crate) fn may_log(&mut self, site: Site) -> Option<u32> {
        let now = self.host.now();
        self.board.limits.allow(site, now)
    }

    /// The registers that decide about control-register writes.
    pub(crate) fn control_state(&self) -> ControlState {
        let vcpu = &self.cpu.vcpu;
        let efer = vcpu.read(SystemRegister::Efer);
        ControlState {
            cr0: vcpu.read(SystemRegister::Cr0),
            cr3: vcpu.read(SystemRegister::Cr3),
            cr4: vcpu.read(SystemRegister::Cr4),
            efer,
            code_is_64_bit: vcpu.segment(SegmentName::Cs).access.contains(SegmentAccess::LONG),
        }
    }

    /// The operating mode.
    pub(crate) fn operating_mode(&self) -> emulator::Mode {
        use emulator::Mode;
        let vcpu = &self.cpu.vcpu;
        if vcpu.read(SystemRegister::Cr0) & cr0::PE == 0 {
            return Mode::Real;
        }
        if vcpu.rflags() & rflags::VM != 0 {
            return Mode::Virtual8086;
        }
        let code = vcpu.segment(SegmentName::Cs).access;
        let long = vcpu.read(SystemRegister::Efer) & efer::LMA != 0;
        match (long, code.contains(SegmentAccess::LONG), code.contains(SegmentAccess::DEFAULT_BIG)) {
            (true, true, _) => Mode::Long64,
            (true, false, true) => Mode::Compatibility32,
            (true, false, false) => Mode::Compatibility16,
            (false, _, true) => Mode::Protected32,
            (false, _, false) => Mode::Protected16,
        }
    }
}
