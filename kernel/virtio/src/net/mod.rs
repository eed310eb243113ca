//! The network device: several pairs of queues, and the cable that it is on.
//!
//! Frames go as they are, large ones undivided and checksums undone, where the receiver takes that. A checksum is completed where it does
//! not; a large frame is lost then, and counted.
//!
//! Source: VIRTIO 1.2, "Network Device".

mod control;
mod filter;
mod frame;
mod header;
#[cfg(test)]
mod tests;
pub mod wire;

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::Mutex;
use vcpu::{Gpa, GuestMemory};

pub use frame::Mac;
use wire::{Front, Lost, Plug};

use crate::queue::{Broken, Chain, Queue};
use filter::Filter;
use frame::Frame;
use header::{BUFFER_HEADER_BYTES, BUFFERS_AT, HEADER_BYTES, Header, Offloads};

/// The device's type, and its PCI class: network, Ethernet.
pub(crate) const TYPE: u16 = 1;
pub(crate) const CLASS: u32 = 0x02_00_00;
/// Pairs of queues at most: two queues a pair, and the one for commands.
pub const MAX_PAIRS: usize = (crate::MAX_QUEUES - 1) / 2;
/// Bytes of a frame at most: what the largest IP packet needs, with two tags.
const MAX_FRAME: u32 = 65_535 + 14 + 8;
/// Bytes that a frame may have beside what MTU counts.
const AROUND_MTU: u32 = 14 + 4;
const LEAST_FRAME: u32 = 14;

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

/// Frames that were lost, by the reason.
#[derive(Debug, Default)]
struct Drops {
    /// The header, or the length, makes no sense.
    bad: AtomicU64,
    /// Nobody was at the other end, or it does not keep up.
    undelivered: AtomicU64,
    /// The receiver takes no such frames, or has no buffers that are large enough.
    unsuited: AtomicU64,
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
    drops: Drops,
}

/// What receiving a frame has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// It was dealt with: bytes that were copied.
    Bytes(u32),
    /// It waits for buffers.
    Waits,
}

impl Net {
    /// A device with this address at the end of a cable, with so many pairs of queues.
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
            drops: Drops::default(),
        }
    }

    /// Its queues.
    pub fn queues(&self) -> usize {
        2 * usize::from(self.pairs) + 1
    }

    /// Frames that were lost.
    pub fn lost(&self) -> u64 {
        let Drops { bad, undelivered, unsuited } = &self.drops;
        [bad, undelivered, unsuited].into_iter().map(|it| it.load(SeqCst)).sum()
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
        let status = if self.plug.is_up() { LINK_UP } else { 0 };
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
        self.plug.set_up(true);
    }

    /// The driver is gone.
    pub(crate) fn reset(&self) {
        self.plug.set_up(false);
        self.features.store(0, SeqCst);
        self.active.store(1, SeqCst);
        self.starved.store(false, SeqCst);
        self.filter.lock().reset();
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
        self.plug.has_changed() || self.plug.has_frames() && !self.starved.load(SeqCst)
    }

    /// Whether the link has gone up or down since this was last asked.
    pub(crate) fn take_link_change(&self) -> bool {
        self.plug.take_change()
    }

    /// There may be buffers for what waits.
    pub(crate) fn is_fed(&self) {
        self.starved.store(false, SeqCst);
    }

    /// The driver has no queue for what waits.
    pub(crate) fn is_deaf(&self) {
        self.starved.store(true, SeqCst);
    }

    fn offloads(&self, checksum: u64, [tcp4, tcp6, ecn, udp4, udp6]: [u64; 5]) -> Offloads {
        Offloads {
            checksum: self.has(checksum),
            tcp4: self.has(tcp4),
            tcp6: self.has(tcp6),
            ecn: self.has(ecn),
            udp4: self.has(udp4),
            udp6: self.has(udp6),
        }
    }

    /// Sends what the driver has put into a request.
    ///
    /// # Errors
    /// [`Broken`] where it has no header, or is not in RAM.
    pub(crate) fn transmit<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Result<u32, Broken> {
        use feature::{CSUM, HOST_ECN, HOST_TSO4, HOST_TSO6, HOST_USO};
        let mut bytes = [0; BUFFER_HEADER_BYTES as usize];
        let mut data = chain.readable();
        data.read(chain, memory, &mut bytes)?;
        let length = chain.readable_bytes() - BUFFER_HEADER_BYTES;
        let may = self.offloads(CSUM, [HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO, HOST_USO]);
        let header = bytes.first_chunk::<HEADER_BYTES>().map(Header::from_bytes).unwrap_or_default();
        let Some(header) = header.checked(length as usize, may).filter(|it| self.fits(*it, length)) else {
            self.drops.bad.fetch_add(1, SeqCst);
            return Ok(length);
        };
        match self.plug.send(&header, length as usize, |part| data.read(chain, memory, part)) {
            Ok(()) => {}
            Err(Lost::NobodyThere | Lost::Full) => {
                self.drops.undelivered.fetch_add(1, SeqCst);
            }
            Err(Lost::Unreadable(broken)) => return Err(broken),
        }
        Ok(length)
    }

    fn fits(&self, header: Header, length: u32) -> bool {
        let most = match self.mtu {
            Some(mtu) if !header.is_large() => u32::from(mtu) + AROUND_MTU,
            _ => MAX_FRAME,
        };
        (LEAST_FRAME..=most).contains(&length)
    }

    /// Has this CPU receive, and no other as long as it keeps this. `None` where another does.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        self.filter.try_lock().map(Claim)
    }

    /// The next frame that the driver wants, with the pair that it is for. Others are passed over, a bounded number of them.
    pub(crate) fn next_frame(&self, Claim(filter): &mut Claim<'_>) -> Option<(Incoming<'_>, usize)> {
        use feature::{GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6};
        let takes = self.offloads(GUEST_CSUM, [GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6]);
        for _ in 0..PASSED_OVER {
            let front = self.plug.front()?;
            let frame = Frame(&front.start);
            let wanted = filter.wants(frame, self.has(feature::CTRL_RX), self.has(feature::CTRL_VLAN));
            if !wanted || !front.header.suits(takes) {
                if wanted {
                    self.drops.unsuited.fetch_add(1, SeqCst);
                }
                self.plug.pop();
                continue;
            }
            if !takes.checksum {
                self.plug.complete_checksum(&front);
            }
            let pair = frame.flow() % u32::from(self.active.load(SeqCst).max(1));
            let header = if takes.checksum { front.header } else { front.header.without_checksum() };
            let front = Front { header, ..front };
            return Some((Incoming { net: self, front }, pair as usize));
        }
        None
    }
}

