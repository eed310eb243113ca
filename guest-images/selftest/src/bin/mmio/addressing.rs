//! Addressing modes, seen through a read of the local APIC's version register and writes to its initial count.

use selftest::apic::{self, XAPIC_BASE, register};
use selftest::cpu::{self, msr, wrmsr};
use selftest::memory::PAGE;
use selftest::paging::{NEAR_WINDOW, P, W, map};
use selftest::{Test, TestResult, check_eq, ioapic, probe, tests};

use crate::form::{STORAGE, prepare_storage};

pub(crate) const TESTS: &[Test] = tests![
    address_base_and_displacement,
    address_index_and_scale,
    address_rip_relative,
    address_absolute,
    address_32_bit,
    address_segment_base,
    address_through_rsp_and_rbp,
    address_through_all_registers,
    destination_all_registers,
    source_all_registers,
    ioapic_window,
    many_reads_in_a_row,
];

fn version() -> u32 {
    apic::read(register::VERSION)
}

const VERSION: u64 = XAPIC_BASE + register::VERSION as u64;

fn address_base_and_displacement() -> TestResult {
    let expected = version();
    let (byte, dword, negative): (u32, u32, u32);
    probe!("mov {:e}, [{} + 0x30]", out(reg) byte, in(reg) XAPIC_BASE);
    probe!("mov {:e}, [{} + 0x1030]", out(reg) dword, in(reg) XAPIC_BASE - 0x1000);
    probe!("mov {:e}, [{} - 0x50]", out(reg) negative, in(reg) XAPIC_BASE + 0x80);
    for value in [byte, dword, negative] {
        check_eq!(value, expected, "version register");
    }
    Ok(())
}

fn address_index_and_scale() -> TestResult {
    let expected = version();
    let (one, two, four, eight, no_base): (u32, u32, u32, u32, u32);
    probe!("mov {:e}, [{} + {} + 0x10]", out(reg) one, in(reg) XAPIC_BASE, in(reg) 0x20_u64);
    probe!("mov {:e}, [{} + {} * 2 - 0x10]", out(reg) two, in(reg) XAPIC_BASE, in(reg) 0x20_u64);
    probe!("mov {:e}, [{} + {} * 4]", out(reg) four, in(reg) XAPIC_BASE, in(reg) 0xc_u64);
    probe!("mov {:e}, [{} + {} * 8 + 0x1000]", out(reg) eight, in(reg) VERSION, in(reg) -0x200_i64);
    probe!("mov {:e}, [{} * 8 + 0x30]", out(reg) no_base, in(reg) XAPIC_BASE / 8);
    for value in [one, two, four, eight, no_base] {
        check_eq!(value, expected, "version register");
    }
    Ok(())
}

fn address_rip_relative() -> TestResult {
    // A page near the image that leads to the APIC; the distance is patched into an instruction.
    map(NEAR_WINDOW, XAPIC_BASE, P | W);
    let code = selftest::memory::page();
    map(NEAR_WINDOW + PAGE, code, P | W);
    let start = NEAR_WINDOW + PAGE + 0x100;
    // MOV EAX, [RIP + disp32]; RET
    cpu::write8(start, 0x8b);
    cpu::write8(start + 1, 0x05);
    cpu::write32(start + 2, (NEAR_WINDOW + 0x30).wrapping_sub(start + 6) as u32);
    cpu::write8(start + 6, 0xc3);
    check_eq!(selftest::snippet::call(start, 0) as u32, version(), "version register");
    // CMP DWORD PTR [RIP + disp32], imm32 has its immediate behind the displacement.
    cpu::write8(start, 0x81);
    cpu::write8(start + 1, 0x3d);
    cpu::write32(start + 2, (NEAR_WINDOW + 0x30).wrapping_sub(start + 10) as u32);
    cpu::write32(start + 6, version());
    for (i, byte) in [0x0f_u8, 0x94, 0xc0, 0x0f, 0xb6, 0xc0, 0xc3].into_iter().enumerate() {
        cpu::write8(start + 10 + i as u64, byte); // SETE AL; MOVZX EAX, AL; RET
    }
    check_eq!(selftest::snippet::call(start, 0), 1, "comparison with the version register");
    Ok(())
}

