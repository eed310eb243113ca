//! What Basalt's log says of its bring-up and of the memory that it has for itself and for its VMs' sake.
//!
//! ```text
//! ... bring-up: total N scrubbing N calibration N ticks
//! ... memory: the kernel has N KiB: image A heap B frame-table C page-tables D stacks E other F KiB
//! ... vm NAME: N KiB of its own, M KiB nested tables
//! ... vm NAME: started, ...
//! ```
//!
//! A line that is not there tells nothing; parts may have any names.

use crate::log::Log;

/// A number, and the parts of it that have names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sum {
    /// The whole.
    pub total: u64,
    /// Names and numbers, in the order of the line.
    pub parts: Vec<(String, u64)>,
}

impl Sum {
    /// The part of that name.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<u64> {
        self.parts.iter().find(|(part, _)| part == name).map(|(_, value)| *value)
    }
}

/// From the loader's jump to the first instruction of a guest, in ticks.
#[must_use]
pub fn bring_up(log: &Log) -> Option<Sum> {
    sum(log, "bring-up: total ")
}

/// What the kernel has for itself, in KiB.
#[must_use]
pub fn kernel_memory(log: &Log) -> Option<Sum> {
    sum(log, "memory: the kernel has ")
}

/// What a VM costs beside its guest's memory, in KiB: in all, and for nested tables.
#[must_use]
pub fn vm_memory(log: &Log, vm: &str) -> Option<(u64, u64)> {
    let begin = format!("vm {vm}: ");
    let read = |line: &str| {
        let (own, tables) = line.split_once(&begin)?.1.split_once(" KiB of its own, ")?;
        Some((own.parse().ok()?, tables.split_once(" KiB nested tables")?.0.parse().ok()?))
    };
    log.kernel().find_map(read)
}

/// How many VMs were started.
#[must_use]
pub fn started_vms(log: &Log) -> usize {
    let is_start =
        |line: &&str| line.split_once(" vm ").is_some_and(|(_, rest)| rest.contains(": started, "));
    log.kernel().filter(is_start).count()
}

/// A line with `begin`, a number, and parts: each a name with its number behind it.
fn sum(log: &Log, begin: &str) -> Option<Sum> {
    let text = log.kernel().find_map(|line| Some(line.split_once(begin)?.1))?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let total = words.first()?.parse().ok()?;
    let part = |pair: &[&str]| Some((pair[0].to_owned(), pair[1].parse().ok()?));
    Some(Sum { total, parts: words[1..].windows(2).filter_map(part).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        Log::from(text)
    }

    #[test]
    fn sums_have_their_parts() {
        let log = log("[    0.090871] INFO  bring-up: total 19000000 scrubbing 500 calibration 20 ticks\n\
            [    0.080000] INFO  memory: the kernel has 2056 KiB: image 1 heap 1 frame-table 2048 page-tables 4 stacks 0 other 2 KiB\n");
        let bring_up = bring_up(&log).expect("told");
        assert_eq!((bring_up.total, bring_up.part("scrubbing")), (19_000_000, Some(500)));
        assert_eq!((bring_up.part("calibration"), bring_up.parts.len()), (Some(20), 2));
        let memory = kernel_memory(&log).expect("told");
        assert_eq!((memory.total, memory.part("frame-table"), memory.parts.len()), (2056, Some(2048), 6));
    }

    #[test]
    fn vms_have_memory_of_their_own() {
        let log = log("[ 0.2] INFO  work: vm one: started, 5 ticks of work\n\
            [ 0.2] INFO  work: vm one: 96 KiB of its own, 16 KiB nested tables\n\
            [one] vm two: started, 5 ticks of work\n");
        assert_eq!(vm_memory(&log, "one"), Some((96, 16)));
        assert_eq!((vm_memory(&log, "two"), started_vms(&log)), (None, 1));
    }

    #[test]
    fn what_is_not_told_is_left_out() {
        let log = log("[ 0.2] INFO  basalt: memory: the kernel has some KiB: all\n");
        assert_eq!((bring_up(&log), kernel_memory(&log), started_vms(&log)), (None, None, 0));
    }
}
