//! A VM with everything around it, as an exit handler sees it, and its way to the devices.

use devices::pci::{Ecam, FunctionAddress, PciBus};
use devices::{ApicEffect, Chipset, Width};
use trace::Subject;
use vcpu::{Backend, Gpa, Host, Nanos, SegmentAccess, SegmentName, SystemRegister, Vcpu, cr0, efer, rflags};

use crate::control::ControlState;
use crate::hardware::Hardware;
use crate::local_apic;
use crate::mailbox::Mailboxes;
use crate::processor::{Attention, Processor};
use crate::ratelimit::Site;
use crate::virtio_bus::Socket;
use crate::vm::Vm;
use crate::wiring::{Own, Wiring};

/// A vCPU that has left its guest, its VM, and the machine.
///
/// The vCPU is of the very type that this CPU has, where the backend stands for several: the code on the way of an exit is made for each.
pub(crate) struct Guest<'a, 'm, B: Backend, V: Vcpu + ?Sized, H: Host> {
    pub(crate) vcpu: &'a mut V,
    pub(crate) cpu: &'a mut Processor,
    pub(crate) vm: &'a Vm<'m, B>,
    pub(crate) space: &'a B::Space,
    pub(crate) mailboxes: &'a Mailboxes,
    pub(crate) host: &'a mut H,
}

/// The same whatever the vCPU's type is, for what happens seldom: such code is made once, and chooses at each access to the vCPU.
pub(crate) type AnyGuest<'a, 'm, B, H> = Guest<'a, 'm, B, dyn Vcpu, H>;

impl<'m, B: Backend, V: Vcpu, H: Host> Guest<'_, 'm, B, V, H> {
    /// For what happens seldom.
    #[inline]
    pub(crate) fn any(&mut self) -> AnyGuest<'_, 'm, B, H> {
        self.vcpu.note_other_work();
        Guest {
            vcpu: &mut *self.vcpu,
            cpu: self.cpu,
            vm: self.vm,
            space: self.space,
            mailboxes: self.mailboxes,
            host: self.host,
        }
    }
}

/// Bytes of a local APIC's register page.
const APIC_PAGE: u64 = vcpu::PAGE_SIZE;

impl<'a, 'm, B: Backend, V: Vcpu + ?Sized, H: Host> Guest<'a, 'm, B, V, H> {
    /// The vCPU in events.
    pub(crate) fn subject(&self) -> Subject {
        self.vm.vcpu_id(self.cpu.index).subject()
    }

    /// What devices need of the VM around them.
    #[inline]
    pub(crate) fn wiring(&mut self) -> Wiring<'_, 'm, B, H> {
        let cpu = &mut *self.cpu;
        Wiring {
            vm: self.vm,
            own: Some(Own {
                index: cpu.index,
                apic: &mut cpu.apic,
                apic_given: cpu.apic_given,
                attention: &mut cpu.attention,
            }),
            mailboxes: self.mailboxes,
            host: self.host,
        }
    }

    /// Does what a write of a local APIC's register asks of the world outside it, which is nothing mostly.
    #[inline(always)]
    pub(crate) fn apply(&mut self, effect: ApicEffect) {
        if effect == ApicEffect::None {
            self.cpu.attention |= Attention::INTERRUPTS;
        } else {
            self.wiring().apply(effect);
        }
    }

