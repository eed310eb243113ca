//! Hunts for one virtual machine's values in another. Beside each other run a guest that marks every register that it can reach
//! with values of its own (`leak=marker seed=N`), and one that leaves all of them as they are after power-up
//! (`leak=hunter`), each with more processors than the machine has. Both go through everything that makes the hypervisor
//! switch processors, `rounds=` times, and look each time whether all is as it was. At first, all memory must be zero.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: holding values in all registers takes assembly.
#![allow(unsafe_code)]

mod extended;
mod hold;
mod state;
mod switch;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use selftest::runner::Counts;
use selftest::{boot, cpu, memory, println, runner, smp, verdict};

use state::{EXTENDED, Found, REGISTERS};
use switch::WAYS;

static IS_MARKER: AtomicBool = AtomicBool::new(false);
static SEED: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// The first thing that was not as it should be, for each way: register, processor, what was there and what should be.
static WRONG: [[AtomicU64; 4]; WAYS.len()] = [const { [const { AtomicU64::new(0) }; 4] }; WAYS.len()];

/// The mark of the calling processor: no two of two guests have the same, and none is 0.
fn mark() -> u64 {
    let number = SEED.load(SeqCst) << 8 | smp::current() as u64 | 0x80;
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn number(name: &str, usual: u64) -> u64 {
    boot::option(name).and_then(|value| value.parse().ok()).unwrap_or(usual)
}

fn main_program() {
    runner::announce("leak");
    runner::baseline();
    let mut counts = Counts::default();
    let role = boot::option("leak").unwrap_or_default();
    if !["marker", "hunter"].contains(&role) {
        println!("leak: '{role}' is no role; write leak=marker or leak=hunter");
        return;
    }
    IS_MARKER.store(role == "marker", SeqCst);
    SEED.store(number("seed", 1), SeqCst);
    ROUNDS.store(number("rounds", 20), SeqCst);
    counts.record("memory_is_zero", memory_is_zero());
    extended::prepare();
    let started = smp::start_all().and_then(|()| all_do(hunt));
    for (index, (name, _)) in WAYS.iter().enumerate() {
        counts.record(name, started.and_then(|()| result(index)));
    }
    runner::baseline();
    counts.print("leak");
}

/// Lets all processors do it, for as long as it takes.
fn all_do(job: smp::Job) -> selftest::TestResult {
    const PATIENCE_US: u64 = 600_000_000;
    (1..smp::count()).for_each(|cpu| smp::begin(cpu, job));
    job();
    runner::baseline();
    for cpu in 1..smp::count() {
        smp::wait_us(PATIENCE_US, || smp::is_idle(cpu));
        smp::finish(cpu)?;
    }
    Ok(())
}

/// Nobody's bytes are in memory that this guest has not written; then a marker leaves its own there.
fn memory_is_zero() -> selftest::TestResult {
    let (start, pages) = memory::all();
    for address in (start..start + pages * memory::PAGE).step_by(8) {
        let found = cpu::read64(address);
        if found != 0 {
            return Err(verdict::fail(format_args!("{found:#x} at {address:#x}")));
        }
        if IS_MARKER.load(SeqCst) {
            cpu::write64(address, mark());
        }
    }
    Ok(())
}

/// What a processor does.
fn hunt() {
    extended::enable();
    if IS_MARKER.load(SeqCst) {
        state::mark(mark());
        extended::mark(mark());
    }
    let expected = state::read();
    for _ in 0..ROUNDS.load(SeqCst) {
        for (way, (_, switch)) in WAYS.iter().enumerate() {
            let wrong = switch(mark()).err();
            let wrong = wrong.or_else(|| state::compare(&expected)).or_else(extended::compare);
            if let Some(found) = wrong {
                note(way, &found);
            }
        }
    }
    state::clear();
}

fn note(way: usize, found: &Found) {
    let [register, rest @ ..] = &WRONG[way];
    let number = found.register as u64 + 1;
    if register.compare_exchange(0, number, SeqCst, SeqCst).is_ok() {
        for (place, value) in rest.iter().zip([smp::current() as u64, found.value, found.expected]) {
            place.store(value, SeqCst);
        }
    }
}

fn result(way: usize) -> selftest::TestResult {
    let [register, cpu, value, expected] = WRONG[way].each_ref().map(|place| place.load(SeqCst));
    let Some(register) = register.checked_sub(1) else { return Ok(()) };
    let name = match register as usize {
        EXTENDED => "a byte of the extended state",
        register => REGISTERS.get(register).map_or("a general register", |register| register.name),
    };
    Err(verdict::fail(format_args!("{name} of processor {cpu} is {value:#x} instead of {expected:#x}")))
}

selftest::program!(main_program());
