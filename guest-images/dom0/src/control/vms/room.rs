//! VMs that stand still as there is no room for what they write: each goes on when there is more than there was. Where that is not enough, it is
//! tried again, but more and more seldom.

use std::collections::BTreeMap;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::{Request, VmState};
use rustix::fs::statvfs;

use super::{Phase, Vms};
use crate::channel::{Asks, Channel};
use crate::control::watch::Seen;
use crate::hub::DiskFile;
use crate::log;

/// Between two tries at first, and at last.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
/// A VM that has gone on for so long has had room.
const SETTLED: Duration = Duration::from_secs(120);
/// So much more than there was is worth a try.
const MORE: u64 = 1 << 20;

/// A VM that had none.
#[derive(Clone, Copy, Debug)]
struct Lack {
    /// What was free then.
    free: u64,
    /// When it may be tried, and how long after the last time that is.
    at: Instant,
    pause: Duration,
    /// It stands still.
    waits: bool,
}

/// All of them, by their numbers.
#[derive(Default)]
pub(super) struct Room(BTreeMap<u64, Lack>);

impl Room {
    /// A VM has no room, where so much is free.
    pub(super) fn lacks(&mut self, vm: u64, free: u64, now: Instant) {
        let before = self.0.get(&vm).filter(|lack| now < lack.at + SETTLED);
        let pause = before.map_or(SHORTEST, |lack| (lack.pause * 2).min(LONGEST));
        self.0.insert(vm, Lack { free, at: now + pause, pause, waits: true });
    }

    /// A VM runs, or is no more.
    pub(super) fn goes_on(&mut self, vm: u64) {
        self.0.entry(vm).and_modify(|lack| lack.waits = false);
    }

    /// It is no more.
    pub(super) fn forget(&mut self, vm: u64) {
        self.0.remove(&vm);
    }

    /// Whether a VM waits for room.
    pub(super) fn waits(&self, vm: u64) -> bool {
        self.0.get(&vm).is_some_and(|lack| lack.waits)
    }

    /// Whether a VM that waits should be tried, where so much is free. What is free less than before makes it less that has to come.
    pub(super) fn has_come(&mut self, vm: u64, free: u64, now: Instant) -> bool {
        let Some(lack) = self.0.get_mut(&vm).filter(|lack| lack.waits) else { return false };
        lack.free = lack.free.min(free);
        now >= lack.at && free >= lack.free.saturating_add(MORE)
    }
}

impl Vms {
    /// A VM is paused, as it has no room.
    pub(super) fn has_no_room(&mut self, vm: u64) {
        let Some((name, entry)) = self.all.iter_mut().find(|(_, entry)| entry.number() == Some(vm)) else {
            return;
        };
        let why = "it stands still: there is no room for what it writes";
        log::warn(&format!("VM {name}: {why}"));
        (entry.trouble, entry.is_complaint) = (Some(why.to_owned()), true);
        self.room.lacks(vm, free_for(&entry.phase), Instant::now());
    }

    /// Has VMs go on for which there is room again.
    pub(in crate::control) fn see_to_room(&mut self, channel: &mut Channel, seen: &[Seen]) {
        for Seen { number, state, .. } in seen {
            let (number, state) = (*number, *state);
            if !self.room.waits(number) {
                continue;
            }
            let Some((name, entry)) = self.all.iter_mut().find(|(_, entry)| entry.number() == Some(number))
            else {
                continue;
            };
            if state == VmState::Running {
                // Somebody has let it go on.
                self.room.goes_on(number);
            } else if self.room.has_come(number, free_for(&entry.phase), Instant::now()) {
                log::info(&format!("VM {name}: goes on: there is room again"));
                (entry.trouble, entry.is_complaint) = (None, false);
                // One that goes on already, or ends, needs no more.
                let _ = channel.order(&Request::Resume { vm: number });
                self.room.goes_on(number);
            }
        }
    }
}

/// Bytes that are free for a VM's disks; where nobody can tell, it may be tried now and then.
fn free_for(phase: &Phase) -> u64 {
    let disks: &[DiskFile] = match phase {
        Phase::Made { disks, .. } => disks,
        Phase::Stopped | Phase::Changing(_) => &[],
    };
    free(disks.iter().map(|disk| disk.path.as_path())).unwrap_or(u64::MAX)
}

/// Bytes that are free where these files are, for who is not root; each file system once.
///
/// # Errors
/// One of them cannot be asked.
pub(super) fn free<'a>(files: impl Iterator<Item = &'a Path>) -> Result<u64> {
    let mut systems = BTreeMap::new();
    for file in files {
        let folder = file.parent().map(PathBuf::from).unwrap_or_default();
        let system = statvfs(&folder)?;
        systems.insert(system.f_fsid, system.f_bavail.saturating_mul(system.f_frsize));
    }
    Ok(systems.values().fold(0, |sum, free| sum.saturating_add(*free)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: u64 = 65537;

    #[test]
    fn a_vm_is_tried_when_there_is_more() {
        let (mut room, begun) = (Room::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(!room.has_come(VM, u64::MAX, begun) && !room.waits(VM));
        room.lacks(VM, 4096, begun);
        assert!(room.waits(VM));
        assert!(!room.has_come(VM, 4096, after(10)), "it is as it was");
        assert!(!room.has_come(VM, 1 << 30, after(1)), "too soon");
        assert!(room.has_come(VM, 1 << 30, after(2)));
        room.goes_on(VM);
        assert!(!room.waits(VM) && !room.has_come(VM, 1 << 30, after(3)));
        room.forget(VM);
        assert!(!room.waits(VM));
    }

    #[test]
    fn tries_become_seldom_and_often_again() {
        let (mut room, mut now) = (Room::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            room.lacks(VM, 0, now);
            let begun = now;
            while !room.has_come(VM, 1 << 30, now) {
                now += Duration::from_secs(1);
            }
            pauses.push(now.duration_since(begun).as_secs());
            room.goes_on(VM);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        room.lacks(VM, 0, now + SETTLED + LONGEST);
        assert!(room.has_come(VM, 1 << 30, now + SETTLED + LONGEST + SHORTEST));
    }

    #[test]
    fn room_that_is_taken_meanwhile_counts_again_when_it_comes() {
        let (mut room, now) = (Room::default(), Instant::now());
        room.lacks(VM, 50 << 20, now);
        let later = now + LONGEST;
        assert!(!room.has_come(VM, 0, later) && room.has_come(VM, 2 << 20, later));
        let here = std::env::temp_dir();
        let one = free([here.join("a").as_path()].into_iter()).expect("it can be asked");
        let two = free([here.join("a").as_path(), here.join("b").as_path()].into_iter()).expect("it can");
        assert!(one > 0 && two.abs_diff(one) < 1 << 30, "one file system counts once");
    }
}