    /// Uses the chipset.
    #[inline]
    pub(crate) fn with_chipset<R>(
        &mut self,
        run: impl FnOnce(&mut Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        let vm = self.vm;
        vm.with_chipset(&mut self.wiring(), run)
    }

    /// Uses the chipset as it is now: its timers have caught up, however late the host's own timer is.
    #[inline]
    fn with_chipset_at<R>(
        &mut self,
        now: Nanos,
        run: impl FnOnce(&mut Chipset<'m>, &mut Wiring<'_, 'm, B, H>) -> R,
    ) -> R {
        let vm = self.vm;
        let due = vm.chipset_deadline() <= now;
        vm.access_chipset(&mut self.wiring(), |chipset, wiring| {
            if due {
                chipset.advance(now, wiring);
            }
            run(chipset, wiring)
        })
    }

    /// IN.
    pub(crate) fn port_read(&mut self, port: u16, width: Width) -> u32 {
        if let Some((index, offset, width)) = self.window_at_port(port, width) {
            return self.virtio_read(index, offset, width) as u32;
        }
        let now = self.host.now();
        self.with_chipset_at(now, |chipset, wiring| chipset.port_read(port, width, now, wiring))
    }

    /// OUT.
    pub(crate) fn port_write(&mut self, port: u16, width: Width, value: u32) {
        if let Some((index, offset, width)) = self.window_at_port(port, width) {
            return self.virtio_write(index, offset, width, u64::from(value) & width.mask());
        }
        let now = self.host.now();
        self.with_chipset_at(now, |chipset, wiring| chipset.port_write(port, width, value, now, wiring));
    }

    /// A read where there is no RAM. All ones where no device is.
    pub(crate) fn mmio_read(&mut self, gpa: Gpa, width: Width) -> u64 {
        let now = self.host.now();
        if let Some(offset) = self.apic_offset(gpa) {
            self.cpu.take_apic(self.vcpu);
            return self.cpu.apic.mmio_read(offset, width, now);
        }
        if let Some((index, offset)) = self.vm.virtio.find(gpa) {
            return self.virtio_read(index, offset, width);
        }
        if let Some((index, offset, width)) = self.window_in_memory(gpa, width) {
            return self.virtio_read(index, offset, width);
        }
        let found = self.with_chipset_at(now, |chipset, wiring| chipset.mmio_read(gpa, width, now, wiring));
        let table = |hardware: &Hardware| hardware.table_read(gpa, width);
        found.or_else(|| self.vm.hardware.as_ref().and_then(table)).unwrap_or_else(|| {
            self.unclaimed(gpa);
            width.mask()
        })
    }

    /// A write where there is no RAM. Ignored where no device is.
    pub(crate) fn mmio_write(&mut self, gpa: Gpa, width: Width, value: u64) {
        let now = self.host.now();
        if let Some(offset) = self.apic_offset(gpa) {
            self.cpu.take_apic(self.vcpu);
            let effect = self.cpu.apic.mmio_write(offset, width, value, now);
            self.apply(effect);
            let index = (offset / local_apic::STRIDE) as u16;
            self.cpu.show_written(self.vcpu, index);
            if index == local_apic::TASK_PRIORITY {
                self.cpu.note_task_priority(self.vcpu);
            }
            return;
        }
        if let Some((index, offset)) = self.vm.virtio.find(gpa) {
            return self.virtio_write(index, offset, width, value);
        }
        if let Some((index, offset, width)) = self.window_in_memory(gpa, width) {
            return self.virtio_write(index, offset, width, value & width.mask());
        }
        self.cpu.attention |= Attention::INTERRUPTS;
        let taken =
            self.with_chipset_at(now, |chipset, wiring| chipset.mmio_write(gpa, width, value, now, wiring));
        let table = |hardware: &Hardware| hardware.table_write(gpa, width, value);
        if taken.or_else(|| self.vm.hardware.as_ref().and_then(table)).is_none() {
            self.unclaimed(gpa);
        }
    }

    /// The device, and what of its registers, that an access to a port is for: the data port of configuration space, and there the
    /// window on a device's registers (VIRTIO 1.2, "PCI configuration access capability").
    #[inline(always)]
    fn window_at_port(&mut self, port: u16, width: Width) -> Option<(usize, u64, Width)> {
        const DATA: u16 = PciBus::PORT + PciBus::DATA;
        if port & !3 == DATA { self.window_at_data_port(port - DATA, width) } else { None }
    }

    fn window_at_data_port(&mut self, offset: u16, width: Width) -> Option<(usize, u64, Width)> {
        let target = self.with_chipset(|chipset, _| chipset.pci().data_target(offset, width))?;
        self.window(target)
    }

    /// The same for an access to configuration space in memory.
    #[inline]
    fn window_in_memory(&mut self, gpa: Gpa, width: Width) -> Option<(usize, u64, Width)> {
        // The machine's own is where the machine has it.
        let is_here = |offset: &u64| *offset < Ecam::SIZE && self.vm.hardware.is_none();
        let offset = gpa.0.checked_sub(Ecam::BASE.0).filter(is_here)?;
        self.window(PciBus::ecam_target(offset, width)?)
    }

    fn window(&mut self, (function, register): (FunctionAddress, u8)) -> Option<(usize, u64, Width)> {
        if !virtio::pci::is_window(register) {
            return None;
        }
        let index = self.vm.virtio.index_of(function)?;
        let shown = self.with_chipset(|chipset, _| {
            chipset.pci().function(function).map(|space| virtio::pci::window(space))
        });
        let (offset, width) = shown??;
        Some((index, offset, width))
    }

    fn virtio_read(&mut self, index: usize, offset: u64, width: Width) -> u64 {
        let vm = self.vm;
        let Some(function) = vm.virtio.get(index) else { return width.mask() };
        function.read(offset, width, &mut Socket { at: vm.virtio.address(index), wiring: &mut self.wiring() })
    }

    fn virtio_write(&mut self, index: usize, offset: u64, width: Width, value: u64) {
        let vm = self.vm;
        let Some(function) = vm.virtio.get(index) else { return };
        function.write(
            offset,
            width,
            value,
            &mut Socket { at: vm.virtio.address(index), wiring: &mut self.wiring() },
        );
        if function.is_rung() {
            self.cpu.attention |= Attention::DEVICES;
        }
    }

    #[inline]
    fn apic_offset(&self, gpa: Gpa) -> Option<u64> {
        gpa.0.checked_sub(self.cpu.apic.mmio_base()?.0).filter(|offset| *offset < APIC_PAGE)
    }

    #[cold]
    fn unclaimed(&mut self, gpa: Gpa) {
        self.cpu.counters.unclaimed_memory += 1;
        if let Some(suppressed) = self.may_log(Site::UnclaimedMemory) {
            log::info!("vm {}: no device at {gpa} ({suppressed} lines left out)", self.name());
        }
    }

    /// The VM's name.
    pub(crate) fn name(&self) -> &'a str {
        &self.vm.name
    }

    /// Whether a line of `site` may be logged: how many were left out before.
    pub(crate) fn may_log(&mut self, site: Site) -> Option<u32> {
        self.vm.may_log(site, self.host.now())
    }

    /// The registers that decide about control-register writes.
    pub(crate) fn control_state(&self) -> ControlState {
        let vcpu = &self.vcpu;
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
        let vcpu = &self.vcpu;
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
