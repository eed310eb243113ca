//! What each VM should get: weighted max-min fairness by water filling.

use std::vec;
use std::vec::Vec;

use super::super::CpuSet;

/// A VM all of whose vCPUs always want to run.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    pub(super) weight: f64,
    /// In CPUs.
    pub(super) cap: Option<f64>,
    /// In CPUs.
    pub(super) reservation: f64,
    /// Where each vCPU may run.
    pub(super) vcpus: Vec<CpuSet>,
}

/// The rate of a vCPU while the water rises.
struct Rate {
    vm: usize,
    cpus: CpuSet,
    weight: f64,
    least: f64,
    frozen: Option<f64>,
}

impl Rate {
    fn at(&self, level: f64) -> f64 {
        self.frozen.unwrap_or((self.weight * level).max(self.least))
    }
}

/// The CPUs that each VM should get. Every vCPU has its part of the VM's weight; the level rises until a set of CPUs is
/// full (those that may run nowhere else get no more), a vCPU has a CPU of its own or a VM its cap; then the others rise on.
/// A set of CPUs bounds the vCPUs that are confined to it (Hall's condition); only unions of their sets matter.
pub(super) fn fair(cpus: CpuSet, vms: &[Demand]) -> Vec<f64> {
    let mut rates = Vec::new();
    for (vm, demand) in vms.iter().enumerate() {
        let count = demand.vcpus.len() as f64;
        let limit = demand.cap.unwrap_or(f64::MAX).min(count);
        rates.extend(demand.vcpus.iter().map(|pin| Rate {
            vm,
            cpus: pin.and(cpus),
            weight: demand.weight / count,
            least: demand.reservation.min(limit) / count,
            frozen: None,
        }));
    }
    let mut bounds: Vec<(Vec<usize>, f64)> = Vec::new();
    for set in unions(&rates) {
        let confined = (0..rates.len()).filter(|index| rates[*index].cpus.without(set).is_empty());
        bounds.push((confined.collect(), set.count() as f64));
    }
    bounds.extend((0..rates.len()).map(|index| (vec![index], 1.0)));
    for (vm, demand) in vms.iter().enumerate() {
        if let Some(cap) = demand.cap {
            bounds.push(((0..rates.len()).filter(|index| rates[*index].vm == vm).collect(), cap));
        }
    }
    while rates.iter().any(|rate| rate.frozen.is_none()) {
        raise(&mut rates, &bounds);
    }
    let mut result = vec![0.0; vms.len()];
    for rate in &rates {
        result[rate.vm] += rate.at(0.0);
    }
    result
}

/// Raises the level until a bound is met and freezes those in it.
fn raise(rates: &mut [Rate], bounds: &[(Vec<usize>, f64)]) {
    let load = |rates: &[Rate], members: &[usize], level| -> f64 {
        members.iter().map(|index| rates[*index].at(level)).sum()
    };
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..80 {
        let level = (low + high) / 2.0;
        let fits = bounds.iter().all(|(members, bound)| load(rates, members, level) <= *bound + 1e-9);
        if fits { low = level } else { high = level }
    }
    let tight = |(members, bound): &&(Vec<usize>, f64)| {
        load(rates, members, high) > *bound + 1e-10
            && members.iter().any(|index| rates[*index].frozen.is_none())
    };
    let full: Vec<usize> =
        bounds.iter().filter(tight).flat_map(|(members, _)| members.iter().copied()).collect();
    assert!(!full.is_empty(), "the water has a shore");
    for index in full {
        let rate = rates[index].at(low);
        rates[index].frozen = Some(rate);
    }
}

/// All unions of the sets on which vCPUs may run.
fn unions(rates: &[Rate]) -> Vec<CpuSet> {
    let mut sets: Vec<CpuSet> = Vec::new();
    for rate in rates {
        let with: Vec<CpuSet> = sets
            .iter()
            .map(|set| CpuSet::from_bits(set.bits() | rate.cpus.bits()))
            .chain([rate.cpus])
            .collect();
        for set in with {
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(weight: f64, vcpus: &[u64]) -> Demand {
        let vcpus = vcpus.iter().map(|bits| CpuSet::from_bits(*bits)).collect();
        Demand { weight, cap: None, reservation: 0.0, vcpus }
    }

    fn assert_fair(cpus: usize, vms: &[Demand], expected: &[f64]) {
        let fair = fair(CpuSet::first(cpus), vms);
        let close = fair.iter().zip(expected).all(|(is, should)| (is - should).abs() < 1e-6);
        assert!(close, "{fair:?} should be {expected:?}");
    }

    #[test]
    fn known_cases() {
        assert_fair(1, &[demand(1.0, &[1]), demand(3.0, &[1])], &[0.25, 0.75]);
        assert_fair(2, &[demand(1.0, &[3]), demand(1.0, &[3]), demand(1.0, &[3])], &[2.0 / 3.0; 3]);
        // The heavy one can only use one CPU.
        assert_fair(2, &[demand(9.0, &[3]), demand(1.0, &[3, 3])], &[1.0, 1.0]);
        // Confined ones leave nothing of CPU 0 to the free one.
        assert_fair(2, &[demand(1.0, &[1]), demand(1.0, &[1]), demand(1.0, &[3])], &[0.5, 0.5, 1.0]);
        let capped = Demand { cap: Some(0.1), ..demand(5.0, &[1]) };
        assert_fair(1, &[capped, demand(1.0, &[1])], &[0.1, 0.9]);
        let reserved = Demand { reservation: 0.6, ..demand(1.0, &[1]) };
        assert_fair(1, &[reserved, demand(1.0, &[1]), demand(1.0, &[1])], &[0.6, 0.2, 0.2]);
    }
}
