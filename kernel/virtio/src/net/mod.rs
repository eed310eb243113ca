//! The network device: several pairs of queues, and the port of a switch that it is on.
//!
//! Frames go as they are, large ones undivided and checksums undone, where the receiver takes that. For one that does not, a checksum is
//! completed and a large frame divided.
//!
//! Source: VIRTIO 1.2, "Network Device".

mod control;
mod filter;
mod frame;
mod header;
mod plug;
mod receive;
mod send;
mod source;
#[cfg(test)]
mod tests;
mod train;
#[cfg(test)]
mod world;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::Mutex;
use vswitch::counters::Drop;
use vswitch::frame::{ETHERNET_BYTES, MOST_BYTES, TAG_BYTES};
use vswitch::{Frame, Takes};

pub use plug::Plug;
pub(crate) use receive::{Received, Taken};
pub(crate) use send::Turn;
pub(crate) use source::{Fault, Source};
pub(crate) use train::Ride;
pub use vswitch::Mac;

use filter::Filter;
use send::Outgoing;

/// The device's type, and its PCI class: network, Ethernet.
pub(crate) const TYPE: u16 = 1;
pub(crate) const CLASS: u32 = 0x02_00_00;
/// Pairs of queues at most: two queues a pair, and the one for commands.
pub const MAX_PAIRS: usize = (crate::MAX_QUEUES - 1) / 2;
/// Bytes that a frame may have beside what MTU counts: a tag is not counted.
const AROUND_MTU: u32 = (ETHERNET_BYTES + TAG_BYTES) as u32;

/// Features.
mod feature {
    pub(super) const CSUM: u64 = 1 << 0;
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const GUEST_ECN: u64 = 1 << 9;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    pub(super) const HOST_ECN: u64 = 1 << 13;
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    pub(super) const STATUS: u64 = 1 << 16;
    pub(super) const CTRL_VQ: u64 = 1 << 17;
    pub(super) const CTRL_RX: u64 = 1 << 18;
    pub(super) const CTRL_VLAN: u64 = 1 << 19;
    pub(super) const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub(super) const MQ: u64 = 1 << 22;
    pub(super) const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub(super) const GUEST_USO4: u64 = 1 << 54;
    pub(super) const GUEST_USO6: u64 = 1 << 55;
    pub(super) const HOST_USO: u64 = 1 << 56;
}

/// Status in the configuration: somebody is at the other end.
const LINK_UP: u16 = 1;

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Receive,
    Transmit,
    Control,
    Nothing,
}

/// A network device.
#[derive(Debug)]
pub struct Net {
    plug: Plug,
    mtu: Option<u16>,
    pairs: u16,
    /// Whom frames are for that the driver wants. Held while a frame is received, so that one CPU at a time does.
    filter: Mutex<Filter>,
    /// What the driver has agreed to, and the pairs that it uses.
    features: AtomicU64,
    active: AtomicU16,
    /// A frame waits for buffers.
    starved: AtomicBool,
    /// Frames wait until more may be received.
    held: AtomicBool,
    /// Which packet is next of a large frame that is being divided. Whoever receives uses it.
    segment: AtomicU32,
    /// The link as the driver was told.
    link: AtomicBool,
    /// The frame that each pair sends.
    outgoing: Box<[Mutex<Outgoing>]>,
    /// Ports whose devices have got something that their drivers were not told of.
    touched: AtomicU64,
}

impl Net {
    /// A device with this address at a port of a switch, with so many pairs of queues.
    pub fn new(plug: Plug, mac: Mac, mtu: Option<u16>, pairs: usize) -> Self {
        let pairs = pairs.clamp(1, MAX_PAIRS) as u16;
        Self {
            plug,
            mtu,
            pairs,
            filter: Mutex::new(Filter::new(mac)),
            features: AtomicU64::new(0),
            active: AtomicU16::new(1),
            starved: AtomicBool::new(false),
            held: AtomicBool::new(false),
            segment: AtomicU32::new(0),
            link: AtomicBool::new(false),
            outgoing: (0..pairs).map(|_| Mutex::new(Outgoing::new())).collect(),
            touched: AtomicU64::new(0),
        }
    }

    /// The port that it is on.
    pub const fn plug(&self) -> &Plug {
        &self.plug
    }

    /// Its queues.
    pub fn queues(&self) -> usize {
        2 * usize::from(self.pairs) + 1
    }

    /// Frames that were lost, on the account of its port.
    pub fn lost(&self) -> u64 {
        self.plug.port().map_or(0, |port| port.counters.lost_in_all())
    }

