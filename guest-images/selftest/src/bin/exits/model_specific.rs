//! RDMSR and WRMSR (SDM vol. 4, "Model-Specific Registers"; APM vol. 2, "Model-Specific Registers").

use selftest::cpu::{self, efer, msr, rdmsr, rdtsc, wrmsr};
use selftest::exception::vector::{GP, UD};
use selftest::platform::{self, Vendor, features, has};
use selftest::{
    Test, TestResult, apic, check, check_eq, exception, expect_exception, need, probe, tests, tsc,
};

pub(crate) const TESTS: &[Test] = tests![
    msr_unknown_read_is_gp,
    msr_unknown_write_is_gp,
    msr_fault_changes_nothing,
    msr_ecx_upper_half_is_ignored,
    msr_rdmsr_clears_upper_halves,
    msr_efer_reserved_is_gp,
    msr_efer_lme_is_locked_by_paging,
    msr_efer_bits_round_trip,
    msr_tsc_write,
    msr_tsc_adjust,
    msr_tsc_aux,
    msr_pat_round_trip,
    msr_pat_bad_type_is_gp,
    msr_segment_bases,
    msr_kernel_gs_base_swaps,
    msr_non_canonical_is_gp,
    msr_apic_base,
    msr_mtrr,
    msr_mtrr_bad_type_is_gp,
    msr_debugctl,
    msr_read_only_is_gp,
    msr_microcode_revision_reads,
    msr_speculation_control,
    msr_speculation_commands,
    msr_arch_capabilities,
];

/// Numbers that no processor and no hypervisor of ours defines.
const UNKNOWN: [u32; 5] = [0x1234, 0x4000_1234, 0x4b56_4dff, 0xc000_7777, 0xffff_fff0];

fn msr_unknown_read_is_gp() -> TestResult {
    need!(!platform::bare_tcg(), "TCG reads unknown MSRs as zero");
    for index in UNKNOWN {
        expect_exception("RDMSR of an unknown number", GP, 0, || {
            rdmsr(index);
        })?;
    }
    Ok(())
}

fn msr_unknown_write_is_gp() -> TestResult {
    need!(!platform::bare_tcg(), "TCG ignores writes to unknown MSRs");
    for index in UNKNOWN {
        for value in [0, 1, u64::MAX] {
            expect_exception("WRMSR of an unknown number", GP, 0, || wrmsr(index, value))?;
        }
    }
    Ok(())
}

fn msr_fault_changes_nothing() -> TestResult {
    need!(!platform::bare_tcg(), "TCG reads unknown MSRs as zero");
    let at = unknown_rdmsr().as_ptr() as u64;
    expect_exception("RDMSR of an unknown number", GP, 0, || {
        selftest::snippet::call(at, 0);
    })?;
    let frame = exception::last_frame();
    check_eq!(frame.rip, at + 15, "saved RIP of the fault");
    check_eq!(frame.rax, 0x1111, "RAX");
    check_eq!(frame.rdx, 0x2222, "RDX");
    check_eq!(frame.rcx, 0x1234, "RCX");
    Ok(())
}

selftest::snippet!(unknown_rdmsr: "mov ecx, 0x1234", "mov eax, 0x1111", "mov edx, 0x2222", "rdmsr", "ret");

fn msr_ecx_upper_half_is_ignored() -> TestResult {
    let low: u32;
    probe!("rdmsr", in("rcx") 0xdead_beef_0000_0000 | u64::from(msr::EFER), out("eax") low, out("edx") _);
    check_eq!(low, rdmsr(msr::EFER) as u32, "EFER");
    Ok(())
}

fn msr_rdmsr_clears_upper_halves() -> TestResult {
    let (rax, rdx): (u64, u64);
    probe!("rdmsr", in("rcx") u64::from(msr::APIC_BASE), inout("rax") u64::MAX => rax, inout("rdx") u64::MAX => rdx);
    check_eq!(rax >> 32, 0, "upper half of RAX");
    check_eq!(rdx >> 32, 0, "upper half of RDX");
    Ok(())
}

fn msr_efer_reserved_is_gp() -> TestResult {
    need!(!platform::bare_tcg(), "TCG masks EFER's reserved bits");
    for bit in [1, 2, 7, 9, 16, 20, 31, 32, 63] {
        expect_exception("reserved EFER bit", GP, 0, || wrmsr(msr::EFER, efer::BASELINE | 1 << bit))?;
    }
    check_eq!(rdmsr(msr::EFER), efer::BASELINE, "EFER after the faults");
    Ok(())
}

