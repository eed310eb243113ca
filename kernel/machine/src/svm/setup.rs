//! What a new VMCB holds, what a reset does beside the registers, and what makes VMRUN refuse a state.
//!
//! Sources: AMD APM vol. 2, "Intercept Operation", "VMRUN Instruction" and its consistency checks.

use vcpu::{Hpa, SegmentName, cr0, cr4, efer, vector};

use super::clean::Clean;
use super::intercept::{NP_ENABLE, intercept_1, intercept_2, virtual_interrupt};
use super::plan::{NmiBlocking, Plan};
use super::vcpu::SvmVcpu;
use super::vmcb::Vmcb;

/// CR reads: CR8. CR writes: CR0, CR4, CR8. CR8 passes while the guest's task priority is in V_TPR.
const INTERCEPTED_CR: u32 = 1 << 8 | (1 << 0 | 1 << 4 | 1 << 8) << 16;
/// Reads of CR0 and CR4, which are watched while the guest's are not what the CPU runs with.
pub(super) const CR0_READ: u32 = 1 << 0;
pub(super) const CR4_READ: u32 = 1 << 4;
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

/// Addresses that the control area needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) io_permissions: Hpa,
    pub(super) msr_permissions: Hpa,
    /// Root of the nested tables.
    pub(super) root: Hpa,
}

/// Writes the control area.
pub(super) fn controls(vmcb: &mut Vmcb, plan: &Plan, addresses: Addresses) {
    vmcb.set_intercept_cr(INTERCEPTED_CR);
    vmcb.set_intercept_dr(0);
    vmcb.set_intercept_exceptions(INTERCEPTED_EXCEPTIONS);
    vmcb.set_intercept_1(INTERCEPTS_1);
    vmcb.set_intercept_2(INTERCEPTS_2);
    vmcb.set_intercept_3(0);
    if let Some(filter) = plan.pause {
        vmcb.intercept(intercept_1::PAUSE, true);
        vmcb.set_pause_filter_count(filter.count);
        vmcb.set_pause_filter_threshold(filter.threshold);
    }
    vmcb.set_iopm_base(addresses.io_permissions.0);
    vmcb.set_msrpm_base(addresses.msr_permissions.0);
    vmcb.set_tsc_offset(0);
    let virtual_nmi = if plan.nmi == NmiBlocking::Virtual { virtual_interrupt::V_NMI_ENABLE } else { 0 };
    vmcb.set_virtual_interrupt(virtual_interrupt::V_INTR_MASKING | virtual_nmi);
    vmcb.set_nested_control(NP_ENABLE);
    vmcb.set_nested_cr3(addresses.root.0);
    // Last-branch records are no guest's: their MSRs exit, and the CPU does not switch them.
    vmcb.set_lbr_control(0);
    vmcb.set_debugctl(0);
}

/// The state after power-up.
pub(super) fn power_up(vcpu: &mut SvmVcpu) {
    vcpu.forget_events();
    vcpu.guard.reset();
    vcpu.extended.reset();
    vcpu::power_up::registers(vcpu);
    let vmcb = vcpu.vmcb_mut();
    vmcb.set_interrupt_shadow(0);
    vmcb.set_speculation_control(0);
    vmcb.set_event_injection(0);
    vmcb.mark_changed(Clean::all());
    vcpu.flush();
}

/// Names the first thing found that VMRUN does not accept. Not exhaustive: what it does not know, it does
/// not blame.
pub(super) fn culprit(vmcb: &Vmcb) -> Option<&'static str> {
    let (cr0, cr4, efer) = (vmcb.cr0(), vmcb.cr4(), vmcb.efer());
    let (long, paging) = (efer & efer::LME != 0, cr0 & cr0::PG != 0);
    let code = vmcb.segment(SegmentName::Cs).attributes;
    let virtual_nmi = vmcb.virtual_interrupt() & virtual_interrupt::V_NMI_ENABLE != 0;
    let checks = [
        (efer & efer::SVME == 0, "EFER.SVME is clear"),
        (cr0 & cr0::CD == 0 && cr0 & cr0::NW != 0, "CR0.NW without CR0.CD"),
        (cr0 >> 32 != 0, "CR0: upper half"),
        (vmcb.dr6() >> 32 != 0, "DR6: upper half"),
        (vmcb.dr7() >> 32 != 0, "DR7: upper half"),
        (long && paging && cr4 & cr4::PAE == 0, "long mode without CR4.PAE"),
        (long && paging && cr0 & cr0::PE == 0, "long mode without CR0.PE"),
        (long && paging && cr4 & cr4::PAE != 0 && code >> 9 & 3 == 3, "CS has both L and D set"),
        (vmcb.intercept_2() & intercept_2::VMRUN == 0, "the VMRUN intercept is clear"),
        (virtual_nmi && vmcb.intercept_1() & intercept_1::NMI == 0, "virtual NMIs without the NMI intercept"),
        (vmcb.asid() == 0, "ASID is 0"),
    ];
    checks.into_iter().find_map(|(wrong, name)| wrong.then_some(name))
}
