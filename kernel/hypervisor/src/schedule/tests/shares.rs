//! Shares, caps and reservations of VMs that always want to run, against the oracle.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::super::{CpuSet, Parameters};
use super::machine::{HZ, Load, Machine};
use super::oracle::{Demand, fair};
use super::random::Random;

/// A VM of hogs.
#[derive(Clone, Debug)]
struct Case {
    parameters: Parameters,
    pins: Vec<CpuSet>,
}

impl Case {
    fn demand(&self) -> Demand {
        let Parameters { weight, cap, reservation, .. } = self.parameters;
        Demand {
            weight: f64::from(weight),
            cap: (cap != 0).then_some(f64::from(cap) / 100.0),
            reservation: f64::from(reservation) / 100.0,
            vcpus: self.pins.clone(),
        }
    }
}

/// Runs them for 10 s and compares what they had with what is fair: within `relative` and `absolute` (CPUs).
fn compare(cpus: usize, cases: &[Case], seed: u64, relative: f64, absolute: f64) {
    if let Err(table) = within(cpus, cases, seed, relative, absolute) {
        panic!("{table}");
    }
}

/// The same for many, with all that is wrong.
fn compare_all(seeds: u64, case: impl Fn(&mut Random) -> (usize, Vec<Case>), relative: f64, absolute: f64) {
    let mut wrong = Vec::new();
    for seed in 0..seeds {
        let (cpus, cases) = case(&mut Random::new(seed));
        wrong.extend(within(cpus, &cases, seed, relative, absolute).err());
    }
    assert!(
        wrong.is_empty(),
        "{} of {seeds} are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(3)].join("\n")
    );
}

/// The CPUs that each VM has had over 10 s.
fn run(cpus: usize, cases: &[Case], seed: u64) -> (Vec<f64>, Machine) {
    let mut machine = Machine::new(cpus, seed);
    let add = |case: &Case| {
        let vcpus: Vec<_> = case.pins.iter().map(|pin| (Load::Hog, *pin)).collect();
        machine.add(case.parameters, &vcpus)
    };
    let vms: Vec<_> = cases.iter().map(add).collect();
    let start = machine.now;
    machine.run_for(10 * HZ);
    machine.check();
    let span = (machine.now - start) as f64;
    (vms.iter().map(|vm| machine.ran(*vm) as f64 / span).collect(), machine)
}

fn within(cpus: usize, cases: &[Case], seed: u64, relative: f64, absolute: f64) -> Result<(), String> {
    let (is, machine) = run(cpus, cases, seed);
    let demands: Vec<_> = cases.iter().map(Case::demand).collect();
    let should = fair(CpuSet::first(cpus), &demands);
    let close = |(is, should): (&f64, &f64)| (is - should).abs() <= should * relative + absolute;
    if is.iter().zip(&should).all(close) {
        return Ok(());
    }
    let mut table = String::new();
    for (case, (is, should)) in cases.iter().zip(is.iter().zip(&should)) {
        let Parameters { weight, cap, reservation, .. } = case.parameters;
        let pins: Vec<_> = case.pins.iter().map(|pin| pin.and(CpuSet::first(cpus)).bits()).collect();
        let wrong = if close((is, should)) { "" } else { " WRONG" };
        table += &format!(
            "{is:.4}, fair {should:.4}: weight {weight} cap {cap} reservation {reservation} on {pins:x?}{wrong}\n"
        );
    }
    let Machine { migrations, switches, .. } = machine;
    Err(format!("seed {seed}, {cpus} CPUs, {migrations} moves, {switches} switches:\n{table}"))
}

fn weighted(weight: u32, vcpus: usize) -> Case {
    Case { parameters: Parameters { weight, ..Parameters::default() }, pins: vec![CpuSet::ALL; vcpus] }
}

#[test]
fn known_weights() {
    compare(1, &[weighted(100, 1), weighted(200, 1), weighted(700, 1)], 1, 0.02, 0.001);
    compare(2, &[weighted(100, 1), weighted(100, 1), weighted(100, 1)], 1, 0.02, 0.001);
    compare(2, &[weighted(900, 1), weighted(100, 2)], 1, 0.02, 0.001);
    compare(4, &[weighted(100, 4), weighted(300, 4), weighted(100, 1)], 1, 0.02, 0.001);
    compare(3, &[weighted(10_000, 1), weighted(1, 8), weighted(1, 1)], 1, 0.02, 0.001);
    compare(64, &[weighted(100, 64), weighted(300, 64), weighted(100, 1)], 1, 0.02, 0.001);
}

