//! MOV to control registers: what must fault, what must read back (SDM vol. 3, "Control Registers").

use selftest::cpu::{self, cr0, cr4};
use selftest::exception::vector::{GP, UD};
use selftest::paging;
use selftest::platform::{self, features, has};
use selftest::{Test, TestResult, check, check_eq, expect_exception, need, probe, snippet, tests, user};

pub(crate) const TESTS: &[Test] = tests![
    cr0_illegal_combinations,
    cr0_upper_half,
    cr0_paging_off_in_64_bit_mode,
    cr0_bits_round_trip,
    cr0_et_is_always_one,
    cr3_round_trip,
    cr3_reserved_bits,
    cr4_reserved_bits,
    cr4_pae_in_long_mode,
    cr4_la57_in_long_mode,
    cr4_pcide_needs_zero_pcid,
    cr4_unsupported_features,
    cr4_bits_round_trip,
    cr4_tsd_in_user_mode,
    cr4_de_makes_dr4_undefined,
    cr4_umip,
    cr4_fsgsbase,
    cr8_round_trip,
    cr8_reserved_bits,
    missing_control_registers,
    control_registers_through_all_gprs,
];

fn cr0_illegal_combinations() -> TestResult {
    need!(!platform::bare_tcg(), "TCG does not check");
    for (what, value) in
        [("CR0.PG without PE", cr0::BASELINE & !cr0::PE), ("CR0.NW without CD", cr0::BASELINE | cr0::NW)]
    {
        expect_exception(what, GP, 0, || cpu::write_cr0(value))?;
        check_eq!(cpu::read_cr0(), cr0::BASELINE, "CR0 after the fault");
    }
    Ok(())
}

fn cr0_upper_half() -> TestResult {
    need!(!platform::bare_tcg(), "TCG does not check");
    for bit in [32, 40, 63] {
        expect_exception("CR0's upper half", GP, 0, || cpu::write_cr0(cr0::BASELINE | 1 << bit))?;
    }
    Ok(())
}

fn cr0_paging_off_in_64_bit_mode() -> TestResult {
    need!(!platform::bare_tcg(), "TCG does not check");
    expect_exception("CR0.PG cleared in 64-bit mode", GP, 0, || cpu::write_cr0(cr0::BASELINE & !cr0::PG))?;
    check_eq!(cpu::read_cr0(), cr0::BASELINE, "CR0 after the fault");
    Ok(())
}

fn cr0_bits_round_trip() -> TestResult {
    for value in [
        cr0::BASELINE | cr0::TS,
        cr0::BASELINE & !cr0::WP,
        cr0::BASELINE & !cr0::MP,
        cr0::BASELINE | cr0::AM,
        cr0::BASELINE | cr0::CD,
        cr0::BASELINE | cr0::CD | cr0::NW,
        cr0::BASELINE & !cr0::NE,
        cr0::BASELINE | cr0::EM,
    ] {
        cpu::write_cr0(value);
        cpu::cpuid(0, 0);
        let read = cpu::read_cr0();
        cpu::write_cr0(cr0::BASELINE);
        check_eq!(read, value, "CR0");
    }
    Ok(())
}

fn cr0_et_is_always_one() -> TestResult {
    cpu::write_cr0(cr0::BASELINE & !cr0::ET);
    check_eq!(cpu::read_cr0(), cr0::BASELINE, "CR0");
    Ok(())
}

fn cr3_round_trip() -> TestResult {
    let root = paging::root();
    for flags in [0, paging::PWT, paging::PCD, paging::PWT | paging::PCD] {
        cpu::write_cr3(root | flags);
        let read = cpu::read_cr3();
        cpu::write_cr3(root);
        check_eq!(read, root | flags, "CR3");
    }
    // A copy of the root table serves as well.
    let copy = selftest::memory::page();
    for i in 0..512 {
        cpu::write64(copy + 8 * i, cpu::read64(root + 8 * i));
    }
    cpu::write_cr3(copy);
    cpu::cpuid(0, 0);
    let read = cpu::read_cr3();
    cpu::write_cr3(root);
    check_eq!(read, copy, "CR3 with the other table");
    Ok(())
}

fn cr3_reserved_bits() -> TestResult {
    need!(!platform::tcg(), "TCG does not check");
    let bits = paging::physical_bits();
    need!(bits < 52, "no reserved address bits");
    for bit in [bits, 51] {
        expect_exception("CR3 beyond the physical width", GP, 0, || {
            cpu::write_cr3(paging::root() | 1 << bit);
        })?;
    }
    expect_exception("CR3 bit 63 without CR4.PCIDE", GP, 0, || cpu::write_cr3(paging::root() | 1 << 63))?;
    check_eq!(cpu::read_cr3(), paging::root(), "CR3 after the faults");
    Ok(())
}

