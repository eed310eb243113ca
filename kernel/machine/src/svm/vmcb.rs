//! The virtual machine control block: control area and state-save area.
//!
//! The fields are private to this module: who writes one does it by a method that marks the field's group as changed
//! ([`Clean`]), so that a CPU which keeps groups between runs never goes on with an old value.
//!
//! Sources: AMD APM vol. 2, appendix "VMCB Layout", and "VMCB Clean Bits".

use core::mem::{offset_of, size_of};

use vcpu::{DescriptorTableName, SegmentName};

use super::clean::Clean;

/// A segment in the state-save area. `attributes` packs a descriptor's bits 8 to 15 and 20 to 23 into
/// twelve.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct VmcbSegment {
    pub(super) selector: u16,
    pub(super) attributes: u16,
    pub(super) limit: u32,
    pub(super) base: u64,
}

/// The control area, 1 KiB.
#[derive(Debug)]
#[repr(C)]
struct Control {
    /// CR reads, low half; CR writes, high half.
    intercept_cr: u32,
    intercept_dr: u32,
    intercept_exceptions: u32,
    intercept_1: u32,
    intercept_2: u32,
    intercept_3: u32,
    reserved_018: [u8; 0x3c - 0x18],
    pause_filter_threshold: u16,
    pause_filter_count: u16,
    iopm_base: u64,
    msrpm_base: u64,
    tsc_offset: u64,
    asid: u32,
    tlb_control: u32,
    /// V_TPR, V_IRQ and the rest of the virtual interrupt control.
    virtual_interrupt: u64,
    /// Bit 0: interrupt shadow.
    interrupt_shadow: u64,
    exit_code: u64,
    exit_info_1: u64,
    exit_info_2: u64,
    exit_interrupt_info: u64,
    nested_control: u64,
    reserved_098: [u64; 2],
    event_injection: u64,
    nested_cr3: u64,
    lbr_control: u64,
    clean: u32,
    reserved_0c4: u32,
    next_rip: u64,
    bytes_fetched: u8,
    instruction_bytes: [u8; 15],
    reserved_0e0: [u8; 0x400 - 0xe0],
}

/// The state-save area.
#[derive(Debug)]
#[repr(C)]
struct State {
    /// ES, CS, SS, DS, FS, GS.
    segments: [VmcbSegment; 6],
    gdtr: VmcbSegment,
    ldtr: VmcbSegment,
    idtr: VmcbSegment,
    tr: VmcbSegment,
    reserved_0a0: [u8; 0xcb - 0xa0],
    cpl: u8,
    reserved_0cc: u32,
    efer: u64,
    reserved_0d8: [u8; 0x148 - 0xd8],
    cr4: u64,
    cr3: u64,
    cr0: u64,
    dr7: u64,
    dr6: u64,
    rflags: u64,
    rip: u64,
    reserved_180: [u8; 0x1d8 - 0x180],
    rsp: u64,
    reserved_1e0: [u64; 3],
    rax: u64,
    star: u64,
    lstar: u64,
    cstar: u64,
    sfmask: u64,
    kernel_gs_base: u64,
    sysenter_cs: u64,
    sysenter_esp: u64,
    sysenter_eip: u64,
    cr2: u64,
    reserved_248: [u8; 0x268 - 0x248],
    pat: u64,
    debugctl: u64,
    reserved_278: [u8; 0x2e0 - 0x278],
    /// The guest's SPEC_CTRL, for CPUs that switch it.
    speculation_control: u64,
    reserved_2e8: [u8; 0xc00 - 0x2e8],
}

/// A VMCB: one frame.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Vmcb {
    control: Control,
    state: State,
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Control, pause_filter_threshold) == 0x3c);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, nested_control) == 0x90);
    assert!(offset_of!(Control, event_injection) == 0xa8);
    assert!(offset_of!(Control, lbr_control) == 0xb8);
    assert!(offset_of!(Control, clean) == 0xc0);
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
    assert!(offset_of!(State, speculation_control) == 0x2e0);
};

