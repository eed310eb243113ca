//! The contract's accessors on VMCB fields.

use core::fmt;

use vcpu::{
    DescriptorTable, DescriptorTableName, Event, Exit, Registers, Segment, SegmentAccess, SegmentName,
    SystemRegister, Vcpu, cr0, efer, rflags,
};

use super::vcpu::SvmVcpu;
use super::vmcb::{State, VmcbSegment};
use super::{code, setup};

/// RFLAGS bits that exist.
const RFLAGS_DEFINED: u64 = 0x3f_7fd5;
/// CR0 bits that the CPU must not get from the guest: caching is the host's.
const CR0_CACHING: u64 = cr0::CD | cr0::NW;
/// DR6.BS.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// Twelve packed attribute bits from access rights: descriptor bits 8 to 15 and 20 to 23 without the limit
/// between.
const fn pack(access: SegmentAccess) -> u16 {
    if access.contains(SegmentAccess::UNUSABLE) {
        return 0;
    }
    let bits = access.bits();
    (bits & 0xff | bits >> 4 & 0xf00) as u16
}

const fn unpack(attributes: u16) -> SegmentAccess {
    let bits = attributes as u32;
    let access = SegmentAccess::from_bits_retain(bits & 0xff | (bits & 0xf00) << 4);
    if access.contains(SegmentAccess::PRESENT) {
        access
    } else {
        SegmentAccess::from_bits_retain(access.bits() | SegmentAccess::UNUSABLE.bits())
    }
}

const fn slot(state: &State, name: SegmentName) -> &VmcbSegment {
    match name {
        SegmentName::Ldtr => &state.ldtr,
        SegmentName::Tr => &state.tr,
        _ => &state.segments[name as usize],
    }
}

const fn slot_mut(state: &mut State, name: SegmentName) -> &mut VmcbSegment {
    match name {
        SegmentName::Ldtr => &mut state.ldtr,
        SegmentName::Tr => &mut state.tr,
        _ => &mut state.segments[name as usize],
    }
}

/// EFER with LMA as LME and CR0.PG make it: VMRUN computes it the same way, and a CPU may have changed it already when it
/// exits at the MOV to CR0 that switches paging off.
const fn long_mode_active(efer: u64, cr0: u64) -> u64 {
    if efer & efer::LME != 0 && cr0 & cr0::PG != 0 { efer | efer::LMA } else { efer & !efer::LMA }
}

impl SvmVcpu {
    /// Reads of CR0 exit only while it has bits that the CPU does not show.
    fn write_cr0(&mut self, value: u64) {
        self.caching = value & CR0_CACHING;
        let watched = self.caching != 0;
        let vmcb = self.vmcb_mut();
        vmcb.state.cr0 = value & !CR0_CACHING;
        vmcb.control.intercept_cr =
            vmcb.control.intercept_cr & !setup::CR0_READ | if watched { setup::CR0_READ } else { 0 };
    }
}

impl Vcpu for SvmVcpu {
    fn load(&mut self) {
        self.load_state();
    }

    fn unload(&mut self) {
        self.unload_state();
    }

    #[inline]
    fn run(&mut self) -> Exit {
        self.run_once()
    }

    fn reset(&mut self) {
        assert!(self.is_loaded(), "a vCPU is reset that is not loaded");
        setup::power_up(self);
    }

    #[inline]
    fn registers(&self) -> &Registers {
        &self.registers
    }

