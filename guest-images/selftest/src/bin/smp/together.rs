//! What all processors see alike: memory and time; and that all of them get on.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use selftest::apic::{self, register};
use selftest::cpu;
use selftest::interrupt::{self, Acknowledge, count_on};
use selftest::smp::{self, MAX_CPUS, PATIENCE_US};
use selftest::{Test, TestResult, check, check_eq, need, tests, tsc};

use crate::message::{VECTOR, prepare};

pub(crate) const TESTS: &[Test] = tests![
    locked_additions_add_up,
    locked_exchange_is_a_lock,
    tsc_never_runs_backwards,
    tsc_goes_on_around_the_ring,
    timers_of_all_tick_while_all_spin,
];

static SUM: AtomicU64 = AtomicU64::new(0);

fn locked_additions_add_up() -> TestResult {
    const EACH: u64 = 500_000;
    prepare()?;
    SUM.store(0, SeqCst);
    smp::call_all(|| {
        for _ in 0..EACH {
            SUM.fetch_add(1, SeqCst);
        }
    })?;
    check_eq!(SUM.load(SeqCst), EACH * smp::count() as u64, "sum");
    Ok(())
}

static LOCK: AtomicBool = AtomicBool::new(false);
/// Two halves that only agree outside the lock.
static HALVES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static BROKEN: AtomicU32 = AtomicU32::new(0);

fn locked_exchange_is_a_lock() -> TestResult {
    const EACH: u64 = 20_000;
    prepare()?;
    HALVES.iter().for_each(|half| half.store(0, SeqCst));
    BROKEN.store(0, SeqCst);
    smp::call_all(|| {
        let mut done = 0;
        while done < EACH {
            if LOCK.swap(true, SeqCst) {
                cpu::pause();
                continue;
            }
            let (one, other) = (HALVES[0].load(SeqCst), HALVES[1].load(SeqCst));
            BROKEN.fetch_add(u32::from(one != other), SeqCst);
            HALVES[0].store(one + 1, SeqCst);
            cpu::pause();
            HALVES[1].store(other + 1, SeqCst);
            LOCK.store(false, SeqCst);
            done += 1;
        }
    })?;
    check_eq!(BROKEN.load(SeqCst), 0, "looks at halves that differed");
    check_eq!(HALVES[0].load(SeqCst), EACH * smp::count() as u64, "turns with the lock");
    Ok(())
}

static LAST_TSC: AtomicU64 = AtomicU64::new(0);
static BACKWARDS: AtomicU32 = AtomicU32::new(0);

/// Compares the TSC with the latest that any processor has seen.
fn look_at_the_tsc() {
    let last = LAST_TSC.load(SeqCst);
    // LFENCE: the read must not come before the load.
    selftest::probe!("lfence", options(nostack));
    let now = cpu::rdtsc();
    if now < last {
        BACKWARDS.fetch_add(1, SeqCst);
    }
    LAST_TSC.fetch_max(now, SeqCst);
}

fn tsc_never_runs_backwards() -> TestResult {
    const LOOKS: u32 = 100_000;
    prepare()?;
    LAST_TSC.store(0, SeqCst);
    BACKWARDS.store(0, SeqCst);
    smp::call_all(|| (0..LOOKS).for_each(|_| look_at_the_tsc()))?;
    check_eq!(BACKWARDS.load(SeqCst), 0, "steps backwards");
    Ok(())
}

/// The APIC ids in a ring.
static NEXT_ID: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn tsc_goes_on_around_the_ring() -> TestResult {
    const LAPS: u32 = 500;
    need!(smp::count() > 1, "one processor");
    prepare()?;
    LAST_TSC.store(0, SeqCst);
    BACKWARDS.store(0, SeqCst);
    let count = smp::count();
    (0..count).for_each(|cpu| NEXT_ID[cpu].store(smp::id_of((cpu + 1) % count), SeqCst));
    smp::call_all(|| {
        interrupt::on(VECTOR, Acknowledge::LocalApic, |_| {
            look_at_the_tsc();
            let own = smp::current();
            if own != 0 || interrupt::count(VECTOR) < LAPS {
                apic::send(NEXT_ID[own].load(SeqCst) as u8, VECTOR.into());
            }
        });
    })?;
    apic::send(NEXT_ID[0].load(SeqCst) as u8, VECTOR.into());
    smp::wait_us(PATIENCE_US, || count_on(0, VECTOR) == LAPS);
    check_eq!(count_on(0, VECTOR), LAPS, "laps");
    check_eq!(BACKWARDS.load(SeqCst), 0, "steps backwards");
    Ok(())
}

static STOP: AtomicBool = AtomicBool::new(false);
static SPINS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// With interrupts on and a periodic timer.
fn spin_with_timer() {
    const PERIOD_US: u64 = 1_000;
    interrupt::expect(VECTOR, Acknowledge::LocalApic);
    apic::set(register::LVT_TIMER, u32::from(VECTOR) | apic::PERIODIC);
    apic::set(register::INITIAL_COUNT, tsc::us(PERIOD_US) as u32);
    interrupt::enabled(|| {
        while !STOP.load(SeqCst) {
            SPINS[smp::current()].fetch_add(1, SeqCst);
        }
    });
    apic::set(register::LVT_TIMER, apic::MASKED | u32::from(VECTOR));
    apic::set(register::INITIAL_COUNT, 0);
}

fn timers_of_all_tick_while_all_spin() -> TestResult {
    const TICKS: u32 = 10;
    const LIMIT_US: u64 = 10_000_000;
    prepare()?;
    let count = smp::count();
    STOP.store(false, SeqCst);
    SPINS.iter().for_each(|spins| spins.store(0, SeqCst));
    (1..count).for_each(|cpu| smp::begin(cpu, spin_with_timer));
    let all = || (1..count).all(|cpu| count_on(cpu, VECTOR) >= TICKS);
    let ticked = tsc::wait_us(LIMIT_US, all);
    STOP.store(true, SeqCst);
    (1..count).try_for_each(smp::finish)?;
    check!(ticked, "not all timers tick");
    for cpu in 1..count {
        check!(SPINS[cpu].load(SeqCst) > 1000, "processor {cpu} did not get on");
    }
    Ok(())
}