fn address_absolute() -> TestResult {
    let expected = version();
    prepare_storage();
    let (moffs, sign_extended): (u32, u32);
    probe!("movabs eax, [{address}]", address = const VERSION, out("eax") moffs);
    check_eq!(moffs, expected, "version register by a 64-bit absolute address");
    probe!("movabs [{address}], eax", address = const STORAGE, in("eax") 0x1357_9bdf);
    check_eq!(cpu::read32(STORAGE), 0x1357_9bdf, "initial count by a 64-bit absolute address");
    // A 32-bit displacement is sign-extended, so it reaches the APIC only through an alias at the top.
    map(0xffff_ffff_fee0_0000, XAPIC_BASE, P | W);
    probe!("mov {:e}, dword ptr [0xfffffffffee00030]", out(reg) sign_extended);
    check_eq!(sign_extended, expected, "version register by a sign-extended displacement");
    Ok(())
}

fn address_32_bit() -> TestResult {
    let expected = version();
    let (base, wrapped): (u32, u32);
    probe!("mov {:e}, [{:e} + 0x30]", out(reg) base, in(reg) XAPIC_BASE | 0xabcd_0000_0000_0000);
    probe!("mov {:e}, [{:e} + {:e}]", out(reg) wrapped, in(reg) 0xffff_f030_u64, in(reg) XAPIC_BASE + 0x1000);
    check_eq!(base, expected, "version register");
    check_eq!(wrapped, expected, "version register by a sum that wraps");
    Ok(())
}

fn address_segment_base() -> TestResult {
    let expected = version();
    wrmsr(msr::FS_BASE, XAPIC_BASE);
    wrmsr(msr::GS_BASE, XAPIC_BASE - 0x1_0000);
    let (by_fs, by_gs): (u32, u32);
    probe!("mov {:e}, fs:[0x30]", out(reg) by_fs);
    probe!("mov {:e}, gs:[{} + 0x30]", out(reg) by_gs, in(reg) 0x1_0000_u64);
    wrmsr(msr::FS_BASE, 0);
    wrmsr(msr::GS_BASE, 0);
    check_eq!(by_fs, expected, "version register through FS");
    check_eq!(by_gs, expected, "version register through GS");
    Ok(())
}

fn address_through_rsp_and_rbp() -> TestResult {
    let expected = version();
    let (by_rsp, by_rbp): (u32, u32);
    probe!("mov {1}, rsp", "mov rsp, {2}", "mov {0:e}, [rsp + 0x30]", "mov rsp, {1}", out(reg) by_rsp, out(reg) _,
        in(reg) XAPIC_BASE);
    probe!("mov {1}, rbp", "mov rbp, {2}", "mov {0:e}, [rbp + 0x30]", "mov rbp, {1}", out(reg) by_rbp, out(reg) _,
        in(reg) XAPIC_BASE);
    check_eq!(by_rsp, expected, "version register through RSP");
    check_eq!(by_rbp, expected, "version register through RBP");
    Ok(())
}

macro_rules! through {
    ($expected:expr; $($register:tt)+) => {$({
        let value: u32;
        probe!(concat!("mov {:e}, [", $register, " + 0x30]"), out(reg) value, in($register) XAPIC_BASE);
        check_eq!(value, $expected, "version register through {}", $register);
    })+};
}

fn address_through_all_registers() -> TestResult {
    let expected = version();
    through!(expected; "rax" "rcx" "rdx" "rsi" "rdi" "r8" "r9" "r10" "r11" "r12" "r13" "r14" "r15");
    Ok(())
}

