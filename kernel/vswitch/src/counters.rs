//! What a port has carried and lost.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a frame went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Drop {
    /// Its length, its virtio header or its headers make no sense.
    Malformed,
    /// It is from an address that is not its sender's.
    SpoofedMac,
    /// The same of an IP address, or it claims one in ARP or neighbour discovery.
    SpoofedAddress,
    /// Its VLAN is none of its sender's port.
    Vlan,
    /// It is for an address that bridges keep to themselves.
    Reserved,
    /// There are too many for all, for several, or for nobody known.
    Storm,
    /// A rule, or the default.
    Denied,
    /// Whom it is for is where it came from, or is behind no port of its VLAN.
    NoReceiver,
    /// The port is down, or its device has no driver.
    Down,
    /// It is longer than the receiver takes.
    Mtu,
    /// The receiver does not keep up: its share of the queue is full.
    QueueFull,
    /// The receiver cannot take it undivided, and it cannot be divided; or its buffers are too small.
    Unsuited,
    /// Who only watches does not send.
    Watcher,
}

impl Drop {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::SpoofedMac,
        Self::SpoofedAddress,
        Self::Vlan,
        Self::Reserved,
        Self::Storm,
        Self::Denied,
        Self::NoReceiver,
        Self::Down,
        Self::Mtu,
        Self::QueueFull,
        Self::Unsuited,
        Self::Watcher,
    ];

    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::SpoofedMac => "spoofed-mac",
            Self::SpoofedAddress => "spoofed-address",
            Self::Vlan => "vlan",
            Self::Reserved => "reserved",
            Self::Storm => "storm",
            Self::Denied => "denied",
            Self::NoReceiver => "no-receiver",
            Self::Down => "down",
            Self::Mtu => "mtu",
            Self::QueueFull => "queue-full",
            Self::Unsuited => "unsuited",
            Self::Watcher => "watcher",
        }
    }
}

/// Frames, and their bytes as on a wire: of a large one, those of the packets that it stands for.
#[derive(Debug, Default)]
pub struct Traffic {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// Counts a frame that stands for so many packets with so many bytes in all.
    #[inline]
    pub fn count(&self, packets: u32, bytes: u64) {
        self.frames.fetch_add(packets.into(), Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Begins at 0 again.
    pub(crate) fn reset(&self) {
        self.frames.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
    }

    /// Goes on with what another one has counted.
    pub(crate) fn take_from(&self, other: &Self) {
        let (frames, bytes) = other.read();
        self.frames.store(frames, Relaxed);
        self.bytes.store(bytes, Relaxed);
    }

    /// Frames and bytes so far.
    pub fn read(&self) -> (u64, u64) {
        (self.frames.load(Relaxed), self.bytes.load(Relaxed))
    }
}

/// A port's counters.
#[derive(Debug, Default)]
pub struct Counters {
    /// What its device has sent, dropped frames included.
    pub sent: Traffic,
    /// What its device has received.
    pub received: Traffic,
    drops: [AtomicU64; Drop::ALL.len()],
}

impl Counters {
    /// A frame was lost, on the account of this port.
    pub fn lose(&self, reason: Drop) {
        if let Some(count) = self.drops.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Begins at 0 again.
    pub(crate) fn reset(&self) {
        self.sent.reset();
        self.received.reset();
        self.drops.iter().for_each(|count| count.store(0, Relaxed));
    }

    /// Frames lost for that reason.
    pub fn lost(&self, reason: Drop) -> u64 {
        self.drops.get(reason as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// Frames lost for any.
    pub fn lost_in_all(&self) -> u64 {
        self.drops.iter().map(|count| count.load(Relaxed)).sum()
    }
}
