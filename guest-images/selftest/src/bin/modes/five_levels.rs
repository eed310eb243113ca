//! Long mode with five levels of tables and linear addresses of 57 bits (SDM vol. 3, "4-Level Paging and 5-Level Paging").
//! CR4.LA57 changes only outside long mode; so each test leaves it and comes back by way of the trampoline.

use selftest::cpu::{self, cr4, efer, msr};
use selftest::exception::vector::{GP, PF, SS};
use selftest::exception::{catch_value, expect_exception_at};
use selftest::memory::{self, PAGE};
use selftest::paging::{self, A, ADDRESS, D, P, W};
use selftest::platform::{features, has, tcg};
use selftest::{
    Global, Test, TestResult, apic, check, check_eq, expect_exception, need, probe, snippet, tests,
};

use crate::trampoline::payload_long64;
use crate::visit::{CR0_PAGED, Mode, Place, visit};

pub(crate) const TESTS: &[Test] = tests![
    five_levels_of_tables,
    five_levels_switched_often,
    wide_addresses_reach_their_frames,
    wide_addresses_without_a_page,
    beyond_57_bits,
    code_at_wide_addresses,
    string_io_at_wide_addresses,
    device_registers_at_wide_addresses,
    registers_hold_wide_addresses,
    registers_refuse_beyond_57_bits,
    la57_is_fixed_in_long_mode,
];

/// Addresses that 48 bits do not reach, of both halves: the ends of what 57 bits do, and of what 48 do.
const WIDE: [u64; 6] = [
    0x0000_8000_0000_0000,
    0x0012_3456_789a_b000,
    0x00ff_ffff_ffff_f000,
    0xff00_0000_0000_0000,
    0xfffe_dcba_9876_5000,
    0xffff_7fff_ffff_f000,
];

/// Addresses that are not canonical with 57 bits either.
const BEYOND: [u64; 4] =
    [0x0100_0000_0000_0000, 0x7fff_ffff_ffff_f000, 0x8000_0000_0000_0000, 0xfeff_ffff_ffff_f000];

/// What runs with five levels, and how it ends.
static BODY: Global<Option<fn() -> TestResult>> = Global::new(None);
static ENDED: Global<TestResult> = Global::new(Ok(()));

/// From the trampoline. No exception leaves it: the way back goes through here.
extern "C" fn run_body() {
    let result =
        BODY.get().map_or(Ok(()), |body| catch_value(body).unwrap_or_else(|caught| Err(caught.into())));
    ENDED.set(result);
}

/// The root table while the fifth level is on.
fn top() -> u64 {
    cpu::read_cr3() & ADDRESS
}

/// Runs `body` with five levels; the lowest 48 bits map what they did with four.
fn with_five_levels(body: fn() -> TestResult) -> TestResult {
    need!(has(features::LA57), "CPUID offers no 57-bit linear addresses");
    let root = memory::page();
    cpu::write64(root, paging::root() | P | W);
    let mode = Mode {
        cr0: CR0_PAGED,
        cr3: root as u32,
        cr4: (cr4::PAE | cr4::LA57) as u32,
        efer: (efer::BASELINE & !efer::LMA) as u32,
    };
    BODY.set(Some(body));
    ENDED.set(Err(selftest::verdict::fail(format_args!("the mode was not entered"))));
    visit(Place::Legacy(mode), &raw const payload_long64, [run_body as *const () as u32, 0]);
    check_eq!(cpu::read_cr4(), cr4::BASELINE, "CR4 afterwards");
    ENDED.get()
}

/// The last-level entry of an address; missing tables on the way are made.
fn entry(address: u64) -> u64 {
    let slot = |table: u64, shift: u32| table + (address >> shift & 511) * 8;
    [39, 30, 21, 12].into_iter().fold(slot(top(), 48), |at, shift| {
        if cpu::read64(at) & P == 0 {
            cpu::write64(at, memory::page() | P | W);
        }
        slot(cpu::read64(at) & ADDRESS, shift)
    })
}

fn map(address: u64, value: u64) {
    cpu::write64(entry(address), value);
    cpu::invlpg(address);
}

fn five_levels_of_tables() -> TestResult {
    check!(cpu::cpuid(0x8000_0008, 0).eax >> 8 & 0xff == 57 || !has(features::LA57), "not 57 linear bits");
    with_five_levels(|| {
        check_eq!(cpu::read_cr4(), cr4::PAE | cr4::LA57, "CR4");
        check_eq!(cpu::rdmsr(msr::EFER) & efer::BASELINE, efer::BASELINE, "EFER");
        check_eq!(cpu::read64(top()) & ADDRESS, paging::root(), "the fourth level's table");
        let page = memory::page();
        paging::map(paging::WINDOW, page, P | W);
        cpu::write64(paging::WINDOW, 0x5757);
        check_eq!(cpu::read64(page), 0x5757, "memory through an address of 40 bits");
        check!(cpu::read64(top()) & A != 0, "the root's entry is not marked accessed");
        Ok(())
    })
}

