//! The numbers in the log: measurements of the bench guest, and what Basalt reports when a VM ends.
//!
//! ```text
//! bench NAME VALUE UNIT (a remark)             (on the console of the VM `bench`)
//! ... vm NAME: exits REASON COUNT              (in the kernel's log)
//! ... vm NAME: ticks guest G root R idle I steal S charged C throttled T
//! ... vm NAME: start took N ticks to its own time's begin, M of them for memory
//! ```

use crate::log::Log;

/// A measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// The stable name.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// Ticks of the TSC, by what the CPU did in them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ticks {
    /// In the guest.
    pub guest: u64,
    /// In Basalt, on behalf of the guest.
    pub root: u64,
    /// Waiting for an interrupt.
    pub idle: u64,
    /// Waiting for its turn.
    pub steal: u64,
    /// All that the scheduler has charged it with.
    pub charged: u64,
    /// Waiting for its cap, a part of `steal`.
    pub throttled: u64,
}

impl Ticks {
    /// What is left without what another boot, which is the beginning of this one, needed.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self {
            guest: self.guest.saturating_sub(other.guest),
            root: self.root.saturating_sub(other.root),
            idle: self.idle.saturating_sub(other.idle),
            steal: self.steal.saturating_sub(other.steal),
            charged: self.charged.saturating_sub(other.charged),
            throttled: self.throttled.saturating_sub(other.throttled),
        }
    }

    /// The share of ticks spent in Basalt outside idle, in percent.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a percentage for a table")]
    pub fn root_percent(&self) -> f64 {
        let busy = self.guest.saturating_add(self.root);
        if busy == 0 { 0.0 } else { self.root as f64 * 100.0 / busy as f64 }
    }
}

/// What a VM had done when the times were told (option `times=`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Telling {
    /// Exits.
    pub exits: u64,
    /// How often a vCPU went on after it had slept.
    pub wake_ups: u64,
}

/// All tellings of the VM named `vm`, in order.
#[must_use]
pub fn tellings(log: &Log, vm: &str) -> Vec<Telling> {
    let read = |line: &str| {
        let (_, rest) = line.split_once(&format!("vm {vm}: at "))?;
        let (exits, wake_ups) = rest.split_once(" exits ")?.1.split_once(" wake-ups ")?;
        Some(Telling { exits: exits.parse().ok()?, wake_ups: wake_ups.trim().parse().ok()? })
    };
    log.kernel().filter_map(read).collect()
}

/// The measurements that the VM named `vm` has printed.
#[must_use]
pub fn measurements(log: &Log, vm: &str) -> Vec<Measurement> {
    log.vm(vm).filter_map(measurement).collect()
}

fn measurement(line: &str) -> Option<Measurement> {
    let mut words = line.strip_prefix("bench ")?.split_ascii_whitespace();
    let (name, value, unit) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    // A remark in brackets may follow.
    words.next().is_none_or(|word| word.starts_with('(')).then(|| Measurement {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
    })
}

/// Whether the CPU delivers a guest's interrupts to itself without an exit, as the line on what Basalt uses of it says: only VMX has such an
/// ability (AMD's virtual interrupts spare other exits).
#[must_use]
pub fn delivers_interrupts(log: &Log) -> bool {
    vmx_abilities(log)
        .is_some_and(|text| text.trim_end_matches(')').split(", ").any(|one| one == "virtual interrupts"))
}

fn vmx_abilities(log: &Log) -> Option<&str> {
    log.kernel().find_map(|line| Some(line.split_once(" basalt: VMX (")?.1))
}

/// Whether the CPU has Intel's extensions.
#[must_use]
pub fn has_vmx(log: &Log) -> bool {
    vmx_abilities(log).is_some()
}

/// True when Basalt has reported the end of the VM.
#[must_use]
pub fn has_ended(log: &Log, vm: &str) -> bool {
    ticks(log, vm).is_some()
}

/// The exits of the VM by reason, once it has ended, most frequent first.
#[must_use]
pub fn exits(log: &Log, vm: &str) -> Vec<(String, u64)> {
    let start = format!("vm {vm}: exits ");
    let lines = log.kernel().filter_map(|line| line.split_once(&start));
    let mut exits: Vec<(String, u64)> = lines
        .filter_map(|(_, rest)| rest.trim().rsplit_once(' '))
        .filter_map(|(reason, count)| Some((reason.trim().to_owned(), count.parse().ok()?)))
        .collect();
    exits.sort_by(|(one, many), (other, more)| more.cmp(many).then(one.cmp(other)));
    exits
}

