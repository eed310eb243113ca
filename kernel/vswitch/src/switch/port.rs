//! A port as frames meet it: its settings in a form that takes no lock to read, and what it counts.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use spin::RwLock;

use crate::Nanos;
use crate::counters::{Counters, Drop};
use crate::frame::{Layers, Network};
use crate::meter::{Meter, Rate};
use crate::output::Output;
use crate::port::Mac;
use crate::settings::{Settings, Storm, Vlans};

/// The device that nobody is.
const NOBODY: usize = usize::MAX;
/// Storms, by kind.
pub(super) const BROADCAST: usize = 0;
pub(super) const MULTICAST: usize = 1;
pub(super) const UNKNOWN: usize = 2;

/// A port.
#[derive(Debug)]
pub struct Port {
    settings: RwLock<Settings>,
    view: AtomicU64,
    /// The address that its device is bound to, where it is bound to nothing else; otherwise [`NO_MAC`].
    mac: AtomicU64,
    /// Its device has a driver that is ready.
    ready: AtomicBool,
    /// The device that is to be called when something comes.
    owner: AtomicUsize,
    /// What it has carried and lost.
    pub counters: Counters,
    /// What waits for its device.
    pub output: Output,
    /// How much its device may send.
    pub send: Meter,
    pub(super) guaranteed: Meter,
    pub(super) storms: [Meter; 3],
}

/// The settings that every frame meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct View(u64);

impl View {
    const TRUNK: u64 = 1 << 16;
    const UP: u64 = 1 << 17;
    const GUARDED: u64 = 1 << 18;
    const ISOLATED: u64 = 1 << 19;
    const PRIORITY: u32 = 20;
    const MTU: u32 = 32;

    fn of(settings: &Settings) -> Self {
        let (vlan, trunk) = match &settings.vlans {
            Vlans::Access(vlan) => (*vlan, 0),
            Vlans::Trunk { native, .. } => (native.unwrap_or(0), Self::TRUNK),
        };
        let flag = |is: bool, flag| if is { flag } else { 0 };
        let guarded = settings.guard.mac.is_some() || !settings.guard.addresses.is_empty();
        let priority = settings.priority.map_or(0, |priority| u64::from(priority & 7) + 1);
        Self(
            u64::from(vlan)
                | trunk
                | flag(settings.up, Self::UP)
                | flag(guarded, Self::GUARDED)
                | flag(settings.isolated, Self::ISOLATED)
                | priority << Self::PRIORITY
                | u64::from(settings.mtu.unwrap_or(0)) << Self::MTU,
        )
    }

    /// The VLAN of frames without a tag.
    pub(super) const fn untagged(self) -> Option<u16> {
        let vlan = self.0 as u16;
        if vlan == 0 { None } else { Some(vlan) }
    }

    pub(super) const fn is_trunk(self) -> bool {
        self.0 & Self::TRUNK != 0
    }

    pub(super) const fn is_up(self) -> bool {
        self.0 & Self::UP != 0
    }

    pub(super) const fn is_guarded(self) -> bool {
        self.0 & Self::GUARDED != 0
    }

    pub(super) const fn is_isolated(self) -> bool {
        self.0 & Self::ISOLATED != 0
    }

    /// The priority of all that is sent.
    pub(super) const fn priority(self) -> Option<u8> {
        ((self.0 >> Self::PRIORITY) as u8 & 15).checked_sub(1)
    }

    pub(super) const fn mtu(self) -> Option<u16> {
        let mtu = (self.0 >> Self::MTU) as u16;
        if mtu == 0 { None } else { Some(mtu) }
    }
}

impl Port {
    pub(super) fn new(settings: Settings) -> Option<Self> {
        let port = Self {
            view: AtomicU64::new(View::of(&settings).0),
            mac: AtomicU64::new(only_mac(&settings)),
            settings: RwLock::new(settings),
            ready: AtomicBool::new(false),
            owner: AtomicUsize::new(NOBODY),
            counters: Counters::default(),
            output: Output::new()?,
            send: Meter::default(),
            guaranteed: Meter::default(),
            storms: [const { Meter::new(None) }; 3],
        };
        port.set_meters(None, 0);
        Some(port)
    }

    #[inline]
    pub(super) fn view(&self) -> View {
        View(self.view.load(SeqCst))
    }

    /// What is set.
    pub fn settings(&self) -> Settings {
        self.settings.read().clone()
    }

    /// Whether its device may send this.
    ///
    /// # Errors
    /// Why not.
    #[inline]
    pub(super) fn guard(&self, layers: &Layers, head: &[u8]) -> Result<(), Drop> {
        let mac = self.mac.load(SeqCst);
        // By far the most: bound to its address, and not speaking of addresses.
        if mac == number(layers.source) && !matches!(layers.network, Network::Arp(_)) {
            return Ok(());
        }
        self.settings.read().guard.check(layers, head)
    }

    pub(super) fn set(&self, settings: Settings, now: Nanos) {
        let mut place = self.settings.write();
        let before = core::mem::replace(&mut *place, settings);
        self.mac.store(only_mac(&place), SeqCst);
        self.view.store(View::of(&place).0, SeqCst);
        drop(place);
        self.set_meters(Some(&before), now);
    }

    /// It is another device's, or nobody's, from here on: nothing of before counts.
    pub(super) fn renew(&self, settings: Settings) {
        self.ready.store(false, SeqCst);
        self.owner.store(NOBODY, SeqCst);
        self.output.abandon();
        self.counters.reset();
        self.set(settings, 0);
        self.set_meters(None, 0);
    }

    /// Meters whose rates have not changed go on as they were.
    fn set_meters(&self, before: Option<&Settings>, now: Nanos) {
        let settings = self.settings.read();
        let set = |meter: &Meter, was: Option<Option<Rate>>, is: Option<Rate>| {
            if was != Some(is) {
                meter.set(is, now);
            }
        };
        set(&self.send, before.map(|it| it.send), settings.send);
        set(&self.output.rate, before.map(|it| it.receive), settings.receive);
        set(&self.guaranteed, before.map(|it| it.guaranteed), settings.guaranteed);
        let storms = |storm: &Storm| [storm.broadcast, storm.multicast, storm.unknown].map(frames);
        for (kind, (meter, rate)) in self.storms.iter().zip(storms(&settings.storm)).enumerate() {
            let was = before.and_then(|it| storms(&it.storm).get(kind).copied());
            set(meter, was, rate);
        }
    }

    /// What it has sent was received.
    #[inline]
    pub fn was_received(&self, bytes: u64, now: Nanos) {
        self.guaranteed.take(bytes, now);
    }

    /// Whether its device has a driver that is ready.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, SeqCst);
    }

    /// The device that is to be called when something comes, where there is one.
    #[inline]
    pub fn owner(&self) -> Option<usize> {
        let owner = self.owner.load(SeqCst);
        (owner != NOBODY).then_some(owner)
    }

    /// It is this device's.
    pub fn set_owner(&self, owner: usize) {
        self.owner.store(owner, SeqCst);
    }
}

/// No address of a device.
const NO_MAC: u64 = u64::MAX;

/// An address as a number.
const fn number([a, b, c, d, e, f]: Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn only_mac(settings: &Settings) -> u64 {
    settings.guard.mac.filter(|_| settings.guard.addresses.is_empty()).map_or(NO_MAC, number)
}

/// Meters count frames here: a tenth of a second's at once.
fn frames(per_second: Option<u32>) -> Option<Rate> {
    per_second.map(|count| Rate { per_second: u64::from(count), burst: (u64::from(count) / 10).max(1) })
}
