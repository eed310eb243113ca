//! CPUID (SDM vol. 2, "CPUID"; APM vol. 3, "CPUID").

use selftest::cpu::{self, cpuid, cr4};
use selftest::platform::{self, HYPERVISOR_LEAF, Vendor, features, has};
use selftest::{Test, TestResult, apic, check, check_eq, need, probe, tests};

pub(crate) const TESTS: &[Test] = tests![
    cpuid_vendor,
    cpuid_is_repeatable,
    cpuid_clears_upper_halves,
    cpuid_keeps_other_registers,
    cpuid_hypervisor_signature,
    cpuid_kvm_features_are_sane,
    cpuid_osxsave_follows_cr4,
    cpuid_initial_apic_id,
    cpuid_hides_virtualization,
    cpuid_out_of_range_leaf_is_repeatable,
    cpuid_leaf7_subleaves,
    cpuid_topology,
    cpuid_xsave_sizes,
    cpuid_long_mode_basics,
    cpuid_address_sizes,
    cpuid_brand_string_is_text,
    cpuid_dependencies,
];

fn cpuid_vendor() -> TestResult {
    let vendor = platform::vendor_text();
    check!(
        [b"GenuineIntel", b"AuthenticAMD", b"HygonGenuine"].contains(&&vendor),
        "unknown vendor {vendor:x?}"
    );
    check!(cpuid(0, 0).eax >= 7, "highest basic leaf is {}", cpuid(0, 0).eax);
    check!(
        cpuid(0x8000_0000, 0).eax >= 0x8000_0008,
        "highest extended leaf is {:#x}",
        cpuid(0x8000_0000, 0).eax
    );
    Ok(())
}

fn cpuid_is_repeatable() -> TestResult {
    for leaf in [0, 1, 7, 0x8000_0000, 0x8000_0001, 0x8000_0008, HYPERVISOR_LEAF] {
        let first = cpuid(leaf, 0);
        for _ in 0..200 {
            let again = cpuid(leaf, 0);
            check!(again == first, "leaf {leaf:#x}: {again:x?} after {first:x?}");
        }
    }
    Ok(())
}

fn cpuid_clears_upper_halves() -> TestResult {
    let (rax, rbx, rcx, rdx): (u64, u64, u64, u64);
    probe!(
        "mov {saved}, rbx", "mov rbx, -1", "cpuid", "xchg {saved}, rbx", saved = out(reg) rbx,
        inout("rax") 0xffff_ffff_0000_0000_u64 => rax, inout("rcx") 0xffff_ffff_0000_0000_u64 => rcx,
        inout("rdx") u64::MAX => rdx,
    );
    for (name, value) in [("rax", rax), ("rbx", rbx), ("rcx", rcx), ("rdx", rdx)] {
        check_eq!(value >> 32, 0, "upper half of {name}");
    }
    check_eq!(rax as u32, cpuid(0, 0).eax, "leaf number taken from EAX only");
    Ok(())
}

fn cpuid_keeps_other_registers() -> TestResult {
    let mut registers: [u64; 10] = core::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 3));
    let before = registers;
    probe!(
        "push rbx", "push rbp", "push rdi",
        "mov rsi, [rdi]", "mov rbp, [rdi + 8]", "mov r8, [rdi + 16]", "mov r9, [rdi + 24]", "mov r10, [rdi + 32]",
        "mov r11, [rdi + 40]", "mov r12, [rdi + 48]", "mov r13, [rdi + 56]", "mov r14, [rdi + 64]", "mov r15, [rdi + 72]",
        "xor eax, eax", "cpuid", "pop rdi", "push rdi",
        "mov [rdi], rsi", "mov [rdi + 8], rbp", "mov [rdi + 16], r8", "mov [rdi + 24], r9", "mov [rdi + 32], r10",
        "mov [rdi + 40], r11", "mov [rdi + 48], r12", "mov [rdi + 56], r13", "mov [rdi + 64], r14", "mov [rdi + 72], r15",
        "pop rdi", "pop rbp", "pop rbx",
        in("rdi") registers.as_mut_ptr(), out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _,
        out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
    );
    check!(registers == before, "{registers:x?} instead of {before:x?}");
    Ok(())
}