/// A getter and a setter for each field, and the group that the setter marks, if the field is in one. Tests get the
/// setters as a table.
macro_rules! fields {
    ($($area:ident: $get:ident / $set:ident: $type:ty $(, $group:ident)?;)*) => {
        impl Vmcb { $(
            #[allow(dead_code, reason = "one for each field")]
            #[inline(always)]
            pub(super) const fn $get(&self) -> $type {
                self.$area.$get
            }

            #[inline(always)]
            pub(super) fn $set(&mut self, value: $type) {
                self.$area.$get = value;
                $(self.mark_changed(Clean::$group);)?
            }
        )* }

        #[cfg(test)]
        pub(super) const SETTERS: &[fn(&mut Vmcb, u64)] = &[$(|vmcb, value| vmcb.$set(value as $type),)*];
    };
}

fields! {
    control: intercept_cr / set_intercept_cr: u32, INTERCEPTS;
    control: intercept_dr / set_intercept_dr: u32, INTERCEPTS;
    control: intercept_exceptions / set_intercept_exceptions: u32, INTERCEPTS;
    control: intercept_1 / set_intercept_1: u32, INTERCEPTS;
    control: intercept_2 / set_intercept_2: u32, INTERCEPTS;
    control: intercept_3 / set_intercept_3: u32, INTERCEPTS;
    control: pause_filter_threshold / set_pause_filter_threshold: u16, INTERCEPTS;
    control: pause_filter_count / set_pause_filter_count: u16, INTERCEPTS;
    control: tsc_offset / set_tsc_offset: u64, INTERCEPTS;
    control: iopm_base / set_iopm_base: u64, PERMISSION_MAPS;
    control: msrpm_base / set_msrpm_base: u64, PERMISSION_MAPS;
    control: asid / set_asid: u32, ASID;
    control: tlb_control / set_tlb_control: u32;
    control: virtual_interrupt / set_virtual_interrupt: u64, VIRTUAL_INTERRUPT;
    control: interrupt_shadow / set_interrupt_shadow: u64;
    control: event_injection / set_event_injection: u64;
    control: nested_control / set_nested_control: u64, NESTED_PAGING;
    control: nested_cr3 / set_nested_cr3: u64, NESTED_PAGING;
    control: lbr_control / set_lbr_control: u64, LAST_BRANCH;
    state: efer / set_efer: u64, CONTROL_REGISTERS;
    state: cr0 / set_cr0: u64, CONTROL_REGISTERS;
    state: cr2 / set_cr2: u64, CR2;
    state: cr3 / set_cr3: u64, CONTROL_REGISTERS;
    state: cr4 / set_cr4: u64, CONTROL_REGISTERS;
    state: dr6 / set_dr6: u64, DEBUG_REGISTERS;
    state: dr7 / set_dr7: u64, DEBUG_REGISTERS;
    state: cpl / set_cpl: u8, SEGMENTS;
    state: pat / set_pat: u64, NESTED_PAGING;
    state: debugctl / set_debugctl: u64, LAST_BRANCH;
    state: speculation_control / set_speculation_control: u64;
    state: rflags / set_rflags: u64;
    state: rip / set_rip: u64;
    state: rsp / set_rsp: u64;
    state: rax / set_rax: u64;
    state: star / set_star: u64;
    state: lstar / set_lstar: u64;
    state: cstar / set_cstar: u64;
    state: sfmask / set_sfmask: u64;
    state: kernel_gs_base / set_kernel_gs_base: u64;
    state: sysenter_cs / set_sysenter_cs: u64;
    state: sysenter_esp / set_sysenter_esp: u64;
    state: sysenter_eip / set_sysenter_eip: u64;
}

impl Vmcb {
    /// EXITCODE.
    #[inline(always)]
    pub(super) const fn exit_code(&self) -> u64 {
        self.control.exit_code
    }

