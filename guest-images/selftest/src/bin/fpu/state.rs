//! Loading and storing of whole register files.

use selftest::cpu::{self, cr4};
use selftest::platform::{features, has};
use selftest::{Verdict, memory, probe, verdict};

/// CR4 with SSE on.
pub(crate) const SSE: u64 = cr4::BASELINE | cr4::OSFXSR | cr4::OSXMMEXCPT;
/// XCR0: x87 and SSE.
pub(crate) const X87_SSE: u64 = 3;
/// XCR0: AVX.
pub(crate) const AVX: u64 = 4;
/// XCR0: opmask, upper ZMM, high ZMM.
pub(crate) const AVX_512: u64 = 0xe0;

/// Switches SSE on.
pub(crate) fn enable_sse() {
    cpu::write_cr4(SSE);
}

/// Switches XSAVE on with these components, or skips the test.
pub(crate) fn enable_xsave(components: u64) -> Result<(), Verdict> {
    if !has(features::XSAVE) {
        return Err(verdict::skip(format_args!("no XSAVE")));
    }
    cpu::write_cr4(SSE | cr4::OSXSAVE);
    let offered = supported();
    if components & !offered != 0 {
        return Err(verdict::skip(format_args!("XCR0 bits {:#x} are not offered", components & !offered)));
    }
    cpu::xsetbv(0, components);
    Ok(())
}

/// XCR0 bits that CPUID offers.
pub(crate) fn supported() -> u64 {
    let leaf = cpu::cpuid(0xd, 0);
    u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
}

/// A page of pseudo-random bytes.
pub(crate) fn noise() -> u64 {
    let page = memory::page();
    for i in 0..512 {
        cpu::write64(page + 8 * i, selftest::platform::random());
    }
    page
}

/// Loads XMM0 to XMM15 from 256 bytes.
pub(crate) fn load_xmm(from: u64) {
    probe!(
        "movups xmm0, [{0}]", "movups xmm1, [{0} + 16]", "movups xmm2, [{0} + 32]", "movups xmm3, [{0} + 48]",
        "movups xmm4, [{0} + 64]", "movups xmm5, [{0} + 80]", "movups xmm6, [{0} + 96]", "movups xmm7, [{0} + 112]",
        "movups xmm8, [{0} + 128]", "movups xmm9, [{0} + 144]", "movups xmm10, [{0} + 160]",
        "movups xmm11, [{0} + 176]", "movups xmm12, [{0} + 192]", "movups xmm13, [{0} + 208]",
        "movups xmm14, [{0} + 224]", "movups xmm15, [{0} + 240]", in(reg) from
    );
}

/// Stores XMM0 to XMM15 to 256 bytes.
pub(crate) fn store_xmm(to: u64) {
    probe!(
        "movups [{0}], xmm0", "movups [{0} + 16], xmm1", "movups [{0} + 32], xmm2", "movups [{0} + 48], xmm3",
        "movups [{0} + 64], xmm4", "movups [{0} + 80], xmm5", "movups [{0} + 96], xmm6", "movups [{0} + 112], xmm7",
        "movups [{0} + 128], xmm8", "movups [{0} + 144], xmm9", "movups [{0} + 160], xmm10",
        "movups [{0} + 176], xmm11", "movups [{0} + 192], xmm12", "movups [{0} + 208], xmm13",
        "movups [{0} + 224], xmm14", "movups [{0} + 240], xmm15", in(reg) to
    );
}

/// Loads YMM0 to YMM15 from 512 bytes.
pub(crate) fn load_ymm(from: u64) {
    probe!(
        "vmovups ymm0, [{0}]", "vmovups ymm1, [{0} + 32]", "vmovups ymm2, [{0} + 64]", "vmovups ymm3, [{0} + 96]",
        "vmovups ymm4, [{0} + 128]", "vmovups ymm5, [{0} + 160]", "vmovups ymm6, [{0} + 192]",
        "vmovups ymm7, [{0} + 224]", "vmovups ymm8, [{0} + 256]", "vmovups ymm9, [{0} + 288]",
        "vmovups ymm10, [{0} + 320]", "vmovups ymm11, [{0} + 352]", "vmovups ymm12, [{0} + 384]",
        "vmovups ymm13, [{0} + 416]", "vmovups ymm14, [{0} + 448]", "vmovups ymm15, [{0} + 480]", in(reg) from
    );
}

/// Stores YMM0 to YMM15 to 512 bytes.
pub(crate) fn store_ymm(to: u64) {
    probe!(
        "vmovups [{0}], ymm0", "vmovups [{0} + 32], ymm1", "vmovups [{0} + 64], ymm2", "vmovups [{0} + 96], ymm3",
        "vmovups [{0} + 128], ymm4", "vmovups [{0} + 160], ymm5", "vmovups [{0} + 192], ymm6",
        "vmovups [{0} + 224], ymm7", "vmovups [{0} + 256], ymm8", "vmovups [{0} + 288], ymm9",
        "vmovups [{0} + 320], ymm10", "vmovups [{0} + 352], ymm11", "vmovups [{0} + 384], ymm12",
        "vmovups [{0} + 416], ymm13", "vmovups [{0} + 448], ymm14", "vmovups [{0} + 480], ymm15", in(reg) to
    );
}

/// XSAVE of the components into a page.
pub(crate) fn xsave(to: u64, components: u64) {
    probe!("xsave64 [{}]", in(reg) to, in("eax") components as u32, in("edx") (components >> 32) as u32);
}

/// XRSTOR of the components from a page.
pub(crate) fn xrstor(from: u64, components: u64) {
    probe!("xrstor64 [{}]", in(reg) from, in("eax") components as u32, in("edx") (components >> 32) as u32);
}

/// MXCSR.
pub(crate) fn mxcsr() -> u32 {
    let mut value = 0_u32;
    probe!("stmxcsr [{}]", in(reg) &raw mut value);
    value
}

/// Sets MXCSR.
pub(crate) fn set_mxcsr(value: u32) {
    probe!("ldmxcsr [{}]", in(reg) &raw const value);
}

/// The x87 control word.
pub(crate) fn control_word() -> u16 {
    let mut value = 0_u16;
    probe!("fnstcw [{}]", in(reg) &raw mut value);
    value
}

/// Sets the x87 control word.
pub(crate) fn set_control_word(value: u16) {
    probe!("fldcw [{}]", in(reg) &raw const value);
}

/// The first offset at which two stretches of memory differ.
pub(crate) fn difference(left: u64, right: u64, length: u64) -> Option<u64> {
    (0..length).find(|&i| cpu::read8(left + i) != cpu::read8(right + i))
}
