//! VMCS fields as types: the width is in the type, so a 16-bit field cannot be given an address.
//!
//! Source: Intel SDM vol. 3, appendix "Field Encoding in VMCS".

use core::marker::PhantomData;

/// A VMCS field of width `T`.
#[derive(Debug)]
pub(crate) struct Field<T> {
    encoding: u32,
    width: PhantomData<T>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> Field<T> {
    const fn new(encoding: u32) -> Self {
        Self { encoding, width: PhantomData }
    }

    /// The encoding, for VMREAD and VMWRITE.
    #[inline]
    pub(crate) const fn encoding(self) -> u32 {
        self.encoding
    }
}

/// A width that a field can have.
pub(crate) trait Width: Copy {
    fn from_raw(raw: u64) -> Self;
    fn to_raw(self) -> u64;
}

macro_rules! width {
    ($($t:ty)*) => { $(
        impl Width for $t {
            #[inline]
            fn from_raw(raw: u64) -> Self {
                raw as Self
            }
            #[inline]
            fn to_raw(self) -> u64 {
                u64::from(self)
            }
        }
    )* };
}

width!(u16 u32 u64);

macro_rules! fields {
    ($($name:ident: $width:ty = $encoding:literal;)*) => { $(
        pub(crate) const $name: Field<$width> = Field::new($encoding);
    )* };
}

// 16-bit fields.
fields! {
    VPID: u16 = 0x0000;
    GUEST_ES_SELECTOR: u16 = 0x0800;
    GUEST_INTERRUPT_STATUS: u16 = 0x0810;
    HOST_ES_SELECTOR: u16 = 0x0c00;
    HOST_CS_SELECTOR: u16 = 0x0c02;
    HOST_SS_SELECTOR: u16 = 0x0c04;
    HOST_DS_SELECTOR: u16 = 0x0c06;
    HOST_FS_SELECTOR: u16 = 0x0c08;
    HOST_GS_SELECTOR: u16 = 0x0c0a;
    HOST_TR_SELECTOR: u16 = 0x0c0c;
}

// 64-bit fields.
fields! {
    IO_BITMAP_A: u64 = 0x2000;
    IO_BITMAP_B: u64 = 0x2002;
    MSR_BITMAP: u64 = 0x2004;
    TSC_OFFSET: u64 = 0x2010;
    VIRTUAL_APIC_ADDRESS: u64 = 0x2012;
    APIC_ACCESS_ADDRESS: u64 = 0x2014;
    EPT_POINTER: u64 = 0x201a;
    EOI_EXIT_BITMAP0: u64 = 0x201c;
    ENCLS_BITMAP: u64 = 0x202e;
    TSC_MULTIPLIER: u64 = 0x2032;
    GUEST_PHYSICAL_ADDRESS: u64 = 0x2400;
    VMCS_LINK_POINTER: u64 = 0x2800;
    GUEST_DEBUGCTL: u64 = 0x2802;
    GUEST_PAT: u64 = 0x2804;
    GUEST_EFER: u64 = 0x2806;
    GUEST_PDPTE0: u64 = 0x280a;
    HOST_PAT: u64 = 0x2c00;
    HOST_EFER: u64 = 0x2c02;
}

// 32-bit fields.
fields! {
    PIN_CONTROLS: u32 = 0x4000;
    PROCESSOR_CONTROLS: u32 = 0x4002;
    EXCEPTION_BITMAP: u32 = 0x4004;
    PAGE_FAULT_MASK: u32 = 0x4006;
    PAGE_FAULT_MATCH: u32 = 0x4008;
    CR3_TARGET_COUNT: u32 = 0x400a;
    EXIT_CONTROLS: u32 = 0x400c;
    EXIT_MSR_STORE_COUNT: u32 = 0x400e;
    EXIT_MSR_LOAD_COUNT: u32 = 0x4010;
    ENTRY_CONTROLS: u32 = 0x4012;
    ENTRY_MSR_LOAD_COUNT: u32 = 0x4014;
    ENTRY_INTERRUPTION_INFO: u32 = 0x4016;
    ENTRY_EXCEPTION_ERROR_CODE: u32 = 0x4018;
    ENTRY_INSTRUCTION_LENGTH: u32 = 0x401a;
    TPR_THRESHOLD: u32 = 0x401c;
    SECONDARY_CONTROLS: u32 = 0x401e;
    PLE_GAP: u32 = 0x4020;
    PLE_WINDOW: u32 = 0x4022;
    INSTRUCTION_ERROR: u32 = 0x4400;
    EXIT_REASON: u32 = 0x4402;
    EXIT_INTERRUPTION_INFO: u32 = 0x4404;
    EXIT_INTERRUPTION_ERROR_CODE: u32 = 0x4406;
    IDT_VECTORING_INFO: u32 = 0x4408;
    IDT_VECTORING_ERROR_CODE: u32 = 0x440a;
    EXIT_INSTRUCTION_LENGTH: u32 = 0x440c;
    GUEST_ES_LIMIT: u32 = 0x4800;
    GUEST_GDTR_LIMIT: u32 = 0x4810;
    GUEST_IDTR_LIMIT: u32 = 0x4812;
    GUEST_ES_ACCESS: u32 = 0x4814;
    GUEST_INTERRUPTIBILITY: u32 = 0x4824;
    GUEST_ACTIVITY: u32 = 0x4826;
    GUEST_SYSENTER_CS: u32 = 0x482a;
    GUEST_PREEMPTION_TIMER: u32 = 0x482e;
    HOST_SYSENTER_CS: u32 = 0x4c00;
}

// Natural-width fields.
fields! {
    CR0_MASK: u64 = 0x6000;
    CR4_MASK: u64 = 0x6002;
    CR0_SHADOW: u64 = 0x6004;
    CR4_SHADOW: u64 = 0x6006;
    EXIT_QUALIFICATION: u64 = 0x6400;
    GUEST_LINEAR_ADDRESS: u64 = 0x640a;
    GUEST_CR0: u64 = 0x6800;
    GUEST_CR3: u64 = 0x6802;
    GUEST_CR4: u64 = 0x6804;
    GUEST_ES_BASE: u64 = 0x6806;
    GUEST_FS_BASE: u64 = 0x680e;
    GUEST_GS_BASE: u64 = 0x6810;
    GUEST_GDTR_BASE: u64 = 0x6816;
    GUEST_IDTR_BASE: u64 = 0x6818;
    GUEST_DR7: u64 = 0x681a;
    GUEST_RSP: u64 = 0x681c;
    GUEST_RIP: u64 = 0x681e;
    GUEST_RFLAGS: u64 = 0x6820;
    GUEST_PENDING_DEBUG: u64 = 0x6822;
    GUEST_SYSENTER_ESP: u64 = 0x6824;
    GUEST_SYSENTER_EIP: u64 = 0x6826;
    HOST_CR0: u64 = 0x6c00;
    HOST_CR3: u64 = 0x6c02;
    HOST_CR4: u64 = 0x6c04;
    HOST_FS_BASE: u64 = 0x6c06;
    HOST_GS_BASE: u64 = 0x6c08;
    HOST_TR_BASE: u64 = 0x6c0a;
    HOST_GDTR_BASE: u64 = 0x6c0c;
    HOST_IDTR_BASE: u64 = 0x6c0e;
    HOST_SYSENTER_ESP: u64 = 0x6c10;
    HOST_SYSENTER_EIP: u64 = 0x6c12;
    HOST_RIP: u64 = 0x6c16;
}

/// HOST_RSP, which the entry code writes.
pub(crate) const HOST_RSP_ENCODING: u32 = 0x6c14;

/// The fields of one guest segment. Encodings of a kind are two apart, in the order ES, CS, SS, DS, FS, GS,
/// LDTR, TR.
pub(crate) struct SegmentFields {
    pub(crate) selector: Field<u16>,
    pub(crate) limit: Field<u32>,
    pub(crate) access: Field<u32>,
    pub(crate) base: Field<u64>,
}

/// The fields of a guest segment.
pub(crate) const fn segment(name: vcpu::SegmentName) -> SegmentFields {
    let step = 2 * name as u32;
    SegmentFields {
        selector: Field::new(GUEST_ES_SELECTOR.encoding() + step),
        limit: Field::new(GUEST_ES_LIMIT.encoding() + step),
        access: Field::new(GUEST_ES_ACCESS.encoding() + step),
        base: Field::new(GUEST_ES_BASE.encoding() + step),
    }
}

/// One of the four fields of the EOI-exit bitmap, the lowest vectors first.
pub(crate) const fn eoi_exits(number: u32) -> Field<u64> {
    Field::new(EOI_EXIT_BITMAP0.encoding() + 2 * (number & 3))
}

/// One of the four guest PDPTE fields.
pub(crate) const fn pdpte(number: u32) -> Field<u64> {
    Field::new(GUEST_PDPTE0.encoding() + 2 * (number & 3))
}