    #[inline]
    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.vmcb().state.rip
    }

    #[inline]
    fn set_rip(&mut self, rip: u64) {
        self.vmcb_mut().state.rip = rip;
    }

    #[inline]
    fn rsp(&self) -> u64 {
        self.vmcb().state.rsp
    }

    #[inline]
    fn set_rsp(&mut self, rsp: u64) {
        self.vmcb_mut().state.rsp = rsp;
    }

    #[inline]
    fn rflags(&self) -> u64 {
        self.vmcb().state.rflags
    }

    #[inline]
    fn set_rflags(&mut self, value: u64) {
        self.vmcb_mut().state.rflags = value & RFLAGS_DEFINED | rflags::FIXED;
    }

    fn read(&self, register: SystemRegister) -> u64 {
        use SystemRegister as R;
        let state = &self.vmcb().state;
        match register {
            R::Cr0 => state.cr0 | self.caching,
            R::Cr2 => state.cr2,
            R::Cr3 => state.cr3,
            R::Cr4 => state.cr4,
            R::Efer => long_mode_active(state.efer, state.cr0) & !efer::SVME,
            R::Dr0 => self.extended.dr(0),
            R::Dr1 => self.extended.dr(1),
            R::Dr2 => self.extended.dr(2),
            R::Dr3 => self.extended.dr(3),
            R::Dr6 => state.dr6,
            R::Dr7 => state.dr7,
            R::Xcr0 => self.extended.xcr0(),
            R::FsBase => state.segments[SegmentName::Fs as usize].base,
            R::GsBase => state.segments[SegmentName::Gs as usize].base,
            R::KernelGsBase => state.kernel_gs_base,
            R::Star => state.star,
            R::Lstar => state.lstar,
            R::Cstar => state.cstar,
            R::Sfmask => state.sfmask,
            R::SysenterCs => state.sysenter_cs,
            R::SysenterEsp => state.sysenter_esp,
            R::SysenterEip => state.sysenter_eip,
            R::Pat => state.pat,
            R::TscAux => self.tsc_aux_now(),
        }
    }

    fn write(&mut self, register: SystemRegister, value: u64) {
        use SystemRegister as R;
        if matches!(register, R::Cr0 | R::Cr3 | R::Cr4 | R::Efer) {
            self.flush = true;
        }
        let state = &mut self.vmcb_mut().state;
        match register {
            R::Cr0 => self.write_cr0(value),
            R::Cr2 => {
                state.cr2 = value;
                // It is switched with the extended state, too: not every emulator loads it at VMRUN.
                self.extended.set_cr2(value);
            }
            R::Cr3 => state.cr3 = value,
            R::Cr4 => state.cr4 = value,
            R::Efer => state.efer = value | efer::SVME,
            R::Dr0 => self.extended.set_dr(0, value),
            R::Dr1 => self.extended.set_dr(1, value),
            R::Dr2 => self.extended.set_dr(2, value),
            R::Dr3 => self.extended.set_dr(3, value),
            R::Dr6 => state.dr6 = value & 0xffff_ffff,
            R::Dr7 => state.dr7 = value & 0xffff_ffff,
            R::Xcr0 => self.extended.set_xcr0(value),
            R::FsBase => state.segments[SegmentName::Fs as usize].base = value,
            R::GsBase => state.segments[SegmentName::Gs as usize].base = value,
            R::KernelGsBase => state.kernel_gs_base = value,
            R::Star => state.star = value,
            R::Lstar => state.lstar = value,
            R::Cstar => state.cstar = value,
            R::Sfmask => state.sfmask = value,
            R::SysenterCs => state.sysenter_cs = value,
            R::SysenterEsp => state.sysenter_esp = value,
            R::SysenterEip => state.sysenter_eip = value,
            R::Pat => state.pat = value,
            R::TscAux => self.set_tsc_aux(value),
        }
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let slot = slot(&self.vmcb().state, name);
        Segment {
            selector: slot.selector,
            base: slot.base,
            limit: slot.limit,
            access: unpack(slot.attributes),
        }
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let state = &mut self.vmcb_mut().state;
        *slot_mut(state, name) = VmcbSegment {
            selector: segment.selector,
            attributes: pack(segment.access),
            limit: segment.limit,
            base: segment.base,
        };
        if matches!(name, SegmentName::Ss) {
            state.cpl = segment.access.dpl();
        }
    }

    fn table(&self, name: DescriptorTableName) -> DescriptorTable {
        let state = &self.vmcb().state;
        let slot = match name {
            DescriptorTableName::Gdtr => &state.gdtr,
            DescriptorTableName::Idtr => &state.idtr,
        };
        DescriptorTable { base: slot.base, limit: slot.limit as u16 }
    }

    fn set_table(&mut self, name: DescriptorTableName, table: DescriptorTable) {
        let state = &mut self.vmcb_mut().state;
        let slot = match name {
            DescriptorTableName::Gdtr => &mut state.gdtr,
            DescriptorTableName::Idtr => &mut state.idtr,
        };
        slot.base = table.base;
        slot.limit = u32::from(table.limit);
    }

    #[inline]
    fn cpl(&self) -> u8 {
        self.vmcb().state.cpl
    }

    fn set_pdptes(&mut self, _entries: [u64; 4]) {
        // With nested paging the CPU reads them from memory when it needs them.
    }

    fn set_guest_owned(&mut self, _cr0: u64, _cr4: u64) {
        // Writes of CR0 and CR4 always exit: the VMCB has no masks.
    }

    #[inline]
    fn next_rip(&self) -> Option<u64> {
        let control = &self.vmcb().control;
        if control.exit_code == code::IOIO {
            return Some(control.exit_info_2);
        }
        (self.shared.features.next_rip && code::by_instruction(control.exit_code)).then_some(control.next_rip)
    }

    fn instruction_bytes(&self, buffer: &mut [u8; 15]) -> usize {
        if !self.shared.features.decode_assists {
            return 0;
        }
        let control = &self.vmcb().control;
        *buffer = control.instruction_bytes;
        usize::from(control.bytes_fetched & 0xf).min(buffer.len())
    }

    #[inline]
    fn advance(&mut self, next_rip: u64) {
        let vmcb = self.vmcb_mut();
        vmcb.state.rip = next_rip;
        vmcb.state.rflags &= !rflags::RF;
        vmcb.control.interrupt_shadow = 0;
        if vmcb.state.rflags & rflags::TF != 0 {
            vmcb.state.dr6 |= DR6_SINGLE_STEP;
            self.pending.request(Event::Exception { vector: vcpu::vector::DB, error_code: None });
        }
    }

    #[inline]
    fn inject(&mut self, event: Event) {
        self.pending.request(event);
    }

    fn interrupted_event(&self) -> Option<Event> {
        self.pending.interrupted()
    }

    #[inline]
    fn interruptible(&self) -> bool {
        !self.pending.any() && self.can_take_interrupt()
    }

    fn nmi_ready(&self) -> bool {
        !self.pending.any() && self.vmcb().control.interrupt_shadow & 1 == 0 && self.nmi_open()
    }

    #[inline]
    fn request_interrupt_window(&mut self, wanted: bool) {
        self.want_interrupt_window(wanted);
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.want_nmi_window(wanted);
    }

    fn set_run_deadline(&mut self, _tsc: u64) {
        // There is no such timer: the host's interrupt ends the run.
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb_mut().control.tsc_offset = offset;
    }

    fn dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control = &self.vmcb().control;
        write!(
            f,
            "SVM exit code {:#x} info {:#x} {:#x} delivery {:#x} shadow {:#x} asid {}",
            control.exit_code,
            control.exit_info_1,
            control.exit_info_2,
            control.exit_interrupt_info,
            control.interrupt_shadow,
            control.asid,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_packing() {
        for access in [
            SegmentAccess::CODE64,
            SegmentAccess::CODE32,
            SegmentAccess::DATA32,
            SegmentAccess::CODE16,
            SegmentAccess::BUSY_TSS,
            SegmentAccess::LDT,
        ] {
            assert_eq!(unpack(pack(access)), access);
        }
        assert!(unpack(pack(SegmentAccess::UNUSABLE)).contains(SegmentAccess::UNUSABLE));
    }

    #[test]
    fn packing_is_the_manuals() {
        assert_eq!(pack(SegmentAccess::CODE64), 0xa9b);
        assert_eq!(pack(SegmentAccess::DATA32), 0xc93);
    }
}
