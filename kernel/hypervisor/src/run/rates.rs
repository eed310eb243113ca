//! What VMs and CPUs did in the last second, for the lists; and the option `times=`.

use alloc::vec::Vec;

use vcpu::{Backend, Host, Nanos};

use super::Node;
use crate::vm::Vm;
use crate::vm::slot::Slot;

/// How often counters are looked at.
const PERIOD: Nanos = Nanos::from_secs(1);
/// VMs whose counters are read at a time: some thousand instructions.
const VMS_AT_ONCE: usize = 16;

/// Counters of a VM, or what they grew by.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    exits: u64,
    /// In ticks.
    charged: u64,
    steal: u64,
}

/// What a VM did in the last period.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Rate {
    /// Exits a second.
    pub(crate) exits: u64,
    /// CPU time in tenths of a percent of one CPU.
    pub(crate) busy: u64,
    /// Time for which its vCPUs waited for a CPU, in the same unit.
    pub(crate) steal: u64,
}

/// The last two looks at the counters.
pub(super) struct Rates {
    next: Nanos,
    /// The TSC at the last look.
    looked: u64,
    vms: Vec<(Counts, Rate)>,
    /// Idle ticks of each CPU, and tenths of a percent in the last period.
    cpus: Vec<(u64, u64)>,
    /// When the times are told next, and how often.
    tell: Option<(Nanos, Nanos)>,
}

impl Rates {
    /// The times are told in the log every so many seconds; 0 for never.
    pub(super) fn new<H: Host>(host: &H, vms: usize, cpus: usize, seconds: u32) -> Self {
        let mut rates = Self {
            next: Nanos(0),
            looked: host.tsc(),
            vms: Vec::with_capacity(vms),
            cpus: Vec::with_capacity(cpus),
            tell: None,
        };
        rates.vms.resize_with(vms, Default::default);
        rates.cpus.resize_with(cpus, Default::default);
        if seconds > 0 {
            let period = Nanos::from_secs(seconds.into());
            rates.tell = Some((host.now() + period, period));
        }
        rates
    }

    /// Looks at the counters when it is time. `between` is called between some VMs, and between two lines, so that this is never long.
    pub(super) fn look<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &mut H,
        mut between: impl FnMut(&mut H),
    ) {
        let now = host.now();
        if now >= self.next {
            self.next = now + PERIOD;
            self.count(node, host, &mut between);
            between(host);
        }
        if let Some((at, period)) = self.tell
            && now >= at
        {
            self.tell = Some((at + period, period));
            tell(node, host, between);
        }
    }

    fn count<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &mut H,
        between: &mut impl FnMut(&mut H),
    ) {
        let tsc = host.tsc();
        let span = tsc.wrapping_sub(self.looked).max(1);
        self.looked = tsc;
        let hz = node.tsc_hz;
        let share = |ticks: u64| (u128::from(ticks) * 1000 / u128::from(span)) as u64;
        for (place, (before, rate)) in self.vms.iter_mut().enumerate() {
            if place % VMS_AT_ONCE == VMS_AT_ONCE - 1 {
                between(host);
            }
            let Some(counts) = node.places.with(place, |vm| count(node, vm)) else { continue };
            let exits = u128::from(counts.exits.saturating_sub(before.exits));
            *rate = Rate {
                exits: (exits * u128::from(hz) / u128::from(span)) as u64,
                busy: share(counts.charged.saturating_sub(before.charged)),
                steal: share(counts.steal.saturating_sub(before.steal)),
            };
            *before = counts;
        }
        for (cpu, (before, idle)) in self.cpus.iter_mut().enumerate() {
            let Some(queue) = node.scheduler.queue(cpu) else { continue };
            let ticks = queue.idle_time().0;
            (*idle, *before) = (share(ticks.saturating_sub(*before)), ticks);
        }
    }

    /// The VM in that place is gone.
    pub(super) fn forget(&mut self, place: usize) {
        if let Some(vm) = self.vms.get_mut(place) {
            *vm = Default::default();
        }
    }

    /// What a VM did in the last period.
    pub(super) fn of(&self, vm: usize) -> Rate {
        self.vms.get(vm).map_or(Rate::default(), |(_, rate)| *rate)
    }

    /// How much of the last period a CPU was idle, in tenths of a percent.
    pub(super) fn idle(&self, cpu: usize) -> u64 {
        self.cpus.get(cpu).map_or(0, |(_, idle)| *idle)
    }
}

fn count<B: Backend>(node: &Node<'_, B>, vm: &Vm<'_, B>) -> Counts {
    let times = vm.times(&node.scheduler.shared);
    let exits = vm.slots.iter().map(Slot::exits).sum();
    Counts { exits, charged: times.charged.0, steal: times.steal.0 }
}

/// One line a VM, each with its moment, and one that says that these were all.
fn tell<B: Backend, H: Host>(node: &Node<'_, B>, host: &mut H, mut between: impl FnMut(&mut H)) {
    let mut told = 0;
    node.places.each(|vm| {
        let (times, tsc) = (vm.times(&node.scheduler.shared), host.tsc());
        log::info!(
            "vm {}: at {tsc}: charged {} steal {} throttled {} exits {} wake-ups {}",
            vm.name,
            times.charged.0,
            times.steal.0,
            times.throttled.0,
            vm.slots.iter().map(Slot::exits).sum::<u64>(),
            vm.slots.iter().map(Slot::wakes).sum::<u64>()
        );
        between(host);
        told += 1;
    });
    log::info!("times of {told} VMs told");
}
