//! Single cases: books, yielding, changes while running, what is refused.

use std::vec::Vec;

use super::super::{
    Cpu, CpuSet, Decision, Error, Moved, Parameters, Pool, RunQueue, Shared, Ticks, Timing, VcpuId, transfer,
};
use super::machine::{HZ, Load, MS, Machine, queue, shared};

const HOG: (Load, CpuSet) = (Load::Hog, CpuSet::ALL);

fn weight(weight: u32) -> Parameters {
    Parameters { weight, ..Parameters::default() }
}

fn runs(decision: Decision) -> Option<VcpuId> {
    match decision {
        Decision::Run { vcpu, .. } => Some(vcpu),
        Decision::Idle { .. } => None,
    }
}

/// One CPU and a VM of so many vCPUs, all awake.
fn one_queue(vcpus: u8) -> (Shared, RunQueue, Vec<VcpuId>) {
    let (shared, mut queue) = (shared(1, 2, Timing::new(HZ)), queue(Cpu(0), 8, Ticks(0)));
    let vm = shared.add_vm(weight(100), Ticks(0)).expect("room");
    let ids: Vec<_> =
        (0..vcpus).map(|index| queue.add(&shared, vm, index, CpuSet::ALL).expect("room")).collect();
    for id in &ids {
        queue.wake(&shared, *id, Ticks(0)).expect("asleep");
    }
    (shared, queue, ids)
}

#[test]
fn time_is_charged_to_the_tick() {
    let (shared, mut queue, ids) = one_queue(2);
    let first = runs(queue.next(&shared, Ticks(7))).expect("one runs");
    let second = ids.iter().copied().find(|id| *id != first).expect("two");
    assert_eq!(runs(queue.next(&shared, Ticks(5 * MS + 7))), Some(second));
    queue.sleep(&shared, second, Ticks(6 * MS)).expect("runs");
    queue.sleep(&shared, first, Ticks(6 * MS + 1)).expect("waits");
    assert_eq!(queue.next(&shared, Ticks(9 * MS)), Decision::Idle { until: Ticks::NEVER });
    let times = |id| shared.times(id).expect("known");
    assert_eq!((times(first).charged, times(first).steal), (Ticks(5 * MS), Ticks(7 + MS - 7 + 1)));
    assert_eq!((times(second).charged, times(second).steal), (Ticks(MS - 7), Ticks(5 * MS + 7)));
    assert_eq!(queue.idle_time(), Ticks(7 + 3 * MS));
}

#[test]
fn throttled_time_is_stolen_time() {
    let mut machine = Machine::new(1, 1);
    let vm = machine.add(Parameters { cap: 10, ..Parameters::default() }, &[HOG]);
    machine.run_for(HZ);
    let times = machine.shared.times(machine.guests[0].id).expect("known");
    assert!(times.charged.0.abs_diff(HZ / 10) < HZ / 500, "{times:?}");
    assert!(times.throttled.0.abs_diff(HZ * 9 / 10) < HZ / 50, "{times:?}");
    assert!(times.steal >= times.throttled, "{times:?}");
    assert_eq!(machine.ran(vm), times.charged.0);
}

/// Sleep saves up no more of a cap than its burst.
#[test]
fn a_cap_is_not_saved_up() {
    let mut machine = Machine::new(1, 1);
    let vm = machine.add(Parameters { cap: 20, ..Parameters::default() }, &[(Load::Sleeper, CpuSet::ALL)]);
    machine.run_for(HZ);
    machine.set_load(0, Load::Hog);
    machine.run_for(50 * MS);
    let burst = (50 + 10) * MS / 5;
    assert!(machine.ran(vm).abs_diff(burst) <= 2 * MS, "{} us", machine.ran(vm) * 1000 / MS);
}

#[test]
fn who_yields_goes_behind_its_siblings() {
    let (shared, mut queue, ids) = one_queue(3);
    let first = runs(queue.next(&shared, Ticks(0))).expect("one runs");
    let others: Vec<_> = ids.iter().copied().filter(|id| *id != first).collect();
    for wanted in [others[1], others[0]] {
        let now = queue.accounted + Ticks(MS / 10);
        queue.yielded(&shared, Some(wanted), now);
        assert_eq!(runs(queue.next(&shared, now)), Some(wanted), "the directed yield is heard");
    }
    queue.yielded(&shared, None, Ticks(MS));
    assert_ne!(runs(queue.next(&shared, Ticks(MS))), Some(others[0]));
    queue.sleep(&shared, first, Ticks(2 * MS)).expect("awake");
    queue.sleep(&shared, others[1], Ticks(2 * MS)).expect("awake");
    queue.next(&shared, Ticks(2 * MS));
    queue.yielded(&shared, None, Ticks(3 * MS));
    assert_eq!(runs(queue.next(&shared, Ticks(3 * MS))), Some(others[0]), "alone, it goes on");
}

