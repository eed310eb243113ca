//! What a new VMCS holds, what a CPU writes into one it loads, and the guest's state after power-up.
//!
//! Sources: Intel SDM vol. 3, "VM-Execution Control Fields", "Host-State Area", and "Processor State After
//! Reset".

// UNSAFETY: writes physical addresses and the host state that every exit loads.
#![allow(unsafe_code)]

use vcpu::{Vcpu, vector};

use super::enter;
use super::field;
use super::instruction::vmwrite;
use super::vcpu::{Before, VmxVcpu};
use crate::registers;

/// Exceptions that are watched: their delivery can be made endless (#DB, #AC), or they are the host's (#MC).
const WATCHED_EXCEPTIONS: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

/// A waiter for a lock gives up its CPU when it has looped over PAUSE for that many TSC ticks, without a gap of more than so many
/// between two of them (SDM vol. 3, "Instructions That Cause VM Exits Conditionally", PAUSE): far longer than a lock is held whose
/// owner runs.
const PLE_WINDOW: u32 = 100_000;
const PLE_GAP: u32 = 128;

/// Writes the control fields and host fields that never change.
///
/// # Safety
/// The vCPU's VMCS is current and `eptp` is its address space's.
pub(super) unsafe fn controls(vcpu: &mut VmxVcpu, eptp: u64) {
    let shared = vcpu.shared;
    let controls = shared.controls;
    let ports = vcpu.walker.ports().unwrap_or(shared.io_bitmaps);
    // SAFETY: by the caller; the bitmaps are frames that live as long as the backend, or the vCPU.
    unsafe {
        vmwrite(field::PIN_CONTROLS, controls.pin);
        vmwrite(field::PROCESSOR_CONTROLS, controls.processor);
        vmwrite(field::SECONDARY_CONTROLS, controls.secondary);
        vmwrite(field::EXIT_CONTROLS, controls.exit);
        vmwrite(field::ENTRY_CONTROLS, controls.entry);
        vmwrite(field::EXCEPTION_BITMAP, WATCHED_EXCEPTIONS);
        // Of an instruction that this CPU does not have, the exit's bitmap is not there either.
        vmwrite(field::ENCLS_BITMAP, u64::MAX);
        // Until the hypervisor says otherwise, all bits are watched.
        vmwrite(field::CR0_MASK, u64::MAX);
        vmwrite(field::CR4_MASK, u64::MAX);
        vmwrite(field::PAGE_FAULT_MASK, 0);
        vmwrite(field::PAGE_FAULT_MATCH, 0);
        vmwrite(field::CR3_TARGET_COUNT, 0);
        vmwrite(field::EXIT_MSR_STORE_COUNT, 0);
        vmwrite(field::EXIT_MSR_LOAD_COUNT, 0);
        vmwrite(field::ENTRY_MSR_LOAD_COUNT, 0);
        vmwrite(field::IO_BITMAP_A, ports.0);
        vmwrite(field::IO_BITMAP_B, ports.0 + vcpu::PAGE_SIZE);
        vmwrite(field::MSR_BITMAP, shared.msr_bitmaps.0);
        vmwrite(field::EPT_POINTER, eptp);
        if controls.pause_loop {
            vmwrite(field::PLE_GAP, PLE_GAP);
            vmwrite(field::PLE_WINDOW, PLE_WINDOW);
        }
        vmwrite(field::VPID, vcpu.vpid.number().unwrap_or(0));
        vmwrite(field::TSC_OFFSET, 0);
        vmwrite(field::VMCS_LINK_POINTER, u64::MAX);
        vmwrite(field::HOST_RIP, enter::exit_address(&vcpu.block));
    }
    vcpu.set_up_apic();
    host_state();
}

/// Writes this CPU's state into the host fields of the current VMCS.
pub(super) fn host_state() {
    let tables = crate::cpu::tables();
    let host = registers::host_registers();
    // SAFETY: a VMCS is current (both callers have just made it so), and the values are what this CPU runs
    // with now, so an exit restores exactly that.
    unsafe {
        vmwrite(field::HOST_CR0, host.cr0);
        vmwrite(field::HOST_CR3, host.cr3);
        vmwrite(field::HOST_CR4, host.cr4);
        vmwrite(field::HOST_EFER, host.efer);
        vmwrite(field::HOST_PAT, host.pat);
        vmwrite(field::HOST_ES_SELECTOR, 0);
        vmwrite(field::HOST_CS_SELECTOR, tables.cs);
        vmwrite(field::HOST_SS_SELECTOR, tables.ss);
        vmwrite(field::HOST_DS_SELECTOR, 0);
        vmwrite(field::HOST_FS_SELECTOR, 0);
        vmwrite(field::HOST_GS_SELECTOR, 0);
        vmwrite(field::HOST_TR_SELECTOR, tables.tr);
        vmwrite(field::HOST_FS_BASE, 0);
        vmwrite(field::HOST_GS_BASE, tables.gs_base);
        vmwrite(field::HOST_TR_BASE, tables.tss_base);
        vmwrite(field::HOST_GDTR_BASE, tables.gdt_base);
        vmwrite(field::HOST_IDTR_BASE, tables.idt_base);
        vmwrite(field::HOST_SYSENTER_CS, 0);
        vmwrite(field::HOST_SYSENTER_ESP, 0);
        vmwrite(field::HOST_SYSENTER_EIP, 0);
    }
}

/// The state after power-up. The VMCS is current.
pub(super) fn power_up(vcpu: &mut VmxVcpu) {
    vcpu.pending.clear();
    vcpu.block.guard.reset();
    vcpu.held = false;
    vcpu.extended.reset();
    vcpu::power_up::registers(vcpu);
    vcpu.set(field::GUEST_INTERRUPTIBILITY, 0);
    vcpu.set(field::GUEST_ACTIVITY, 0);
    vcpu.set(field::GUEST_PENDING_DEBUG, 0);
    vcpu.set(field::GUEST_DEBUGCTL, 0);
    vcpu.set(field::ENTRY_INTERRUPTION_INFO, 0);
    vcpu.request_interrupt_window(false);
    vcpu.request_nmi_window(false);
    vcpu.before |= Before::FLUSH;
}
