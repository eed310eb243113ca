//! 32-bit modes.

use selftest::descriptor::{self, SCRATCH};
use selftest::exception::{self, vector};
use selftest::paging::{A, D};
use selftest::{
    Global, Test, TestResult, apic, check, check_eq, cpu, memory, need, pic, pit, platform, tests,
};

use crate::trampoline::{
    Fields, payload_exits32, payload_faults32, payload_interrupts32, payload_into, payload_protected16,
    payload_segments32, payload_virtual8086,
};
use crate::visit::{
    APART, Mode, Paged, Place, UNPAGED, physical_address_extension, set_based_segments, two_level, visit,
};

pub(crate) const TESTS: &[Test] = tests![
    exits_without_paging,
    exits_with_two_level_paging,
    exits_with_pae_paging,
    exits_in_compatibility_mode,
    efer_lma_follows_paging,
    faults_without_paging,
    faults_with_two_level_paging,
    faults_with_pae_paging,
    interrupts_without_paging,
    interrupts_with_two_level_paging,
    interrupts_with_pae_paging,
    segment_bases,
    sixteen_bit_protected_mode,
    virtual_8086_mode,
    into_in_compatibility_mode,
    many_mode_switches,
    long_mode_state_survives,
];

/// Checks the results of `payload_exits32`, whose buffer shows at `buffer`.
fn check_exits(seen: &Fields, buffer: u64) -> TestResult {
    let leaf = cpu::cpuid(0, 0);
    let version = apic::read(apic::register::VERSION);
    let base = cpu::rdmsr(cpu::msr::APIC_BASE) as u32;
    let expected = [
        ("CPUID's EAX", leaf.eax),
        ("CPUID's EBX", leaf.ebx),
        ("IN AL", 0x5d),
        ("EAX after IN AX", 0x1234_ffff),
        ("ECX after REP INSB", 0),
        ("bytes moved by REP INSB", 3),
        ("buffer", 0x005d_5d5d),
        ("byte written by OUTSB", 0x66),
        ("APIC base", base),
        ("APIC version", version),
        ("APIC count", 0x1_1234),
    ];
    for (result, (what, value)) in seen.results[1..].iter().zip(expected) {
        check_eq!(*result, value, "{what}");
    }
    check_eq!(cpu::read32(buffer), 0x005d_5d66, "the buffer's frame");
    Ok(())
}

/// Checks the control registers that `payload_exits32` saw.
fn check_control(seen: &Fields, mode: Mode) -> TestResult {
    let cs = u32::from(descriptor::KERNEL_CODE32);
    let expected = [("CR0", mode.cr0), ("CR3", mode.cr3), ("CR4", mode.cr4), ("CS", cs), ("EFER", mode.efer)];
    for (result, (what, value)) in seen.results[12..].iter().zip(expected) {
        check_eq!(*result, value, "{what}");
    }
    Ok(())
}

fn exits_without_paging() -> TestResult {
    let buffer = memory::page();
    let seen =
        visit(Place::Legacy(UNPAGED), &raw const payload_exits32, [buffer as u32, apic::XAPIC_BASE as u32]);
    check_exits(&seen, buffer)?;
    check_control(&seen, UNPAGED)
}

fn exits_paged(paged: Paged) -> TestResult {
    let seen = visit(Place::Legacy(paged.mode), &raw const payload_exits32, [APART + 0x10, APART + 0x1000]);
    check_exits(&seen, paged.frame + 0x10)?;
    check_control(&seen, paged.mode)?;
    check_eq!(paged.entry(0) & (A | D), A | D, "A and D of the buffer's page");
    check_eq!(paged.entry(3) & (A | D), 0, "A and D of a page that nobody touched");
    Ok(())
}

fn exits_with_two_level_paging() -> TestResult {
    exits_paged(two_level())
}

fn exits_with_pae_paging() -> TestResult {
    exits_paged(physical_address_extension())
}

fn exits_in_compatibility_mode() -> TestResult {
    let buffer = memory::page();
    let seen =
        visit(Place::Compatibility, &raw const payload_exits32, [buffer as u32, apic::XAPIC_BASE as u32]);
    check_exits(&seen, buffer)?;
    check_eq!(seen.results[12], u32::from(descriptor::KERNEL_CODE32), "CS");
    check_eq!(seen.results[13], cpu::efer::BASELINE as u32, "EFER");
    Ok(())
}

