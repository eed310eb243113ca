//! NMIs by the local APIC: delivery, blocking until IRET, the one that is kept (SDM vol. 3, "Nonmaskable Interrupt").

use selftest::exception::vector::{GP, NMI, UD};
use selftest::exception::{self, Frame};
use selftest::{Global, Test, TestResult, acpi, apic, check, check_eq, cpu, ioapic, pit, probe, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    nmi_is_delivered_with_interrupts_off,
    nmi_is_blocked_until_iret,
    only_one_nmi_is_kept,
    nmi_stays_blocked_across_exits,
    iret_in_the_handler_unblocks,
    exception_return_in_the_handler_unblocks,
    faulting_iret_in_the_handler,
    nmi_wakes_hlt,
    nmi_wakes_hlt_with_interrupts_off,
    nmi_and_interrupt_together,
    many_nmis,
];

#[derive(Clone, Copy, Default)]
struct Seen {
    count: u32,
    depth: u32,
    deepest: u32,
    rip: u64,
}

static SEEN: Global<Seen> = Global::new(Seen { count: 0, depth: 0, deepest: 0, rip: 0 });
/// NMIs that the handler still has to send to itself.
static TO_SEND: Global<u32> = Global::new(0);
/// What the handler does before it returns.
static INSIDE: Global<fn()> = Global::new(nothing);

fn nothing() {}

fn handler(frame: &mut Frame) {
    let mut seen = SEEN.get();
    seen.count += 1;
    seen.depth += 1;
    seen.deepest = seen.deepest.max(seen.depth);
    seen.rip = frame.rip;
    SEEN.set(seen);
    for _ in 0..TO_SEND.get() {
        apic::send_nmi();
    }
    TO_SEND.set(0);
    let inside = INSIDE.get();
    INSIDE.set(nothing);
    inside();
    SEEN.with(|seen| seen.depth -= 1);
}

fn prepare(sent_inside: u32, inside: fn()) {
    SEEN.set(Seen::default());
    TO_SEND.set(sent_inside);
    INSIDE.set(inside);
    exception::on(NMI, handler);
}

/// Sends an NMI and gives it time: delivery is not synchronous on every processor.
fn send() {
    let before = SEEN.get().count;
    apic::send_nmi();
    tsc::wait_us(10_000, || SEEN.get().count != before);
}

fn check_seen(count: u32, deepest: u32) -> TestResult {
    tsc::wait_us(10_000, || SEEN.get().count >= count);
    check_eq!(SEEN.get().count, count, "NMIs");
    check_eq!(SEEN.get().deepest, deepest, "nesting of handlers");
    Ok(())
}

fn nmi_is_delivered_with_interrupts_off() -> TestResult {
    prepare(0, nothing);
    send();
    check_seen(1, 1)?;
    send();
    check_seen(2, 1)
}

fn nmi_is_blocked_until_iret() -> TestResult {
    prepare(1, nothing);
    send();
    check_seen(2, 1)
}

fn only_one_nmi_is_kept() -> TestResult {
    prepare(3, nothing);
    send();
    check_seen(2, 1)?;
    tsc::delay_us(1000);
    check_seen(2, 1)
}

fn nmi_stays_blocked_across_exits() -> TestResult {
    prepare(1, || {
        for _ in 0..50 {
            cpu::cpuid(0, 0);
            cpu::outb(0x80, 0);
            cpu::wrmsr(cpu::msr::FS_BASE, 0);
            apic::read(apic::register::VERSION);
        }
    });
    send();
    check_seen(2, 1)
}

fn iret_in_the_handler_unblocks() -> TestResult {
    // On another stack than the NMI's: the nested one starts at the top of that again, over the first frame.
    prepare(1, || {
        selftest::descriptor::set_gate_attributes(NMI, selftest::descriptor::INTERRUPT_GATE);
        probe!(
            "mov {0}, rsp", "mov {1:e}, ss", "push {1}", "push {0}", "pushfq", "mov {1:e}, cs", "push {1}",
            "lea {1}, [rip + 2f]", "push {1}", "iretq", "2:", "nop", out(reg) _, out(reg) _
        );
        tsc::wait_us(10_000, || SEEN.get().count >= 2);
    });
    send();
    check_seen(2, 2)
}