/// A VM that yields all the time loses nothing to one that never does, over time.
#[test]
fn yielding_costs_no_share() {
    let mut machine = Machine::new(1, 1);
    let polite = machine.add(weight(100), &[HOG; 2]);
    machine.add(weight(100), &[HOG; 2]);
    let start = machine.now;
    while machine.now < start + 10 * HZ {
        machine.run_for(MS / 2);
        if machine.queues[0].running().is_some_and(|id| id.vm == polite) {
            machine.yielded(0, None);
        }
    }
    let share = machine.ran(polite) as f64 / (machine.now - start) as f64;
    assert!((0.48..=0.52).contains(&share), "{share}");
}

#[test]
fn changes_count_at_once() {
    let mut machine = Machine::new(4, 5);
    let vms = [(); 2].map(|()| machine.add(weight(100), &[HOG; 4]));
    let mut measure = |change: &dyn Fn(&Machine)| {
        change(&machine);
        machine.kick_all();
        let before = vms.map(|vm| machine.ran(vm));
        machine.run_for(2 * HZ);
        let had = vms.map(|vm| machine.ran(vm));
        [0, 1].map(|vm| (had[vm] - before[vm]) as f64 / (2 * HZ) as f64)
    };
    let expect = |had: [f64; 2], should: [f64; 2]| {
        assert!(
            had.iter().zip(should).all(|(had, should)| (had - should).abs() < 0.04),
            "{had:?} {should:?}"
        );
    };
    expect(measure(&|_| {}), [2.0, 2.0]);
    expect(measure(&|it| it.shared.set_weight(vms[0], 300).expect("in range")), [3.0, 1.0]);
    expect(measure(&|it| it.shared.set_cap(vms[0], 150, it.time()).expect("in range")), [1.5, 2.5]);
    expect(measure(&|it| it.shared.set_reservation(vms[1], 300, it.time()).expect("free")), [1.0, 3.0]);
    let lift = |it: &Machine| {
        it.shared.set_cap(vms[0], 0, it.time()).expect("in range");
        it.shared.set_reservation(vms[1], 0, it.time()).expect("in range");
        it.shared.set_weight(vms[0], 100).expect("in range");
        it.shared.move_cpu(Cpu(3), Pool(1)).expect("not needed");
    };
    expect(measure(&lift), [1.5, 1.5]);
    expect(measure(&|it| it.shared.set_pool(vms[0], Pool(1)).expect("has a CPU")), [1.0, 3.0]);
    let pin = |it: &Machine| {
        for index in 0..4 {
            it.shared.pin(VcpuId { vm: vms[1], index }, CpuSet::of(Cpu(2))).expect("in the pool");
        }
    };
    expect(measure(&pin), [1.0, 1.0]);
}

#[test]
fn a_share_is_changed_as_a_whole_or_not_at_all() {
    let (shared, _queue, ids) = one_queue(1);
    let vm = ids[0].vm;
    let other = shared.add_vm(Parameters { reservation: 30, ..weight(100) }, Ticks(0)).expect("room");
    let before = shared.parameters(vm);
    let refused = [
        ((0, 0, 0), Error::Weight(0)),
        ((200, 6401, 0), Error::Percent(6401)),
        ((200, 50, 51), Error::Percent(51)),
        ((200, 0, 71), Error::Overcommitted(101)),
    ];
    for (share, error) in refused {
        assert_eq!(shared.set_share(vm, share, Ticks(0)), Err(error));
        assert_eq!(shared.parameters(vm), before);
    }
    assert_eq!((shared.reservable(vm), shared.reservable(other)), (Ok(70), Ok(100)));
    shared.set_share(vm, (200, 80, 70), Ticks(0)).expect("there can be such a share");
    let after = Parameters { weight: 200, cap: 80, reservation: 70, ..Parameters::default() };
    assert_eq!((shared.parameters(vm), shared.reservable(other)), (Ok(after), Ok(30)));
    shared.remove_vm(other).expect("it has no vCPUs");
    assert_eq!(shared.set_share(other, (1, 0, 0), Ticks(0)), Err(Error::NoSuchVm(other)));
}