fn efer_lma_follows_paging() -> TestResult {
    let seen =
        visit(Place::Legacy(UNPAGED), &raw const payload_exits32, [memory::page() as u32, 0xfee0_0000]);
    let without_lma = (cpu::efer::BASELINE & !cpu::efer::LMA) as u32;
    check_eq!(seen.results[0], without_lma, "EFER after clearing CR0.PG");
    check_eq!(cpu::rdmsr(cpu::msr::EFER), cpu::efer::BASELINE, "EFER back in long mode");
    Ok(())
}

/// Vector, error code, distance of EIP, and CR2 where it counts, for each fault of the payload.
fn check_faults(seen: &Fields, expected: &[(&str, u32, u32, Option<u32>)]) -> TestResult {
    for (fault, &(what, vector, error_code, cr2)) in seen.results[1..].chunks_exact(4).zip(expected) {
        check_eq!(fault[0], vector, "vector of {what}");
        if vector != NONE {
            check_eq!(fault[1], error_code, "error code of {what}");
            check_eq!(fault[2], 0, "EIP of {what}, relative");
        }
        if let Some(cr2) = cr2 {
            check_eq!(fault[3], cr2, "CR2 of {what}");
        }
    }
    Ok(())
}

const NONE: u32 = 0xff;

fn faults_without_paging() -> TestResult {
    let page = memory::page() as u32;
    let seen = visit(Place::Legacy(UNPAGED), &raw const payload_faults32, [page, page]);
    check_faults(
        &seen,
        &[
            ("UD2", 6, 0, None),
            ("MOV DS", 13, 0x78, None),
            ("a read", NONE, 0, None),
            ("a write", NONE, 0, None),
        ],
    )
}

fn faults_paged(paged: Paged) -> TestResult {
    let (missing, read_only) = (APART + 0x2004, APART + 0x3008);
    let seen = visit(Place::Legacy(paged.mode), &raw const payload_faults32, [missing, read_only]);
    check_faults(
        &seen,
        &[
            ("UD2", 6, 0, None),
            ("MOV DS", 13, 0x78, None),
            ("a read of nothing", 14, 0, Some(missing)),
            ("a write to a read-only page", 14, 3, Some(read_only)),
        ],
    )
}

fn faults_with_two_level_paging() -> TestResult {
    faults_paged(two_level())
}

fn faults_with_pae_paging() -> TestResult {
    faults_paged(physical_address_extension())
}

fn interrupts_in(mode: Mode) -> TestResult {
    apic::write(apic::register::LVT_LINT0, apic::DELIVERY_EXTINT);
    pic::unmask_only(1);
    pit::program(0, 2, (pit::HZ / 1000) as u16);
    let seen = visit(Place::Legacy(mode), &raw const payload_interrupts32, [0; 2]);
    pit::baseline();
    check!(seen.interrupts >= 3, "{} timer interrupts", seen.interrupts);
    Ok(())
}

fn interrupts_without_paging() -> TestResult {
    interrupts_in(UNPAGED)
}

fn interrupts_with_two_level_paging() -> TestResult {
    interrupts_in(two_level().mode)
}

fn interrupts_with_pae_paging() -> TestResult {
    interrupts_in(physical_address_extension().mode)
}

fn segment_bases() -> TestResult {
    for mode in [UNPAGED, two_level().mode, physical_address_extension().mode] {
        set_based_segments();
        let seen = visit(Place::Legacy(mode), &raw const payload_segments32, [0; 2]);
        check_eq!(seen.results[1], cpu::cpuid(0, 0).eax, "CPUID's EAX");
        check_eq!(seen.results[2], 0x3a, "IN AL");
        check_eq!(seen.results[3], apic::read(apic::register::VERSION), "APIC version through FS");
    }
    Ok(())
}

