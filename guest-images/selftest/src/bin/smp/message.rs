//! Sends interprocessor interrupts and counts who gets them; single messages, order, rates.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use selftest::apic::{self, DELIVERY_LOWEST, LOGICAL, SVR_ENABLE, TO_ALL, TO_OTHERS, TO_SELF, register};
use selftest::cpu;
use selftest::exception::Frame;
use selftest::interrupt::{self, Acknowledge, count_on};
use selftest::platform::Vendor;
use selftest::smp::{self, PATIENCE_US};
use selftest::{Test, TestResult, boot, check, check_eq, need, platform, tests, tsc};

pub(crate) const TESTS: &[Test] = tests![
    every_vector_arrives,
    order_is_by_priority,
    task_priority_of_the_receiver_counts,
    software_disabled_processor_takes_none,
    messages_from_others,
    ping_pong,
    storm_of_all_to_all,
];

pub(crate) const VECTOR: u8 = 0x45;
/// A second one, in a higher class.
const HIGHER: u8 = 0x65;

/// Starts all processors, and all expect [`VECTOR`].
pub(crate) fn prepare() -> TestResult {
    smp::start_all()?;
    smp::call_all(|| interrupt::expect(VECTOR, Acknowledge::LocalApic))
}

/// How often [`VECTOR`] has come to all processors together.
pub(crate) fn total() -> u32 {
    total_of(smp::count())
}

/// Sends and checks who gets it: each of the processors whose bit is set, once.
pub(crate) fn check_receivers(what: &str, destination: u32, command: u32, receivers: u64) -> TestResult {
    let before: [u32; smp::MAX_CPUS] = core::array::from_fn(|cpu| count_on(cpu, VECTOR));
    let wanted = total() + receivers.count_ones();
    apic::send_any(destination, command | u32::from(VECTOR));
    if receivers == 0 {
        smp::rest_us(500);
    } else {
        smp::wait_us(PATIENCE_US, || total() >= wanted);
    }
    for (cpu, before) in before.into_iter().enumerate().take(smp::count()) {
        let expected = (receivers >> cpu & 1) as u32;
        check_eq!(
            count_on(cpu, VECTOR) - before,
            expected,
            "{what}, destination {destination:#x}: arrivals at processor {cpu}"
        );
    }
    Ok(())
}

/// Sends to the lowest priority and checks that exactly one of the processors whose bit is set gets it.
pub(crate) fn check_one_receiver(
    what: &str,
    destination: u32,
    command: u32,
    receivers: u64,
) -> Result<usize, selftest::Verdict> {
    let before: [u32; smp::MAX_CPUS] = core::array::from_fn(|cpu| count_on(cpu, VECTOR));
    let wanted = total() + 1;
    apic::send_any(destination, command | DELIVERY_LOWEST | u32::from(VECTOR));
    smp::wait_us(PATIENCE_US, || total() >= wanted);
    smp::rest_us(100);
    check_eq!(total(), wanted, "{what}, destination {destination:#x}: arrivals in all");
    let chosen = (0..smp::count()).find(|&cpu| count_on(cpu, VECTOR) != before[cpu]).unwrap_or(0);
    check!(
        receivers >> chosen & 1 != 0,
        "{what}, destination {destination:#x}: it went to processor {chosen}"
    );
    Ok(chosen)
}

/// The vectors that tests can use on all processors.
fn usable() -> impl Iterator<Item = u8> {
    (0x20..0xff).filter(|&vector| {
        !matches!(vector, smp::JOB_VECTOR | smp::REST_VECTOR | selftest::user::RETURN_VECTOR)
    })
}

fn every_vector_arrives() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    smp::call_all(|| usable().for_each(|vector| interrupt::expect(vector, Acknowledge::LocalApic)))?;
    for cpu in 1..smp::count() {
        for vector in usable() {
            apic::send_any(smp::id_of(cpu), vector.into());
        }
        for vector in usable() {
            check!(
                smp::wait_us(PATIENCE_US, || count_on(cpu, vector) > 0),
                "vector {vector:#x} is lost on the way to processor {cpu}"
            );
            check_eq!(count_on(cpu, vector), 1, "arrivals of vector {vector:#x} at processor {cpu}");
        }
    }
    Ok(())
}

static STAGE: AtomicU32 = AtomicU32::new(0);

/// Bochs' VMX looks for interrupts of the host only where the guest has its own on when it is entered or switches them on, so
/// that a hypervisor's message to another CPU waits while that one's guest has them off. It does not on SVM, nor where all
/// virtual processors share a CPU; `host-cpus=` says how many there are.
fn messages_wait() -> bool {
    let many = boot::option("host-cpus").is_some_and(|cpus| cpus != "1");
    many && platform::bochs() && platform::vendor() == Vendor::Intel
}

const MESSAGES_WAIT: &str = "Bochs' VMX lets no host interrupt end a guest that has interrupts off";