#[test]
fn nonsense_is_refused() {
    let (shared, mut queue, ids) = one_queue(2);
    let vm = ids[0].vm;
    assert_eq!(shared.set_weight(vm, 0), Err(Error::Weight(0)));
    assert_eq!(shared.set_cap(vm, 6401, Ticks(0)), Err(Error::Percent(6401)));
    assert_eq!(shared.set_reservation(vm, 101, Ticks(0)), Err(Error::Overcommitted(101)));
    assert_eq!(shared.set_cap(vm, 50, Ticks(0)), Ok(()));
    assert_eq!(shared.set_reservation(vm, 51, Ticks(0)), Err(Error::Percent(51)));
    assert_eq!(shared.pin(ids[1], CpuSet::EMPTY), Err(Error::NowhereToRun(ids[1])));
    assert_eq!(shared.move_cpu(Cpu(0), Pool(1)), Err(Error::NowhereToRun(ids[0])));
    assert_eq!(shared.move_cpu(Cpu(1), Pool(1)), Err(Error::NoSuchCpu(Cpu(1))));
    assert_eq!(shared.set_pool(vm, Pool(1)), Err(Error::NowhereToRun(ids[0])));
    assert_eq!(shared.set_pool(vm, Pool(16)), Err(Error::NoSuchPool(Pool(16))));
    assert_eq!(queue.add(&shared, vm, 0, CpuSet::ALL), Err(Error::Full), "there already");
    assert_eq!(queue.add(&shared, vm, 64, CpuSet::ALL), Err(Error::Full), "too many");
    assert_eq!(queue.wake(&shared, ids[0], Ticks(0)), Err(Error::WrongState(ids[0])));
    assert_eq!(shared.remove_vm(vm), Err(Error::HasVcpus(vm)));
}

#[test]
fn old_names_are_not_taken_for_new_ones() {
    let (shared, mut queue, ids) = one_queue(1);
    let vm = ids[0].vm;
    assert_eq!(queue.remove(&shared, ids[0], Ticks(1)), Ok(()));
    assert_eq!(queue.wake(&shared, ids[0], Ticks(1)), Err(Error::NoSuchVcpu(ids[0])));
    assert_eq!(shared.remove_vm(vm), Ok(()));
    let new = shared.add_vm(weight(1), Ticks(1)).expect("room");
    assert_ne!(new, vm);
    assert_eq!(shared.set_weight(vm, 1), Err(Error::NoSuchVm(vm)));
    assert_eq!(queue.sleep(&shared, ids[0], Ticks(1)), Err(Error::NoSuchVm(vm)));
    assert_eq!(queue.next(&shared, Ticks(2)), Decision::Idle { until: Ticks::NEVER });
}

#[test]
fn a_full_queue_and_a_running_vcpu_are_not_moved_to_and_from() {
    let shared = shared(2, 1, Timing::new(HZ));
    let [mut one, mut two] = [0, 1].map(|cpu| queue(Cpu(cpu), 1, Ticks(0)));
    let vm = shared.add_vm(weight(100), Ticks(0)).expect("room");
    let first = one.add(&shared, vm, 0, CpuSet::ALL).expect("room");
    assert_eq!(one.add(&shared, vm, 1, CpuSet::ALL), Err(Error::Full));
    one.wake(&shared, first, Ticks(0)).expect("asleep");
    one.next(&shared, Ticks(0));
    assert_eq!(transfer(&mut one, &mut two, &shared, Some(first), Ticks(1)), Err(Error::WrongState(first)));
    assert_eq!(one.sleep(&shared, first, Ticks(1)), Ok(()));
    assert_eq!(two.wake(&shared, first, Ticks(1)), Err(Error::NotHere(Cpu(0))));
    assert_eq!(
        transfer(&mut one, &mut two, &shared, Some(first), Ticks(1)),
        Ok(Moved { vcpu: first, until: None })
    );
    assert_eq!(shared.home(first), Ok(Cpu(1)));
    let other = one.add(&shared, vm, 1, CpuSet::ALL).expect("room again");
    assert_eq!(transfer(&mut one, &mut two, &shared, Some(other), Ticks(1)), Err(Error::Full));
}
