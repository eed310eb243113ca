//! A switch: ports, and the way of a frame between them.
//!
//! [`Switch::accept`] is asked once for a frame that a port's device sends; then [`Switch::admit`] for each port that it may go to, which
//! says how it looks there. Copying is the caller's. For frames right behind it that are like it, [`Switch::go_on`] says both.

mod judge;
mod port;
#[cfg(test)]
mod tests;
mod train;
mod way;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use spin::{Mutex, Once};

use crate::Nanos;
use crate::flows::{STEP_BUCKETS, Table};
use crate::learn::Addresses;
use crate::mirror::Mirrors;
use crate::output::{Reserve, Room};
use crate::port::{MAX_PORTS, PortId, PortSet};
use crate::rules::Rules;
use crate::settings::{Settings, VLANS, Vlans};
pub use port::Port;
pub use way::Sent;

/// Addresses that a switch knows at most.
const ADDRESSES: usize = 2048;
/// Conversations that a switch knows at most, and records of those that have ended.
const FLOWS: usize = 2048;
const RECORDS: usize = 512;
const SECOND: Nanos = 1_000_000_000;
/// How often a part of the conversations is looked through, while there is traffic: all of them in about two seconds.
const SWEEP: Nanos = SECOND / 4;

/// A switch.
pub struct Switch {
    /// Each is one, or none yet.
    ports: Box<[Once<Box<[Port]>>]>,
    /// Ports that are somebody's: the others were, and are there for the next.
    taken: AtomicU64,
    /// Ports that take part: they are there and up.
    up: AtomicU64,
    isolated: AtomicU64,
    guaranteed: AtomicU64,
    /// The ports of each VLAN.
    members: Box<[AtomicU64]>,
    /// Where addresses are.
    pub addresses: Addresses,
    /// What may pass.
    pub rules: Rules,
    /// Who watches.
    pub mirrors: Mirrors,
    /// Conversations.
    pub flows: Table,
    /// Memory for what waits for ports.
    reserve: Reserve,
    /// When the conversations were last looked through, in [`SWEEP`]s.
    swept: AtomicU32,
    /// Held while settings change.
    changes: Mutex<()>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Switch with {} ports", self.ports().count())
    }
}

impl Switch {
    /// A switch without ports. Without knowing `seed`, nobody can choose whose conversations share a place in a table. `None` where there is
    /// no memory for it.
    pub fn new(seed: u64) -> Option<Self> {
        let mut members = Vec::new();
        let vlans = usize::from(*VLANS.end()) + 2;
        members.try_reserve_exact(vlans).ok()?;
        members.resize_with(vlans, || AtomicU64::new(0));
        let mut ports: Vec<Once<Box<[Port]>>> = Vec::new();
        ports.try_reserve_exact(MAX_PORTS).ok()?;
        ports.resize_with(MAX_PORTS, Once::new);
        let reserve = Reserve::default();
        reserve.fill();
        Some(Self {
            ports: ports.into_boxed_slice(),
            taken: AtomicU64::new(0),
            up: AtomicU64::new(0),
            isolated: AtomicU64::new(0),
            guaranteed: AtomicU64::new(0),
            members: members.into_boxed_slice(),
            addresses: Addresses::new(ADDRESSES)?,
            rules: Rules::new()?,
            mirrors: Mirrors::default(),
            flows: Table::seeded(FLOWS, RECORDS, seed)?,
            reserve,
            swept: AtomicU32::new(0),
            changes: Mutex::new(()),
        })
    }

    /// One more port. `None` where all are taken, or there is no memory for it.
    pub fn add(&self, settings: Settings) -> Option<PortId> {
        let _changes = self.changes.lock();
        let taken = PortSet::from_bits(self.taken.load(SeqCst));
        let id = PortSet::ALL.minus(taken).take_first()?;
        match self.port(id) {
            // What came while the last one was taken away.
            Some(port) => {
                self.forget(id);
                port.renew(settings.clone());
            }
            None => {
                let mut port = Vec::new();
                port.try_reserve_exact(1).ok()?;
                port.push(Port::new(settings.clone())?);
                self.ports.get(id.index())?.call_once(|| port.into_boxed_slice());
            }
        }
        self.taken.fetch_or(PortSet::one(id).bits(), SeqCst);
        self.apply(id, &settings);
        Some(id)
    }

    /// Takes a port away, whose device is no more: what waits for it is forgotten, and what is known of it. Rules are no longer about it.
    /// Its number and its memory are the next one's: who sends to it just now may hold on to that for the moment.
    pub fn remove(&self, id: PortId) {
        let _changes = self.changes.lock();
        let Some(port) = self.port(id) else { return };
        let bit = PortSet::one(id).bits();
        for set in [&self.up, &self.isolated, &self.guaranteed].into_iter().chain(&self.members) {
            if set.load(SeqCst) & bit != 0 {
                set.fetch_and(!bit, SeqCst);
            }
        }
        port.renew(Settings { up: false, ..Settings::default() });
        self.forget(id);
        self.rules.forget_port(id);
        self.mirrors.forget_port(id);
        self.taken.fetch_and(!bit, SeqCst);
    }

