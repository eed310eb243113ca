//! The TSC-deadline timer: arm, interrupt, handler, EOI.

use selftest::apic::{self, register};
use selftest::cpu::{self, msr};
use selftest::descriptor::{self, INTERRUPT_GATE, KERNEL_CODE};
use selftest::{Global, probe};

use crate::TRIPS;

const VECTOR: u8 = 0x40;

static FIRED: Global<u64> = Global::new(0);

/// A handler as short as can be: counts, EOI by MSR, back.
#[unsafe(naked)]
extern "C" fn handler_x2apic() {
    core::arch::naked_asm!(
        "push rax", "push rcx", "push rdx", "mov ecx, 0x80b", "xor eax, eax", "xor edx, edx", "wrmsr",
        "inc qword ptr [rip + {fired}]", "pop rdx", "pop rcx", "pop rax", "iretq", fired = sym FIRED
    )
}

/// The same with the EOI register in memory.
#[unsafe(naked)]
extern "C" fn handler_xapic() {
    core::arch::naked_asm!(
        "push rax", "mov eax, 0xfee000b0", "mov dword ptr [rax], 0", "inc qword ptr [rip + {fired}]", "pop rax",
        "iretq", fired = sym FIRED
    )
}

fn trips() {
    probe!(
        "sti", "mov r9d, {trips}",
        "2:", "mov r10, [rdi]", "mov eax, 1", "xor edx, edx", "mov ecx, {deadline}", "wrmsr",
        "3:", "cmp r10, [rdi]", "je 3b", "dec r9d", "jnz 2b", "cli",
        trips = const TRIPS, deadline = const msr::TSC_DEADLINE, in("rdi") FIRED.as_ptr(), out("rax") _, out("rcx") _,
        out("rdx") _, out("r9") _, out("r10") _,
    );
}

fn empty() {
    probe!(
        "mov r9d, {trips}", "2:", "mov r10, [rdi]", "mov eax, 1", "xor edx, edx", "mov ecx, {deadline}", "dec r9d",
        "jnz 2b",
        trips = const TRIPS, deadline = const msr::TSC_DEADLINE, in("rdi") FIRED.as_ptr(), out("rax") _, out("rcx") _,
        out("rdx") _, out("r9") _, out("r10") _,
    );
}

/// Prints the line `tsc_deadline`.
pub(crate) fn measure() {
    if !apic::has_deadline() {
        crate::skip("tsc_deadline", "no TSC-deadline timer");
        return;
    }
    let lvt = u32::from(VECTOR) | apic::DEADLINE;
    let handler = if apic::has_x2apic() {
        cpu::wrmsr(msr::APIC_BASE, cpu::rdmsr(msr::APIC_BASE) | apic::BASE_X2APIC);
        apic::write_x2(register::LVT_TIMER, u64::from(lvt));
        handler_x2apic
    } else {
        apic::write(register::LVT_TIMER, lvt);
        handler_xapic
    };
    descriptor::set_gate(VECTOR, handler as *const () as u64, KERNEL_CODE, INTERRUPT_GATE);
    crate::report("tsc_deadline", trips, empty);
    apic::baseline();
}