fn msr_efer_lme_is_locked_by_paging() -> TestResult {
    need!(!platform::bare_tcg(), "TCG lets LME change under paging");
    expect_exception("clearing EFER.LME with paging on", GP, 0, || {
        wrmsr(msr::EFER, efer::BASELINE & !(efer::LME | efer::LMA));
    })?;
    check_eq!(rdmsr(msr::EFER), efer::BASELINE, "EFER after the fault");
    Ok(())
}

fn msr_efer_bits_round_trip() -> TestResult {
    for value in [efer::BASELINE & !efer::SCE, efer::BASELINE & !efer::NXE, efer::BASELINE] {
        wrmsr(msr::EFER, value);
        let read = rdmsr(msr::EFER);
        wrmsr(msr::EFER, efer::BASELINE);
        check_eq!(read, value, "EFER");
    }
    Ok(())
}

fn msr_tsc_write() -> TestResult {
    need!(!platform::bare_tcg(), "TCG knows no TSC MSR");
    let hz = tsc::frequency();
    let before = rdtsc();
    for target in [0, hz * 1000, 0x0123_4567_89ab_cdef] {
        wrmsr(msr::TSC, target);
        let (first, second, third) = (rdtsc(), rdmsr(msr::TSC), rdtsc());
        wrmsr(msr::TSC, before);
        check!(first >= target && first - target < hz, "TSC is {first:#x} after writing {target:#x}");
        check!(
            first <= second && second <= third,
            "RDMSR {second:#x} lies outside RDTSC {first:#x} to {third:#x}"
        );
    }
    Ok(())
}

fn msr_tsc_adjust() -> TestResult {
    need!(has(features::TSC_ADJUST), "no TSC_ADJUST");
    const STEP: u64 = 0x1_0000_0000_0000;
    let hz = tsc::frequency();
    let adjust = rdmsr(msr::TSC_ADJUST);
    let before = rdtsc();
    wrmsr(msr::TSC_ADJUST, adjust.wrapping_add(STEP));
    let ahead = rdtsc();
    let read = rdmsr(msr::TSC_ADJUST);
    wrmsr(msr::TSC_ADJUST, adjust);
    let after = rdtsc();
    check_eq!(read, adjust.wrapping_add(STEP), "TSC_ADJUST read back");
    check!(ahead.wrapping_sub(before.wrapping_add(STEP)) < hz, "TSC moved from {before:#x} to {ahead:#x}");
    check!(after.wrapping_sub(before) < hz, "TSC did not come back: {before:#x}, {after:#x}");
    // Writing the TSC moves TSC_ADJUST by as much.
    let now = rdtsc();
    wrmsr(msr::TSC, now.wrapping_add(STEP));
    let moved = rdmsr(msr::TSC_ADJUST);
    wrmsr(msr::TSC_ADJUST, adjust);
    let step = moved.wrapping_sub(adjust).wrapping_sub(STEP).wrapping_add(hz);
    check!(step < 2 * hz, "TSC_ADJUST went from {adjust:#x} to {moved:#x}");
    Ok(())
}

fn msr_tsc_aux() -> TestResult {
    need!(has(features::RDTSCP) || has(features::RDPID), "neither RDTSCP nor RDPID");
    for value in [0x0123_4567_u64, 0, 0xffff_ffff] {
        wrmsr(msr::TSC_AUX, value);
        check_eq!(rdmsr(msr::TSC_AUX), value, "TSC_AUX");
        if has(features::RDTSCP) {
            let (rax, rcx, rdx): (u64, u64, u64);
            probe!("rdtscp", inout("rax") u64::MAX => rax, inout("rcx") u64::MAX => rcx, inout("rdx") u64::MAX => rdx);
            check_eq!(rcx, value, "RCX of RDTSCP");
            check!(rax >> 32 == 0 && rdx >> 32 == 0, "RDTSCP leaves upper halves: {rax:#x} {rdx:#x}");
        }
        if has(features::RDPID) {
            let id: u64;
            probe!("rdpid {}", out(reg) id);
            check_eq!(id, value, "RDPID");
        }
    }
    wrmsr(msr::TSC_AUX, 0);
    if !has(features::RDPID) {
        expect_exception("RDPID that CPUID does not offer", UD, 0, || probe!("rdpid {}", out(reg) _))?;
    }
    Ok(())
}

/// The value after power-up.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