    /// Forgets what was learnt of a port.
    fn forget(&self, id: PortId) {
        self.addresses.forget(id);
        let mut next = Some(0);
        while let Some(bucket) = next {
            next = self.flows.forget_port(id, bucket);
        }
    }

    /// Whether a port is there.
    pub fn has(&self, id: PortId) -> bool {
        PortSet::from_bits(self.taken.load(SeqCst)).has(id)
    }

    /// A port, where it is there; or one that was, at which nothing arrives any more.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.get()?.first()
    }

    /// Makes ready what ports that have much to keep take next. Not on a frame's way, as it allocates; frames are lost where it comes late.
    #[inline]
    pub fn refill(&self) {
        self.reserve.refill();
    }

    /// Whether it is time to [refill](Self::refill): who sends then lets others go on before the next frame.
    pub fn is_low(&self) -> bool {
        self.reserve.is_low()
    }

    /// Takes blocks of what may wait for `port`, for a frame of so many bytes. `None` where the part of the port `from` is full.
    pub fn room(&self, port: &Port, from: PortId, length: u32) -> Option<Room> {
        port.output.room(from, length, &self.reserve)
    }

    /// The ports that there are.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &Port)> {
        PortSet::from_bits(self.taken.load(SeqCst)).filter_map(|id| Some((id, self.port(id)?)))
    }

    /// Changes a port's settings. What is on its way stays so.
    pub fn change(&self, id: PortId, now: Nanos, change: impl FnOnce(&mut Settings)) {
        let _changes = self.changes.lock();
        let Some(port) = self.port(id) else { return };
        let before = port.settings();
        let mut settings = before.clone();
        change(&mut settings);
        if settings == before {
            return;
        }
        if settings.vlans != before.vlans || !settings.up {
            self.addresses.forget(id);
        }
        port.set(settings.clone(), now);
        self.apply(id, &settings);
    }

    /// Has the sets of ports say what a port's settings are.
    fn apply(&self, id: PortId, settings: &Settings) {
        let bit = PortSet::one(id).bits();
        // Nearly all are as they are to be, and only this changes them.
        let put = |set: &AtomicU64, is: bool| {
            if (set.load(SeqCst) & bit != 0) != is {
                set.fetch_xor(bit, SeqCst);
            }
        };
        put(&self.isolated, settings.isolated);
        put(&self.guaranteed, settings.guaranteed.is_some());
        for (vlan, members) in (0..).zip(&self.members) {
            let is = match &settings.vlans {
                Vlans::Access(own) => *own == vlan,
                Vlans::Trunk { tagged, native } => tagged.has(vlan) || *native == Some(vlan),
            };
            put(members, is && VLANS.contains(&vlan));
        }
        put(&self.up, settings.up);
    }

    /// A port's device has a driver that is ready, or no longer: then nothing waits for it any more.
    pub fn set_ready(&self, id: PortId, ready: bool) {
        let Some(port) = self.port(id) else { return };
        if ready {
            // What has come while the last driver went.
            port.output.clear();
        }
        port.set_ready(ready);
        if !ready {
            port.output.clear();
            self.addresses.forget(id);
        }
    }

    /// Whether a port's device has a link.
    pub fn has_link(&self, id: PortId) -> bool {
        PortSet::from_bits(self.up.load(SeqCst)).has(id)
    }

    /// Ports that have not yet had what they are guaranteed.
    #[inline]
    pub fn guaranteed(&self, now: Nanos) -> PortSet {
        let set = PortSet::from_bits(self.guaranteed.load(SeqCst));
        if set.is_empty() {
            return set;
        }
        set.filter(|id| self.port(*id).is_some_and(|port| port.guaranteed.opens_at(now).is_none()))
            .fold(PortSet::NONE, PortSet::with)
    }

    /// Looks through a part of the conversations, where it is time for that.
    #[inline]
    fn sweep(&self, now: Nanos) {
        let time = (now / SWEEP) as u32;
        if self.swept.load(SeqCst) != time && self.swept.swap(time, SeqCst) != time {
            self.flows.sweep(now, STEP_BUCKETS);
        }
    }

    /// What a port has sent was received.
    #[inline]
    pub fn was_received(&self, from: PortId, bytes: u64, now: Nanos) {
        if let Some(port) = self.port(from) {
            port.was_received(bytes, now);
        }
    }
}
