//! The contract's accessors on VMCB fields.

use core::fmt;

use vcpu::{
    ApicAssists, ApicState, ApicView, DescriptorTable, DescriptorTableName, Event, Exit, Registers, Segment,
    SegmentAccess, SegmentName, SystemRegister, Vcpu, cr0, cr4, efer, rflags,
};

use super::nmi::{DR6_SINGLE_STEP, SHADOW};
use super::vcpu::SvmVcpu;
use super::vmcb::VmcbSegment;
use super::{code, setup};

/// RFLAGS bits that exist.
const RFLAGS_DEFINED: u64 = 0x3f_7fd5;
/// CR0 bits that the CPU must not get from the guest: caching is the host's.
const CR0_CACHING: u64 = cr0::CD | cr0::NW;
/// CR0, CR4 and EFER bits that no translation depends on. A change of any other drops translations.
const CR0_NO_TRANSLATION: u64 = cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::AM;
const CR4_NO_TRANSLATION: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::MCE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::OSXSAVE;
const EFER_NO_TRANSLATION: u64 = efer::SCE | efer::SVME;

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

/// EFER with LMA as LME and CR0.PG make it: VMRUN computes it the same way, and a CPU may have changed it already when it
/// exits at the MOV to CR0 that switches paging off.
#[inline]
const fn long_mode_active(efer: u64, cr0: u64) -> u64 {
    let active = efer << (LMA_BIT - LME_BIT) & cr0 >> (PG_BIT - LMA_BIT) & efer::LMA;
    efer & !efer::LMA | active
}

const LME_BIT: u32 = efer::LME.trailing_zeros();
const LMA_BIT: u32 = efer::LMA.trailing_zeros();
const PG_BIT: u32 = cr0::PG.trailing_zeros();

impl SvmVcpu {
    /// Reads of CR0 exit only while it has bits that the CPU does not show.
    fn write_cr0(&mut self, value: u64) {
        self.caching = value & CR0_CACHING;
        let watched = self.caching != 0;
        let new = value & !CR0_CACHING;
        let changed = self.vmcb().cr0() ^ new;
        self.vmcb_mut().set_cr0(new);
        self.watch_reads(setup::CR0_READ, watched);
        self.flush_if(changed & !CR0_NO_TRANSLATION != 0);
    }

    /// CR4.MCE is always set in the CPU, so that a machine check reaches the host. Reads of CR4 exit only while the guest
    /// must not see it.
    fn write_cr4(&mut self, value: u64) {
        self.hidden_cr4 = if self.shared.plan.machine_check { cr4::MCE & !value } else { 0 };
        let (hidden, new) = (self.hidden_cr4 != 0, value | self.hidden_cr4);
        let changed = self.vmcb().cr4() ^ new;
        self.vmcb_mut().set_cr4(new);
        self.watch_reads(setup::CR4_READ, hidden);
        self.flush_if(changed & !CR4_NO_TRANSLATION != 0);
    }

    fn write_efer(&mut self, value: u64) {
        let new = value | efer::SVME;
        let changed = self.vmcb().efer() ^ new;
        self.vmcb_mut().set_efer(new);
        self.flush_if(changed & !EFER_NO_TRANSLATION != 0);
    }

    fn watch_reads(&mut self, register: u32, watched: bool) {
        let vmcb = self.vmcb_mut();
        let before = vmcb.intercept_cr();
        let wanted = if watched { before | register } else { before & !register };
        if wanted != before {
            vmcb.set_intercept_cr(wanted);
        }
    }

    fn flush_if(&mut self, needed: bool) {
        if needed {
            self.flush();
        }
    }

    fn set_base(&mut self, name: SegmentName, base: u64) {
        let segment = self.vmcb().segment(name);
        self.vmcb_mut().set_segment(name, VmcbSegment { base, ..segment });
    }
}

impl Vcpu for SvmVcpu {
    fn load(&mut self) {
        self.load_state();
    }

    fn unload(&mut self) {
        self.unload_state();
    }

    #[inline(always)]
    fn run(&mut self) -> Exit {
        self.run_once()
    }

    fn reset(&mut self) {
        assert!(self.is_loaded(), "a vCPU is reset that is not loaded");
        setup::power_up(self);
    }

    #[inline(always)]
    fn registers(&self) -> &Registers {
        &self.registers
    }