fn sixteen_bit_protected_mode() -> TestResult {
    for mode in [UNPAGED, two_level().mode, physical_address_extension().mode] {
        let seen = visit(Place::Legacy(mode), &raw const payload_protected16, [0; 2]);
        check_eq!(seen.results[1], cpu::cpuid(0, 0).eax, "CPUID's EAX");
        check_eq!(seen.results[2], 0x4b, "IN AL");
        check_eq!(seen.results[3], 0x1234_ffff, "EAX after IN AX");
        check_eq!(seen.results[4], apic::read(apic::register::VERSION), "APIC version");
    }
    Ok(())
}

fn virtual_8086_mode() -> TestResult {
    need!(!platform::bochs_svm(), "Bochs ends itself on an SVM exit from virtual-8086 mode");
    const TSS32: u64 = 0x89 << 40;
    const VM_IOPL3: u32 = 0x2_3000;
    for mode in [UNPAGED, two_level().mode, physical_address_extension().mode] {
        let tss = memory::page();
        cpu::write32(tss + 4, 0x7000); // ESP0
        cpu::write32(tss + 8, u32::from(descriptor::KERNEL_DATA)); // SS0
        cpu::write32(tss + 100, 104 << 16);
        descriptor::set_descriptor(SCRATCH, 103 | (tss & 0xff_ffff) << 16 | TSS32 | (tss >> 24 & 0xff) << 56);
        let seen = visit(Place::Legacy(mode), &raw const payload_virtual8086, [0; 2]);
        check_eq!(seen.results[1], cpu::cpuid(0, 0).eax, "CPUID's EAX");
        check_eq!(seen.results[2], u32::from(vector::BP), "vector of INT3");
        check_eq!(seen.results[4] & VM_IOPL3, VM_IOPL3, "flags that INT3 saved");
        check_eq!(seen.results[5], u32::from(vector::GP), "vector of OUT");
        check_eq!(seen.results[6], 0, "error code of OUT");
        check_eq!(seen.results[7] & VM_IOPL3, VM_IOPL3, "flags that OUT saved");
    }
    Ok(())
}

fn into_in_compatibility_mode() -> TestResult {
    static SEEN: Global<[u64; 2]> = Global::new([0; 2]);
    SEEN.set([0; 2]);
    exception::on(vector::OF, |frame| SEEN.set([SEEN.get()[0] + 1, frame.cs]));
    let seen = visit(Place::Compatibility, &raw const payload_into, [0; 2]);
    check_eq!(SEEN.get()[0], 1, "overflow traps");
    check_eq!(SEEN.get()[1], u64::from(descriptor::KERNEL_CODE32), "saved CS");
    check_eq!(seen.results[1], 0x600d, "result of the code behind INTO");
    Ok(())
}

fn many_mode_switches() -> TestResult {
    let buffer = memory::page();
    let paged = [two_level(), physical_address_extension()];
    for i in 0..30 {
        let seen = visit(
            Place::Legacy(UNPAGED),
            &raw const payload_exits32,
            [buffer as u32, apic::XAPIC_BASE as u32],
        );
        check_exits(&seen, buffer)?;
        let paged = paged[i % 2];
        let seen =
            visit(Place::Legacy(paged.mode), &raw const payload_exits32, [APART + 0x10, APART + 0x1000]);
        check_exits(&seen, paged.frame + 0x10)?;
    }
    Ok(())
}

fn long_mode_state_survives() -> TestResult {
    cpu::wrmsr(cpu::msr::LSTAR, 0xffff_8000_1234_5678);
    cpu::wrmsr(cpu::msr::KERNEL_GS_BASE, 0xffff_9000_0000_0000);
    cpu::write_cr8(3);
    visit(Place::Legacy(UNPAGED), &raw const payload_faults32, [memory::page() as u32; 2]);
    check_eq!(cpu::rdmsr(cpu::msr::LSTAR), 0xffff_8000_1234_5678, "LSTAR");
    check_eq!(cpu::rdmsr(cpu::msr::KERNEL_GS_BASE), 0xffff_9000_0000_0000, "kernel GS base");
    check_eq!(cpu::read_cr8(), 3, "CR8");
    check_eq!(cpu::read_cr0(), cpu::cr0::BASELINE, "CR0");
    check_eq!(cpu::read_cr4(), cpu::cr4::BASELINE, "CR4");
    Ok(())
}
