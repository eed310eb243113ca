//! Interrupts by KVM's interface: their end without an exit, to many processors at once, and the end of a HLT.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use selftest::cpu;
use selftest::exception::Frame;
use selftest::interrupt::{self, Acknowledge, count_on};
use selftest::kvm::{self, EoiBit, call, feature, hypercall};
use selftest::smp::{self, MAX_CPUS};
use selftest::{PerCpu, Test, TestResult, apic, catch, check, check_eq, need, probe, tests, tsc, user};

pub(crate) const TESTS: &[Test] = tests![
    the_end_of_an_interrupt_may_be_private,
    an_interrupt_that_waits_is_told_of,
    a_bitmap_reaches_its_processors,
    a_bitmap_carries_nmis,
    a_kick_ends_a_halt_with_interrupts_off,
    a_kick_before_the_halt_ends_it,
    unknown_calls_and_bad_arguments_have_their_errors,
    calls_of_user_mode_are_refused,
    polling_is_the_guests_choice,
];

const LOW: u8 = 0x41;
const HIGH: u8 = 0x91;
/// KVM's error numbers.
const NO_SUCH_CALL: i64 = -1000;
const NOT_PERMITTED: i64 = -1;
const INVALID: i64 = -22;

static BITS: PerCpu<EoiBit> = PerCpu::new([const { EoiBit::EMPTY }; MAX_CPUS]);
static PRIVATE: AtomicU32 = AtomicU32::new(0);
static TOLD: AtomicU32 = AtomicU32::new(0);

/// As Linux ends an interrupt.
fn end(_: &mut Frame) {
    if EoiBit::take(BITS.of(smp::current()) as u64) {
        PRIVATE.fetch_add(1, SeqCst);
    } else {
        TOLD.fetch_add(1, SeqCst);
        apic::eoi();
    }
}

fn prepare(vectors: &[u8]) -> TestResult {
    need!(kvm::has(feature::PV_EOI), "no private ends");
    EoiBit::register(BITS.of(smp::current()) as u64);
    PRIVATE.store(0, SeqCst);
    TOLD.store(0, SeqCst);
    vectors.iter().for_each(|vector| interrupt::on(*vector, Acknowledge::Nothing, end));
    Ok(())
}

/// However each one is ended, none stays in service, and the next one comes.
fn the_end_of_an_interrupt_may_be_private() -> TestResult {
    const TIMES: u32 = 20;
    prepare(&[LOW])?;
    for _ in 0..TIMES {
        interrupt::enabled(|| {
            apic::send_self(LOW);
            cpu::pause();
        });
        check!(!apic::bit(apic::register::ISR, LOW), "it is in service still");
    }
    cpu::wrmsr(kvm::msr::EOI_EN, 0);
    check_eq!(interrupt::count(LOW), TIMES, "interrupts");
    check_eq!(PRIVATE.load(SeqCst) + TOLD.load(SeqCst), TIMES, "ends");
    selftest::println!("{} of {TIMES} ends were private", PRIVATE.load(SeqCst));
    Ok(())
}

/// Behind the end of the higher one the lower one has to follow at once.
fn an_interrupt_that_waits_is_told_of() -> TestResult {
    prepare(&[LOW, HIGH])?;
    apic::send_self(LOW);
    apic::send_self(HIGH);
    interrupt::enabled(|| tsc::delay_us(10));
    cpu::wrmsr(kvm::msr::EOI_EN, 0);
    check!(interrupt::log() == [HIGH, LOW], "{:x?}", interrupt::log());
    for vector in [LOW, HIGH] {
        check!(!apic::bit(apic::register::ISR, vector), "{vector:#x} is in service still");
    }
    Ok(())
}

/// The bitmap of all processors, whose APIC ids are their numbers.
fn everybody() -> [u64; 2] {
    let all = u128::MAX >> (128 - smp::count());
    [all as u64, (all >> 64) as u64]
}

fn a_bitmap_reaches_its_processors() -> TestResult {
    need!(kvm::has(feature::PV_SEND_IPI), "no interrupts by bitmap");
    smp::start_all()?;
    smp::call_all(|| interrupt::expect(LOW, Acknowledge::LocalApic))?;
    let [low, high] = everybody();
    let count = smp::count();
    let sent = hypercall(call::SEND_IPI, [low, high, 0, LOW.into()]);
    check_eq!(sent, count as i64, "processors reached");
    interrupt::enabled(|| {
        smp::wait_us(smp::PATIENCE_US, || (0..count).all(|cpu| count_on(cpu, LOW) == 1));
    });
    for cpu in 0..count {
        check_eq!(count_on(cpu, LOW), 1, "interrupts on processor {cpu}");
    }
    // Bits and ids beyond the last processor are nobody's.
    check_eq!(hypercall(call::SEND_IPI, [low, high, count as u64, LOW.into()]), 0, "none reached");
    check_eq!(hypercall(call::SEND_IPI, [u64::MAX, u64::MAX, u64::MAX, LOW.into()]), 0, "none reached");
    Ok(())
}

