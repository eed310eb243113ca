//! Guests that load a machine, each in its way, on all of their processors. Scenarios measure what that does to others.
//!
//! | `load=` | what happens |
//! | --- | --- |
//! | `spin` | computes for ever |
//! | `pause` | loops over PAUSE for ever |
//! | `exits` | leaves to the hypervisor for ever, by CPUID |
//! | `storm` | processors send each other interrupts, and get short timer interrupts, as fast as they can |
//! | `hungry` | writes all of its memory, over and over |
//! | `sleep` | computes for `run=` microseconds, then sleeps for `sleep=` microseconds, for ever |
//! | `crash` | computes for 20 ms, then ends in a triple fault |
//! | `reboot` | computes for 20 ms, then resets the machine |
//! | `witness` | fills its memory with a pattern of `seed=`, checks it, tells each pass; ends after `passes=` |
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: breaking the machine takes assembly.
#![allow(unsafe_code)]

mod busy;
mod witness;

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use selftest::{boot, println, runner, smp};

/// `run=`, `sleep=`, `seed=` and `passes=`.
static NUMBERS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];
const NAMES: [(&str, u64); 4] = [("run", 1000), ("sleep", 9000), ("seed", 1), ("passes", u64::MAX)];

/// A number of the command line, by its name.
fn number(name: &str) -> u64 {
    let place = NAMES.iter().position(|(other, _)| *other == name);
    place.map_or(0, |place| NUMBERS[place].load(SeqCst))
}

fn main_program() {
    runner::announce("load");
    runner::baseline();
    match read_command_line() {
        Ok((mode, job)) => {
            if smp::start_all().is_err() {
                println!("load: {}", selftest::verdict::reason());
                return;
            }
            println!("load: {mode} on {} vCPUs", smp::count());
            (1..smp::count()).for_each(|cpu| smp::begin(cpu, job));
            job();
        }
        Err(word) => println!("load: '{word}' is no word of this guest, or no number; see its source"),
    }
}

/// What to do. An error is the word that is wrong.
fn read_command_line() -> Result<(&'static str, smp::Job), &'static str> {
    let mut chosen = Err("load=");
    for ((_, usual), place) in NAMES.iter().zip(&NUMBERS) {
        place.store(*usual, SeqCst);
    }
    for word in boot::command_line().split_ascii_whitespace() {
        let (name, value) = word.split_once('=').ok_or(word)?;
        let place = NAMES.iter().position(|(other, _)| *other == name);
        match (name, place) {
            ("load", _) => chosen = Ok((value, job(value).ok_or(word)?)),
            // For all test guests.
            ("emulator", _) => {}
            (_, Some(place)) => NUMBERS[place].store(value.parse().map_err(|_| word)?, SeqCst),
            _ => return Err(word),
        }
    }
    chosen
}

fn job(mode: &str) -> Option<smp::Job> {
    Some(match mode {
        "spin" => busy::spin,
        "pause" => busy::pause,
        "exits" => busy::exits,
        "storm" => busy::storm,
        "hungry" => busy::hungry,
        "sleep" => busy::sleep,
        "crash" => busy::crash,
        "reboot" => busy::reboot,
        "witness" => witness::run,
        _ => return None,
    })
}

selftest::program!(main_program());
