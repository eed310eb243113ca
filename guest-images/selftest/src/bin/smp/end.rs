//! The ends of a machine with several processors, each of them in a state of its own. Progress stands in CMOS memory, which
//! a reset does not clear.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use selftest::cpu::{self, msr, outb, rdmsr, wrmsr};
use selftest::runner::{self, Counts};
use selftest::smp::{self, MAX_CPUS};
use selftest::{TestResult, apic, check, check_eq, power, println, probe, rtc, serial, tsc, verdict};

/// CMOS bytes that no firmware uses: a mark, and how many resets there were.
const MARK: (u8, u8) = (0x6c, 0xa7);
const RESETS: u8 = 0x6d;
/// How long a reset may take, and how long a machine must live whose processors do not all sleep.
const PATIENCE_US: u64 = 1_000_000;
const LIFE_US: u64 = 50_000;

const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const PAT_TRACE: u64 = 0x0606_0606_0606_0606;
const TRACE: u64 = 0x1234_5000;

/// How many processors have reached the state they shall be in.
static READY: AtomicU32 = AtomicU32::new(0);
/// What each processor found in registers that a reset clears.
static FOUND: [[AtomicU64; 3]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 3] }; MAX_CPUS];

pub(crate) fn run(way: &str) {
    let resets = if rtc::read(MARK.0) == MARK.1 { rtc::read(RESETS) } else { 0 };
    if resets == 0 {
        runner::announce("smp");
    }
    runner::baseline();
    match way {
        "reset" => reset(resets),
        "triple" => triple(),
        "halt" => halt(false),
        "init" => halt(true),
        _ => println!("smp: there is no end {way}; use end=reset|triple|halt|init"),
    }
}

fn start() {
    if smp::start_all().is_err() {
        println!("smp: {}", verdict::reason());
        power::off();
    }
}

fn arrive() {
    READY.fetch_add(1, SeqCst);
}

/// Registers that a reset must clear, the CPU's timer under way, an interrupt pending.
fn leave_traces() {
    wrmsr(msr::PAT, PAT_TRACE);
    wrmsr(msr::LSTAR, TRACE);
    cpu::write_dr0(TRACE);
    apic::write(apic::register::LVT_TIMER, apic::PERIODIC | 0x78);
    apic::write(apic::register::INITIAL_COUNT, 100_000);
    apic::send_self(0x77);
}

fn spin_masked() {
    leave_traces();
    arrive();
    probe!("cli", "2:", "pause", "jmp 2b", options(noreturn));
}

fn halt_masked() {
    arrive();
    cpu::halt_forever();
}

fn count_up() {
    arrive();
    cpu::sti();
    loop {
        cpu::pause();
    }
}

/// Gives the processors from `first` on something to do, each of them something else.
fn occupy(first: usize) {
    let jobs: [smp::Job; 3] = [spin_masked, halt_masked, count_up];
    READY.store(0, SeqCst);
    for cpu in first..smp::count() {
        smp::begin(cpu, jobs[cpu % jobs.len()]);
    }
    let wanted = smp::count().saturating_sub(first) as u32;
    smp::wait_us(smp::PATIENCE_US, || READY.load(SeqCst) == wanted);
}

/// The ways in which the machine is reset, one after the other.
const WAYS: [&str; 3] = ["reset_by_another_processor", "reset_by_the_first_processor", "reset_by_init"];

fn reset_machine() {
    leave_traces();
    outb(0xcf9, 0x02);
    outb(0xcf9, 0x06);
}