static NMIS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn a_bitmap_carries_nmis() -> TestResult {
    const NMI: u64 = 4 << 8;
    need!(kvm::has(feature::PV_SEND_IPI) && smp::count() > 1, "no interrupts by bitmap, or one processor");
    smp::start_all()?;
    NMIS.iter().for_each(|nmis| nmis.store(0, SeqCst));
    smp::call(1, || {
        selftest::exception::on(2, |_| {
            NMIS[smp::current()].fetch_add(1, SeqCst);
        });
    })?;
    check_eq!(hypercall(call::SEND_IPI, [0b10, 0, 0, NMI]), 1, "processors reached");
    let came = smp::wait_us(smp::PATIENCE_US, || NMIS[1].load(SeqCst) == 1);
    check!(came, "{} NMIs", NMIS[1].load(SeqCst));
    Ok(())
}

static STAGE: AtomicU32 = AtomicU32::new(0);

fn halt_masked() {
    STAGE.store(1, SeqCst);
    probe!("cli", "hlt", options(nostack));
    STAGE.store(2, SeqCst);
}

fn a_kick_ends_a_halt_with_interrupts_off() -> TestResult {
    need!(kvm::has(feature::PV_UNHALT) && smp::count() > 1, "no kicks, or one processor");
    smp::start_all()?;
    STAGE.store(0, SeqCst);
    smp::begin(1, halt_masked);
    check!(smp::wait_us(smp::PATIENCE_US, || STAGE.load(SeqCst) == 1), "it does not begin");
    smp::wait_us(20_000, || false);
    check_eq!(STAGE.load(SeqCst), 1, "it halts until it is kicked");
    check_eq!(hypercall(call::KICK_CPU, [0, 1, 0, 0]), 0, "kick");
    smp::finish(1)
}

fn a_kick_before_the_halt_ends_it() -> TestResult {
    need!(kvm::has(feature::PV_UNHALT), "no kicks");
    check_eq!(hypercall(call::KICK_CPU, [0, 0, 0, 0]), 0, "kick");
    // It would be the last instruction.
    halt_masked();
    Ok(())
}

fn unknown_calls_and_bad_arguments_have_their_errors() -> TestResult {
    need!(selftest::platform::hypervisor(), "no hypervisor");
    for number in [0, 2, 100, 1 << 32, u64::MAX] {
        check_eq!(hypercall(number, [0; 4]), NO_SUCH_CALL, "call {number:#x}");
    }
    if kvm::has(feature::PV_SEND_IPI) {
        // A shorthand, a logical destination, an INIT.
        for command in [1 << 18, 2 << 18, 1 << 11, 5 << 8] {
            check_eq!(hypercall(call::SEND_IPI, [1, 0, 0, command]), INVALID, "command {command:#x}");
        }
    }
    if kvm::has(feature::PV_UNHALT) {
        check_eq!(hypercall(call::KICK_CPU, [0, u64::MAX, 0, 0]), 0, "kick of nobody");
    }
    if kvm::has(feature::PV_SCHED_YIELD) {
        for id in [0, 1, u64::MAX] {
            check_eq!(hypercall(call::SCHED_YIELD, [id, 0, 0, 0]), 0, "yield to {id:#x}");
        }
    }
    Ok(())
}

/// `mov eax, 10; vmcall or vmmcall; int 0x90`.
fn calls_of_user_mode_are_refused() -> TestResult {
    need!(selftest::platform::hypervisor(), "no hypervisor");
    let third = if selftest::platform::vendor() == selftest::platform::Vendor::Intel { 0xc1 } else { 0xd9 };
    let (ended, frame) = user::run(&[0xb8, 10, 0, 0, 0, 0x0f, 0x01, third, 0xcd, user::RETURN_VECTOR]);
    check_eq!(ended.vector, user::RETURN_VECTOR, "vector");
    check_eq!(frame.rax.cast_signed(), NOT_PERMITTED, "result");
    Ok(())
}

fn polling_is_the_guests_choice() -> TestResult {
    need!(kvm::has(feature::POLL_CONTROL), "no choice");
    check_eq!(cpu::rdmsr(kvm::msr::POLL_CONTROL), 1, "at first");
    cpu::wrmsr(kvm::msr::POLL_CONTROL, 0);
    check_eq!(cpu::rdmsr(kvm::msr::POLL_CONTROL), 0, "then");
    let refused = catch(|| cpu::wrmsr(kvm::msr::POLL_CONTROL, 2));
    cpu::wrmsr(kvm::msr::POLL_CONTROL, 1);
    check!(refused.is_err(), "a reserved bit is taken");
    Ok(())
}
