//! What VMs use is added up by hours, and kept: a file for each month, with a line of JSON for each hour of a VM. What has come together in this hour is
//! written once a minute, so that no more than that is lost where the power fails.

mod meter;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Result, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::VmState;
use api::name::Name;
use api::usage::{HOUR, Usage};
use api::{Error, Reason};

use super::watch::Seen;
use crate::{clock, durable, log};
use meter::{Meter, Sample};

/// The folder, below the node's data.
const FOLDER: &str = "/data/usage";
const CURRENT: &str = "current.json";
/// Between two times that what is new is written.
const PACE: Duration = Duration::from_secs(60);
/// Seconds of a month, for files: what they are called matters to nobody but this.
const MONTH: u64 = 30 * 24 * HOUR;
/// Months that are kept.
const MONTHS: u64 = 13;
/// Records that are told at once.
const MOST: usize = 4096;

/// All of it.
pub(super) struct Accounts {
    folder: PathBuf,
    meter: Meter,
    /// Records of hours that are over and could not be written yet.
    over: VecDeque<Usage>,
    written: Option<Instant>,
}

impl Accounts {
    /// Goes on with what is kept.
    pub(super) fn open() -> Self {
        Self::open_at(Path::new(FOLDER))
    }

    fn open_at(folder: &Path) -> Self {
        let mut meter = Meter::default();
        let text = fs::read_to_string(folder.join(CURRENT)).unwrap_or_default();
        // What was cut off by a power failure is not there: the file is written whole or not at all.
        meter.resume(serde_json::from_str(&text).unwrap_or_default());
        Self { folder: folder.to_owned(), meter, over: VecDeque::new(), written: None }
    }

    /// Sees what VMs do now.
    pub(super) fn see(&mut self, seen: &[Seen], tsc_hz: u64) {
        let samples: BTreeMap<Name, Sample> = seen.iter().filter_map(|vm| sample(vm, tsc_hz)).collect();
        self.note(Instant::now(), clock::seconds(), samples);
    }

    fn note(&mut self, now: Instant, wall: u64, samples: BTreeMap<Name, Sample>) {
        let over = self.meter.see(now, wall, samples);
        let is_new = !over.is_empty();
        self.over.extend(over);
        // A disk that is full for days keeps the newest of them.
        let surplus = self.over.len().saturating_sub(MOST);
        self.over.drain(..surplus);
        let is_due = self.written.is_none_or(|written| now.saturating_duration_since(written) >= PACE);
        if !is_new && !is_due {
            return;
        }
        self.written = Some(now);
        self.close();
    }

    /// Writes what there is.
    pub(super) fn close(&mut self) {
        if let Err(error) = self.write() {
            log::warn(&format!("what VMs use cannot be written: {}: {error}", self.folder.display()));
        }
    }

    fn write(&mut self) -> Result<()> {
        let current: Vec<_> = self.meter.current().collect();
        if self.over.is_empty() && current.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        while let Some(record) = self.over.front() {
            let path = self.folder.join(month(record.hour));
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(format!("{}\n", serde_json::to_string(record)?).as_bytes())?;
            file.sync_all()?;
            let _ = fs::remove_file(self.folder.join(month(record.hour.saturating_sub(MONTHS * MONTH))));
            self.over.pop_front();
        }
        durable::write(&self.folder.join(CURRENT), &serde_json::to_vec(&current)?, durable::FOR_ALL)
    }

    /// What VMs have used in the hours from one time to another, the oldest first; this hour's so far is with it.
    ///
    /// # Errors
    /// That is too much to be told at once; it cannot be read.
    pub(super) fn tell(&self, since: u64, until: u64) -> std::result::Result<Vec<Usage>, Error> {
        let wanted = |record: &Usage| record.hour + HOUR > since && record.hour < until;
        let mut records = Vec::new();
        let newest = until.min(clock::seconds().saturating_add(MONTH));
        let oldest = since.max(newest.saturating_sub((MONTHS + 1) * MONTH));
        for number in oldest / MONTH..=newest / MONTH {
            let Ok(file) = File::open(self.folder.join(month(number * MONTH))) else { continue };
            for line in BufReader::new(file).lines() {
                // A line that is none was cut off by a power failure.
                let Ok(record) = serde_json::from_str::<Usage>(&line?) else { continue };
                if wanted(&record) {
                    records.push(record);
                }
                if records.len() > MOST {
                    return Err(Error::new(Reason::TooLarge, format!("that are more than {MOST} records"))
                        .next("ask for a shorter time"));
                }
            }
        }
        records.extend(self.over.iter().filter(|record| wanted(record)).cloned());
        records.extend(self.meter.current().filter(|record| wanted(record)).cloned());
        Ok(records)
    }
}

fn month(hour: u64) -> String {
    format!("usage-{}.jsonl", hour / MONTH)
}

/// A VM that is there, as the kernel tells of it.
fn sample(vm: &Seen, tsc_hz: u64) -> Option<(Name, Sample)> {
    let seconds = |ticks: u64| ticks as f64 / tsc_hz.max(1) as f64;
    let runs = vm.state == VmState::Running;
    if !runs && vm.state != VmState::Paused {
        return None;
    }
    let [received_bytes, sent_bytes, _] = vm.network;
    let sample = Sample {
        number: vm.number,
        runs,
        cpus: vm.cpus,
        memory: vm.memory,
        cpu_seconds: seconds(vm.ticks[0]),
        steal_seconds: seconds(vm.ticks[1]),
        sent_bytes,
        received_bytes,
        disks: [0; 4],
        dom0_seconds: 0.0,
    };
    Some((vm.name.parse().ok()?, sample))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_kept() {
        let folder = std::env::temp_dir().join(format!("basaltd-{}-usage", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let (begin, now) = (Instant::now(), clock::seconds());
        let hour = now - now % HOUR;
        let vm = |ticks| Seen {
            number: 1,
            name: "web".to_owned(),
            state: VmState::Running,
            cpus: 1,
            memory: 1 << 30,
            resident: 0,
            ticks: [ticks, 0],
            network: [0; 3],
            load: None,
        };
        let note = |accounts: &mut Accounts, seconds, wall, ticks| {
            accounts.note(
                begin + Duration::from_secs(seconds),
                wall,
                sample(&vm(ticks), 1000).into_iter().collect(),
            );
        };
        let mut accounts = Accounts::open_at(&folder);
        note(&mut accounts, 0, hour - 100, 0);
        note(&mut accounts, 90, hour - 10, 45_000);
        // The process dies, and another one goes on: nothing of what was written is lost.
        let mut accounts = Accounts::open_at(&folder);
        note(&mut accounts, 91, hour - 9, 45_500);
        note(&mut accounts, 110, hour + 10, 55_000);
        let records = accounts.tell(0, u64::MAX).expect("it can be read");
        let told: Vec<_> = records
            .iter()
            .map(|record| (record.hour, record.seconds.round(), record.cpu_seconds.round()))
            .collect();
        assert_eq!(told, [(hour - HOUR, 99.0, 45.0), (hour, 10.0, 10.0)]);
        assert_eq!(accounts.tell(hour, hour + 1).expect("it can be read").len(), 1);
        accounts.close();
        assert!(folder.join(CURRENT).is_file());
        fs::remove_dir_all(folder).expect("it is there");
    }
}
