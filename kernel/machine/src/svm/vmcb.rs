//! The virtual machine control block: control area and state-save area.
//!
//! Source: AMD APM vol. 2, appendix "VMCB Layout".

use core::mem::{offset_of, size_of};

/// A segment in the state-save area. `attributes` packs a descriptor's bits 8 to 15 and 20 to 23 into
/// twelve.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct VmcbSegment {
    pub(crate) selector: u16,
    pub(crate) attributes: u16,
    pub(crate) limit: u32,
    pub(crate) base: u64,
}

/// The control area, 1 KiB.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    /// CR reads, low half; CR writes, high half.
    pub(crate) intercept_cr: u32,
    pub(crate) intercept_dr: u32,
    pub(crate) intercept_exceptions: u32,
    pub(crate) intercept_1: u32,
    pub(crate) intercept_2: u32,
    pub(crate) intercept_3: u32,
    reserved_018: [u8; 0x3c - 0x18],
    pub(crate) pause_filter_threshold: u16,
    pub(crate) pause_filter_count: u16,
    pub(crate) iopm_base: u64,
    pub(crate) msrpm_base: u64,
    pub(crate) tsc_offset: u64,
    pub(crate) asid: u32,
    pub(crate) tlb_control: u32,
    /// V_TPR, V_IRQ and the rest of the virtual interrupt control.
    pub(crate) virtual_interrupt: u64,
    /// Bit 0: interrupt shadow.
    pub(crate) interrupt_shadow: u64,
    pub(crate) exit_code: u64,
    pub(crate) exit_info_1: u64,
    pub(crate) exit_info_2: u64,
    pub(crate) exit_interrupt_info: u64,
    pub(crate) nested_control: u64,
    reserved_098: [u64; 2],
    pub(crate) event_injection: u64,
    pub(crate) nested_cr3: u64,
    pub(crate) lbr_control: u64,
    pub(crate) clean: u64,
    pub(crate) next_rip: u64,
    pub(crate) bytes_fetched: u8,
    pub(crate) instruction_bytes: [u8; 15],
    reserved_0e0: [u8; 0x400 - 0xe0],
}

/// The state-save area.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct State {
    /// ES, CS, SS, DS, FS, GS.
    pub(crate) segments: [VmcbSegment; 6],
    pub(crate) gdtr: VmcbSegment,
    pub(crate) ldtr: VmcbSegment,
    pub(crate) idtr: VmcbSegment,
    pub(crate) tr: VmcbSegment,
    reserved_0a0: [u8; 0xcb - 0xa0],
    pub(crate) cpl: u8,
    reserved_0cc: u32,
    pub(crate) efer: u64,
    reserved_0d8: [u8; 0x148 - 0xd8],
    pub(crate) cr4: u64,
    pub(crate) cr3: u64,
    pub(crate) cr0: u64,
    pub(crate) dr7: u64,
    pub(crate) dr6: u64,
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
    reserved_180: [u8; 0x1d8 - 0x180],
    pub(crate) rsp: u64,
    reserved_1e0: [u64; 3],
    pub(crate) rax: u64,
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) sfmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) cr2: u64,
    reserved_248: [u8; 0x268 - 0x248],
    pub(crate) pat: u64,
    pub(crate) debugctl: u64,
    reserved_278: [u8; 0xc00 - 0x278],
}

/// A VMCB: one frame.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Vmcb {
    pub(crate) control: Control,
    pub(crate) state: State,
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Control, pause_filter_threshold) == 0x3c);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, nested_control) == 0x90);
    assert!(offset_of!(Control, event_injection) == 0xa8);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Control, instruction_bytes) == 0xd1);
    assert!(offset_of!(Vmcb, state) == 0x400);
    assert!(offset_of!(State, tr) == 0x90);
    assert!(offset_of!(State, cpl) == 0xcb);
    assert!(offset_of!(State, efer) == 0xd0);
    assert!(offset_of!(State, cr4) == 0x148);
    assert!(offset_of!(State, rip) == 0x178);
    assert!(offset_of!(State, rsp) == 0x1d8);
    assert!(offset_of!(State, rax) == 0x1f8);
    assert!(offset_of!(State, cr2) == 0x240);
    assert!(offset_of!(State, pat) == 0x268);
};

/// Intercepts of the word at 0x00c.
pub(crate) mod intercept_1 {
    pub(crate) const INTR: u32 = 1 << 0;
    pub(crate) const NMI: u32 = 1 << 1;
    pub(crate) const INIT: u32 = 1 << 3;
    pub(crate) const VINTR: u32 = 1 << 4;
    pub(crate) const RDPMC: u32 = 1 << 15;
    pub(crate) const CPUID: u32 = 1 << 18;
    pub(crate) const IRET: u32 = 1 << 20;
    pub(crate) const INVD: u32 = 1 << 22;
    pub(crate) const HLT: u32 = 1 << 24;
    pub(crate) const INVLPGA: u32 = 1 << 26;
    pub(crate) const IOIO: u32 = 1 << 27;
    pub(crate) const MSR: u32 = 1 << 28;
    pub(crate) const TASK_SWITCH: u32 = 1 << 29;
    pub(crate) const FERR_FREEZE: u32 = 1 << 30;
    pub(crate) const SHUTDOWN: u32 = 1 << 31;
}

/// Intercepts of the word at 0x010.
pub(crate) mod intercept_2 {
    pub(crate) const VMRUN: u32 = 1 << 0;
    pub(crate) const VMMCALL: u32 = 1 << 1;
    pub(crate) const VMLOAD: u32 = 1 << 2;
    pub(crate) const VMSAVE: u32 = 1 << 3;
    pub(crate) const STGI: u32 = 1 << 4;
    pub(crate) const CLGI: u32 = 1 << 5;
    pub(crate) const SKINIT: u32 = 1 << 6;
    pub(crate) const WBINVD: u32 = 1 << 9;
    pub(crate) const MONITOR: u32 = 1 << 10;
    pub(crate) const MWAIT: u32 = 1 << 11;
    pub(crate) const MWAIT_ARMED: u32 = 1 << 12;
    pub(crate) const XSETBV: u32 = 1 << 13;
    pub(crate) const RDPRU: u32 = 1 << 14;
}

/// Virtual interrupt control at 0x060.
pub(crate) mod virtual_interrupt {
    pub(crate) const V_IRQ: u64 = 1 << 8;
    pub(crate) const V_PRIORITY_HIGHEST: u64 = 0xf << 16;
    pub(crate) const V_IGNORE_TPR: u64 = 1 << 20;
    pub(crate) const V_INTR_MASKING: u64 = 1 << 24;
}

/// TLB_CONTROL.
pub(crate) mod tlb {
    pub(crate) const NOTHING: u32 = 0;
    pub(crate) const FLUSH_ALL: u32 = 1;
    pub(crate) const FLUSH_ASID: u32 = 3;
}

/// Nested control at 0x090: nested paging.
pub(crate) const NP_ENABLE: u64 = 1;
