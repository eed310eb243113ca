//! Where exactly a pending interrupt is taken: behind the instruction after STI, also when that one exits (SDM vol. 3,
//! "Masking Maskable Hardware Interrupts").

use selftest::cpu;
use selftest::interrupt::{self, Acknowledge};
use selftest::{Test, TestResult, apic, check, check_eq, need, platform, snippet, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    sti_shadows_nop,
    sti_shadows_cpuid,
    sti_shadows_port_access,
    sti_shadows_msr_access,
    sti_shadows_mmio_access,
    sti_shadows_hlt,
    sti_cli_takes_nothing,
    second_sti_shadows_nothing,
    popf_enables_at_once,
    iret_enables_at_once,
    tpr_write_releases_at_once,
    cr8_write_releases_at_once,
    interrupt_waits_for_if,
    interrupt_in_long_string_move,
    interrupts_during_exits,
];

const VECTOR: u8 = 0x55;

/// Runs a snippet with one interrupt pending, and checks that it is taken with RIP at that offset.
fn taken_at(code: &'static [u8], argument: u64, offset: u64) -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    let before = interrupt::count(VECTOR);
    apic::send_self(VECTOR);
    let entry = code.as_ptr() as u64;
    selftest::snippet::call(entry, argument);
    cpu::cli();
    check_eq!(interrupt::count(VECTOR) - before, 1, "deliveries");
    check_eq!(interrupt::last_rip() - entry, offset, "offset of the saved RIP");
    Ok(())
}

snippet!(sti_nop: "sti", "nop", "nop", "cli", "ret");

fn sti_shadows_nop() -> TestResult {
    taken_at(sti_nop(), 0, 2)
}

snippet!(sti_cpuid: "mov r8, rbx", "xor eax, eax", "sti", "cpuid", "nop", "cli", "mov rbx, r8", "ret");

fn sti_shadows_cpuid() -> TestResult {
    for _ in 0..20 {
        taken_at(sti_cpuid(), 0, 8)?;
    }
    Ok(())
}

snippet!(sti_out: "sti", "out 0x80, al", "nop", "cli", "ret");
snippet!(sti_in: "sti", "in al, 0x80", "nop", "cli", "ret");

fn sti_shadows_port_access() -> TestResult {
    taken_at(sti_out(), 0, 3)?;
    taken_at(sti_in(), 0, 3)
}

snippet!(sti_rdmsr: "mov ecx, 0xc0000100", "sti", "rdmsr", "nop", "cli", "ret");
snippet!(sti_wrmsr: "mov ecx, 0xc0000100", "xor eax, eax", "xor edx, edx", "sti", "wrmsr", "nop", "cli", "ret");

fn sti_shadows_msr_access() -> TestResult {
    taken_at(sti_rdmsr(), 0, 8)?;
    taken_at(sti_wrmsr(), 0, 12)
}

snippet!(sti_mmio: "sti", "mov eax, [rdi + 0x30]", "nop", "cli", "ret");

fn sti_shadows_mmio_access() -> TestResult {
    taken_at(sti_mmio(), apic::XAPIC_BASE, 4)
}

snippet!(sti_hlt: "sti", "hlt", "nop", "cli", "ret");

fn sti_shadows_hlt() -> TestResult {
    for _ in 0..50 {
        taken_at(sti_hlt(), 0, 2)?;
    }
    Ok(())
}

snippet!(sti_cli: "sti", "cli", "nop", "nop", "ret");

fn sti_cli_takes_nothing() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    apic::send_self(VECTOR);
    selftest::snippet::call(sti_cli().as_ptr() as u64, 0);
    check_eq!(interrupt::count(VECTOR), 0, "deliveries between STI and CLI");
    cpu::take_interrupts();
    check_eq!(interrupt::count(VECTOR), 1, "deliveries");
    Ok(())
}

snippet!(sti_sti: "sti", "sti", "nop", "cli", "ret");

fn second_sti_shadows_nothing() -> TestResult {
    taken_at(sti_sti(), 0, 2)
}