#[test]
fn random_weights() {
    let case = |random: &mut Random| {
        let cpus = random.one_of(&[1, 1, 2, 2, 3, 4, 5, 8, 16, 64]);
        let cases: Vec<_> = (0..random.within(1, 16))
            .map(|_| weighted(random.within(20, 1000) as u32, random.within(1, 8) as usize))
            .collect();
        (cpus, cases)
    };
    compare_all(120, case, 0.02, 0.005);
}

#[test]
fn random_pins() {
    let case = |random: &mut Random| {
        let cpus = random.within(1, 8) as usize;
        let cases: Vec<_> = (0..random.within(1, 6))
            .map(|_| {
                let mut case = weighted(random.within(20, 1000) as u32, random.within(1, 4) as usize);
                for pin in &mut case.pins {
                    if random.one_in(2) {
                        let set = CpuSet::from_bits(random.next()).and(CpuSet::first(cpus));
                        *pin = if set.is_empty() { CpuSet::first(1) } else { set };
                    }
                }
                case
            })
            .collect();
        (cpus, cases)
    };
    compare_all(120, case, 0.02, 0.015);
}

#[test]
fn known_caps() {
    let capped = |cap, vcpus| {
        let mut case = weighted(100, vcpus);
        case.parameters.cap = cap;
        case
    };
    compare(1, &[capped(1, 1)], 1, 0.0, 0.005);
    compare(2, &[capped(150, 2), weighted(100, 1)], 1, 0.0, 0.01);
    compare(64, &[capped(1, 64)], 1, 0.0, 0.005);
    compare(64, &[capped(333, 64), weighted(100, 64)], 1, 0.0, 0.01);
    compare(4, &[capped(37, 4), capped(90, 1), weighted(100, 4)], 1, 0.005, 0.005);
}

#[test]
fn random_caps() {
    let case = |random: &mut Random| {
        let cpus = random.one_of(&[1, 2, 3, 4, 8]);
        let cases: Vec<_> = (0..random.within(1, 8))
            .map(|_| {
                let mut case = weighted(random.within(20, 1000) as u32, random.within(1, 6) as usize);
                if random.one_in(2) {
                    case.parameters.cap = random.within(1, 250) as u32;
                }
                case
            })
            .chain([weighted(100, 2 * cpus)])
            .collect();
        (cpus, cases)
    };
    compare_all(80, case, 0.02, 0.008);
}

/// One VM with a reservation beside others by weight.
#[test]
fn one_reservation() {
    let case = |random: &mut Random| {
        let cpus = random.one_of(&[1, 2, 3, 4, 8, 16]);
        let mut cases: Vec<_> =
            (0..random.within(1, 6)).map(|_| weighted(random.within(20, 1000) as u32, 2 * cpus)).collect();
        let mut first = weighted(random.within(20, 1000) as u32, random.within(1, cpus as u64) as usize);
        first.parameters.reservation = random.within(1, 60 * first.pins.len() as u64) as u32;
        cases.push(first);
        (cpus, cases)
    };
    compare_all(60, case, 0.02, 0.01);
}

/// Many, up to all that there is: everybody gets at least his reservation, and nothing is wasted.
#[test]
fn random_reservations() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let cpus = random.one_of(&[1, 2, 3, 4, 8]);
        let mut free = 100 * cpus as u64;
        let mut cases = Vec::new();
        for _ in 0..random.within(2, 8) {
            let mut case = weighted(random.within(20, 1000) as u32, random.within(1, 4) as usize);
            if random.one_in(2) && free > 0 {
                let most = free.min(95 * case.pins.len() as u64);
                case.parameters.reservation = random.within(1, most) as u32;
                free -= u64::from(case.parameters.reservation);
            }
            cases.push(case);
        }
        let (is, _) = run(cpus, &cases, seed);
        for (case, is) in cases.iter().zip(&is) {
            let reserved = f64::from(case.parameters.reservation) / 100.0;
            assert!(*is >= reserved - 0.01, "seed {seed}, {cpus} CPUs: {is:.4} of {cases:?}");
        }
        let wanted = cases.iter().map(|case| case.pins.len()).sum::<usize>().min(cpus) as f64;
        let had = is.iter().sum::<f64>();
        assert!(had > wanted - 0.01, "seed {seed}, {cpus} CPUs: {had} used, of {wanted}");
    }
}