fn cpuid_hypervisor_signature() -> TestResult {
    need!(platform::signature().is_some(), "no hypervisor bit: a bare processor");
    let leaf = cpuid(HYPERVISOR_LEAF, 0);
    if platform::hypervisor() {
        check!(
            leaf.eax > HYPERVISOR_LEAF && leaf.eax < HYPERVISOR_LEAF + 0x100,
            "highest leaf is {:#x}",
            leaf.eax
        );
    } else {
        check!(platform::bare_tcg(), "the signature is neither KVM's nor TCG's: {leaf:x?}");
    }
    Ok(())
}

fn cpuid_kvm_features_are_sane() -> TestResult {
    need!(platform::hypervisor(), "no hypervisor");
    const CLOCK: u32 = 1;
    const CLOCK_NEW: u32 = 1 << 3;
    const CLOCK_MSRS: [(u32, u32); 2] = [(CLOCK, 0x11), (CLOCK_NEW, 0x4b56_4d00)];
    let offered = cpuid(HYPERVISOR_LEAF + 1, 0).eax;
    for (bit, wall_clock) in CLOCK_MSRS {
        if offered & bit != 0 {
            selftest::catch(|| {
                cpu::rdmsr(wall_clock);
            })?;
        }
    }
    Ok(())
}

fn cpuid_osxsave_follows_cr4() -> TestResult {
    need!(has(features::XSAVE), "no XSAVE");
    check!(!has(features::OSXSAVE), "OSXSAVE is set while CR4.OSXSAVE is clear");
    cpu::write_cr4(cr4::BASELINE | cr4::OSXSAVE);
    let set = has(features::OSXSAVE);
    cpu::write_cr4(cr4::BASELINE);
    check!(set, "OSXSAVE is clear while CR4.OSXSAVE is set");
    check!(!has(features::OSXSAVE), "OSXSAVE stayed set");
    Ok(())
}

fn cpuid_initial_apic_id() -> TestResult {
    check_eq!(cpuid(1, 0).ebx >> 24, u32::from(apic::id()), "initial APIC id");
    Ok(())
}

fn cpuid_hides_virtualization() -> TestResult {
    need!(platform::hypervisor(), "no hypervisor");
    check!(!has(features::VMX), "VMX is offered");
    check!(!has(features::SVM), "SVM is offered");
    check!(!has(features::SMX), "SMX is offered");
    Ok(())
}

fn cpuid_out_of_range_leaf_is_repeatable() -> TestResult {
    for leaf in [cpuid(0, 0).eax + 1, 0x2000_0000, 0x7fff_ffff, 0x8fff_ffff, 0xc000_0000, u32::MAX] {
        let first = cpuid(leaf, 0);
        check!(cpuid(leaf, 0) == first, "leaf {leaf:#x} changes");
    }
    Ok(())
}

fn cpuid_leaf7_subleaves() -> TestResult {
    let highest = cpuid(7, 0).eax;
    check!(highest < 16, "highest subleaf is {highest}");
    let beyond = cpuid(7, highest + 1);
    check!(beyond == cpu::CpuidResult::default(), "subleaf {}: {beyond:x?} instead of zeros", highest + 1);
    Ok(())
}

