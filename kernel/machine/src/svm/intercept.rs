//! Names of the VMCB's control bits.
//!
//! Source: AMD APM vol. 2, appendix "VMCB Layout".

/// Intercepts of the word at 0x00c.
pub(crate) mod intercept_1 {
    pub(crate) const INTR: u32 = 1 << 0;
    pub(crate) const NMI: u32 = 1 << 1;
    pub(crate) const INIT: u32 = 1 << 3;
    pub(crate) const VINTR: u32 = 1 << 4;
    pub(crate) const RDPMC: u32 = 1 << 15;
    pub(crate) const PUSHF: u32 = 1 << 16;
    pub(crate) const POPF: u32 = 1 << 17;
    pub(crate) const CPUID: u32 = 1 << 18;
    pub(crate) const IRET: u32 = 1 << 20;
    pub(crate) const SOFTWARE_INTERRUPT: u32 = 1 << 21;
    pub(crate) const INVD: u32 = 1 << 22;
    pub(crate) const PAUSE: u32 = 1 << 23;
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
    pub(crate) const ICEBP: u32 = 1 << 8;
    pub(crate) const WBINVD: u32 = 1 << 9;
    pub(crate) const MONITOR: u32 = 1 << 10;
    pub(crate) const MWAIT: u32 = 1 << 11;
    pub(crate) const MWAIT_ARMED: u32 = 1 << 12;
    pub(crate) const XSETBV: u32 = 1 << 13;
    pub(crate) const RDPRU: u32 = 1 << 14;
}

/// Virtual interrupt control at 0x060.
pub(crate) mod virtual_interrupt {
    pub(crate) const V_TPR: u64 = 0xf;
    pub(crate) const V_IRQ: u64 = 1 << 8;
    /// V_NMI, V_NMI_MASK, V_NMI_ENABLE.
    pub(crate) const V_NMI: u64 = 1 << 11;
    pub(crate) const V_NMI_MASK: u64 = 1 << 12;
    pub(crate) const V_PRIORITY_HIGHEST: u64 = 0xf << 16;
    pub(crate) const V_PRIORITY_SHIFT: u32 = 16;
    pub(crate) const V_IGNORE_TPR: u64 = 1 << 20;
    pub(crate) const V_INTR_MASKING: u64 = 1 << 24;
    pub(crate) const V_NMI_ENABLE: u64 = 1 << 26;
    pub(crate) const V_VECTOR_SHIFT: u32 = 32;
    pub(crate) const VECTOR: u64 = 0xff << V_VECTOR_SHIFT;
    /// All that offers an interrupt, and the task priority.
    pub(crate) const OFFER: u64 = V_TPR | V_IRQ | V_PRIORITY_HIGHEST | V_IGNORE_TPR | VECTOR;
}

/// TLB_CONTROL.
pub(crate) mod tlb {
    pub(crate) const NOTHING: u32 = 0;
    pub(crate) const FLUSH_ALL: u32 = 1;
    pub(crate) const FLUSH_ASID: u32 = 3;
}

/// Nested control at 0x090: nested paging.
pub(crate) const NP_ENABLE: u64 = 1;
