//! What an attack is carried out in: a device in use, and guard patterns around all that it is told of.

use selftest::cpu::{read64, write64};
use selftest::memory::{self, PAGE};
use selftest::virtio::{Buffer, Device, Queue, block, feature, kind, status};
use selftest::{TestResult, Verdict, check, platform, skip, tsc, verdict};

use crate::honest;

/// How long a device may take that has something to say, and one that should not.
const PATIENCE_US: u64 = 500_000;
const SOON_US: u64 = 100;
/// Pages of a guard.
const GUARD_PAGES: u64 = 16;
/// Pages for an attack's buffers.
const BUFFER_PAGES: u64 = 32;

/// Pages that nobody may write.
#[derive(Clone, Copy)]
pub(crate) struct Guard {
    start: u64,
    pages: u64,
    seed: u64,
}

impl Guard {
    pub(crate) fn over(start: u64, pages: u64) -> Self {
        let guard = Self { start, pages, seed: platform::random() };
        guard.words().for_each(|at| write64(at, guard.pattern(at)));
        guard
    }

    fn words(self) -> impl Iterator<Item = u64> {
        (self.start..self.start + self.pages * PAGE).step_by(8)
    }

    fn pattern(self, at: u64) -> u64 {
        at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seed
    }

    pub(crate) fn check(self) -> TestResult {
        match self.words().find(|at| read64(*at) != self.pattern(*at)) {
            None => Ok(()),
            Some(at) => Err(verdict::fail(format_args!(
                "{at:#x} was written: {:#x} instead of {:#x}",
                read64(at),
                self.pattern(at)
            ))),
        }
    }
}

/// A device, and memory for an attack.
pub(crate) struct Rig {
    pub(crate) device: Device,
    /// The features that it has agreed to.
    pub(crate) features: u64,
    /// Buffers, a few pages.
    pub(crate) buffers: u64,
    guards: [Guard; 2],
}

impl Rig {
    fn new(device: Device) -> Self {
        let before = Guard::over(memory::pages(GUARD_PAGES), GUARD_PAGES);
        let buffers = memory::pages(BUFFER_PAGES);
        let behind = Guard::over(memory::pages(GUARD_PAGES), GUARD_PAGES);
        Self { device, features: 0, buffers, guards: [before, behind] }
    }

    /// A page that must not be written.
    pub(crate) fn guarded(&self) -> u64 {
        self.guards[0].start + PAGE
    }

    /// Resets the device and agrees on indirect tables, where nothing else is said, and no more.
    pub(crate) fn begin(&mut self) -> TestResult {
        self.begin_with(feature::INDIRECT_DESC)
    }

    pub(crate) fn begin_with(&mut self, wanted: u64) -> TestResult {
        match self.device.begin(wanted) {
            Some(features) => self.features = features,
            None => return Err(verdict::fail(format_args!("{} refuses its own features", self.name()))),
        }
        Ok(())
    }

    /// The queue in which the device serves requests of the driver's, which is enabled; and the driver is ready.
    pub(crate) fn serving(&mut self) -> Result<Queue, Verdict> {
        self.serving_with(feature::INDIRECT_DESC)
    }

    pub(crate) fn serving_with(&mut self, wanted: u64) -> Result<Queue, Verdict> {
        self.begin_with(wanted)?;
        let queue = self.queue(self.served(), 64)?;
        self.device.go();
        Ok(queue)
    }

    pub(crate) fn queue(&self, index: u16, most: u16) -> Result<Queue, Verdict> {
        self.device
            .queue(index, most, self.features)
            .ok_or_else(|| verdict::fail(format_args!("{} has no queue {index}", self.name())))
    }

    /// The number of the queue in which the device serves requests of the driver's.
    pub(crate) fn served(&self) -> u16 {
        match self.device.kind {
            kind::NET | kind::CONSOLE => 1,
            _ => 0,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        honest::name(&self.device)
    }

    /// A request that the device serves, in the first page of the buffers: so many of these.
    pub(crate) fn request(&self) -> ([Buffer; 3], usize) {
        let at = self.buffers;
        match self.device.kind {
            kind::BLOCK => {
                block::prepare(at, block::request::IN, 0);
                (block::buffers(at, Buffer::writable(at + 1024, 1024)), 3)
            }
            kind::NET => {
                honest::make_frame(at);
                ([Buffer::readable(at, 12), Buffer::readable(at + 12, 60), Buffer::default()], 2)
            }
            kind::CONSOLE => {
                ([Buffer::readable(at, honest::SILENT_BYTES), Buffer::default(), Buffer::default()], 1)
            }
            _ => ([Buffer::writable(at, 256), Buffer::default(), Buffer::default()], 1),
        }
    }

    /// Whether the device says that it is broken, soon: a doorbell is answered before the next instruction, as far as small
    /// requests go.
    pub(crate) fn is_broken(&self) -> bool {
        self.breaks_within(SOON_US)
    }

    fn breaks_within(&self, microseconds: u64) -> bool {
        tsc::wait_us(microseconds, || self.device.status() & status::NEEDS_RESET != 0)
    }

    /// A request comes back, or breaks the device.
    pub(crate) fn is_answered(&self, queue: &mut Queue) -> bool {
        let broken = || self.device.status() & status::NEEDS_RESET != 0;
        tsc::wait_us(PATIENCE_US, || queue.poll().is_some() || broken())
    }

    /// A ring made no sense: that is what the device says, and it gives nothing back.
    pub(crate) fn must_break(&self, queue: &mut Queue, what: &str) -> TestResult {
        let broken = self.breaks_within(PATIENCE_US);
        check!(broken, "{}: {what} does not break it (status {:#x})", self.name(), self.device.status());
        check!(queue.poll().is_none(), "{}: {what} is given back", self.name());
        Ok(())
    }

    /// The device is reset, works, and has written to no memory but its own.
    pub(crate) fn recover(&mut self) -> TestResult {
        check!(self.device.reset(), "{} does not come out of its reset", self.name());
        for guard in self.guards {
            guard.check()?;
        }
        honest::use_it(&self.device)?;
        for guard in self.guards {
            guard.check()?;
        }
        check!(self.device.reset(), "{} does not come out of its last reset", self.name());
        Ok(())
    }
}

/// Attacks each device that is there, one after the other, and sees that it is whole afterwards.
pub(crate) fn on_each(attack: fn(&mut Rig) -> TestResult) -> TestResult {
    let mut attacked = 0;
    for device in Device::all().filter(honest::is_known) {
        memory::reset();
        attack_one(device, attack)?;
        attacked += 1;
    }
    match attacked {
        0 => skip!("no virtio device"),
        _ => Ok(()),
    }
}

/// The same for the devices of one type.
pub(crate) fn on(kind: u16, attack: fn(&mut Rig) -> TestResult) -> TestResult {
    let Some(device) = Device::find(kind) else { skip!("no device of type {kind}") };
    attack_one(device, attack)
}

fn attack_one(device: Device, attack: fn(&mut Rig) -> TestResult) -> TestResult {
    let mut rig = Rig::new(device);
    let outcome = attack(&mut rig);
    if outcome.is_err() {
        // What it has failed of is told, but nothing must be under way in memory that the next test uses.
        device.reset();
        return outcome;
    }
    rig.recover()
}
