//! Interrupts in x2APIC mode, the ends of interrupts, and the way out of HLT.

use selftest::apic::{self, register};
use selftest::cpu::{self, msr, rdtsc};
use selftest::descriptor::{self, INTERRUPT_GATE, KERNEL_CODE};
use selftest::interrupt::{self, Acknowledge};
use selftest::{Global, boot, probe, tsc};

use crate::{ROUNDS, TRIPS, report_samples, skip};

const VECTOR: u8 = 0x41;
const TIMER: u8 = 0x42;
/// How long the processor sleeps until its timer fires.
const SLEEP_US: u64 = 200;

static FIRED: Global<u64> = Global::new(0);

/// Counts, ends the interrupt by MSR, goes back.
#[unsafe(naked)]
extern "C" fn handler() {
    core::arch::naked_asm!(
        "push rax", "push rcx", "push rdx", "mov ecx, 0x80b", "xor eax, eax", "xor edx, edx", "wrmsr",
        "inc qword ptr [rip + {fired}]", "pop rdx", "pop rcx", "pop rax", "iretq", fired = sym FIRED
    )
}

fn self_ipi() {
    probe!(
        "sti", "mov r9d, {trips}",
        "2:", "mov r10, [rdi]", "mov eax, {vector}", "xor edx, edx", "mov ecx, {register}", "wrmsr",
        "3:", "cmp r10, [rdi]", "je 3b", "dec r9d", "jnz 2b", "cli",
        trips = const TRIPS, vector = const VECTOR as u32, register = const apic::x2apic_msr(register::SELF_IPI),
        in("rdi") FIRED.as_ptr(), out("rax") _, out("rcx") _, out("rdx") _, out("r9") _, out("r10") _,
    );
}

fn eoi() {
    probe!(
        "mov r9d, {trips}", "2:", "xor eax, eax", "xor edx, edx", "mov ecx, {register}", "wrmsr", "dec r9d", "jnz 2b",
        trips = const TRIPS, register = const apic::x2apic_msr(register::EOI), out("rax") _, out("rcx") _, out("rdx") _,
        out("r9") _,
    );
}

fn empty() {
    probe!(
        "mov r9d, {trips}", "2:", "xor eax, eax", "xor edx, edx", "mov ecx, {register}", "dec r9d", "jnz 2b",
        trips = const TRIPS, register = const apic::x2apic_msr(register::EOI), out("rax") _, out("rcx") _, out("rdx") _,
        out("r9") _,
    );
}

/// From the moment for which the timer is armed until the processor goes on behind HLT.
fn hlt_wake() {
    if boot::option("test").is_some_and(|only| only != "hlt_wake") {
        return;
    }
    interrupt::expect(TIMER, Acknowledge::LocalApic);
    apic::write_x2(register::LVT_TIMER, u64::from(u32::from(TIMER) | apic::DEADLINE));
    report_samples("hlt_wake", 1, ROUNDS as u64, || {
        let deadline = rdtsc() + tsc::us(SLEEP_US);
        cpu::wrmsr(msr::TSC_DEADLINE, deadline);
        cpu::wait_for_interrupt();
        rdtsc() - deadline
    });
}

/// Prints the lines `self_ipi`, `eoi` and `hlt_wake`.
pub(crate) fn measure() {
    if !apic::has_x2apic() || !apic::has_deadline() {
        ["self_ipi", "eoi", "hlt_wake"].iter().for_each(|name| skip(name, "no x2APIC or TSC deadline"));
        return;
    }
    cpu::wrmsr(msr::APIC_BASE, cpu::rdmsr(msr::APIC_BASE) | apic::BASE_X2APIC);
    descriptor::set_gate(VECTOR, handler as *const () as u64, KERNEL_CODE, INTERRUPT_GATE);
    crate::report("self_ipi", self_ipi, empty);
    crate::report("eoi", eoi, empty);
    hlt_wake();
    apic::baseline();
}