fn cr4_reserved_bits() -> TestResult {
    need!(!platform::bare_tcg(), "TCG masks reserved bits");
    for bit in [15, 26, 31, 32, 63] {
        expect_exception("reserved CR4 bit", GP, 0, || cpu::write_cr4(cr4::BASELINE | 1 << bit))?;
        check_eq!(cpu::read_cr4(), cr4::BASELINE, "CR4 after the fault");
    }
    Ok(())
}

fn cr4_pae_in_long_mode() -> TestResult {
    need!(!platform::bare_tcg(), "TCG does not check");
    expect_exception("CR4.PAE cleared in long mode", GP, 0, || cpu::write_cr4(0))
}

fn cr4_la57_in_long_mode() -> TestResult {
    need!(!platform::bare_tcg(), "TCG does not check");
    expect_exception("CR4.LA57 changed in long mode", GP, 0, || cpu::write_cr4(cr4::BASELINE | cr4::LA57))
}

fn cr4_pcide_needs_zero_pcid() -> TestResult {
    need!(has(features::PCID), "no PCID");
    need!(!platform::bare_tcg(), "TCG has no PCID");
    cpu::write_cr3(paging::root() | paging::PCD);
    expect_exception("CR4.PCIDE with CR3[11:0] not zero", GP, 0, || {
        cpu::write_cr4(cr4::BASELINE | cr4::PCIDE);
    })?;
    cpu::write_cr3(paging::root());
    cpu::write_cr4(cr4::BASELINE | cr4::PCIDE);
    for pcid in [5, 0xfff, 1 << 63 | 5, 0] {
        cpu::write_cr3(paging::root() | pcid);
        let read = cpu::read_cr3();
        check_eq!(read, paging::root() | pcid & 0xfff, "CR3 with a PCID");
    }
    cpu::write_cr3(paging::root());
    cpu::write_cr4(cr4::BASELINE);
    Ok(())
}

fn cr4_unsupported_features() -> TestResult {
    need!(!platform::bare_tcg(), "TCG masks such bits");
    for (name, feature, bit) in [
        ("FSGSBASE", features::FSGSBASE, cr4::FSGSBASE),
        ("PCIDE", features::PCID, cr4::PCIDE),
        ("OSXSAVE", features::XSAVE, cr4::OSXSAVE),
        ("SMEP", features::SMEP, cr4::SMEP),
        ("SMAP", features::SMAP, cr4::SMAP),
        ("UMIP", features::UMIP, cr4::UMIP),
        ("SMXE", features::SMX, cr4::SMXE),
        ("VMXE", features::VMX, cr4::VMXE),
    ] {
        if !has(feature) {
            expect_exception(name, GP, 0, || cpu::write_cr4(cr4::BASELINE | bit))?;
        }
    }
    Ok(())
}

fn cr4_bits_round_trip() -> TestResult {
    const ALWAYS: [u64; 8] =
        [cr4::TSD, cr4::DE, cr4::PSE, cr4::MCE, cr4::PGE, cr4::PCE, cr4::OSFXSR, cr4::OSXMMEXCPT];
    let optional = [
        (features::FSGSBASE, cr4::FSGSBASE),
        (features::XSAVE, cr4::OSXSAVE),
        (features::SMEP, cr4::SMEP),
        (features::SMAP, cr4::SMAP),
        (features::UMIP, cr4::UMIP),
    ];
    let offered = optional.into_iter().filter(|&(feature, _)| has(feature)).map(|(_, bit)| bit);
    for bit in ALWAYS.into_iter().chain(offered) {
        cpu::write_cr4(cr4::BASELINE | bit);
        cpu::cpuid(0, 0);
        let read = cpu::read_cr4();
        cpu::write_cr4(cr4::BASELINE);
        check_eq!(read, cr4::BASELINE | bit, "CR4");
        check_eq!(cpu::read_cr4(), cr4::BASELINE, "CR4 with bit {bit:#x} cleared again");
    }
    Ok(())
}

snippet!(user_rdtsc: "rdtsc", "int 0x90");

fn cr4_tsd_in_user_mode() -> TestResult {
    let (ended, _) = user::run(user_rdtsc());
    check_eq!(ended.vector, user::RETURN_VECTOR, "RDTSC at CPL 3");
    cpu::write_cr4(cr4::BASELINE | cr4::TSD);
    let ended = user::enter(user::Start::default());
    check!((ended.vector, ended.error_code) == (GP, 0), "with CR4.TSD: {ended} instead of #GP");
    cpu::rdtsc();
    Ok(())
}

