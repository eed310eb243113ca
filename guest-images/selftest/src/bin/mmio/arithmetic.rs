//! Read-modify-write, compare and bit instructions of 32 bits on a device register, with their flags.

use selftest::{Test, TestResult, cpu, tests};

use crate::form::{ALL, BIT_TEST, LOGIC, STORAGE, compare_on_storage, prepare_storage};
use crate::forms;

pub(crate) const TESTS: &[Test] = tests![
    mov_and_extensions,
    logic_to_memory,
    logic_from_memory,
    logic_with_immediate,
    add_and_subtract,
    increment_and_decrement,
    compare_and_test,
    exchange,
    exchange_and_add,
    compare_and_exchange,
    bit_test,
    bit_test_and_change,
    locked_logic,
    locked_arithmetic,
    read_modify_write_is_one_write,
];

fn mov_and_extensions() -> TestResult {
    compare_on_storage(forms!(ALL;
        "mov eax, [rdi]", "mov [rdi], eax", "mov dword ptr [rdi], 0x12345678", "mov dword ptr [rdi], -1",
        "movsxd rax, dword ptr [rdi]", "mov r9d, [rdi]", "mov esi, [rdi]"))
}

fn logic_to_memory() -> TestResult {
    compare_on_storage(forms!(LOGIC; "and [rdi], esi", "or [rdi], esi", "xor [rdi], esi"))
}

fn logic_from_memory() -> TestResult {
    compare_on_storage(forms!(LOGIC; "and esi, [rdi]", "or esi, [rdi]", "xor esi, [rdi]", "and eax, [rdi]"))
}

fn logic_with_immediate() -> TestResult {
    compare_on_storage(forms!(LOGIC;
        "and dword ptr [rdi], 0x7f", "and dword ptr [rdi], -2", "and dword ptr [rdi], 0x0ff00ff0",
        "or dword ptr [rdi], 1", "or dword ptr [rdi], -128", "or dword ptr [rdi], 0x10000",
        "xor dword ptr [rdi], 0x55", "xor dword ptr [rdi], 0x5a5a5a5a"))
}

fn add_and_subtract() -> TestResult {
    compare_on_storage(forms!(ALL;
        "add [rdi], esi", "add esi, [rdi]", "add dword ptr [rdi], 1", "add dword ptr [rdi], 0x12345678",
        "sub [rdi], esi", "sub esi, [rdi]", "sub dword ptr [rdi], 1", "sub dword ptr [rdi], -100",
        "sub dword ptr [rdi], 0x7fffffff"))
}

fn increment_and_decrement() -> TestResult {
    compare_on_storage(forms!(ALL; "inc dword ptr [rdi]", "dec dword ptr [rdi]"))
}

fn compare_and_test() -> TestResult {
    compare_on_storage(forms!(ALL;
        "cmp [rdi], esi", "cmp esi, [rdi]", "cmp dword ptr [rdi], 0", "cmp dword ptr [rdi], -1",
        "cmp dword ptr [rdi], 0x12345678"))?;
    compare_on_storage(forms!(LOGIC;
        "test [rdi], esi", "test dword ptr [rdi], 0x80000000", "test dword ptr [rdi], 1"))
}

fn exchange() -> TestResult {
    compare_on_storage(forms!(ALL; "xchg [rdi], esi", "xchg [rdi], eax", "lock xchg [rdi], esi"))
}

fn exchange_and_add() -> TestResult {
    compare_on_storage(forms!(ALL; "xadd [rdi], esi", "lock xadd [rdi], esi", "xadd [rdi], eax"))
}

fn compare_and_exchange() -> TestResult {
    compare_on_storage(forms!(ALL; "cmpxchg [rdi], esi", "lock cmpxchg [rdi], esi"))
}

fn bit_test() -> TestResult {
    compare_on_storage(forms!(BIT_TEST;
        "bt dword ptr [rdi], 0", "bt dword ptr [rdi], 31", "bt dword ptr [rdi], 12"))?;
    // A register bit offset is not cut: keep it inside the dword.
    compare_on_storage(forms!(BIT_TEST;
        "and esi, 31\nbt [rdi], esi", "and esi, 31\nbts [rdi], esi", "and esi, 31\nbtr [rdi], esi",
        "and esi, 31\nbtc [rdi], esi"))
}

fn bit_test_and_change() -> TestResult {
    compare_on_storage(forms!(BIT_TEST;
        "bts dword ptr [rdi], 0", "bts dword ptr [rdi], 31", "btr dword ptr [rdi], 3", "btr dword ptr [rdi], 28",
        "btc dword ptr [rdi], 7", "lock bts dword ptr [rdi], 5", "lock btr dword ptr [rdi], 6",
        "lock btc dword ptr [rdi], 20"))
}

fn locked_logic() -> TestResult {
    compare_on_storage(forms!(LOGIC;
        "lock and [rdi], esi", "lock or [rdi], esi", "lock xor [rdi], esi", "lock or dword ptr [rdi], 0x100",
        "lock and dword ptr [rdi], -9"))
}

fn locked_arithmetic() -> TestResult {
    compare_on_storage(forms!(ALL;
        "lock add [rdi], esi", "lock sub [rdi], esi", "lock inc dword ptr [rdi]", "lock dec dword ptr [rdi]",
        "lock add dword ptr [rdi], 3"))
}

fn read_modify_write_is_one_write() -> TestResult {
    // Each write restarts the timer from the written count; a lost or doubled one shows in a long chain.
    prepare_storage();
    cpu::write32(STORAGE, 0);
    for _ in 0..1000 {
        selftest::probe!("add dword ptr [{}], 3", in(reg) STORAGE);
    }
    selftest::check_eq!(cpu::read32(STORAGE), 3000, "sum");
    Ok(())
}