fn five_levels_switched_often() -> TestResult {
    const ROUNDS: u64 = 20;
    static SUM: Global<u64> = Global::new(0);
    SUM.set(0);
    for round in 0..ROUNDS {
        with_five_levels(|| {
            map(WIDE[1], memory::page() | P | W);
            cpu::write64(WIDE[1], 1);
            SUM.set(SUM.get() + cpu::read64(WIDE[1]));
            Ok(())
        })?;
        // The same address is none with four levels: no translation may stay.
        expect_exception("a wide address with four levels", GP, 0, || {
            cpu::read64(WIDE[1]);
        })?;
        check_eq!(SUM.get(), round + 1, "visits");
    }
    Ok(())
}

fn wide_addresses_reach_their_frames() -> TestResult {
    with_five_levels(|| {
        let frames = memory::pages(WIDE.len() as u64);
        for (i, address) in (0..).zip(WIDE) {
            map(address, (frames + i * PAGE) | P | W);
        }
        for (i, address) in (0..).zip(WIDE) {
            check_eq!(cpu::read64(address + 0x100), 0, "memory at {address:#x} at first");
            check_eq!(cpu::read64(entry(address)) & (A | D), A, "A and D of {address:#x} after a read");
            cpu::write64(address + 0x100, 0x100 + i);
            check_eq!(cpu::read64(entry(address)) & (A | D), A | D, "A and D of {address:#x} after a write");
        }
        for (i, address) in (0..).zip(WIDE) {
            check_eq!(cpu::read64(frames + i * PAGE + 0x100), 0x100 + i, "the frame of {address:#x}");
        }
        Ok(())
    })
}

fn wide_addresses_without_a_page() -> TestResult {
    with_five_levels(|| {
        for address in WIDE {
            let fault = expect_exception_at("a read without a table", PF, 0, || {
                cpu::read64(address);
            })?;
            check_eq!(fault.cr2, address, "CR2");
        }
        map(WIDE[2], memory::page() | P);
        let fault = expect_exception_at("a write to a read-only page", PF, 3, || cpu::write64(WIDE[2], 1))?;
        check_eq!(fault.cr2, WIDE[2], "CR2");
        Ok(())
    })
}

fn beyond_57_bits() -> TestResult {
    with_five_levels(|| {
        for address in BEYOND {
            expect_exception("a load beyond 57 bits", GP, 0, || {
                cpu::read64(address);
            })?;
            expect_exception("a store beyond 57 bits", GP, 0, || cpu::write64(address, 0))?;
            // TCG raises #GP for the stack's accesses too.
            if !tcg() {
                expect_exception("a load through RBP beyond 57 bits", SS, 0, || {
                    probe!("push rbp", "mov rbp, {}", "mov {0}, [rbp]", "pop rbp", inout(reg) address => _);
                })?;
            }
        }
        Ok(())
    })
}

snippet!(cpuid_zero: "push rbx", "xor eax, eax", "cpuid", "pop rbx", "ret");

fn code_at_wide_addresses() -> TestResult {
    with_five_levels(|| {
        let expected = u64::from(cpu::cpuid(0, 0).eax);
        let frames = memory::pages(2);
        // CPUID, which the hypervisor skips, lies on both pages.
        memory::store(frames + PAGE - 4, cpuid_zero());
        for address in [WIDE[1], WIDE[4]] {
            map(address, frames | P);
            map(address + PAGE, (frames + PAGE) | P);
            check_eq!(snippet::call(address + PAGE - 4, 0), expected, "EAX from {address:#x}");
        }
        Ok(())
    })
}

fn string_io_at_wide_addresses() -> TestResult {
    const SCRATCH_PORT: u16 = 0x3ff;
    fn input(address: u64) {
        probe!("rep insb", in("dx") SCRATCH_PORT, inout("rdi") address => _, inout("rcx") 3_u64 => _);
    }
    with_five_levels(|| {
        cpu::outb(SCRATCH_PORT, 0x5d);
        for address in WIDE {
            let frame = memory::page();
            map(address, frame | P | W);
            input(address + 8);
            check_eq!(cpu::read32(frame + 8), 0x005d_5d5d, "what INS wrote at {address:#x}");
            check_eq!(cpu::read64(entry(address)) & (A | D), A | D, "A and D of {address:#x}");
        }
        for address in BEYOND {
            expect_exception("INS beyond 57 bits", GP, 0, || input(address))?;
        }
        // From the last page into the hole: two bytes fit.
        let frame = cpu::read64(entry(WIDE[2])) & ADDRESS;
        expect_exception("INS across the end of the lower half", GP, 0, || input(WIDE[2] + PAGE - 2))?;
        check_eq!(cpu::read16(frame + PAGE - 2), 0x5d5d, "the bytes before the end");
        let missing = 0x00ab_cdef_0123_4000;
        let fault = expect_exception_at("INS without a table", PF, 2, || input(missing))?;
        check_eq!(fault.cr2, missing, "CR2");
        Ok(())
    })
}

