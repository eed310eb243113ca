//! The registers of SYSCALL and SYSENTER, and SYSCALL itself (SDM vol. 3, "Performing Fast Calls to System Procedures").

use selftest::cpu::{msr, rdmsr, rflags, wrmsr};
use selftest::descriptor::{KERNEL_CODE, KERNEL_DATA, USER_CODE32};
use selftest::exception::vector::UD;
use selftest::{
    Test, TestResult, check, check_eq, cpu, exception, expect_exception, platform, probe, snippet, tests,
    user,
};

pub(crate) const TESTS: &[Test] = tests![
    syscall_registers_round_trip,
    sysenter_registers_round_trip,
    syscall_registers_survive_exits,
    syscall_from_user,
    syscall_disabled_is_ud,
    sysret_to_user,
];

fn syscall_registers_round_trip() -> TestResult {
    for (index, values) in [
        (msr::STAR, [0x0020_0008_1234_5678, 0x0023_0010_0000_0000, 0]),
        (msr::LSTAR, [0xffff_ffff_8100_0000, 0x7fff_ffff_ffff, 0]),
        (msr::CSTAR, [0xffff_8000_1234_5678, 0x1000, 0]),
        (msr::SFMASK, [0x0004_7700, 0x003f_7fd5, 0]),
    ] {
        for value in values {
            wrmsr(index, value);
            check_eq!(rdmsr(index), value, "MSR {index:#x}");
        }
    }
    Ok(())
}

fn sysenter_registers_round_trip() -> TestResult {
    for (index, values) in [
        (msr::SYSENTER_CS, [0x10, 0xfff0, 0]),
        (msr::SYSENTER_ESP, [0x8000_0000, 0x1234, 0]),
        (msr::SYSENTER_EIP, [0xc000_0000, 0x4321, 0]),
    ] {
        for value in values {
            wrmsr(index, value);
            check_eq!(rdmsr(index), value, "MSR {index:#x}");
        }
    }
    Ok(())
}

const REGISTERS: [u32; 10] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
];

fn syscall_registers_survive_exits() -> TestResult {
    for (i, index) in REGISTERS.into_iter().enumerate() {
        wrmsr(index, 0x1000 + i as u64);
    }
    for _ in 0..1000 {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, 0);
    }
    for (i, index) in REGISTERS.into_iter().enumerate() {
        check_eq!(rdmsr(index), 0x1000 + i as u64, "MSR {index:#x}");
        wrmsr(index, 0);
    }
    Ok(())
}

snippet!(syscall_in_user: "syscall", "ud2");
snippet!(syscall_target: "mov rax, 0x5ca11", "ud2");

fn set_up_syscall() {
    wrmsr(msr::STAR, u64::from(USER_CODE32 & !3 | 3) << 48 | u64::from(KERNEL_CODE) << 32);
    wrmsr(msr::LSTAR, syscall_target().as_ptr() as u64);
    wrmsr(msr::SFMASK, cpu::flag::IF | cpu::flag::DF | cpu::flag::CF);
}

fn syscall_from_user() -> TestResult {
    set_up_syscall();
    user::prepare(syscall_in_user());
    let ended =
        user::enter(user::Start { rflags: 2 | cpu::flag::CF | cpu::flag::ZF, ..user::Start::default() });
    let frame = exception::last_frame();
    check_eq!(ended.vector, UD, "exception at the target");
    check_eq!(frame.rax, 0x5_ca11, "RAX set by the target");
    check_eq!(frame.rcx, user::CODE + 2, "RCX: return address");
    check_eq!(frame.r11, 2 | cpu::flag::CF | cpu::flag::ZF, "R11: flags");
    check_eq!(frame.cs, u64::from(KERNEL_CODE), "CS");
    check_eq!(frame.ss, u64::from(KERNEL_DATA), "SS");
    check_eq!(frame.rflags & cpu::flag::CF, 0, "CF, masked by SFMASK");
    // TCG clears all arithmetic flags.
    check!(platform::tcg() || frame.rflags & cpu::flag::ZF != 0, "ZF, not masked by SFMASK, is clear");
    check_eq!(rflags() & cpu::flag::IF, 0, "interrupts stay off");
    Ok(())
}

fn syscall_disabled_is_ud() -> TestResult {
    set_up_syscall();
    wrmsr(msr::EFER, cpu::efer::BASELINE & !cpu::efer::SCE);
    expect_exception("SYSCALL with EFER.SCE clear", UD, 0, || {
        probe!("syscall", out("rcx") _, out("r11") _);
    })
}

snippet!(return_from_user: "mov rax, 0x600d", "int 0x90");

fn sysret_to_user() -> TestResult {
    set_up_syscall();
    user::prepare(return_from_user());
    let ended = selftest::catch(|| {
        probe!("sysretq", in("rcx") user::CODE, in("r11") 2_u64, options(noreturn));
    });
    let frame = exception::last_frame();
    check_eq!(ended.map_or_else(|e| e.vector, |()| 0), user::RETURN_VECTOR, "what ended the user code");
    check_eq!(frame.rax, 0x600d, "RAX set by user code");
    check_eq!(frame.cs, u64::from(selftest::descriptor::USER_CODE), "CS");
    check_eq!(frame.ss, u64::from(selftest::descriptor::USER_DATA), "SS");
    Ok(())
}