fn exception_return_in_the_handler_unblocks() -> TestResult {
    exception::on(UD, |frame| frame.rip += 2);
    prepare(1, || {
        selftest::descriptor::set_gate_attributes(NMI, selftest::descriptor::INTERRUPT_GATE);
        probe!("ud2");
        tsc::wait_us(10_000, || SEEN.get().count >= 2);
    });
    exception::on(UD, |frame| frame.rip += 2);
    send();
    check_seen(2, 2)
}

static FLAGS_AT_FAULT: Global<u64> = Global::new(u64::MAX);

/// IRET with a null CS faults; the handler of that goes on at the address in RSI. A hypervisor that steps over the IRET must
/// not show it, and the fault handler's IRET unblocks.
fn faulting_iret_in_the_handler() -> TestResult {
    FLAGS_AT_FAULT.set(u64::MAX);
    exception::on(GP, |frame| {
        FLAGS_AT_FAULT.set(frame.rflags);
        frame.rip = frame.rsi;
    });
    prepare(1, || {
        selftest::descriptor::set_gate_attributes(NMI, selftest::descriptor::INTERRUPT_GATE);
        probe!(
            "mov rdi, rsp", "mov eax, ss", "push rax", "push rdi", "pushfq", "push 0", "lea rsi, [rip + 2f]",
            "push rsi", "iretq", "2:", "mov rsp, rdi", "nop", out("rax") _, out("rsi") _, out("rdi") _
        );
        tsc::wait_us(10_000, || SEEN.get().count >= 2);
    });
    send();
    check!(FLAGS_AT_FAULT.get() != u64::MAX, "no #GP");
    check_eq!(FLAGS_AT_FAULT.get() & cpu::flag::TF, 0, "TF in the fault's frame");
    check_seen(2, 2)
}

/// I/O APIC delivery mode NMI.
const DELIVER_NMI: u32 = 4 << 8;

/// Lets the PIT raise NMIs through the I/O APIC, 200 a second: one that comes before HLT is followed by another.
fn halt_until_nmi(halt: fn()) -> TestResult {
    prepare(0, nothing);
    let pin = acpi::isa_gsi(0);
    ioapic::route(pin, DELIVER_NMI);
    pit::program(0, 2, (pit::HZ / 200) as u16);
    halt();
    ioapic::set_masked(pin, true);
    pit::baseline();
    check!(SEEN.get().count >= 1, "HLT ended without an NMI");
    check_eq!(SEEN.get().deepest, 1, "nesting of handlers");
    Ok(())
}

fn nmi_wakes_hlt() -> TestResult {
    halt_until_nmi(cpu::wait_for_interrupt)
}

fn nmi_wakes_hlt_with_interrupts_off() -> TestResult {
    halt_until_nmi(|| probe!("hlt"))
}

const TIMER: u8 = 0x61;

fn nmi_and_interrupt_together() -> TestResult {
    use selftest::interrupt::{self, Acknowledge};
    interrupt::expect(TIMER, Acknowledge::LocalApic);
    prepare(0, nothing);
    for i in 1..=20 {
        apic::send_self(TIMER);
        apic::send_nmi();
        cpu::take_interrupts();
        tsc::wait_us(10_000, || SEEN.get().count >= i);
        check_eq!(SEEN.get().count, i, "NMIs");
        check_eq!(interrupt::count(TIMER), i, "interrupts");
    }
    Ok(())
}

fn many_nmis() -> TestResult {
    prepare(0, nothing);
    for i in 1..=300 {
        send();
        cpu::cpuid(0, 0);
        check_eq!(SEEN.get().count, i, "NMIs");
    }
    check_seen(300, 1)
}
