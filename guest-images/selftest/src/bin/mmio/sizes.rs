//! 8, 16 and 64-bit forms, on memory that nobody claims.

use selftest::cpu;
use selftest::{Test, TestResult, check_eq, need, platform, tests};

use crate::form::{ALL, BIT_TEST, LOGIC, UNCLAIMED, compare_on_unclaimed};
use crate::forms;

pub(crate) const TESTS: &[Test] = tests![
    unclaimed_reads_all_ones,
    unclaimed_drops_writes,
    byte_moves,
    high_byte_registers,
    word_moves,
    quadword_moves,
    zero_and_sign_extension,
    byte_arithmetic,
    word_arithmetic,
    quadword_arithmetic,
    exchange_of_all_sizes,
    bit_tests_of_all_sizes,
    unaligned_access,
];

fn unclaimed_reads_all_ones() -> TestResult {
    need!(!platform::bare_tcg(), "QEMU reads zeros");
    check_eq!(cpu::read8(UNCLAIMED + 3), u8::MAX, "byte");
    check_eq!(cpu::read16(UNCLAIMED + 2), u16::MAX, "word");
    check_eq!(cpu::read32(UNCLAIMED + 4), u32::MAX, "dword");
    check_eq!(cpu::read64(UNCLAIMED + 8), u64::MAX, "quadword");
    Ok(())
}

fn unclaimed_drops_writes() -> TestResult {
    let before = cpu::read64(UNCLAIMED);
    cpu::write8(UNCLAIMED, 0x12);
    cpu::write32(UNCLAIMED, 0x1234_5678);
    cpu::write64(UNCLAIMED, 0x0123_4567_89ab_cdef);
    check_eq!(cpu::read64(UNCLAIMED), before, "quadword after writes");
    Ok(())
}

fn byte_moves() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "mov al, [rdi]", "mov sil, [rdi]", "mov r9b, [rdi]", "mov [rdi], al", "mov [rdi], sil",
        "mov byte ptr [rdi], 0x5a"))
}

fn high_byte_registers() -> TestResult {
    compare_on_unclaimed(forms!(ALL; "mov ah, [rdi]", "mov [rdi], ah", "add ah, [rdi]", "xchg ah, [rdi]"))
}

fn word_moves() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "mov ax, [rdi]", "mov si, [rdi]", "mov r9w, [rdi]", "mov [rdi], ax", "mov word ptr [rdi], 0x1234"))
}

fn quadword_moves() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "mov rax, [rdi]", "mov rsi, [rdi]", "mov r9, [rdi]", "mov [rdi], rax", "mov qword ptr [rdi], -2",
        "mov qword ptr [rdi], 0x12345678"))
}

fn zero_and_sign_extension() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "movzx eax, byte ptr [rdi]", "movzx ax, byte ptr [rdi]", "movzx rax, byte ptr [rdi]",
        "movzx eax, word ptr [rdi]", "movzx rax, word ptr [rdi]", "movsx eax, byte ptr [rdi]",
        "movsx ax, byte ptr [rdi]", "movsx rax, byte ptr [rdi]", "movsx eax, word ptr [rdi]",
        "movsx rax, word ptr [rdi]", "movsxd rax, dword ptr [rdi]", "movzx esi, byte ptr [rdi]"))
}

fn byte_arithmetic() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "add al, [rdi]", "add [rdi], al", "sub sil, [rdi]", "sub byte ptr [rdi], 3", "cmp [rdi], al",
        "cmp byte ptr [rdi], 0xff", "inc byte ptr [rdi]", "dec byte ptr [rdi]"))?;
    compare_on_unclaimed(forms!(LOGIC;
        "and al, [rdi]", "or byte ptr [rdi], 0x40", "xor al, [rdi]", "test byte ptr [rdi], 0x81", "test [rdi], al"))
}

fn word_arithmetic() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "add ax, [rdi]", "add [rdi], ax", "sub si, [rdi]", "sub word ptr [rdi], 0x1234", "cmp [rdi], ax",
        "cmp word ptr [rdi], -1", "inc word ptr [rdi]", "dec word ptr [rdi]"))?;
    compare_on_unclaimed(forms!(LOGIC;
        "and ax, [rdi]", "or word ptr [rdi], 0x4000", "xor ax, [rdi]", "test word ptr [rdi], 0x8001", "test [rdi], ax"))
}

fn quadword_arithmetic() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "add rax, [rdi]", "add [rdi], rax", "sub rsi, [rdi]", "sub qword ptr [rdi], 0x12345678", "cmp [rdi], rax",
        "cmp qword ptr [rdi], -1", "inc qword ptr [rdi]", "dec qword ptr [rdi]"))?;
    compare_on_unclaimed(forms!(LOGIC;
        "and rax, [rdi]", "or qword ptr [rdi], -0x4000", "xor rax, [rdi]", "test [rdi], rax"))
}

fn exchange_of_all_sizes() -> TestResult {
    compare_on_unclaimed(forms!(ALL;
        "xchg al, [rdi]", "xchg ax, [rdi]", "xchg rax, [rdi]", "xadd [rdi], al", "xadd [rdi], si", "xadd [rdi], rsi",
        "cmpxchg [rdi], sil", "cmpxchg [rdi], si", "cmpxchg [rdi], rsi"))
}

fn bit_tests_of_all_sizes() -> TestResult {
    compare_on_unclaimed(forms!(BIT_TEST;
        "bt word ptr [rdi], 3", "bt qword ptr [rdi], 40", "bts word ptr [rdi], 15", "btr qword ptr [rdi], 63"))
}

fn unaligned_access() -> TestResult {
    let byte = u64::from(crate::form::unclaimed_byte());
    let pattern = byte * 0x0101_0101_0101_0101;
    for offset in 1..8 {
        check_eq!(cpu::read64(UNCLAIMED + offset), pattern, "quadword at {offset}");
        check_eq!(u64::from(cpu::read32(UNCLAIMED + offset)), pattern & 0xffff_ffff, "dword at {offset}");
        check_eq!(u64::from(cpu::read16(UNCLAIMED + offset)), pattern & 0xffff, "word at {offset}");
    }
    Ok(())
}
