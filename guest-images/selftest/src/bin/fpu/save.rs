//! FXSAVE, XSAVE and their kin (SDM vol. 1, "Managing State Using the XSAVE Feature Set").

use selftest::cpu::{self, cr4, msr};
use selftest::exception::vector::{GP, UD};
use selftest::platform::{self, features, has};
use selftest::{Test, TestResult, check, check_eq, expect_exception, memory, need, probe, tests};

use crate::state::{
    AVX, SSE, X87_SSE, difference, enable_sse, enable_xsave, load_xmm, load_ymm, noise, store_xmm, store_ymm,
    supported, xrstor, xsave,
};

pub(crate) const TESTS: &[Test] = tests![
    fxsave_round_trip,
    xsave_round_trip,
    xsave_of_some_components,
    xrstor_initialises_missing_components,
    xrstor_bad_header_is_gp,
    xsave_misaligned_is_gp,
    xsave_without_osxsave_is_ud,
    xsaveopt_round_trip,
    xsavec_round_trip,
    xsaves_policy,
    xcr0_sizes_follow,
    reserved_mxcsr_bits_are_gp,
];

fn fxsave_round_trip() -> TestResult {
    enable_sse();
    let (before, after, image) = (noise(), memory::page(), memory::page());
    load_xmm(before);
    probe!("fxsave64 [{}]", in(reg) image);
    load_xmm(after);
    cpu::cpuid(0, 0);
    probe!("fxrstor64 [{}]", in(reg) image);
    store_xmm(after);
    check!(difference(before, after, 256).is_none(), "XMM registers differ");
    check!(difference(before, image + 160, 256).is_none(), "the image differs");
    Ok(())
}

fn widest() -> u64 {
    supported() & (X87_SSE | AVX)
}

fn xsave_round_trip() -> TestResult {
    need!(has(features::AVX), "no AVX");
    enable_xsave(X87_SSE | AVX)?;
    let (before, after, image) = (noise(), memory::page(), memory::page());
    load_ymm(before);
    xsave(image, X87_SSE | AVX);
    check_eq!(cpu::read64(image + 512) & (AVX | 2), AVX | 2, "XSTATE_BV");
    load_ymm(after);
    cpu::cpuid(0, 0);
    xrstor(image, X87_SSE | AVX);
    store_ymm(after);
    check!(difference(before, after, 512).is_none(), "YMM registers differ");
    Ok(())
}

fn xsave_of_some_components() -> TestResult {
    enable_xsave(X87_SSE)?;
    let image = memory::page();
    load_xmm(noise());
    memory::fill(image, 0x5a, 512);
    xsave(image, 1);
    check_eq!(cpu::read64(image + 512) & 2, 0, "XSTATE_BV's SSE bit, which was not asked for");
    check_eq!(cpu::read64(image + 160), 0x5a5a_5a5a_5a5a_5a5a, "XMM area, which was not asked for");
    Ok(())
}

fn xrstor_initialises_missing_components() -> TestResult {
    enable_xsave(X87_SSE)?;
    let (image, after, zeros) = (memory::page(), memory::page(), memory::page());
    cpu::write32(image + 24, 0x1f80);
    load_xmm(noise());
    xrstor(image, X87_SSE);
    store_xmm(after);
    check!(difference(after, zeros, 256).is_none(), "XMM registers are not zero");
    Ok(())
}

fn xrstor_bad_header_is_gp() -> TestResult {
    enable_xsave(X87_SSE)?;
    let image = memory::page();
    cpu::write32(image + 24, 0x1f80);
    cpu::write64(image + 512, 1 << 62);
    expect_exception("XRSTOR with a reserved XSTATE_BV bit", GP, 0, || xrstor(image, X87_SSE))?;
    cpu::write64(image + 512, X87_SSE);
    xrstor(image, X87_SSE);
    Ok(())
}