    #[inline(always)]
    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.vmcb().rip()
    }

    #[inline(always)]
    fn set_rip(&mut self, rip: u64) {
        self.vmcb_mut().set_rip(rip);
    }

    #[inline]
    fn rsp(&self) -> u64 {
        self.vmcb().rsp()
    }

    #[inline]
    fn set_rsp(&mut self, rsp: u64) {
        self.vmcb_mut().set_rsp(rsp);
    }

    #[inline(always)]
    fn rflags(&self) -> u64 {
        self.vmcb().rflags()
    }

    #[inline]
    fn set_rflags(&mut self, value: u64) {
        self.vmcb_mut().set_rflags(value & RFLAGS_DEFINED | rflags::FIXED);
    }

    #[inline(always)]
    fn read(&self, register: SystemRegister) -> u64 {
        use SystemRegister as R;
        let vmcb = self.vmcb();
        match register {
            R::Cr0 => vmcb.cr0() | self.caching,
            R::Cr2 => vmcb.cr2(),
            R::Cr3 => vmcb.cr3(),
            R::Cr4 => vmcb.cr4() & !self.hidden_cr4,
            R::Efer => long_mode_active(vmcb.efer(), vmcb.cr0()) & !efer::SVME,
            R::Dr0 => self.extended.dr(0),
            R::Dr1 => self.extended.dr(1),
            R::Dr2 => self.extended.dr(2),
            R::Dr3 => self.extended.dr(3),
            R::Dr6 => vmcb.dr6(),
            R::Dr7 => vmcb.dr7(),
            R::Xcr0 => self.extended.xcr0(),
            R::FsBase => vmcb.segment(SegmentName::Fs).base,
            R::GsBase => vmcb.segment(SegmentName::Gs).base,
            R::KernelGsBase => vmcb.kernel_gs_base(),
            R::Star => vmcb.star(),
            R::Lstar => vmcb.lstar(),
            R::Cstar => vmcb.cstar(),
            R::Sfmask => vmcb.sfmask(),
            R::SysenterCs => vmcb.sysenter_cs(),
            R::SysenterEsp => vmcb.sysenter_esp(),
            R::SysenterEip => vmcb.sysenter_eip(),
            R::Pat => vmcb.pat(),
            R::TscAux => self.tsc_aux_now(),
        }
    }

    fn write(&mut self, register: SystemRegister, value: u64) {
        use SystemRegister as R;
        match register {
            R::Cr0 => self.write_cr0(value),
            R::Cr2 => {
                self.vmcb_mut().set_cr2(value);
                // It is switched with the extended state, too: not every emulator loads it at VMRUN.
                self.extended.set_cr2(value);
            }
            R::Cr3 => {
                self.vmcb_mut().set_cr3(value);
                self.flush();
            }
            R::Cr4 => self.write_cr4(value),
            R::Efer => self.write_efer(value),
            R::Dr0 => self.extended.set_dr(0, value),
            R::Dr1 => self.extended.set_dr(1, value),
            R::Dr2 => self.extended.set_dr(2, value),
            R::Dr3 => self.extended.set_dr(3, value),
            R::Dr6 => self.vmcb_mut().set_dr6(value & 0xffff_ffff),
            R::Dr7 => self.vmcb_mut().set_dr7(value & 0xffff_ffff),
            R::Xcr0 => self.extended.set_xcr0(value),
            R::FsBase => self.set_base(SegmentName::Fs, value),
            R::GsBase => self.set_base(SegmentName::Gs, value),
            R::KernelGsBase => self.vmcb_mut().set_kernel_gs_base(value),
            R::Star => self.vmcb_mut().set_star(value),
            R::Lstar => self.vmcb_mut().set_lstar(value),
            R::Cstar => self.vmcb_mut().set_cstar(value),
            R::Sfmask => self.vmcb_mut().set_sfmask(value),
            R::SysenterCs => self.vmcb_mut().set_sysenter_cs(value),
            R::SysenterEsp => self.vmcb_mut().set_sysenter_esp(value),
            R::SysenterEip => self.vmcb_mut().set_sysenter_eip(value),
            R::Pat => self.vmcb_mut().set_pat(value),
            R::TscAux => self.set_tsc_aux(value),
        }
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let VmcbSegment { selector, attributes, limit, base } = self.vmcb().segment(name);
        Segment { selector, base, limit, access: unpack(attributes) }
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let Segment { selector, base, limit, access } = segment;
        let vmcb = self.vmcb_mut();
        vmcb.set_segment(name, VmcbSegment { selector, attributes: pack(access), limit, base });
        if matches!(name, SegmentName::Ss) {
            vmcb.set_cpl(access.dpl());
        }
    }

    fn table(&self, name: DescriptorTableName) -> DescriptorTable {
        let table = self.vmcb().table(name);
        DescriptorTable { base: table.base, limit: table.limit as u16 }
    }

    fn set_table(&mut self, name: DescriptorTableName, table: DescriptorTable) {
        self.vmcb_mut().set_table(name, table.base, u32::from(table.limit));
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.vmcb().cpl()
    }

    #[inline(always)]
    fn is_in_64_bit_mode(&self) -> bool {
        let vmcb = self.vmcb();
        self.read(SystemRegister::Efer) & vcpu::efer::LMA != 0
            && unpack(vmcb.segment(SegmentName::Cs).attributes).contains(SegmentAccess::LONG)
    }

    fn set_pdptes(&mut self, _entries: [u64; 4]) {
        // With nested paging the CPU reads them from memory when it needs them.
    }

    fn set_guest_owned(&mut self, _cr0: u64, _cr4: u64) {
        // Writes of CR0 and CR4 always exit: the VMCB has no masks.
    }

    #[inline(always)]
    fn next_rip(&self) -> Option<u64> {
        let vmcb = self.vmcb();
        if vmcb.exit_code() == code::IOIO {
            return Some(vmcb.exit_info_2());
        }
        (self.shared.plan.next_rip && code::by_instruction(vmcb.exit_code())).then_some(vmcb.next_rip())
    }

    fn instruction_bytes(&self, buffer: &mut [u8; 15]) -> usize {
        let vmcb = self.vmcb();
        if !self.shared.plan.decode_assists || vmcb.exit_code() != code::NESTED_PAGE_FAULT {
            return 0;
        }
        let (bytes, fetched) = vmcb.instruction_bytes();
        *buffer = *bytes;
        usize::from(fetched).min(buffer.len())
    }

    #[inline(always)]
    fn fault_instruction_length(&self) -> Option<u8> {
        // The bytes themselves are there, where the CPU has decode assists.
        None
    }

    #[inline(always)]
    fn advance(&mut self, next_rip: u64) {
        let vmcb = self.vmcb_mut();
        let flags = vmcb.rflags();
        vmcb.set_rip(next_rip);
        vmcb.set_rflags(flags & !rflags::RF);
        vmcb.set_interrupt_shadow(0);
        if flags & rflags::TF != 0 {
            vmcb.set_dr6(vmcb.dr6() | DR6_SINGLE_STEP);
            self.request(Event::Exception { vector: vcpu::vector::DB, error_code: None });
        }
    }

    #[inline]
    fn inject(&mut self, event: Event) {
        self.request(event);
    }

    #[inline(always)]
    fn interrupted_event(&self) -> Option<Event> {
        self.pending.interrupted()
    }

    #[inline(always)]
    fn interruptible(&self) -> bool {
        !self.pending.any() && self.can_take_interrupt()
    }

    fn nmi_ready(&self) -> bool {
        !self.pending.any() && self.nmi.is_ready(self.vmcb())
    }

    #[inline(always)]
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
        self.vmcb_mut().set_tsc_offset(offset);
    }

    fn set_apic_view(&mut self, view: ApicView, uses_task_priority: bool) -> ApicAssists {
        self.choose_apic_view(view, uses_task_priority)
    }

    #[inline]
    fn give_apic(&mut self, state: &ApicState, _broadcasts: bool) {
        self.give_apic_state(state);
    }

    #[inline]
    fn take_apic(&mut self, state: &mut ApicState) {
        self.take_apic_state(state);
    }

    fn apic_register(&self, _index: u16) -> u32 {
        // No register is virtualized.
        0
    }

    fn set_apic_register(&mut self, _index: u16, _value: u32) {}

    fn set_tsc_scale(&mut self, multiplier: u64) {
        if self.shared.plan.tsc_ratio {
            self.tsc_ratio = Some(multiplier);
            self.load_tsc_ratio();
        }
    }

    fn read_speculation(&self, msr: u32) -> Option<u64> {
        self.guard.read(&self.shared.offer, msr)
    }

    fn write_speculation(&mut self, msr: u32, value: u64) -> bool {
        let begins = self.guard.write(&self.shared.offer, msr, value);
        if begins == Some(true) {
            let permissions = self.shared.control_permissions.0;
            self.vmcb_mut().set_msrpm_base(permissions);
        }
        begins.is_some()
    }

    fn flush_tlb(&mut self) {
        self.flush();
    }

    fn dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vmcb = self.vmcb();
        write!(
            f,
            "SVM exit code {:#x} info {:#x} {:#x} delivery {:#x} shadow {:#x} asid {}",
            vmcb.exit_code(),
            vmcb.exit_info_1(),
            vmcb.exit_info_2(),
            vmcb.exit_interrupt_info(),
            vmcb.interrupt_shadow() & SHADOW,
            vmcb.asid(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mode_is_active_with_both_bits_only() {
        for (efer, cr0, active) in [
            (efer::LME, cr0::PG, true),
            (efer::LME, 0, false),
            (0, cr0::PG, false),
            (efer::LME | efer::LMA, 0, false),
            (efer::LMA | efer::NXE, cr0::PG, false),
        ] {
            let expected = efer & !efer::LMA | if active { efer::LMA } else { 0 };
            assert_eq!(long_mode_active(efer, cr0), expected);
        }
    }

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