fn cr4_de_makes_dr4_undefined() -> TestResult {
    let dr6 = cpu::read_dr6();
    check_eq!(cpu::read_dr4(), dr6, "DR4, an alias of DR6");
    check_eq!(cpu::read_dr5(), cpu::read_dr7(), "DR5, an alias of DR7");
    cpu::write_cr4(cr4::BASELINE | cr4::DE);
    expect_exception("DR4 with CR4.DE", UD, 0, || {
        cpu::read_dr4();
    })?;
    expect_exception("DR5 with CR4.DE", UD, 0, || cpu::write_dr5(0x400))
}

snippet!(user_sgdt: "sgdt [rdi]", "int 0x90");
snippet!(user_smsw: "smsw eax", "int 0x90");

fn cr4_umip() -> TestResult {
    need!(has(features::UMIP), "no UMIP");
    for code in [user_sgdt(), user_smsw()] {
        cpu::write_cr4(cr4::BASELINE);
        let (ended, _) = user::run(code);
        check_eq!(ended.vector, user::RETURN_VECTOR, "without CR4.UMIP");
        cpu::write_cr4(cr4::BASELINE | cr4::UMIP);
        let ended = user::enter(user::Start::default());
        check!((ended.vector, ended.error_code) == (GP, 0), "with CR4.UMIP: {ended} instead of #GP");
    }
    Ok(())
}

fn cr4_fsgsbase() -> TestResult {
    let wrfsbase = |value: u64| probe!("wrfsbase {}", in(reg) value, options(nostack));
    expect_exception("WRFSBASE without CR4.FSGSBASE", UD, 0, || wrfsbase(0))?;
    need!(has(features::FSGSBASE), "no FSGSBASE");
    cpu::write_cr4(cr4::BASELINE | cr4::FSGSBASE);
    wrfsbase(0x1234_5000);
    check_eq!(cpu::rdmsr(cpu::msr::FS_BASE), 0x1234_5000, "FS base");
    let value: u64;
    probe!("rdfsbase {}", out(reg) value, options(nostack));
    check_eq!(value, 0x1234_5000, "RDFSBASE");
    Ok(())
}

fn cr8_round_trip() -> TestResult {
    for value in (0..16).rev() {
        cpu::write_cr8(value);
        check_eq!(cpu::read_cr8(), value, "CR8");
    }
    Ok(())
}

fn cr8_reserved_bits() -> TestResult {
    need!(!platform::bare_tcg(), "TCG does not check");
    for value in [0x10, 0x80, 1 << 32, 1 << 63] {
        expect_exception("reserved CR8 bit", GP, 0, || cpu::write_cr8(value))?;
    }
    check_eq!(cpu::read_cr8(), 0, "CR8 after the faults");
    Ok(())
}

fn missing_control_registers() -> TestResult {
    // MOV CR1, RAX; MOV RAX, CR5; MOV CR15, RAX.
    expect_exception("MOV to CR1", UD, 0, || probe!(".byte 0x0f, 0x22, 0xc8", in("rax") 0))?;
    expect_exception("MOV from CR5", UD, 0, || probe!(".byte 0x0f, 0x20, 0xe8", out("rax") _))?;
    expect_exception("MOV to CR15", UD, 0, || probe!(".byte 0x44, 0x0f, 0x22, 0xf8", in("rax") 0))
}

macro_rules! through_registers {
    ($($register:tt)+) => {$({
        let (first, second, third): (u64, u64, u64);
        probe!(
            concat!("mov ", $register, ", cr0"), concat!("mov cr0, ", $register), concat!("mov {0}, ", $register),
            concat!("mov ", $register, ", cr3"), concat!("mov cr3, ", $register), concat!("mov {1}, ", $register),
            concat!("mov ", $register, ", cr4"), concat!("mov cr4, ", $register), concat!("mov {2}, ", $register),
            out(reg) first, out(reg) second, out(reg) third, out($register) _, options(nostack)
        );
        check_eq!(first, cr0::BASELINE, "CR0 through {}", $register);
        check_eq!(second, paging::root(), "CR3 through {}", $register);
        check_eq!(third, cr4::BASELINE, "CR4 through {}", $register);
    })+};
}

fn control_registers_through_all_gprs() -> TestResult {
    through_registers!("rax" "rcx" "rdx" "rsi" "rdi" "r8" "r9" "r10" "r11" "r12" "r13" "r14" "r15");
    probe!("mov r12, 7", "mov cr8, r12", "mov r13, cr8", "mov cr8, {0}", in(reg) 0_u64, out("r12") _, out("r13") _);
    Ok(())
}