fn msr_pat_round_trip() -> TestResult {
    need!(has(features::PAT), "no PAT");
    for value in [0x0606_0606_0606_0606, 0x0001_0405_0607_0600, PAT_RESET] {
        wrmsr(msr::PAT, value);
        let read = rdmsr(msr::PAT);
        wrmsr(msr::PAT, PAT_RESET);
        check_eq!(read, value, "PAT");
    }
    Ok(())
}

fn msr_pat_bad_type_is_gp() -> TestResult {
    need!(has(features::PAT), "no PAT");
    need!(!platform::bare_tcg(), "TCG stores any PAT");
    for value in [2, 3, 8, 0x0e, 0xff, 2 << 56, 0x80 << 24] {
        expect_exception("reserved memory type in PAT", GP, 0, || wrmsr(msr::PAT, value))?;
    }
    Ok(())
}

fn msr_segment_bases() -> TestResult {
    let page = selftest::memory::page();
    cpu::write64(page + 8, 0xfeed_f00d);
    for base in [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE] {
        for value in [page, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, 0] {
            wrmsr(base, value);
            check_eq!(rdmsr(base), value, "MSR {base:#x}");
        }
    }
    wrmsr(msr::FS_BASE, page);
    wrmsr(msr::GS_BASE, page - 8);
    let (by_fs, by_gs): (u64, u64);
    probe!("mov {}, fs:[8]", "mov {}, gs:[16]", out(reg) by_fs, out(reg) by_gs);
    cpu::cpuid(0, 0);
    let again: u64;
    probe!("mov {}, fs:[8]", out(reg) again);
    check_eq!(by_fs, 0xfeed_f00d, "read through FS");
    check_eq!(by_gs, 0xfeed_f00d, "read through GS");
    check_eq!(again, 0xfeed_f00d, "read through FS after an exit");
    Ok(())
}

fn msr_kernel_gs_base_swaps() -> TestResult {
    wrmsr(msr::GS_BASE, 0x1000);
    wrmsr(msr::KERNEL_GS_BASE, 0x2000);
    cpu::cpuid(0, 0);
    probe!("swapgs");
    cpu::cpuid(0, 0);
    check_eq!(rdmsr(msr::GS_BASE), 0x2000, "GS base after SWAPGS");
    check_eq!(rdmsr(msr::KERNEL_GS_BASE), 0x1000, "kernel GS base after SWAPGS");
    Ok(())
}

fn msr_non_canonical_is_gp() -> TestResult {
    need!(!platform::tcg(), "TCG accepts non-canonical addresses in MSRs");
    for index in [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE, msr::LSTAR, msr::CSTAR] {
        for value in [0x0100_0000_0000_0000, 0x8000_0000_0000_0000, 0xfeff_ffff_ffff_ffff] {
            expect_exception("non-canonical address in an MSR", GP, 0, || wrmsr(index, value))?;
        }
    }
    Ok(())
}

fn msr_apic_base() -> TestResult {
    let base = rdmsr(msr::APIC_BASE);
    check_eq!(base & !0xfff, apic::XAPIC_BASE, "APIC base address");
    check!(base & apic::BASE_ENABLE != 0, "the APIC is off");
    check!(base & apic::BASE_BSP != 0, "the only processor is no bootstrap processor");
    need!(!platform::bare_tcg(), "TCG ignores reserved bits of the APIC base");
    for bit in [0, 7, 9, 63] {
        expect_exception("reserved bit of IA32_APIC_BASE", GP, 0, || wrmsr(msr::APIC_BASE, base | 1 << bit))?;
    }
    check_eq!(rdmsr(msr::APIC_BASE), base, "APIC base after the faults");
    Ok(())
}

fn msr_mtrr() -> TestResult {
    need!(has(features::MTRR), "no MTRRs");
    const FIRST_VARIABLE: u32 = 0x200;
    const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
    let capabilities = rdmsr(msr::MTRRCAP);
    let variable = (capabilities & 0xff) as u32;
    check!(variable <= 32, "{variable} variable ranges");
    for index in FIRST_VARIABLE..FIRST_VARIABLE + 2 * variable {
        let value = rdmsr(index);
        wrmsr(index, value);
    }
    if capabilities & 1 << 8 != 0 {
        for index in FIXED {
            let value = rdmsr(index);
            wrmsr(index, 0x0606_0606_0606_0606);
            let read = rdmsr(index);
            wrmsr(index, value);
            check_eq!(read, 0x0606_0606_0606_0606, "MTRR {index:#x}");
        }
    }
    let default = rdmsr(msr::MTRR_DEF_TYPE);
    wrmsr(msr::MTRR_DEF_TYPE, default);
    check_eq!(rdmsr(msr::MTRR_DEF_TYPE), default, "MTRR default type");
    Ok(())
}