/// Waits with interrupts off until the first processor has sent what it wants to send.
fn collect() {
    STAGE.store(1, SeqCst);
    while STAGE.load(SeqCst) != 2 {
        cpu::pause();
    }
}

fn order_is_by_priority() -> TestResult {
    const VECTORS: [u8; 5] = [0x31, 0x92, 0x45, 0xe3, 0x60];
    need!(smp::count() > 1, "one processor");
    need!(!messages_wait(), "{MESSAGES_WAIT}");
    prepare()?;
    STAGE.store(0, SeqCst);
    smp::begin(1, || {
        interrupt::reset();
        VECTORS.iter().for_each(|&vector| interrupt::expect(vector, Acknowledge::LocalApic));
        collect();
        cpu::take_interrupts();
        let sorted = interrupt::log().is_sorted_by(|one, other| one > other);
        STAGE.store(if sorted && interrupt::log().len() == VECTORS.len() { 3 } else { 4 }, SeqCst);
    });
    check!(smp::wait_us(PATIENCE_US, || STAGE.load(SeqCst) == 1), "processor 1 did not begin");
    VECTORS.iter().for_each(|&vector| apic::send_any(smp::id_of(1), vector.into()));
    STAGE.store(2, SeqCst);
    smp::finish(1)?;
    check_eq!(STAGE.load(SeqCst), 3, "end of the job (4: the order is wrong)");
    Ok(())
}

fn task_priority_of_the_receiver_counts() -> TestResult {
    need!(smp::count() > 1, "one processor");
    prepare()?;
    smp::call(1, || {
        interrupt::expect(HIGHER, Acknowledge::LocalApic);
        apic::set(register::TPR, 0x50);
    })?;
    apic::send_any(smp::id_of(1), VECTOR.into());
    apic::send_any(smp::id_of(1), HIGHER.into());
    check!(smp::wait_us(PATIENCE_US, || count_on(1, HIGHER) == 1), "the higher vector does not arrive");
    smp::rest_us(500);
    check_eq!(count_on(1, VECTOR), 0, "arrivals below the task priority");
    smp::call(1, || apic::set(register::TPR, 0))?;
    check!(smp::wait_us(PATIENCE_US, || count_on(1, VECTOR) == 1), "the lower vector does not arrive");
    Ok(())
}

fn software_disabled_processor_takes_none() -> TestResult {
    need!(smp::count() > 1, "one processor");
    need!(!messages_wait(), "{MESSAGES_WAIT}");
    prepare()?;
    STAGE.store(0, SeqCst);
    smp::begin(1, || {
        apic::set(register::SVR, u32::from(apic::SPURIOUS_VECTOR));
        collect();
        apic::set(register::SVR, u32::from(apic::SPURIOUS_VECTOR) | SVR_ENABLE);
        cpu::take_interrupts();
    });
    check!(smp::wait_us(PATIENCE_US, || STAGE.load(SeqCst) == 1), "processor 1 did not begin");
    check_receivers("while software-disabled", smp::id_of(1), 0, 0)?;
    apic::send_any(0, LOGICAL | DELIVERY_LOWEST | u32::from(VECTOR));
    STAGE.store(2, SeqCst);
    smp::finish(1)?;
    check_eq!(count_on(1, VECTOR), 0, "arrivals while software-disabled");
    check_receivers("enabled again", smp::id_of(1), 0, 0b10)
}

/// Each processor in turn sends to every other one, to all but itself, to all, and to itself.
fn messages_from_others() -> TestResult {
    static IDS: [AtomicU32; smp::MAX_CPUS] = [const { AtomicU32::new(0) }; smp::MAX_CPUS];
    static COUNT: AtomicU32 = AtomicU32::new(0);
    prepare()?;
    let count = smp::count();
    COUNT.store(count as u32, SeqCst);
    (0..count).for_each(|cpu| IDS[cpu].store(smp::id_of(cpu), SeqCst));
    for cpu in 1..count {
        let before: [u32; smp::MAX_CPUS] = core::array::from_fn(|cpu| count_on(cpu, VECTOR));
        smp::begin(cpu, || {
            let count = COUNT.load(SeqCst) as usize;
            let mut wanted = total_of(count);
            // One after the other: two of a vector at once would merge.
            let mut send = |destination: u32, command: u32, arrivals: usize| {
                wanted += arrivals as u32;
                apic::send_any(destination, command | u32::from(VECTOR));
                smp::wait_us(PATIENCE_US, || total_of(count) >= wanted);
            };
            (0..count).for_each(|to| send(IDS[to].load(SeqCst), 0, 1));
            send(0, TO_OTHERS, count - 1);
            send(0, TO_ALL, count);
            send(0, TO_SELF, 1);
        });
        smp::finish(cpu)?;
        for to in 0..count {
            // By id, by one of the first two shorthands or both, to itself.
            check_eq!(count_on(to, VECTOR) - before[to], 3, "arrivals from processor {cpu} at {to}");
        }
    }
    Ok(())
}

