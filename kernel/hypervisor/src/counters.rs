//! What a vCPU's exits were and where the CPU's time went. Always on: plain array increments.

use core::fmt;

macro_rules! reasons {
    ($($name:ident $text:literal,)*) => {
        /// Exit reasons as they are counted and reported.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum ExitReason { $(#[doc = concat!("`", $text, "`.")] $name,)* }

        impl ExitReason {
            /// All of them, in number order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        const REASONS: usize = ExitReason::ALL.len();
    };
}

reasons! {
    HostEvent "host-event",
    InterruptWindow "interrupt-window",
    NmiWindow "nmi-window",
    TaskPriority "task-priority",
    ApicWrite "apic-write",
    ApicEoi "apic-eoi",
    Cpuid "cpuid",
    ReadMsr "msr-read",
    WriteMsr "msr-write",
    Io "io",
    StringIo "io-string",
    NestedFault "nested-fault",
    ControlRegister "control-register",
    Halt "halt",
    Hypercall "hypercall",
    Xsetbv "xsetbv",
    CacheControl "cache-control",
    Pause "pause",
    ReadPmc "pmc-read",
    Undefined "undefined",
    Exception "exception",
    TripleFault "triple-fault",
    TaskSwitch "task-switch",
    EntryFailure "entry-failure",
    Unknown "unknown",
}

/// How many numbers [`Counters::told`] has.
pub const TOLD: usize = 12;

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the time-stamp counter's ticks went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticks {
    /// In the guest.
    pub guest: u64,
    /// In the hypervisor for this guest.
    pub root: u64,
    /// Waiting for an interrupt.
    pub idle: u64,
}

/// One vCPU's counters. They outlive a reset of the guest.
#[derive(Clone, Debug)]
pub struct Counters {
    exits: [u64; REASONS],
    /// Ticks by where they went.
    pub ticks: Ticks,
    /// Reads and writes of device memory where no device is.
    pub unclaimed_memory: u64,
    /// MSR accesses that got #GP.
    pub denied_msrs: u64,
    /// Events injected.
    pub injected: u64,
    /// How often it went on after it had slept.
    pub wakes: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            exits: [0; REASONS],
            ticks: Ticks::default(),
            unclaimed_memory: 0,
            denied_msrs: 0,
            injected: 0,
            wakes: 0,
        }
    }
}

impl Counters {
    /// Counts an exit.
    #[inline]
    pub fn count(&mut self, reason: ExitReason) {
        // The index is in range: there are as many counters as reasons. The compiler sees it too.
        self.exits[reason as usize] += 1;
    }

    /// Exits for this reason so far.
    pub fn exits(&self, reason: ExitReason) -> u64 {
        self.exits[reason as usize]
    }

    /// All exits so far.
    pub fn total(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// All exits so far as the management domain is told of them (`abi::Answer::Exits`).
    #[inline]
    pub fn told(&self) -> [u64; TOLD] {
        let of = |reason| self.exits(reason);
        let mut told = [
            of(ExitReason::Io) + of(ExitReason::StringIo),
            of(ExitReason::NestedFault),
            of(ExitReason::Cpuid),
            of(ExitReason::ReadMsr),
            of(ExitReason::WriteMsr),
            of(ExitReason::ControlRegister),
            of(ExitReason::Halt),
            of(ExitReason::Hypercall),
            of(ExitReason::HostEvent),
            of(ExitReason::InterruptWindow),
            of(ExitReason::Pause),
            0,
        ];
        told[TOLD - 1] = self.total() - told.iter().sum::<u64>();
        told
    }

    /// Adds another vCPU's.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.exits.iter_mut().zip(other.exits) {
            *sum += count;
        }
        self.ticks.guest = self.ticks.guest.wrapping_add(other.ticks.guest);
        self.ticks.root = self.ticks.root.wrapping_add(other.ticks.root);
        self.ticks.idle = self.ticks.idle.wrapping_add(other.ticks.idle);
        self.unclaimed_memory += other.unclaimed_memory;
        self.denied_msrs += other.denied_msrs;
        self.injected += other.injected;
        self.wakes += other.wakes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_has_each_exit_once_and_the_rest_together() {
        let mut counters = Counters::default();
        for (at, &reason) in ExitReason::ALL.iter().enumerate() {
            (0..=at).for_each(|_| counters.count(reason));
        }
        let told = counters.told();
        assert_eq!(told.iter().sum::<u64>(), counters.total());
        let of = |reason| counters.exits(reason);
        assert_eq!(told[0], of(ExitReason::Io) + of(ExitReason::StringIo));
        let alone = [
            ExitReason::NestedFault,
            ExitReason::Cpuid,
            ExitReason::ReadMsr,
            ExitReason::WriteMsr,
            ExitReason::ControlRegister,
            ExitReason::Halt,
            ExitReason::Hypercall,
            ExitReason::HostEvent,
            ExitReason::InterruptWindow,
            ExitReason::Pause,
        ];
        assert!(told[1..].iter().zip(alone).all(|(count, reason)| *count == of(reason)));
    }

    #[test]
    fn the_reference_has_all_reasons() {
        let reference = include_str!("../../../docs/abi.md");
        for reason in ExitReason::ALL {
            let number = std::format!("{} `{reason}`", *reason as u8);
            assert!(reference.contains(&number), "docs/abi.md lacks {number}");
        }
    }
}