fn cpuid_topology() -> TestResult {
    need!(cpuid(0, 0).eax >= 0xb && cpuid(0xb, 0).ebx != 0, "no leaf 0BH");
    let id = cpuid(0xb, 0).edx;
    check_eq!(id & 0xff, u32::from(apic::id()), "x2APIC id");
    for subleaf in 0..8 {
        let level = cpuid(0xb, subleaf);
        check_eq!(level.ecx & 0xff, subleaf, "subleaf number echoed");
        check_eq!(level.edx, id, "x2APIC id in subleaf {subleaf}");
        if level.ecx >> 8 & 0xff == 0 {
            // Bochs has no level at all with one processor.
            check!(subleaf > 0 || !platform::hypervisor(), "no level at all");
            return Ok(());
        }
    }
    check!(false, "the list of levels has no end");
    Ok(())
}

fn cpuid_xsave_sizes() -> TestResult {
    need!(has(features::XSAVE), "no XSAVE");
    const HEADER_END: u32 = 576;
    cpu::write_cr4(cr4::BASELINE | cr4::OSXSAVE);
    cpu::xsetbv(0, 1);
    let all = cpuid(0xd, 0);
    let x87_only = all.ebx;
    cpu::write_cr4(cr4::BASELINE);
    check_eq!(all.eax & 3, 3, "XCR0 bits x87 and SSE");
    check_eq!(x87_only, HEADER_END, "area size with x87 only");
    check!(all.ecx >= HEADER_END, "largest area is {}", all.ecx);
    if has(features::AVX) {
        let avx = cpuid(0xd, 2);
        check!(all.eax & 4 != 0, "AVX without its XCR0 bit");
        check_eq!(avx.eax, 256, "AVX state size");
        check!(all.ecx >= avx.ebx + avx.eax, "AVX state lies outside the largest area");
    }
    Ok(())
}

fn cpuid_long_mode_basics() -> TestResult {
    let extended = cpuid(0x8000_0001, 0).edx;
    for (name, bit) in [("SYSCALL", 11), ("NX", 20), ("LM", 29)] {
        check!(extended & 1 << bit != 0, "{name} is missing");
    }
    let basic = cpuid(1, 0).edx;
    for (name, bit) in [("FPU", 0), ("TSC", 4), ("MSR", 5), ("PAE", 6), ("CX8", 8), ("APIC", 9), ("PGE", 13)]
    {
        check!(basic & 1 << bit != 0, "{name} is missing");
    }
    Ok(())
}

fn cpuid_address_sizes() -> TestResult {
    let sizes = cpuid(0x8000_0008, 0).eax;
    let (physical, linear) = (sizes & 0xff, sizes >> 8 & 0xff);
    check!((36..=52).contains(&physical), "{physical} physical bits");
    check!(linear == 48 || linear == 57, "{linear} linear bits");
    check!(linear == 48 || has(features::LA57), "57 linear bits without LA57");
    Ok(())
}

fn cpuid_brand_string_is_text() -> TestResult {
    need!(cpuid(0x8000_0000, 0).eax >= 0x8000_0004, "no brand string");
    for leaf in 0x8000_0002..=0x8000_0004_u32 {
        let part = cpuid(leaf, 0);
        for word in [part.eax, part.ebx, part.ecx, part.edx] {
            let printable = word.to_le_bytes().iter().all(|&byte| byte == 0 || (0x20..0x7f).contains(&byte));
            check!(printable, "leaf {leaf:#x} holds {word:#x}");
        }
    }
    Ok(())
}

fn cpuid_dependencies() -> TestResult {
    check!(has(features::XSAVE) || !has(features::AVX), "AVX without XSAVE");
    let leaf7 = cpuid(7, 0);
    check!(leaf7.ebx & 1 << 5 == 0 || has(features::AVX), "AVX2 without AVX");
    check!(leaf7.ebx & 1 << 16 == 0 || leaf7.ebx & 1 << 5 != 0, "AVX-512F without AVX2");
    check!(
        has(features::PCID) || !has(features::INVPCID) || platform::vendor() == Vendor::Amd,
        "INVPCID without PCID"
    );
    check!(!apic::has_deadline() || cpuid(1, 0).edx & 1 << 9 != 0, "TSC-deadline without APIC");
    Ok(())
}
