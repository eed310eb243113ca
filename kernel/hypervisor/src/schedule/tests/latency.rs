//! How soon a vCPU runs after it wakes, and what a guest wins by sleeping cleverly: nothing.

use std::vec;
use std::vec::Vec;

use super::super::{CpuSet, Parameters};
use super::machine::{HZ, Load, MS, Machine};
use super::random::Random;

const US: u64 = MS / 1_000;

fn weight(weight: u32) -> Parameters {
    Parameters { weight, ..Parameters::default() }
}

/// VMs that sleep much, beside hogs on every CPU: they run within 2 ms.
#[test]
fn sleepers_run_soon() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let cpus = random.one_of(&[1, 2, 4, 8]);
        let mut machine = Machine::new(cpus, seed);
        for _ in 0..random.within(1, 4) {
            let vcpus = vec![(Load::Hog, CpuSet::ALL); cpus];
            machine.add(weight(random.within(50, 1000) as u32), &vcpus);
        }
        let sleepers: Vec<_> = (0..cpus.min(4))
            .map(|_| {
                let load = Load::Jitter(random.within(50, 150) * US, random.within(10, 50) * MS);
                machine.add(weight(100), &[(load, CpuSet::ALL)])
            })
            .collect();
        // At the start all wake at once.
        machine.run_for(HZ / 4);
        for guest in &mut machine.guests {
            (guest.latency, guest.latencies) = (0, (0, 0));
        }
        machine.run_for(3 * HZ);
        for guest in machine.guests.iter().filter(|guest| sleepers.contains(&guest.id.vm)) {
            assert!(guest.latencies.1 > 10, "it woke");
            assert!(guest.latency <= 2 * MS, "seed {seed}, {cpus} CPUs: {} us", guest.latency / US);
            let mean = guest.latencies.0 / guest.latencies.1;
            assert!(mean <= MS, "seed {seed}, {cpus} CPUs: {} us in the mean", mean / US);
        }
    }
}

/// A VM whose vCPUs sleep and wake in any pattern has no more than a VM of hogs would have.
#[test]
fn patterns_win_nothing() {
    let mut wrong = Vec::new();
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let cpus = random.one_of(&[1, 1, 2, 4]);
        let mut machine = Machine::new(cpus, seed);
        let honest = random.within(1, 3);
        let (own, others) = (random.within(20, 400) as u32, random.within(20, 400) as u32);
        for _ in 0..honest {
            machine.add(weight(others), &vec![(Load::Hog, CpuSet::ALL); 2 * cpus]);
        }
        let count = random.within(1, 32) as usize;
        let loads: Vec<_> = (0..count).map(|_| pattern(&mut random)).collect();
        let adversary =
            machine.add(weight(own), &loads.iter().map(|load| (*load, CpuSet::ALL)).collect::<Vec<_>>());
        let start = machine.now;
        machine.run_for(10 * HZ);
        let had = machine.ran(adversary) as f64 / (machine.now - start) as f64;
        let share = f64::from(own) / f64::from(own + others * honest as u32);
        let fair = (share * cpus as f64).min(count as f64);
        if had > fair * 1.02 + 0.01 {
            wrong.push(std::format!("seed {seed}, {cpus} CPUs: {had:.4} of {fair:.4}, {loads:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

/// Runs about as long as a slice, a balancing interval or the bonus, sleeps for as little or as much.
fn pattern(random: &mut Random) -> Load {
    let spans = [US, 50 * US, 250 * US, 900 * US, MS, 2 * MS, 4_900 * US, 5 * MS, 9_900 * US, 20 * MS];
    let (run, sleep) = (random.one_of(&spans), random.one_of(&spans));
    match random.within(0, 4) {
        0 => Load::Hog,
        1 => Load::Jitter(run, sleep),
        2 => Load::Cycle(run, sleep * random.within(1, 40)),
        _ => Load::Cycle(run, sleep),
    }
}

/// Many vCPUs of a VM run one after the other, each fresh from sleep: together they have what one would have.
#[test]
fn relays_win_nothing() {
    for runners in [2, 8, 32, 64] {
        for run in [500 * US, 2 * MS, 5 * MS] {
            let mut machine = Machine::new(1, 1);
            machine.add(weight(300), &[(Load::Hog, CpuSet::ALL)]);
            let load = Load::Cycle(run, run * (runners - 1));
            let relay = machine.add(weight(100), &vec![(load, CpuSet::ALL); runners as usize]);
            let start = machine.now;
            machine.run_for(10 * HZ);
            let had = machine.ran(relay) as f64 / (machine.now - start) as f64;
            assert!(had <= 0.265, "{runners} for {run}: {had}");
        }
    }
}

/// A CPU that nobody hogs lets those who wake run at once.
#[test]
fn idle_cpus_are_used_at_once() {
    let mut machine = Machine::new(4, 3);
    machine.add(weight(100), &[(Load::Hog, CpuSet::ALL); 2]);
    let vm = machine.add(weight(100), &[(Load::Jitter(MS, 7 * MS), CpuSet::ALL); 2]);
    machine.run_for(HZ);
    for guest in machine.guests.iter().filter(|guest| guest.id.vm == vm) {
        assert_eq!(guest.latency, 0);
    }
}