/// What the life of a VM took beside what its guest did, in ticks; what has not been told is left out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LifeCost {
    /// Basalt's work for its start.
    pub create: Option<u64>,
    /// From the request for its start until its own time began.
    pub to_begin: Option<u64>,
    /// Making its memory, a part of both.
    pub memory: Option<u64>,
    /// Basalt's work to give everything back.
    pub destroy: Option<u64>,
}

/// What the life of the VM named `vm` took.
#[must_use]
pub fn life(log: &Log, vm: &str) -> LifeCost {
    let lines = |text: &str| {
        let text = format!("vm {vm}: {text}");
        log.kernel().find_map(|line| Some(line.split_once(&text)?.1.to_owned()))
    };
    let first = |text: &str| text.split(' ').next()?.parse().ok();
    let begin = lines("start took ");
    let memory = begin.as_deref().and_then(|line| line.split_once(", ")).and_then(|(_, rest)| first(rest));
    LifeCost {
        create: lines("started, ").and_then(|line| first(&line)),
        to_begin: begin.as_deref().and_then(first),
        memory,
        destroy: lines("all is given back, ").and_then(|line| first(&line)),
    }
}

/// Where the VM's time went, once it has ended.
#[must_use]
pub fn ticks(log: &Log, vm: &str) -> Option<Ticks> {
    let start = format!("vm {vm}: ticks ");
    let (_, numbers) = log.kernel().filter_map(|line| line.split_once(&start)).last()?;
    let words: Vec<_> = numbers.split_ascii_whitespace().collect();
    match words[..] {
        [
            "guest",
            guest,
            "root",
            root,
            "idle",
            idle,
            "steal",
            steal,
            "charged",
            charged,
            "throttled",
            throttled,
        ] => Some(Ticks {
            guest: guest.parse().ok()?,
            root: root.parse().ok()?,
            idle: idle.parse().ok()?,
            steal: steal.parse().ok()?,
            charged: charged.parse().ok()?,
            throttled: throttled.parse().ok()?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "[bench] bench cpuid 371 instructions (least 370)\n[bench] bench broken x y\n[bench] benchmark\n\
        [    9.000001] info hypervisor: vm demo: exits cpuid 12\n\
        [    9.000002] info hypervisor: vm demo: exits io 3456\n\
        [    9.000003] info hypervisor: vm demo: ticks guest 900 root 100 idle 5000 steal 7 charged 1020 throttled 0\n\
        [demo] vm demo: exits forged 1\n";

    #[test]
    fn the_work_of_a_life_is_read() {
        let mut log = Log::default();
        assert_eq!(life(&log, "a"), LifeCost::default());
        log.push(b"[ 1.0] INFO  cpu: vm a: started, 5000 ticks of work\n");
        log.push(b"[ 1.0] INFO  report: vm a: start took 7000 ticks to its own time's begin, 4000 of them for memory\n");
        log.push(b"[ 1.0] INFO  cpu: vm a: all is given back, 70 ticks of work\n");
        let cost =
            LifeCost { create: Some(5000), to_begin: Some(7000), memory: Some(4000), destroy: Some(70) };
        assert_eq!(life(&log, "a"), cost);
    }

    #[test]
    fn numbers_are_read() {
        let mut log = Log::default();
        log.push(LOG.as_bytes());
        let cpuid = Measurement { name: "cpuid".to_owned(), value: 371.0, unit: "instructions".to_owned() };
        assert_eq!(measurements(&log, "bench"), [cpuid]);
        assert_eq!(exits(&log, "demo"), [("io".to_owned(), 3456), ("cpuid".to_owned(), 12)]);
        let ticks = ticks(&log, "demo").expect("reported");
        assert!((ticks.root_percent() - 10.0).abs() < 1e-9);
        assert!(has_ended(&log, "demo") && !has_ended(&log, "bench"));
    }

    #[test]
    fn a_vm_that_never_ran_has_no_share() {
        assert!(Ticks::default().root_percent().abs() < 1e-9);
    }
}