/// The same as [`total`] for processors that must not look into the MADT.
fn total_of(count: usize) -> u32 {
    (0..count).map(|cpu| count_on(cpu, VECTOR)).sum()
}

/// The round that the first processor asks, processor 1 has answered, and the first one has heard of.
static ASKED: AtomicU32 = AtomicU32::new(0);
static ANSWERED: AtomicU32 = AtomicU32::new(0);
static HEARD_ROUND: AtomicU32 = AtomicU32::new(0);
static SENDER: AtomicU32 = AtomicU32::new(0);

/// Processor 1 answers each message; none is lost.
fn ping_pong() -> TestResult {
    const ROUNDS: u32 = 10_000;
    const LIMIT_US: u64 = 1_000_000;
    need!(smp::count() > 1, "one processor");
    prepare()?;
    SENDER.store(smp::id_of(0), SeqCst);
    HEARD_ROUND.store(0, SeqCst);
    interrupt::on(VECTOR, Acknowledge::LocalApic, |_| HEARD_ROUND.store(ANSWERED.load(SeqCst), SeqCst));
    smp::call(1, || {
        interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
            ANSWERED.store(ASKED.load(SeqCst), SeqCst);
            apic::send(SENDER.load(SeqCst) as u8, VECTOR.into());
        });
    })?;
    // Something ends the wait for a message that was lost.
    interrupt::expect(smp::REST_VECTOR, Acknowledge::LocalApic);
    apic::set(register::LVT_TIMER, u32::from(smp::REST_VECTOR) | apic::PERIODIC);
    apic::set(register::INITIAL_COUNT, tsc::us(LIMIT_US / 4) as u32);
    let id = smp::id_of(1) as u8;
    for round in 1..=ROUNDS {
        ASKED.store(round, SeqCst);
        apic::send(id, VECTOR.into());
        let sent = cpu::rdtsc();
        while HEARD_ROUND.load(SeqCst) != round {
            check!(
                cpu::rdtsc() - sent < tsc::us(LIMIT_US),
                "round {round}: processor 1 answered {}",
                ANSWERED.load(SeqCst)
            );
            cpu::wait_for_interrupt();
        }
    }
    apic::set(register::LVT_TIMER, apic::MASKED | u32::from(smp::REST_VECTOR));
    for cpu in [0, 1] {
        // TCG delivers an injected interrupt twice where its own time slice ends right behind.
        let once = count_on(cpu, VECTOR) == ROUNDS || platform::tcg();
        check!(once, "processor {cpu} had {} messages", count_on(cpu, VECTOR));
    }
    Ok(())
}

/// Where the senders of the storm are, and how far each receiver has seen each of them.
static SENT: [AtomicU32; STORM_CPUS] = [const { AtomicU32::new(0) }; STORM_CPUS];
static HEARD: [[AtomicU32; STORM_CPUS]; STORM_CPUS] =
    [const { [const { AtomicU32::new(0) }; STORM_CPUS] }; STORM_CPUS];
const STORM_CPUS: usize = 16;
const STORM_VECTOR: u8 = 0x80;

fn hear(frame: &mut Frame) {
    let sender = (frame.vector as usize).wrapping_sub(STORM_VECTOR.into()) % STORM_CPUS;
    HEARD[smp::current() % STORM_CPUS][sender].store(SENT[sender].load(SeqCst), SeqCst);
}

/// All send to all at the same time. Messages may merge, but the last one of each sender arrives after it was sent.
fn storm_of_all_to_all() -> TestResult {
    const ROUNDS: u32 = 300;
    need!((2..=STORM_CPUS).contains(&smp::count()), "not 2 to {STORM_CPUS} processors");
    prepare()?;
    let (count, heard) = (smp::count(), |to: usize, from: usize| HEARD[to][from].load(SeqCst));
    smp::call_all(|| {
        let vectors = STORM_VECTOR..STORM_VECTOR + STORM_CPUS as u8;
        vectors.for_each(|vector| interrupt::on(vector, Acknowledge::LocalApic, hear));
    })?;
    smp::call_all(|| {
        let own = smp::current();
        interrupt::enabled(|| {
            for round in 1..=ROUNDS {
                SENT[own].store(round, SeqCst);
                apic::send(0, TO_OTHERS | u32::from(STORM_VECTOR + own as u8));
            }
        });
    })?;
    let all = || (0..count).all(|to| (0..count).all(|from| to == from || heard(to, from) == ROUNDS));
    smp::wait_us(PATIENCE_US, all);
    for to in 0..count {
        for from in (0..count).filter(|&from| from != to) {
            check_eq!(heard(to, from), ROUNDS, "the last that processor {to} heard of {from}");
        }
    }
    Ok(())
}