fn device_registers_at_wide_addresses() -> TestResult {
    with_five_levels(|| {
        let version = apic::read(apic::register::VERSION);
        for address in WIDE {
            let frame = memory::page();
            map(address, apic::XAPIC_BASE | P | W);
            check_eq!(cpu::read32(address + 0x30), version, "APIC version by MOV at {address:#x}");
            // What only the emulator does: it walks the tables for the other operand, and marks them.
            let buffer = address ^ 1 << 40;
            map(buffer, frame | P | W);
            probe!("movsd", inout("rsi") address + 0x30 => _, inout("rdi") buffer + 4 => _);
            check_eq!(cpu::read32(frame + 4), version, "APIC version by MOVS at {address:#x}");
            check_eq!(cpu::read64(entry(buffer)) & (A | D), A | D, "A and D of the buffer");
            cpu::write32(address + 0x380, 0x1234);
            probe!("add dword ptr [{}], 0x10000", in(reg) address + 0x380);
            check_eq!(cpu::read32(address + 0x380), 0x1_1234, "APIC count by ADD at {address:#x}");
        }
        map(WIDE[1], apic::XAPIC_BASE | P | W);
        for beyond in BEYOND {
            expect_exception("MOVS from a device register to beyond 57 bits", GP, 0, || {
                probe!("movsd", inout("rsi") WIDE[1] + 0x30 => _, inout("rdi") beyond => _);
            })?;
        }
        Ok(())
    })
}

/// Such registers take wide addresses with four levels as well.
fn registers_hold_wide_addresses() -> TestResult {
    fn hold() -> TestResult {
        let registers =
            [msr::FS_BASE, msr::KERNEL_GS_BASE, msr::LSTAR, msr::CSTAR, msr::SYSENTER_ESP, msr::SYSENTER_EIP];
        for index in registers {
            let before = cpu::rdmsr(index);
            for address in WIDE {
                cpu::wrmsr(index, address);
                // An exit in between, so that what the hypervisor keeps is seen.
                cpu::cpuid(0, 0);
                check_eq!(cpu::rdmsr(index), address, "MSR {index:#x}");
            }
            cpu::wrmsr(index, before);
        }
        Ok(())
    }
    need!(has(features::LA57), "CPUID offers no 57-bit linear addresses");
    hold()?;
    with_five_levels(hold)?;
    with_five_levels(|| {
        let frame = memory::page();
        cpu::write64(frame + 0x18, 0xf5);
        map(WIDE[4], frame | P | W);
        cpu::wrmsr(msr::FS_BASE, WIDE[4]);
        let value: u64;
        probe!("mov {}, fs:[0x18]", out(reg) value);
        cpu::wrmsr(msr::FS_BASE, 0);
        check_eq!(value, 0xf5, "memory through FS");
        Ok(())
    })
}

fn registers_refuse_beyond_57_bits() -> TestResult {
    with_five_levels(|| {
        need!(!tcg(), "TCG accepts non-canonical addresses in MSRs");
        for index in [msr::FS_BASE, msr::KERNEL_GS_BASE, msr::LSTAR] {
            for address in BEYOND {
                expect_exception("an address beyond 57 bits in an MSR", GP, 0, || {
                    cpu::wrmsr(index, address);
                })?;
            }
        }
        Ok(())
    })
}

fn la57_is_fixed_in_long_mode() -> TestResult {
    with_five_levels(|| {
        need!(!selftest::platform::bare_tcg(), "TCG does not check");
        expect_exception("CR4.LA57 cleared in long mode", GP, 0, || cpu::write_cr4(cr4::PAE))?;
        check_eq!(cpu::read_cr4(), cr4::PAE | cr4::LA57, "CR4 after the fault");
        cpu::write_cr4(cr4::PAE | cr4::LA57 | cr4::PGE);
        check_eq!(cpu::read_cr4(), cr4::PAE | cr4::LA57 | cr4::PGE, "CR4 with another bit");
        Ok(())
    })
}