fn reset(resets: u8) {
    let mut counts = Counts { passed: u32::from(resets.saturating_sub(1)), ..Counts::default() };
    if let Some(last) = resets.checked_sub(1) {
        let outcome = all_are_as_new();
        let failed = outcome.is_err();
        counts.record(WAYS.get(usize::from(last)).unwrap_or(&"?"), outcome);
        if failed || usize::from(resets) == WAYS.len() {
            finish(counts);
        }
    }
    rtc::write(MARK.0, MARK.1);
    rtc::write(RESETS, resets + 1);
    start();
    occupy(2);
    TARGET.store(smp::id_of(0), SeqCst);
    println!("{}: now", WAYS[usize::from(resets)]);
    serial::drain();
    match resets {
        0 => smp::begin(1, reset_machine),
        1 => {
            smp::begin(1, spin_masked);
            reset_machine();
        }
        _ => smp::begin(1, || apic::send(TARGET.load(SeqCst) as u8, apic::DELIVERY_INIT)),
    }
    cpu::cli();
    tsc::delay_us(PATIENCE_US);
    counts.record(WAYS[usize::from(resets)], Err(verdict::fail(format_args!("still running"))));
    finish(counts);
}

/// The APIC id that an INIT goes to.
static TARGET: AtomicU32 = AtomicU32::new(0);

/// The last processor powers the machine off.
fn finish(counts: Counts) -> ! {
    rtc::write(MARK.0, 0);
    counts.print("smp");
    serial::drain();
    if smp::start_all().is_ok() && smp::count() > 1 {
        smp::begin(smp::count() - 1, || power::off());
        cpu::cli();
        tsc::delay_us(PATIENCE_US);
    }
    power::off()
}

/// After a reset: no processor runs before it is started, and none has kept anything.
fn all_are_as_new() -> TestResult {
    smp::prepare();
    smp::rest_us(1_000);
    for cpu in 1..smp::count() {
        check_eq!(smp::starts(cpu), 0, "starts of processor {cpu} before it was started");
    }
    smp::start_all()?;
    smp::call_all(|| {
        let found = &FOUND[smp::current()];
        found[0].store(rdmsr(msr::PAT), SeqCst);
        found[1].store(rdmsr(msr::LSTAR), SeqCst);
        found[2].store(cpu::read_dr0(), SeqCst);
    })?;
    for (cpu, found) in FOUND.iter().enumerate().take(smp::count()) {
        check_eq!(smp::starts(cpu), u32::from(cpu != 0), "starts of processor {cpu}");
        check_eq!(found[0].load(SeqCst), PAT_RESET, "PAT of processor {cpu}");
        check!(found[1].load(SeqCst) != TRACE, "LSTAR of processor {cpu} is as before the reset");
        check_eq!(found[2].load(SeqCst), 0, "DR0 of processor {cpu}");
    }
    Ok(())
}

fn triple() {
    start();
    occupy(2);
    println!("triple: now");
    serial::drain();
    smp::begin(1, || {
        selftest::descriptor::load_idt(0, 0);
        probe!("ud2");
    });
    cpu::cli();
    tsc::delay_us(PATIENCE_US);
    println!("triple: survived");
}

/// As long as one processor runs, or can be woken, the machine lives.
fn halt(by_init: bool) {
    start();
    READY.store(0, SeqCst);
    for cpu in 2..smp::count() {
        smp::begin(cpu, halt_masked);
    }
    smp::wait_us(smp::PATIENCE_US, || READY.load(SeqCst) as usize + 2 == smp::count());
    // The first processor rests with interrupts on, the others sleep for ever or can be given a job.
    smp::rest_us(LIFE_US);
    println!("halt: processors 0 and 1 are awake");
    serial::drain();
    TARGET.store(smp::id_of(1), SeqCst);
    smp::begin(
        1,
        if by_init {
            || {
                last_words();
                apic::send(TARGET.load(SeqCst) as u8, apic::DELIVERY_INIT);
                tsc::delay_us(PATIENCE_US);
            }
        } else {
            || {
                last_words();
                cpu::halt_forever();
            }
        },
    );
    cpu::halt_forever();
}

/// The first processor sleeps by then.
fn last_words() {
    tsc::delay_us(LIFE_US);
    println!("halt: processor 1 is the last one");
    serial::drain();
}
