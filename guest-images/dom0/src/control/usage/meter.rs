//! Adds up what VMs use, by hours. Pure: what is seen and when goes in, records come out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::name::Name;
use api::usage::{HOUR, Usage};

/// What is seen of a VM. What counts up begins anew with each number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The kernel's number: another one is another life of the VM.
    pub(crate) number: u64,
    /// Its virtual CPUs run, or could.
    pub(crate) runs: bool,
    pub(crate) cpus: u16,
    pub(crate) memory: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) steal_seconds: f64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Of its disks: reads, writes, bytes read and written.
    pub(crate) disks: [u64; 4],
    pub(crate) dom0_seconds: f64,
}

/// What was seen last, and what has come together in this hour.
#[derive(Default)]
pub(crate) struct Meter {
    last: Option<(Instant, u64)>,
    seen: BTreeMap<Name, Sample>,
    hour: BTreeMap<Name, Usage>,
}

impl Meter {
    /// Goes on with what an hour had come to before.
    pub(crate) fn resume(&mut self, records: Vec<Usage>) {
        self.hour.extend(records.into_iter().map(|record| (record.vm.clone(), record)));
    }

    /// Sees all VMs at a time, which is `wall` seconds after 1970. Records of hours that are over.
    ///
    /// What passes between two looks is that of the VMs as they were at the first one. How long it took says the clock that nobody sets; whose hour it
    /// is, the one on the wall.
    pub(crate) fn see(&mut self, now: Instant, wall: u64, vms: BTreeMap<Name, Sample>) -> Vec<Usage> {
        let mut over = Vec::new();
        if let Some((before, wall_before)) = self.last.replace((now, wall)) {
            let passed = now.saturating_duration_since(before);
            let (old, new) = (wall_before - wall_before % HOUR, wall - wall % HOUR);
            // The part of it that is of the hour before. A clock that was set leaves all of it to the new hour.
            let rest = Duration::from_secs((old + HOUR).saturating_sub(wall_before));
            let first = if old < new && rest <= passed { rest } else { Duration::ZERO };
            if old != new {
                self.pass(old, first);
                over = core::mem::take(&mut self.hour).into_values().collect();
            }
            self.pass(new, passed - first);
            self.count(new, &vms);
        }
        self.seen = vms;
        over
    }

    /// What has come together in this hour.
    pub(crate) fn current(&self) -> impl Iterator<Item = &Usage> {
        self.hour.values()
    }

    fn record(&mut self, hour: u64, vm: &Name) -> &mut Usage {
        self.hour.entry(vm.clone()).or_insert_with(|| Usage::new(hour, vm.clone()))
    }

    /// Time passes, for VMs as they were seen.
    fn pass(&mut self, hour: u64, time: Duration) {
        const GIB: f64 = (1_u64 << 30) as f64;
        let seconds = time.as_secs_f64();
        if seconds == 0.0 {
            return;
        }
        for (vm, sample) in core::mem::take(&mut self.seen) {
            let record = self.record(hour, &vm);
            record.seconds += seconds;
            record.gib_seconds += sample.memory as f64 / GIB * seconds;
            if sample.runs {
                record.vcpu_seconds += f64::from(sample.cpus) * seconds;
            }
            self.seen.insert(vm, sample);
        }
    }

    /// What has been counted since the last look. What a VM has done in its last seconds nobody has seen.
    fn count(&mut self, hour: u64, vms: &BTreeMap<Name, Sample>) {
        for (vm, sample) in vms {
            let before = self.seen.get(vm).filter(|before| before.number == sample.number).cloned();
            let grown = |of: fn(&Sample) -> f64| (of(sample) - before.as_ref().map_or(0.0, of)).max(0.0);
            let more = |of: fn(&Sample) -> u64| of(sample).saturating_sub(before.as_ref().map_or(0, of));
            let record = self.record(hour, vm);
            record.cpu_seconds += grown(|sample| sample.cpu_seconds);
            record.steal_seconds += grown(|sample| sample.steal_seconds);
            record.dom0_seconds += grown(|sample| sample.dom0_seconds);
            record.sent_bytes += more(|sample| sample.sent_bytes);
            record.received_bytes += more(|sample| sample.received_bytes);
            record.reads += more(|sample| sample.disks[0]);
            record.writes += more(|sample| sample.disks[1]);
            record.read_bytes += more(|sample| sample.disks[2]);
            record.written_bytes += more(|sample| sample.disks[3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(number: u64, cpu_seconds: f64) -> Sample {
        Sample {
            number,
            runs: true,
            cpus: 2,
            memory: 1 << 29,
            cpu_seconds,
            steal_seconds: 0.0,
            sent_bytes: number,
            received_bytes: 0,
            disks: [0; 4],
            dom0_seconds: 0.0,
        }
    }

    fn vms(sample: Option<Sample>) -> BTreeMap<Name, Sample> {
        sample.into_iter().map(|sample| ("web".parse().expect("a name"), sample)).collect()
    }

    #[test]
    fn an_hour_ends_and_another_begins() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(meter.see(at(0), 7190, vms(Some(sample(1, 0.0)))).is_empty());
        let over = meter.see(at(30), 7220, vms(Some(sample(1, 15.0))));
        assert_eq!((over.len(), over[0].hour, over[0].seconds, over[0].vcpu_seconds), (1, 3600, 10.0, 20.0));
        let current: Vec<_> = meter.current().collect();
        assert_eq!((current[0].hour, current[0].seconds, current[0].gib_seconds), (7200, 20.0, 10.0));
        assert_eq!((current[0].cpu_seconds, current[0].sent_bytes), (15.0, 0), "all that was counted");
    }

    #[test]
    fn another_life_counts_from_the_beginning() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        meter.see(begin, 100, vms(Some(sample(1, 50.0))));
        meter.see(begin + Duration::from_secs(1), 101, vms(Some(sample(9, 2.0))));
        assert_eq!(
            meter.current().map(|record| (record.cpu_seconds, record.sent_bytes)).next(),
            Some((2.0, 9))
        );
    }

    #[test]
    fn a_clock_that_is_set_loses_no_time() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        meter.see(begin, 100, vms(Some(sample(1, 0.0))));
        let mut over = meter.see(begin + Duration::from_secs(5), 2_000_000_000, vms(Some(sample(1, 0.0))));
        over.extend(meter.see(begin + Duration::from_secs(9), 50, vms(Some(sample(1, 0.0)))));
        over.extend(meter.current().cloned());
        assert_eq!(over.iter().map(|record| record.seconds).sum::<f64>(), 9.0);
    }

    proptest! {
        /// Whatever the looks' distances are, all time is somewhere, once.
        #[test]
        fn sums_are_what_has_passed(steps in prop::collection::vec((1_u64..4000, any::<bool>()), 1..80)) {
            let (mut meter, begin) = (Meter::default(), Instant::now());
            let (mut passed, mut there, mut lived, mut sum) = (0, false, 0, 0.0);
            for (step, is_there) in steps {
                let over = meter.see(begin + Duration::from_secs(passed), 1000 + passed, vms(is_there.then(|| sample(1, 0.0))));
                sum += over.iter().map(|record| record.seconds).sum::<f64>();
                there = is_there;
                passed += step;
                lived += if there { step } else { 0 };
            }
            sum += meter.see(begin + Duration::from_secs(passed), 1000 + passed, vms(None)).iter().map(|record| record.seconds).sum::<f64>();
            sum += meter.current().map(|record| record.seconds).sum::<f64>();
            prop_assert!((sum - lived as f64).abs() < 1e-6, "{} of {}, {}", sum, lived, there);
        }
    }
}