macro_rules! into {
    ($expected:expr; $($register:tt $name:literal)+) => {$({
        let value: u64;
        probe!(concat!("mov ", $name, ", [{}]"), in(reg) VERSION, inout($register) u64::MAX => value);
        check_eq!(value, $expected, "{} with its upper half", $name);
    })+};
}

fn destination_all_registers() -> TestResult {
    let expected = u64::from(version());
    into!(expected; "rax" "eax" "rcx" "ecx" "rdx" "edx" "rsi" "esi" "rdi" "edi" "r8" "r8d" "r9" "r9d" "r10" "r10d"
        "r11" "r11d" "r12" "r12d" "r13" "r13d" "r14" "r14d" "r15" "r15d");
    let (rbx, rbp): (u64, u64);
    probe!("push rbx", "mov rbx, -1", "mov ebx, [{1}]", "mov {0}, rbx", "pop rbx", out(reg) rbx, in(reg) VERSION);
    probe!("push rbp", "mov rbp, -1", "mov ebp, [{1}]", "mov {0}, rbp", "pop rbp", out(reg) rbp, in(reg) VERSION);
    check_eq!(rbx, expected, "ebx with its upper half");
    check_eq!(rbp, expected, "ebp with its upper half");
    Ok(())
}

macro_rules! from {
    ($($register:tt $name:literal $value:literal)+) => {$({
        probe!(concat!("mov [{}], ", $name), in(reg) STORAGE, in($register) 0xffff_ffff_0000_0000_u64 | $value);
        check_eq!(u64::from(cpu::read32(STORAGE)), $value, "store from {}", $name);
    })+};
}

fn source_all_registers() -> TestResult {
    prepare_storage();
    from!("rax" "eax" 0x1111 "rcx" "ecx" 0x2222 "rdx" "edx" 0x3333 "rsi" "esi" 0x4444 "rdi" "edi" 0x5555
        "r8" "r8d" 0x6666 "r9" "r9d" 0x7777 "r10" "r10d" 0x8888 "r11" "r11d" 0x9999 "r12" "r12d" 0xaaaa
        "r13" "r13d" 0xbbbb "r14" "r14d" 0xcccc "r15" "r15d" 0xdddd);
    probe!("mov dword ptr [{}], 0xdeadbeef", in(reg) STORAGE);
    check_eq!(cpu::read32(STORAGE), 0xdead_beef, "store of an immediate");
    probe!("push rbx", "mov ebx, 0x1234", "mov [{}], ebx", "pop rbx", in(reg) STORAGE);
    check_eq!(cpu::read32(STORAGE), 0x1234, "store from ebx");
    Ok(())
}

fn ioapic_window() -> TestResult {
    let entry = ioapic::redirection(3);
    for value in [0x1200_0000_u32, 0xff00_0000, 0x5500_0000] {
        probe!("mov dword ptr [{0}], {1:e}", "mov dword ptr [{0} + 0x10], {2:e}", in(reg) ioapic::SELECT,
            in(reg) entry + 1, in(reg) value);
        check_eq!(ioapic::read(entry + 1) & 0xff00_0000, value, "destination");
        probe!("or dword ptr [{}], 0x01000000", in(reg) ioapic::WINDOW);
        check_eq!(cpu::read32(ioapic::WINDOW) & 0xff00_0000, value | 0x0100_0000, "destination after OR");
        probe!("and dword ptr [{}], 0x0fffffff", in(reg) ioapic::WINDOW);
        check_eq!(
            cpu::read32(ioapic::WINDOW) & 0xff00_0000,
            value & 0x0f00_0000 | 0x0100_0000,
            "destination after AND"
        );
    }
    Ok(())
}

fn many_reads_in_a_row() -> TestResult {
    let expected = version();
    for _ in 0..3000 {
        check_eq!(cpu::read32(VERSION), expected, "version register");
    }
    Ok(())
}
