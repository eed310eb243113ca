//! One instruction form, executed on RAM and on a device and compared.

use selftest::apic::{self, register};
use selftest::cpu::{self, flag};
use selftest::{TestResult, check, check_eq, memory};

/// The registers that a form may use: RDI points to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rax: u64,
    pub(crate) flags: u64,
}

/// A form: its text, the flags that it defines, and the code.
pub(crate) type Form = (&'static str, u64, fn(&mut State));

/// A table of forms that define the same flags.
#[macro_export]
macro_rules! forms {
    ($flags:expr; $($instruction:literal),+ $(,)?) => {
        &[$(($instruction, $flags, |state: &mut $crate::form::State| {
            selftest::probe!(
                "push {flags}", "popfq", $instruction, "pushfq", "pop {flags}",
                flags = inout(reg) state.flags, inout("rdi") state.rdi, inout("rsi") state.rsi, inout("rax") state.rax,
            );
        })),+]
    };
}

/// All arithmetic flags defined.
pub(crate) const ALL: u64 = flag::ARITHMETIC;
/// As after AND, OR, XOR, TEST: AF is undefined.
pub(crate) const LOGIC: u64 = ALL & !flag::AF;
/// As after BT and its kin: CF only.
pub(crate) const BIT_TEST: u64 = flag::CF;

/// The register that keeps 32 bits.
pub(crate) const STORAGE: u64 = apic::XAPIC_BASE + register::INITIAL_COUNT as u64;
/// A page that nobody claims.
pub(crate) const UNCLAIMED: u64 = 0xd000_0000;

/// Masks the timer behind [`STORAGE`].
pub(crate) fn prepare_storage() {
    apic::write(register::LVT_TIMER, apic::MASKED);
    apic::write(register::DIVIDE, 0b1010);
}

/// What unclaimed memory reads as: ones on a PC, zeros in QEMU.
pub(crate) fn unclaimed_byte() -> u8 {
    cpu::read32(UNCLAIMED) as u8
}

const OPERANDS: [u64; 7] =
    [0, 1, 0xffff_ffff_ffff_ffff, 0x7fff_ffff, 0x8000_0000, 0x0123_4567_89ab_cdef, 0x1111_1111_1111_1111];
const CONTENTS: [u32; 5] = [0, 1, u32::MAX, 0x8000_0000, 0x1234_5678];

fn same(text: &str, mask: u64, on_ram: State, on_device: State) -> TestResult {
    check_eq!(on_device.rax, on_ram.rax, "RAX after `{text}`");
    check_eq!(on_device.rsi, on_ram.rsi, "RSI after `{text}`");
    check_eq!(on_device.flags & mask, on_ram.flags & mask, "flags after `{text}`");
    check_eq!(
        on_device.flags & !flag::ARITHMETIC,
        on_ram.flags & !flag::ARITHMETIC,
        "other flags after `{text}`"
    );
    Ok(())
}

/// Runs dword forms on RAM and on [`STORAGE`] over many values.
pub(crate) fn compare_on_storage(forms: &[Form]) -> TestResult {
    prepare_storage();
    let ram = memory::page() + 0x40;
    for &(text, mask, form) in forms {
        for content in CONTENTS {
            for operand in OPERANDS {
                // CMPXCHG compares with RAX: equal once, different otherwise.
                let rax = if operand == 1 { u64::from(content) } else { !operand };
                let flags =
                    flag::ONE | if operand & 1 == 0 { flag::CF | flag::ZF } else { flag::OF | flag::SF };
                let mut on_ram = State { rdi: ram, rsi: operand, rax, flags };
                let mut on_device = State { rdi: STORAGE, ..on_ram };
                cpu::write32(ram, content);
                cpu::write32(STORAGE, content);
                form(&mut on_ram);
                form(&mut on_device);
                same(text, mask, on_ram, on_device)?;
                check_eq!(on_device.rdi, STORAGE, "RDI after `{text}`");
                check_eq!(
                    cpu::read32(STORAGE),
                    cpu::read32(ram),
                    "memory after `{text}` on {content:#x}, {operand:#x}"
                );
            }
        }
    }
    Ok(())
}

/// Runs forms of any size on RAM and on unclaimed memory. Writes vanish there, so registers and flags count.
pub(crate) fn compare_on_unclaimed(forms: &[Form]) -> TestResult {
    let ram = memory::page() + 0x40;
    let byte = unclaimed_byte();
    for &(text, mask, form) in forms {
        for operand in OPERANDS {
            let mut on_ram = State { rdi: ram, rsi: operand, rax: !operand, flags: flag::ONE | flag::CF };
            let mut on_device = State { rdi: UNCLAIMED, ..on_ram };
            memory::fill(ram, byte, 16);
            form(&mut on_ram);
            form(&mut on_device);
            same(text, mask, on_ram, on_device)?;
            check!(cpu::read32(UNCLAIMED) as u8 == byte, "unclaimed memory remembers `{text}`");
        }
    }
    Ok(())
}
