//! Debug registers: instruction breakpoints and watchpoints near exits (SDM vol. 3, "Debug Registers").

use selftest::cpu::{self, flag};
use selftest::exception::vector::{DB, GP};
use selftest::exception::{self, Frame};
use selftest::{
    Global, Test, TestResult, check, check_eq, expect_exception, memory, need, platform, snippet, tests,
};

pub(crate) const TESTS: &[Test] = tests![
    instruction_breakpoint,
    instruction_breakpoint_on_cpuid,
    instruction_breakpoint_on_port_access,
    instruction_breakpoint_after_exit,
    instruction_breakpoint_disabled,
    resume_flag_is_pushed_and_honoured,
    write_watchpoint,
    read_write_watchpoint,
    watchpoint_lengths,
    watchpoint_of_string_store,
    general_detect,
    dr6_dr7_upper_halves,
    dr7_fixed_bits,
    debug_status_survives_exits,
];

/// DR7: bit 10 is always one.
const FIXED: u64 = 0x400;
/// DR6 after a reset.
const DR6_CLEAR: u64 = 0xffff_0ff0;

#[derive(Clone, Copy)]
struct Hits {
    count: u32,
    rip: u64,
    dr6: u64,
    rflags: u64,
}

static HITS: Global<Hits> = Global::new(Hits { count: 0, rip: 0, dr6: 0, rflags: 0 });

/// Notes the hit and resumes behind the breakpoint.
fn record(frame: &mut Frame) {
    let hits = HITS.get();
    HITS.set(Hits { count: hits.count + 1, rip: frame.rip, dr6: cpu::read_dr6(), rflags: frame.rflags });
    cpu::write_dr6(DR6_CLEAR);
    frame.rflags |= flag::RF;
}

fn watch() {
    HITS.set(Hits { count: 0, rip: 0, dr6: 0, rflags: 0 });
    cpu::write_dr6(DR6_CLEAR);
    exception::on(DB, record);
}

/// Checks the breakpoints that DR6 names.
fn check_status(bits: u64) -> TestResult {
    if !platform::bochs_svm() {
        // Bochs forgets them where #DB exits from an SVM guest.
        check_eq!(HITS.get().dr6 & 0xf, bits, "DR6 status bits");
    }
    Ok(())
}

/// Runs a snippet with a breakpoint on its byte `offset` and checks that it hits once, before that instruction.
fn break_at(code: &'static [u8], offset: u64) -> Result<u64, selftest::Verdict> {
    watch();
    let entry = code.as_ptr() as u64;
    cpu::write_dr0(entry + offset);
    cpu::write_dr7(FIXED | 1);
    let result = selftest::snippet::call(entry, 0);
    cpu::write_dr7(FIXED);
    let hits = HITS.get();
    check_eq!(hits.count, 1, "hits");
    check_eq!(hits.rip, entry + offset, "saved RIP");
    check_status(1)?;
    Ok(result)
}

snippet!(count_to_three: "mov eax, 1", "inc eax", "inc eax", "ret");

fn instruction_breakpoint() -> TestResult {
    for offset in [0, 5, 7, 9] {
        check_eq!(break_at(count_to_three(), offset)?, 3, "result");
    }
    Ok(())
}

snippet!(one_cpuid: "mov r8, rbx", "xor eax, eax", "cpuid", "mov rbx, r8", "ret");

fn instruction_breakpoint_on_cpuid() -> TestResult {
    check_eq!(break_at(one_cpuid(), 5)?, u64::from(cpu::cpuid(0, 0).eax), "EAX");
    // Again at the instruction behind it: the resume flag did not outlive CPUID.
    check_eq!(break_at(one_cpuid(), 7)?, u64::from(cpu::cpuid(0, 0).eax), "EAX");
    Ok(())
}

snippet!(ports: "mov edx, 0x3ff", "mov al, 0x31", "out dx, al", "xor eax, eax", "in al, dx", "ret");

fn instruction_breakpoint_on_port_access() -> TestResult {
    for offset in [7, 8, 10, 11] {
        check_eq!(break_at(ports(), offset)?, 0x31, "UART scratch register");
    }
    Ok(())
}

snippet!(after_exits: "mov r8, rbx", "cpuid", "nop", "in al, 0x80", "nop", "mov ecx, 0x1b", "rdmsr", "nop", "mov rbx, r8", "ret");

fn instruction_breakpoint_after_exit() -> TestResult {
    for offset in [5, 8, 16] {
        break_at(after_exits(), offset)?;
    }
    Ok(())
}

fn instruction_breakpoint_disabled() -> TestResult {
    watch();
    let entry = count_to_three().as_ptr() as u64;
    cpu::write_dr0(entry);
    cpu::write_dr7(FIXED);
    selftest::snippet::call(entry, 0);
    check_eq!(HITS.get().count, 0, "hits");
    // Enabled globally instead of locally.
    cpu::write_dr7(FIXED | 2);
    selftest::snippet::call(entry, 0);
    cpu::write_dr7(FIXED);
    check_eq!(HITS.get().count, 1, "hits with the global enable");
    Ok(())
}

fn resume_flag_is_pushed_and_honoured() -> TestResult {
    break_at(count_to_three(), 5)?;
    need!(!platform::tcg() && !platform::bochs(), "no emulator knows that a breakpoint's fault pushes RF");
    check!(HITS.get().rflags & flag::RF != 0, "RF is not pushed");
    Ok(())
}

