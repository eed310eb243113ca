//! Random histories of everything that can happen, and what must hold at any time.

use std::vec::Vec;

use super::super::queue::Activity;
use super::super::{Cpu, CpuSet, Parameters, Pool};
use super::machine::{HZ, Load, MS, Machine};
use super::random::Random;

#[test]
fn invariants_hold() {
    for seed in 0..300 {
        let cpus = Random::new(seed).one_of(&[1, 2, 3, 4, 8]);
        history(cpus, seed, 60);
    }
}

#[test]
fn invariants_hold_on_a_large_machine() {
    for seed in 0..4 {
        history(64, seed, 120);
    }
}

fn history(cpus: usize, seed: u64, events: usize) {
    let mut machine = Machine::new(cpus, seed);
    let start = machine.now;
    let mut gone = 0;
    for _ in 0..events {
        gone += event(&mut machine);
        machine.kick_all();
        let end = machine.now + machine.random.within(MS / 100, 30 * MS);
        while machine.now < end {
            machine.step(end);
            machine.check();
        }
    }
    machine.kick_all();
    for guest in &machine.guests {
        machine.check_times(guest);
    }
    let ran = machine.guests.iter().map(|guest| guest.ran).sum::<u64>() + gone;
    let idle = machine.queues.iter().map(|queue| queue.idle_time().0).sum::<u64>();
    assert_eq!(
        ran + idle,
        (machine.now - start) * cpus as u64,
        "seed {seed}: time is charged once, idling to nobody"
    );
    nobody_starves(&mut machine, seed);
}

fn load(random: &mut Random) -> Load {
    let (run, sleep) = (random.within(1, 8 * MS), random.within(1, 20 * MS));
    match random.within(0, 3) {
        0 => Load::Hog,
        1 => Load::Cycle(run, sleep),
        2 => Load::Jitter(run, sleep),
        _ => Load::Sleeper,
    }
}

fn cpu_set(machine: &mut Machine) -> CpuSet {
    if machine.random.one_in(2) { CpuSet::ALL } else { CpuSet::from_bits(machine.random.next()) }
}

/// Something happens. Returns the time that a VM had which is gone.
fn event(machine: &mut Machine) -> u64 {
    let now = machine.time();
    let any = machine.random.next() as usize;
    let vcpu = machine.guests.get(any % machine.guests.len().max(1)).map(|guest| guest.id);
    match (machine.random.within(0, 11), vcpu) {
        (0 | 1, _) | (_, None) => add(machine),
        (2, Some(vcpu)) if machine.random.one_in(3) => {
            return machine.remove(vcpu.vm).iter().map(|guest| guest.ran).sum();
        }
        (3, Some(vcpu)) => {
            let cpus = cpu_set(machine);
            let _ = machine.shared.pin(vcpu, cpus);
        }
        (4, Some(vcpu)) => {
            let weight = machine.random.within(1, 10_000) as u32;
            assert_eq!(machine.shared.set_weight(vcpu.vm, weight), Ok(()));
        }
        (5, Some(vcpu)) => {
            let cap = machine.random.one_of(&[0, 1, 10, 55, 150, 400]);
            let _ = machine.shared.set_cap(vcpu.vm, cap, now);
        }
        (6, Some(vcpu)) => {
            let percent = machine.random.one_of(&[0, 0, 5, 50, 120]);
            let _ = machine.shared.set_reservation(vcpu.vm, percent, now);
        }
        (7, Some(vcpu)) => {
            let pool = Pool(machine.random.within(0, 2) as u8);
            let _ = machine.shared.set_pool(vcpu.vm, pool);
        }
        (8, _) => {
            let (cpu, pool) = (machine.random.next() as usize, machine.random.within(0, 2) as u8);
            let _ = machine.shared.move_cpu(Cpu((cpu % machine.queues.len()) as u8), Pool(pool));
        }
        (9, _) => {
            let cpu = machine.random.next() as usize % machine.queues.len();
            let to = machine.random.one_in(2).then_some(vcpu).flatten();
            machine.yielded(cpu, to);
        }
        _ => {
            let load = load(&mut machine.random);
            let index = any % machine.guests.len();
            machine.set_load(index, load);
        }
    }
    0
}

fn add(machine: &mut Machine) {
    let parameters = Parameters {
        weight: machine.random.within(1, 1000) as u32,
        cap: machine.random.one_of(&[0, 0, 0, 20, 130]),
        reservation: 0,
        pool: Pool(machine.random.within(0, 2) as u8),
    };
    let Ok(vm) = machine.shared.add_vm(parameters, machine.time()) else { return };
    let pool = machine.shared.pool(parameters.pool);
    for index in 0..machine.random.within(1, 5) {
        let pin = cpu_set(machine);
        if !pool.and(pin).is_empty() {
            let load = load(&mut machine.random);
            machine.add_vcpu(vm, index as u8, load, pin);
        }
    }
}

/// With weights in bounds, every vCPU that is not throttled for good runs within some time.
fn nobody_starves(machine: &mut Machine, seed: u64) {
    for index in 0..machine.guests.len() {
        let vm = machine.guests[index].id.vm;
        let now = machine.time();
        let _ = machine.shared.set_weight(vm, 100);
        let _ = machine.shared.set_reservation(vm, 0, now);
        let _ = machine.shared.set_cap(vm, 0, now);
    }
    machine.kick_all();
    machine.run_for(2 * HZ);
    let start = machine.now;
    let waiting: Vec<_> =
        (0..machine.guests.len()).filter(|index| machine.activity(*index) == Activity::Waiting).collect();
    machine.run_for(3 * HZ);
    for index in waiting {
        let guest = &machine.guests[index];
        assert!(guest.last_ran > start, "seed {seed}: {:?} has not run for 3 s\n{}", guest, machine.table());
    }
}