fn xsave_misaligned_is_gp() -> TestResult {
    need!(!platform::tcg(), "TCG is lax here");
    enable_xsave(X87_SSE)?;
    let image = memory::page();
    expect_exception("XSAVE to a misaligned area", GP, 0, || xsave(image + 8, X87_SSE))
}

fn xsave_without_osxsave_is_ud() -> TestResult {
    need!(has(features::XSAVE), "no XSAVE");
    let image = memory::page();
    cpu::write_cr4(SSE);
    expect_exception("XSAVE without CR4.OSXSAVE", UD, 0, || xsave(image, 1))?;
    cpu::write_cr4(SSE | cr4::OSXSAVE);
    xsave(image, 1);
    Ok(())
}

fn xsaveopt_round_trip() -> TestResult {
    need!(has(features::XSAVEOPT), "no XSAVEOPT");
    enable_xsave(X87_SSE)?;
    let (before, after, image) = (noise(), memory::page(), memory::page());
    load_xmm(before);
    probe!("xsaveopt64 [{}]", in(reg) image, in("eax") 3, in("edx") 0);
    load_xmm(after);
    cpu::cpuid(0, 0);
    xrstor(image, X87_SSE);
    store_xmm(after);
    check!(difference(before, after, 256).is_none(), "XMM registers differ");
    Ok(())
}

fn xsavec_round_trip() -> TestResult {
    const COMPACTED: u64 = 1 << 63;
    let offered = cpu::cpuid(0xd, 1).eax & 2 != 0;
    need!(has(features::XSAVE) && offered, "no XSAVEC");
    enable_xsave(X87_SSE)?;
    let (before, after, image) = (noise(), memory::page(), memory::page());
    load_xmm(before);
    probe!("xsavec64 [{}]", in(reg) image, in("eax") 3, in("edx") 0);
    check!(cpu::read64(image + 520) & COMPACTED != 0, "the image is not compacted");
    load_xmm(after);
    cpu::cpuid(0, 0);
    xrstor(image, X87_SSE);
    store_xmm(after);
    check!(difference(before, after, 256).is_none(), "XMM registers differ");
    Ok(())
}

fn xsaves_policy() -> TestResult {
    enable_xsave(X87_SSE)?;
    let image = memory::page();
    let xsaves = || probe!("xsaves64 [{}]", in(reg) image, in("eax") 3, in("edx") 0);
    if !has(features::XSAVES) {
        return expect_exception("XSAVES that CPUID does not offer", UD, 0, xsaves);
    }
    cpu::wrmsr(msr::XSS, 0);
    check_eq!(cpu::rdmsr(msr::XSS), 0, "XSS");
    expect_exception("an XSS bit of a user component", GP, 0, || cpu::wrmsr(msr::XSS, 4))?;
    expect_exception("a reserved XSS bit", GP, 0, || cpu::wrmsr(msr::XSS, 1 << 40))?;
    xsaves();
    probe!("xrstors64 [{}]", in(reg) image, in("eax") 3, in("edx") 0);
    Ok(())
}

fn xcr0_sizes_follow() -> TestResult {
    need!(!platform::bare(), "Bochs' leaf 0DH is inconsistent in some models");
    enable_xsave(X87_SSE)?;
    check_eq!(cpu::cpuid(0xd, 0).ebx, 576, "area size with x87 and SSE");
    let largest = cpu::cpuid(0xd, 0).ecx;
    if widest() & AVX != 0 {
        cpu::xsetbv(0, X87_SSE | AVX);
        let leaf = cpu::cpuid(0xd, 2);
        check_eq!(cpu::cpuid(0xd, 0).ebx, leaf.ebx + leaf.eax, "area size with AVX");
    }
    check!(cpu::cpuid(0xd, 0).ebx <= largest, "the area is larger than the largest, {largest}");
    Ok(())
}

fn reserved_mxcsr_bits_are_gp() -> TestResult {
    need!(!platform::tcg(), "TCG is lax here");
    enable_sse();
    expect_exception("reserved MXCSR bits", GP, 0, || crate::state::set_mxcsr(0x8001_1f80))
}