const WRITE: u64 = 1;
const READ_WRITE: u64 = 3;

/// DR7 with breakpoint 1 of a kind and a length in bytes.
fn watchpoint(kind: u64, length: u64) -> u64 {
    let encoded = [0, 0, 1, 0, 3, 0, 0, 0, 2][length as usize];
    FIXED | 1 << 2 | kind << 20 | encoded << 22
}

snippet!(store: "mov dword ptr [rdi], 5", "nop", "ret");
snippet!(load: "mov eax, [rdi]", "nop", "ret");
snippet!(string_store: "mov ecx, 16", "xor eax, eax", "rep stosb", "nop", "ret");

fn hits_of(code: &'static [u8], address: u64) -> u32 {
    watch();
    selftest::snippet::call(code.as_ptr() as u64, address);
    HITS.get().count
}

fn write_watchpoint() -> TestResult {
    let page = memory::page();
    cpu::write_dr1(page);
    cpu::write_dr7(watchpoint(WRITE, 4));
    check_eq!(hits_of(load(), page), 0, "hits of a load");
    check_eq!(hits_of(store(), page), 1, "hits of a store");
    let hits = HITS.get();
    check_eq!(hits.rip, store().as_ptr() as u64 + 6, "saved RIP: behind the store");
    check_status(2)?;
    check_eq!(hits_of(store(), page + 4), 0, "hits of a store beside it");
    Ok(())
}

fn read_write_watchpoint() -> TestResult {
    let page = memory::page();
    cpu::write_dr1(page);
    cpu::write_dr7(watchpoint(READ_WRITE, 4));
    check_eq!(hits_of(load(), page), 1, "hits of a load");
    check_eq!(hits_of(store(), page), 1, "hits of a store");
    Ok(())
}

fn watchpoint_lengths() -> TestResult {
    need!(!platform::tcg(), "TCG hits beside the watched bytes");
    let page = memory::page();
    for length in [1, 2, 4, 8] {
        cpu::write_dr1(page + 16);
        cpu::write_dr7(watchpoint(WRITE, length));
        for at in 8..32 {
            let overlaps = at + 4 > 16 && at < 16 + length;
            check_eq!(
                hits_of(store(), page + at),
                u32::from(overlaps),
                "hits of a store at {at}, length {length}"
            );
        }
    }
    Ok(())
}

fn watchpoint_of_string_store() -> TestResult {
    let page = memory::page();
    cpu::write_dr1(page + 5);
    cpu::write_dr7(watchpoint(WRITE, 1));
    let hits = hits_of(string_store(), page);
    cpu::write_dr7(FIXED);
    check_eq!(hits, 1, "hits");
    check_status(2)
}

fn general_detect() -> TestResult {
    const GD: u64 = 1 << 13;
    const BD: u64 = 1 << 13;
    need!(!platform::tcg(), "TCG has no general detect");
    static DR7_IN_HANDLER: Global<u64> = Global::new(0);
    watch();
    exception::on(DB, |frame| {
        DR7_IN_HANDLER.set(cpu::read_dr7());
        record(frame);
    });
    cpu::write_dr7(FIXED | GD);
    cpu::read_dr0();
    let hits = HITS.get();
    check_eq!(hits.count, 1, "hits");
    check!(hits.dr6 & BD != 0 || platform::bochs_svm(), "DR6 {:#x} has no BD", hits.dr6);
    check_eq!(DR7_IN_HANDLER.get() & GD, 0, "DR7.GD in the handler");
    Ok(())
}

fn dr6_dr7_upper_halves() -> TestResult {
    need!(!platform::tcg(), "TCG does not check");
    expect_exception("DR7's upper half", GP, 0, || cpu::write_dr7(1 << 32 | FIXED))?;
    expect_exception("DR6's upper half", GP, 0, || cpu::write_dr6(1 << 32))
}

fn dr7_fixed_bits() -> TestResult {
    cpu::write_dr7(0);
    check_eq!(cpu::read_dr7(), FIXED, "DR7");
    cpu::write_dr6(0);
    let dr6 = cpu::read_dr6();
    cpu::write_dr6(DR6_CLEAR);
    // Bit 16 is RTM and may be one; bit 11 is the bus lock's.
    check_eq!(dr6 | 0x1_0800, 0xffff_0ff0 | 0x1_0800, "DR6 after writing zeros");
    Ok(())
}

fn debug_status_survives_exits() -> TestResult {
    let addresses = [0x1111_2222_3333, 0xffff_8000_1234_5678, 5, 0x7fff_ffff_ffff];
    cpu::write_dr0(addresses[0]);
    cpu::write_dr1(addresses[1]);
    cpu::write_dr2(addresses[2]);
    cpu::write_dr3(addresses[3]);
    cpu::write_dr6(DR6_CLEAR | 0xf | 1 << 14);
    for i in 0..500_u32 {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, i as u8);
    }
    let read = [cpu::read_dr0(), cpu::read_dr1(), cpu::read_dr2(), cpu::read_dr3()];
    check!(read == addresses, "DR0 to DR3 are {read:x?}");
    check_eq!(cpu::read_dr6() & (0xf | 1 << 14), 0xf | 1 << 14, "DR6");
    cpu::write_dr6(DR6_CLEAR);
    for dr in [cpu::write_dr0, cpu::write_dr1, cpu::write_dr2, cpu::write_dr3] {
        dr(0);
    }
    Ok(())
}