/// Frames in a row that nobody wants, until others have their turn.
const PASSED_OVER: usize = 64;

/// The right to receive.
pub(crate) struct Claim<'a>(spin::MutexGuard<'a, Filter>);

/// A frame that is to be received.
pub(crate) struct Incoming<'a> {
    net: &'a Net,
    front: Front,
}

impl Incoming<'_> {
    /// Copies it into the driver's buffers: one chain of them, or as many as it takes where the driver has agreed to that.
    ///
    /// # Errors
    /// [`Broken`]: a buffer has no room for a header, or is not in RAM.
    pub(crate) fn receive<M: GuestMemory>(
        self,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<Received, Broken> {
        let net = self.net;
        // Before the look at the queue: buffers that come behind it undo it.
        net.starved.store(true, SeqCst);
        let mut batch = queue.batch();
        let (length, mergeable) = (self.front.length as usize, net.has(feature::MRG_RXBUF));
        let (mut done, mut buffers, mut number_at) = (0, 0_u16, [Gpa(0); 2]);
        while done < length {
            if batch.take(memory, chain)?.is_none() {
                return Ok(Received::Waits);
            }
            let mut place = chain.writable();
            let mut room = chain.writable_bytes();
            if !chain.has_memory(memory, room.min((length - done) as u32 + BUFFER_HEADER_BYTES)) {
                net.drop_front();
                return Ok(Received::Bytes(0));
            }
            if buffers == 0 {
                room = room.checked_sub(BUFFER_HEADER_BYTES).ok_or(Broken::Request)?;
                place.write(chain, memory, &self.front.header.to_bytes())?;
                number_at = place.two_bytes(chain)?;
            }
            let now = (room as usize).min(length - done);
            if !mergeable && now < length {
                // The next one may do; what is in this buffer does not matter.
                net.drop_front();
                return Ok(Received::Bytes(0));
            }
            net.plug.copy(done, now, |part| place.write(chain, memory, part))?;
            let header = if buffers == 0 { BUFFER_HEADER_BYTES } else { 0 };
            batch.give(memory, chain.head(), now as u32 + header)?;
            (done, buffers) = (done + now, buffers + 1);
            if now == 0 && buffers > 1 {
                return Err(Broken::Request);
            }
        }
        for (gpa, byte) in number_at.into_iter().zip(buffers.to_le_bytes()) {
            memory.write(gpa, &[byte])?;
        }
        batch.publish(memory)?;
        net.plug.pop();
        net.starved.store(false, SeqCst);
        Ok(Received::Bytes(self.front.length))
    }
}

impl Net {
    fn drop_front(&self) {
        self.drops.unsuited.fetch_add(1, SeqCst);
        self.plug.pop();
        self.starved.store(false, SeqCst);
    }
}

const _: () = assert!(BUFFERS_AT as usize == HEADER_BYTES);