fn msr_mtrr_bad_type_is_gp() -> TestResult {
    need!(has(features::MTRR), "no MTRRs");
    need!(!platform::bare_tcg(), "TCG stores any MTRR");
    let default = rdmsr(msr::MTRR_DEF_TYPE);
    for value in [default & !0xff | 2, default & !0xff | 7, default | 1 << 12, default | 1 << 40] {
        expect_exception("bad MTRR default type", GP, 0, || wrmsr(msr::MTRR_DEF_TYPE, value))?;
    }
    if rdmsr(msr::MTRRCAP) & 1 << 8 != 0 {
        expect_exception("bad type in a fixed MTRR", GP, 0, || wrmsr(0x250, 3))?;
    }
    Ok(())
}

fn msr_debugctl() -> TestResult {
    need!(platform::hypervisor(), "TCG and Bochs have no DEBUGCTL");
    wrmsr(msr::DEBUGCTL, 0);
    check_eq!(rdmsr(msr::DEBUGCTL), 0, "DEBUGCTL");
    expect_exception("reserved DEBUGCTL bit", GP, 0, || wrmsr(msr::DEBUGCTL, 1 << 40))
}

fn msr_read_only_is_gp() -> TestResult {
    need!(!platform::bare_tcg(), "TCG ignores such writes");
    need!(has(features::MTRR), "no MTRRs");
    let value = rdmsr(msr::MTRRCAP);
    expect_exception("write to MTRRCAP", GP, 0, || wrmsr(msr::MTRRCAP, value))
}

fn msr_microcode_revision_reads() -> TestResult {
    const MICROCODE_REVISION: u32 = 0x8b;
    need!(platform::hypervisor(), "TCG and Bochs do not have it");
    rdmsr(MICROCODE_REVISION);
    if platform::vendor() == Vendor::Intel {
        let value = rdmsr(msr::MISC_ENABLE);
        wrmsr(msr::MISC_ENABLE, value);
    }
    Ok(())
}

/// Leaf 7 EDX: IBRS and IBPB, flushing the L1 data cache, IA32_ARCH_CAPABILITIES.
const IBRS_IBPB: u32 = 1 << 26;
const L1D_FLUSH: u32 = 1 << 28;
const ARCH_CAPABILITIES: u32 = 1 << 29;

fn tells(bit: u32) -> bool {
    cpu::cpuid(7, 0).edx & bit != 0
}

/// Exits keep it, before the first value that is not 0 and after that.
fn msr_speculation_control() -> TestResult {
    need!(tells(IBRS_IBPB), "this processor has no IA32_SPEC_CTRL");
    for value in [0, 1, 1, 0, 1, 0] {
        wrmsr(msr::SPEC_CTRL, value);
        check_eq!(rdmsr(msr::SPEC_CTRL), value, "IA32_SPEC_CTRL");
        cpu::cpuid(0, 0);
        check_eq!(rdmsr(msr::SPEC_CTRL), value, "IA32_SPEC_CTRL behind an exit");
        expect_exception("reserved bit of IA32_SPEC_CTRL", GP, 0, || wrmsr(msr::SPEC_CTRL, 1 << 40))?;
        check_eq!(rdmsr(msr::SPEC_CTRL), value, "IA32_SPEC_CTRL behind a fault");
    }
    Ok(())
}

fn msr_speculation_commands() -> TestResult {
    need!(!platform::bare_tcg(), "TCG reads unknown MSRs as zero");
    for (bit, index) in [(IBRS_IBPB, msr::PRED_CMD), (L1D_FLUSH, msr::FLUSH_CMD)] {
        expect_exception("RDMSR of a register that is written only", GP, 0, || {
            rdmsr(index);
        })?;
        if tells(bit) {
            wrmsr(index, 1);
        }
    }
    Ok(())
}

fn msr_arch_capabilities() -> TestResult {
    need!(tells(ARCH_CAPABILITIES), "this processor has no IA32_ARCH_CAPABILITIES");
    check_eq!(rdmsr(msr::ARCH_CAPABILITIES), rdmsr(msr::ARCH_CAPABILITIES), "IA32_ARCH_CAPABILITIES");
    expect_exception("WRMSR of IA32_ARCH_CAPABILITIES", GP, 0, || wrmsr(msr::ARCH_CAPABILITIES, 0))
}