    fn lose(&self, reason: Drop) {
        if let Some(port) = self.plug.port() {
            port.counters.lose(reason);
        }
    }

    pub(crate) const fn offered(&self) -> u64 {
        let mtu = if self.mtu.is_some() { feature::MTU } else { 0 };
        let several = if self.pairs > 1 { feature::MQ } else { 0 };
        mtu | several
            | feature::CSUM
            | feature::GUEST_CSUM
            | feature::MAC
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::GUEST_ECN
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::HOST_ECN
            | feature::MRG_RXBUF
            | feature::STATUS
            | feature::CTRL_VQ
            | feature::CTRL_RX
            | feature::CTRL_VLAN
            | feature::CTRL_RX_EXTRA
            | feature::CTRL_MAC_ADDR
            | feature::GUEST_USO4
            | feature::GUEST_USO6
            | feature::HOST_USO
    }

    pub(crate) fn configuration(&self) -> ArrayVec<u8, 64> {
        let mut bytes = ArrayVec::new();
        let status = if self.plug.has_link() { LINK_UP } else { 0 };
        // There is room for all of it.
        let _ = bytes.try_extend_from_slice(&self.filter.lock().mac());
        for word in [status, self.pairs, self.mtu.unwrap_or(0)] {
            let _ = bytes.try_extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The driver is ready, and has agreed to these features.
    pub(crate) fn go_live(&self, features: u64) {
        self.features.store(features, SeqCst);
        self.link.store(self.plug.has_link(), SeqCst);
        (0..self.outgoing.len()).for_each(|pair| self.end_step(pair));
        self.plug.switch().set_ready(self.plug.id(), true);
    }

    /// The driver is gone.
    pub(crate) fn reset(&self) {
        self.plug.switch().set_ready(self.plug.id(), false);
        self.features.store(0, SeqCst);
        self.active.store(1, SeqCst);
        self.starved.store(false, SeqCst);
        self.held.store(false, SeqCst);
        self.touched.store(0, SeqCst);
        let mut filter = self.filter.lock();
        filter.reset();
        self.segment.store(0, SeqCst);
    }

    fn has(&self, feature: u64) -> bool {
        self.features.load(SeqCst) & feature != 0
    }

    /// What queue number `index` is for.
    pub(crate) fn role(&self, index: usize) -> Role {
        let pairs = if self.has(feature::MQ) { usize::from(self.pairs) } else { 1 };
        match index {
            _ if index == 2 * pairs => Role::Control,
            _ if index > 2 * pairs => Role::Nothing,
            _ if index.is_multiple_of(2) => Role::Receive,
            _ => Role::Transmit,
        }
    }

    /// Whether there is something that no doorbell tells of.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.link.load(SeqCst) != self.plug.has_link()
            || self.plug.has_frames() && !self.starved.load(SeqCst) && !self.held.load(SeqCst)
    }

    /// Whether the link has gone up or down since this was last asked.
    pub(crate) fn take_link_change(&self) -> bool {
        let link = self.plug.has_link();
        self.link.swap(link, SeqCst) != link
    }

    /// Frames wait for a time to come.
    pub(crate) fn hold(&self) {
        self.held.store(true, SeqCst);
    }

    /// It may have come. Returns a bit for each queue in which something may wait to be sent.
    pub(crate) fn go_on(&self) -> u32 {
        self.held.store(false, SeqCst);
        (0..usize::from(self.pairs)).fold(0, |queues, pair| queues | 2 << (2 * pair))
    }

    /// There may be buffers for what waits.
    pub(crate) fn is_fed(&self) {
        self.starved.store(false, SeqCst);
    }

    /// The driver has no queue for what waits.
    pub(crate) fn is_deaf(&self) {
        self.starved.store(true, SeqCst);
    }

    /// What the driver leaves to others, or takes undone, by the features for that.
    fn takes(&self, checksum: u64, [tcp4, tcp6, ecn, udp4, udp6]: [u64; 5]) -> Takes {
        Takes {
            checksum: self.has(checksum),
            tcp4: self.has(tcp4),
            tcp6: self.has(tcp6),
            ecn: self.has(ecn),
            udp4: self.has(udp4),
            udp6: self.has(udp6),
        }
    }

    fn received_offloads(&self) -> Takes {
        use feature::{GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6};
        self.takes(GUEST_CSUM, [GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6])
    }

    fn fits(&self, frame: &Frame) -> bool {
        let most = match self.mtu {
            Some(mtu) if frame.offload.large.is_none() => u32::from(mtu) + AROUND_MTU,
            _ => MOST_BYTES,
        };
        frame.length() <= most
    }
}