    /// EXITINFO1.
    #[inline(always)]
    pub(super) const fn exit_info_1(&self) -> u64 {
        self.control.exit_info_1
    }

    /// EXITINFO2.
    #[inline(always)]
    pub(super) const fn exit_info_2(&self) -> u64 {
        self.control.exit_info_2
    }

    /// EXITINTINFO.
    #[inline(always)]
    pub(super) const fn exit_interrupt_info(&self) -> u64 {
        self.control.exit_interrupt_info
    }

    /// nRIP.
    #[inline(always)]
    pub(super) const fn next_rip(&self) -> u64 {
        self.control.next_rip
    }

    /// The instruction bytes of a nested page fault, and how many of them there are.
    pub(super) const fn instruction_bytes(&self) -> (&[u8; 15], u8) {
        (&self.control.instruction_bytes, self.control.bytes_fetched & 0xf)
    }

    /// Switches bits of the second intercept word, marking a change only.
    pub(super) fn intercept(&mut self, bits: u32, on: bool) {
        let wanted = if on { self.intercept_1() | bits } else { self.intercept_1() & !bits };
        if wanted != self.intercept_1() {
            self.set_intercept_1(wanted);
        }
    }

    const fn slot(&self, name: SegmentName) -> &VmcbSegment {
        match name {
            SegmentName::Ldtr => &self.state.ldtr,
            SegmentName::Tr => &self.state.tr,
            _ => &self.state.segments[name as usize],
        }
    }

    /// A segment.
    pub(super) const fn segment(&self, name: SegmentName) -> VmcbSegment {
        *self.slot(name)
    }

    /// Sets a segment. FS, GS, LDTR and TR are loaded by VMLOAD, which knows no groups.
    pub(super) fn set_segment(&mut self, name: SegmentName, segment: VmcbSegment) {
        match name {
            SegmentName::Ldtr => self.state.ldtr = segment,
            SegmentName::Tr => self.state.tr = segment,
            _ => self.state.segments[name as usize] = segment,
        }
        if matches!(name, SegmentName::Es | SegmentName::Cs | SegmentName::Ss | SegmentName::Ds) {
            self.mark_changed(Clean::SEGMENTS);
        }
    }

    /// GDTR or IDTR; only base and limit count.
    pub(super) const fn table(&self, name: DescriptorTableName) -> VmcbSegment {
        match name {
            DescriptorTableName::Gdtr => self.state.gdtr,
            DescriptorTableName::Idtr => self.state.idtr,
        }
    }

    /// Sets GDTR or IDTR.
    pub(super) fn set_table(&mut self, name: DescriptorTableName, base: u64, limit: u32) {
        let table = match name {
            DescriptorTableName::Gdtr => &mut self.state.gdtr,
            DescriptorTableName::Idtr => &mut self.state.idtr,
        };
        (table.base, table.limit) = (base, limit);
        self.mark_changed(Clean::TABLES);
    }

    /// The next VMRUN loads these groups from memory.
    #[inline(always)]
    pub(super) fn mark_changed(&mut self, groups: Clean) {
        self.control.clean &= !groups.bits();
    }

    /// After an exit the CPU may keep these groups, until they are written.
    #[inline(always)]
    pub(super) fn mark_kept(&mut self, groups: Clean) {
        self.control.clean = groups.bits();
    }

    /// The groups that the next VMRUN may take from what the CPU kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Clean {
        Clean::from_bits_retain(self.control.clean)
    }
}

#[cfg(test)]
impl Vmcb {
    /// All zeros.
    pub(super) fn zeroed() -> std::boxed::Box<Self> {
        // SAFETY: every field is an integer, for which zero is a value.
        unsafe { std::boxed::Box::<Self>::new_zeroed().assume_init() }
    }

    /// What memory holds.
    pub(super) fn bytes(&self) -> &[u8; 4096] {
        // SAFETY: a VMCB is 4096 bytes of integers without padding.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}
