//! What a new VMCB holds, the guest's state after power-up, and what makes VMRUN refuse a state.
//!
//! Sources: AMD APM vol. 2, "Processor Initialization State", "VMRUN Instruction" and its consistency
//! checks.

use vcpu::{
    DescriptorTable, DescriptorTableName, Hpa, Segment, SegmentName, SystemRegister, Vcpu, cr0, cr4, efer,
    vector,
};

use super::vcpu::SvmVcpu;
use super::vmcb::{NP_ENABLE, Vmcb, intercept_1, intercept_2, virtual_interrupt};

/// CR reads: CR8. CR writes: CR0, CR4, CR8. CR8 always exits, so V_TPR and the CPU's priority logic are
/// never in play.
const INTERCEPTED_CR: u32 = 1 << 8 | (1 << 0 | 1 << 4 | 1 << 8) << 16;
/// CR0 reads, which are watched while the guest's CR0 is not what the CPU runs with.
pub(super) const CR0_READ: u32 = 1 << 0;
/// Exceptions that are watched: their delivery can be made endless (#DB, #AC), or they are the host's (#MC).
const INTERCEPTED_EXCEPTIONS: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

const INTERCEPTS_1: u32 = intercept_1::INTR
    | intercept_1::NMI
    | intercept_1::INIT
    | intercept_1::RDPMC
    | intercept_1::CPUID
    | intercept_1::INVD
    | intercept_1::HLT
    | intercept_1::INVLPGA
    | intercept_1::IOIO
    | intercept_1::MSR
    | intercept_1::TASK_SWITCH
    | intercept_1::FERR_FREEZE
    | intercept_1::SHUTDOWN;

const INTERCEPTS_2: u32 = intercept_2::VMRUN
    | intercept_2::VMMCALL
    | intercept_2::VMLOAD
    | intercept_2::VMSAVE
    | intercept_2::STGI
    | intercept_2::CLGI
    | intercept_2::SKINIT
    | intercept_2::WBINVD
    | intercept_2::MONITOR
    | intercept_2::MWAIT
    | intercept_2::MWAIT_ARMED
    | intercept_2::XSETBV
    | intercept_2::RDPRU;

/// Registers after power-up.
const RESET_RIP: u64 = 0xfff0;
const RESET_PAT: u64 = 0x0007_0406_0007_0406;
const RESET_CR0: u64 = cr0::CD | cr0::NW | cr0::ET;
const RESET_DR6: u64 = 0xffff_0ff0;
const RESET_DR7: u64 = 0x400;

/// Writes the control area.
pub(super) fn controls(vcpu: &mut SvmVcpu, root: Hpa) {
    let shared = vcpu.shared;
    let control = &mut vcpu.vmcb_mut().control;
    control.intercept_cr = INTERCEPTED_CR;
    control.intercept_dr = 0;
    control.intercept_exceptions = INTERCEPTED_EXCEPTIONS;
    control.intercept_1 = INTERCEPTS_1;
    control.intercept_2 = INTERCEPTS_2;
    control.intercept_3 = 0;
    control.iopm_base = shared.io_permissions.0;
    control.msrpm_base = shared.msr_permissions.0;
    control.tsc_offset = 0;
    control.virtual_interrupt = virtual_interrupt::V_INTR_MASKING;
    control.nested_control = NP_ENABLE;
    control.nested_cr3 = root.0;
    control.clean = 0;
}

/// The state after power-up.
pub(super) fn power_up(vcpu: &mut SvmVcpu) {
    vcpu.forget_events();
    vcpu.registers = vcpu::Registers::default();
    vcpu.extended.reset();
    vcpu.set_tsc_aux(0);
    vcpu.write(SystemRegister::Cr0, RESET_CR0);
    let vmcb = vcpu.vmcb_mut();
    vmcb.control.intercept_1 &= !intercept_1::IRET;
    vmcb.control.interrupt_shadow = 0;
    vmcb.control.event_injection = 0;
    let state = &mut vmcb.state;
    state.cpl = 0;
    state.efer = efer::SVME;
    (state.cr2, state.cr3, state.cr4) = (0, 0, 0);
    state.dr6 = RESET_DR6;
    state.dr7 = RESET_DR7;
    state.rflags = vcpu::rflags::FIXED;
    state.rip = RESET_RIP;
    (state.rsp, state.rax) = (0, 0);
    (state.star, state.lstar, state.cstar, state.sfmask) = (0, 0, 0, 0);
    state.kernel_gs_base = 0;
    (state.sysenter_cs, state.sysenter_esp, state.sysenter_eip) = (0, 0, 0);
    state.pat = RESET_PAT;
    state.debugctl = 0;
    for name in SegmentName::ALL {
        vcpu.set_segment(name, Segment::at_power_up(name));
    }
    let table = DescriptorTable { base: 0, limit: 0xffff };
    vcpu.set_table(DescriptorTableName::Gdtr, table);
    vcpu.set_table(DescriptorTableName::Idtr, table);
    vcpu.write(SystemRegister::Xcr0, 1);
    vcpu.flush = true;
}

/// Names the first thing found that VMRUN does not accept. Not exhaustive: what it does not know, it does
/// not blame.
pub(super) fn culprit(vmcb: &Vmcb) -> Option<&'static str> {
    let state = &vmcb.state;
    let (long, paging) = (state.efer & efer::LME != 0, state.cr0 & cr0::PG != 0);
    let code = state.segments[SegmentName::Cs as usize].attributes;
    let checks = [
        (state.efer & efer::SVME == 0, "EFER.SVME is clear"),
        (state.cr0 & cr0::CD == 0 && state.cr0 & cr0::NW != 0, "CR0.NW without CR0.CD"),
        (state.cr0 >> 32 != 0, "CR0: upper half"),
        (state.dr6 >> 32 != 0, "DR6: upper half"),
        (state.dr7 >> 32 != 0, "DR7: upper half"),
        (long && paging && state.cr4 & cr4::PAE == 0, "long mode without CR4.PAE"),
        (long && paging && state.cr0 & cr0::PE == 0, "long mode without CR0.PE"),
        (long && paging && state.cr4 & cr4::PAE != 0 && code >> 9 & 3 == 3, "CS has both L and D set"),
        (vmcb.control.intercept_2 & intercept_2::VMRUN == 0, "the VMRUN intercept is clear"),
        (vmcb.control.asid == 0, "ASID is 0"),
    ];
    checks.into_iter().find_map(|(wrong, name)| wrong.then_some(name))
}
