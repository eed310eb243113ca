//! Single-stepping (RFLAGS.TF), above all over instructions that exit: the trap comes right behind each of them, once
//! (SDM vol. 3, "Single-Step Exception Condition").

use selftest::cpu::{self, flag};
use selftest::exception::{self, vector::DB};
use selftest::{Global, Test, TestResult, apic, check, check_eq, memory, need, platform, snippet, tests};

pub(crate) const TESTS: &[Test] = tests![
    step_over_plain_instructions,
    step_over_cpuid,
    step_over_port_access,
    step_over_msr_access,
    step_over_mmio_access,
    step_over_control_registers,
    step_over_other_exits,
    step_over_pause,
    step_over_string_output,
    step_skips_one_after_mov_ss,
    step_mov_ss_then_exit,
    step_software_interrupt,
    step_flag_is_pushed,
    step_through_a_loop_of_exits,
];

const STEPS: usize = 24;
/// DR6: single step.
const BS: u64 = 1 << 14;

#[derive(Clone, Copy)]
struct Trace {
    rip: [u64; STEPS],
    dr6: [u64; STEPS],
    count: usize,
    wanted: usize,
}

static TRACE: Global<Trace> = Global::new(Trace { rip: [0; STEPS], dr6: [0; STEPS], count: 0, wanted: 0 });

fn record(frame: &mut exception::Frame) {
    let dr6 = cpu::read_dr6();
    cpu::write_dr6(0xffff_0ff0);
    TRACE.with(|trace| {
        if trace.count < STEPS {
            trace.rip[trace.count] = frame.rip;
            trace.dr6[trace.count] = dr6;
        }
        trace.count += 1;
        if trace.count >= trace.wanted {
            frame.rflags &= !flag::TF;
        }
    });
}

/// Bytes of the instructions with which each snippet sets TF: PUSHFQ, OR, POPFQ.
const PREAMBLE: u64 = 9;

macro_rules! stepped {
    ($name:ident: $($line:literal),+ $(,)?) => {
        snippet!($name: "pushfq", "or dword ptr [rsp], 0x100", "popfq", $($line),+, "ret");
    };
}

/// Runs a snippet and compares where the traps came, as offsets behind the preamble.
fn trace(code: &'static [u8], argument: u64, expected: &[u64]) -> TestResult {
    TRACE.set(Trace { rip: [0; STEPS], dr6: [0; STEPS], count: 0, wanted: expected.len() });
    exception::on(DB, record);
    let entry = code.as_ptr() as u64;
    selftest::snippet::call(entry, argument);
    let trace = TRACE.get();
    check_eq!(trace.count, expected.len(), "number of traps");
    for (i, &offset) in expected.iter().enumerate() {
        check_eq!(trace.rip[i].wrapping_sub(entry + PREAMBLE), offset, "offset of trap {i}");
        // Bochs forgets it where #DB exits from an SVM guest.
        let named = trace.dr6[i] & BS != 0 || platform::bochs_svm();
        check!(named, "trap {i} has DR6 {:#x} without BS", trace.dr6[i]);
    }
    Ok(())
}

stepped!(plain: "nop", "xor eax, eax", "nop");

fn step_over_plain_instructions() -> TestResult {
    trace(plain(), 0, &[1, 3, 4])
}

stepped!(cpuids: "mov r8, rbx", "xor eax, eax", "cpuid", "nop", "cpuid", "mov rbx, r8");

fn step_over_cpuid() -> TestResult {
    trace(cpuids(), 0, &[3, 5, 7, 8, 10, 13])
}

stepped!(ports: "out 0x80, al", "in al, 0x80", "mov edx, 0x3ff", "out dx, al", "in al, dx", "in ax, 0x80", "in eax, 0x80");

fn step_over_port_access() -> TestResult {
    trace(ports(), 0, &[2, 4, 9, 10, 11, 14, 16])
}

stepped!(msrs: "mov ecx, 0xc0000100", "rdmsr", "wrmsr", "nop", "rdtsc", "nop");

fn step_over_msr_access() -> TestResult {
    trace(msrs(), 0, &[5, 7, 9, 10, 12, 13])
}

stepped!(mmio: "mov eax, [rdi + 0x30]", "mov ecx, [rdi + 0x80]", "mov [rdi + 0x80], ecx", "nop", "or dword ptr [rdi + 0x80], 0", "nop");

fn step_over_mmio_access() -> TestResult {
    trace(mmio(), apic::XAPIC_BASE, &[3, 9, 15, 16, 23, 24])
}

stepped!(control: "mov rax, cr0", "mov cr0, rax", "mov rax, cr3", "mov cr3, rax", "mov rax, cr4", "mov cr4, rax", "clts", "nop");

fn step_over_control_registers() -> TestResult {
    trace(control(), 0, &[3, 6, 9, 12, 15, 18, 20, 21])
}

stepped!(others: "invlpg [rdi]", "wbinvd", "mov rax, dr0", "mov dr0, rax", "nop");

fn step_over_other_exits() -> TestResult {
    trace(others(), memory::page(), &[3, 5, 8, 11, 12])
}

stepped!(pauses: "pause", "nop", "pause");

fn step_over_pause() -> TestResult {
    need!(!platform::tcg(), "TCG loses the trap");
    trace(pauses(), 0, &[2, 3, 5])
}

stepped!(string_output: "mov rsi, rdi", "mov edx, 0x3ff", "mov ecx, 3", "rep outsb", "nop");

fn step_over_string_output() -> TestResult {
    // A trap after each repetition: twice at the instruction itself, then behind it.
    trace(string_output(), memory::page(), &[3, 8, 13, 13, 13, 15, 16])
}

stepped!(mov_ss: "mov eax, ss", "mov ss, eax", "nop", "nop");

fn step_skips_one_after_mov_ss() -> TestResult {
    trace(mov_ss(), 0, &[2, 5, 6])
}

stepped!(mov_ss_then_cpuid: "mov r8, rbx", "mov eax, ss", "mov ss, eax", "cpuid", "nop", "mov rbx, r8");

fn step_mov_ss_then_exit() -> TestResult {
    trace(mov_ss_then_cpuid(), 0, &[3, 5, 9, 10, 13])
}

stepped!(software_interrupt: "nop", "int 0x60", "nop");

fn step_software_interrupt() -> TestResult {
    use selftest::interrupt::{Acknowledge, count, on};
    static FLAGS: Global<u64> = Global::new(0);
    need!(!platform::tcg(), "TCG traps before the handler's first instruction");
    on(0x60, Acknowledge::Nothing, |_| FLAGS.set(cpu::rflags()));
    // The handler runs untraced; the interrupted flow is traced again from the instruction after INT.
    let outcome = trace(software_interrupt(), 0, &[1, 4]);
    check_eq!(count(0x60), 1, "deliveries");
    check_eq!(FLAGS.get() & flag::TF, 0, "TF in the handler");
    outcome
}

stepped!(pushed_flags: "pushfq", "pop rax", "nop");

fn step_flag_is_pushed() -> TestResult {
    trace(pushed_flags(), 0, &[1, 2, 3])
}

stepped!(looped: "mov ecx, 3", "2:", "out 0x80, al", "loop 2b", "nop");

fn step_through_a_loop_of_exits() -> TestResult {
    trace(looped(), 0, &[5, 7, 5, 7, 5, 7, 9, 10])
}