snippet!(popf: "pushfq", "or dword ptr [rsp], 0x200", "popfq", "nop", "cli", "ret");

fn popf_enables_at_once() -> TestResult {
    taken_at(popf(), 0, 9)
}

snippet!(
    iret: "mov rax, rsp", "mov ecx, ss", "push rcx", "push rax", "pushfq", "or dword ptr [rsp], 0x200", "mov ecx, cs",
    "push rcx", "lea rax, [rip + 2f]", "push rax", "iretq", "2:", "nop", "cli", "ret"
);

fn iret_enables_at_once() -> TestResult {
    // The target, behind IRETQ; three bytes follow it.
    taken_at(iret(), 0, iret().len() as u64 - 3)
}

snippet!(lower_tpr: "sti", "nop", "mov dword ptr [rdi + 0x80], 0", "nop", "nop", "cli", "ret");

fn tpr_write_releases_at_once() -> TestResult {
    need!(!platform::bare_tcg(), "TCG takes the interrupt some instructions later");
    apic::write(apic::register::TPR, 0xf0);
    let outcome = taken_at(lower_tpr(), apic::XAPIC_BASE, 12);
    apic::write(apic::register::TPR, 0);
    outcome
}

snippet!(lower_cr8: "xor eax, eax", "sti", "nop", "mov cr8, rax", "nop", "nop", "cli", "ret");

fn cr8_write_releases_at_once() -> TestResult {
    cpu::write_cr8(15);
    let outcome = taken_at(lower_cr8(), 0, 8);
    cpu::write_cr8(0);
    outcome
}

fn interrupt_waits_for_if() -> TestResult {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    apic::send_self(VECTOR);
    for _ in 0..200 {
        cpu::cpuid(0, 0);
        cpu::outb(0x80, 0);
    }
    check_eq!(interrupt::count(VECTOR), 0, "deliveries with IF clear");
    check!(apic::bit(apic::register::IRR, VECTOR), "the request is gone");
    cpu::take_interrupts();
    check_eq!(interrupt::count(VECTOR), 1, "deliveries");
    Ok(())
}

/// Between two interrupts, in ns: a slow CPU that clears its L1 cache by reading at each entry must get on in between.
const PERIOD: u32 = 100_000;

fn start_timer() {
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    apic::write(apic::register::LVT_TIMER, u32::from(VECTOR) | apic::PERIODIC);
    apic::write(apic::register::INITIAL_COUNT, PERIOD);
}

fn interrupt_in_long_string_move() -> TestResult {
    const SIZE: u64 = 1 << 20;
    let source = selftest::memory::pages(2 * SIZE / 4096);
    for i in 0..SIZE / 8 {
        cpu::write64(source + 8 * i, i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    start_timer();
    for _ in 0..10 {
        selftest::memory::fill(source + SIZE, 0, SIZE);
        interrupt::enabled(|| {
            selftest::probe!("rep movsb", inout("rsi") source => _, inout("rdi") source + SIZE => _,
                inout("rcx") SIZE => _, options(nostack));
        });
        for i in 0..SIZE / 8 {
            check_eq!(cpu::read64(source + SIZE + 8 * i), cpu::read64(source + 8 * i), "copied word {i}");
        }
    }
    apic::write(apic::register::INITIAL_COUNT, 0);
    check!(interrupt::count(VECTOR) > 0, "no timer interrupt came");
    Ok(())
}

fn interrupts_during_exits() -> TestResult {
    let leaf = cpu::cpuid(0, 0);
    start_timer();
    let good = interrupt::enabled(|| {
        tsc::wait_us(20_000, || {
            cpu::cpuid(0, 0) != leaf || cpu::inb(0x0e50) != 0xff || cpu::rflags() & 0x200 == 0
        })
    });
    apic::write(apic::register::INITIAL_COUNT, 0);
    check!(!good, "CPUID or a port read came out wrong under interrupts");
    check!(interrupt::count(VECTOR) > 0, "no timer interrupt came");
    Ok(())
}
