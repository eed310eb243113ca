//! A cable between two network devices: a pipe each way, which holds a few frames. A frame that finds no room, or nobody at the other
//! end, is lost and counted, as on a cable.
//!
//! Both ends use a pipe's lock, for the time that one piece of a frame takes to be copied.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::Mutex;

use super::header::{HEADER_BYTES, Header};

/// Bytes that a pipe holds: a few frames of the largest size, or a hundred of the usual one.
const PIPE_BYTES: usize = 256 << 10;
/// What is before a frame: its length, its header, two unused bytes.
const RECORD_BYTES: usize = 16;
/// Bytes of a frame that its receiver looks at: as far as ports, behind a VLAN's tag and IPv6.
pub(super) const LOOK_BYTES: usize = 64;
/// The owner of a plug that nobody has.
const NOBODY: usize = usize::MAX;

/// VMs for whom something has come from another VM: a bit for each. Whoever has called for one sees to it that the VM looks.
#[derive(Debug, Default)]
pub struct Calls(AtomicU64);

impl Calls {
    /// Calls a VM by its number.
    pub fn call(&self, vm: usize) {
        if let Ok(bit) = u32::try_from(vm) {
            self.0.fetch_or(1_u64.checked_shl(bit).unwrap_or(0), SeqCst);
        }
    }

    /// Takes all of them: a bit for each VM.
    #[inline]
    pub fn take(&self) -> u64 {
        if self.0.load(SeqCst) == 0 { 0 } else { self.0.swap(0, SeqCst) }
    }
}

/// The bytes of a pipe, as a ring.
#[derive(Debug)]
struct Ring {
    bytes: Box<[u8]>,
    /// Where the first frame's record begins, and bytes from there on that are in use.
    first: usize,
    used: usize,
}

impl Ring {
    fn new() -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(PIPE_BYTES).ok()?;
        bytes.resize(PIPE_BYTES, 0);
        Some(Self { bytes: bytes.into_boxed_slice(), first: 0, used: 0 })
    }

    /// The `length` bytes from `at` on, in one or two parts: `with(part)` for each, until one fails.
    fn parts<E>(
        &mut self,
        at: usize,
        length: usize,
        mut with: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = at % PIPE_BYTES;
        let before_end = length.min(PIPE_BYTES - at);
        for (from, length) in [(at, before_end), (0, length - before_end)] {
            if let Some(part) = self.bytes.get_mut(from..from + length).filter(|part| !part.is_empty()) {
                with(part)?;
            }
        }
        Ok(())
    }

    fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        let mut rest = bytes;
        let _ = self.parts(at, bytes.len(), |part| {
            let (now, later) = rest.split_at(part.len().min(rest.len()));
            part.iter_mut().zip(now).for_each(|(place, byte)| *place = *byte);
            rest = later;
            Ok::<(), ()>(())
        });
    }

    fn copy_out(&mut self, at: usize, bytes: &mut [u8]) {
        let mut done = 0;
        let _ = self.parts(at, bytes.len(), |part| {
            let places = bytes.get_mut(done..).unwrap_or_default();
            places.iter_mut().zip(part.iter()).for_each(|(place, byte)| *place = *byte);
            done += part.len();
            Ok::<(), ()>(())
        });
    }

    fn front(&mut self) -> Option<Front> {
        if self.used == 0 {
            return None;
        }
        let mut record = [0; RECORD_BYTES];
        self.copy_out(self.first, &mut record);
        let (length, header) = record.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        let mut start = [0; LOOK_BYTES];
        let most = LOOK_BYTES.min(length as usize);
        self.copy_out(self.first + RECORD_BYTES, start.get_mut(..most)?);
        let mut found =
            Front { length, header: Header::from_bytes(header.first_chunk()?), start: ArrayVec::from(start) };
        found.start.truncate(most);
        Some(found)
    }
}

/// The frame that is next.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) length: u32,
    pub(super) header: Header,
    /// Its first bytes.
    pub(super) start: ArrayVec<u8, LOOK_BYTES>,
}

/// One way of a cable.
#[derive(Debug)]
struct Pipe {
    ring: Mutex<Ring>,
    /// Frames in it, for who does not hold the lock.
    frames: AtomicU32,
}

/// One end.
#[derive(Debug)]
struct End {
    owner: AtomicUsize,
    /// Its driver is ready.
    up: AtomicBool,
    /// The other end has gone up or down since this was last asked.
    changed: AtomicBool,
}

impl End {
    const fn new() -> Self {
        Self { owner: AtomicUsize::new(NOBODY), up: AtomicBool::new(false), changed: AtomicBool::new(false) }
    }
}

#[derive(Debug)]
struct Wire {
    /// The pipe that an end reads has its number.
    pipes: [Pipe; 2],
    ends: [End; 2],
    calls: Arc<Calls>,
}

/// One end of a cable, for one device.
#[derive(Debug)]
pub struct Plug {
    wire: Arc<Wire>,
    side: usize,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost<E> {
    /// Nobody is at the other end.
    NobodyThere,
    /// There is no room.
    Full,
    /// Its bytes could not be had.
    Unreadable(E),
}

/// Makes a cable. `None` where there is no memory for it.
pub fn cable(calls: &Arc<Calls>) -> Option<[Plug; 2]> {
    let pipe = || Some(Pipe { ring: Mutex::new(Ring::new()?), frames: AtomicU32::new(0) });
    let wire = Wire { pipes: [pipe()?, pipe()?], ends: [End::new(), End::new()], calls: Arc::clone(calls) };
    let wire = Arc::new(wire);
    Some([Plug { wire: Arc::clone(&wire), side: 0 }, Plug { wire, side: 1 }])
}

impl Plug {
    /// The device is this VM's, which is called when something comes.
    pub fn belongs_to(&self, vm: usize) {
        self.own().owner.store(vm, SeqCst);
    }

    fn own(&self) -> &End {
        let [first, second] = &self.wire.ends;
        if self.side == 0 { first } else { second }
    }

    fn other(&self) -> &End {
        let [first, second] = &self.wire.ends;
        if self.side == 0 { second } else { first }
    }

    fn incoming(&self) -> &Pipe {
        let [first, second] = &self.wire.pipes;
        if self.side == 0 { first } else { second }
    }

    fn outgoing(&self) -> &Pipe {
        let [first, second] = &self.wire.pipes;
        if self.side == 0 { second } else { first }
    }

    /// This end's driver is ready, or no longer: the other end hears of it. Frames from before are lost.
    pub(super) fn set_up(&self, up: bool) {
        if up {
            self.own().changed.store(false, SeqCst);
        }
        if self.own().up.swap(up, SeqCst) == up {
            return;
        }
        self.drain();
        self.other().changed.store(true, SeqCst);
        self.call();
    }

    fn drain(&self) {
        let pipe = self.incoming();
        let mut ring = pipe.ring.lock();
        (ring.first, ring.used) = (0, 0);
        pipe.frames.store(0, SeqCst);
    }

    /// Whether somebody is at the other end.
    pub(super) fn is_up(&self) -> bool {
        self.other().up.load(SeqCst)
    }

    /// Whether the other end has gone up or down.
    #[inline]
    pub(super) fn has_changed(&self) -> bool {
        self.own().changed.load(SeqCst)
    }

    /// The same, once.
    pub(super) fn take_change(&self) -> bool {
        self.own().changed.swap(false, SeqCst)
    }

    /// Whether a frame has come.
    #[inline]
    pub(super) fn has_frames(&self) -> bool {
        self.incoming().frames.load(SeqCst) != 0
    }

    fn call(&self) {
        let owner = self.other().owner.load(SeqCst);
        if owner != NOBODY {
            self.wire.calls.call(owner);
        }
    }

    /// Sends a frame of `length` bytes, which `read` copies into the parts that it is given, one after the other.
    pub(super) fn send<E>(
        &self,
        header: &Header,
        length: usize,
        read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), Lost<E>> {
        if !self.is_up() {
            return Err(Lost::NobodyThere);
        }
        let pipe = self.outgoing();
        let mut ring = pipe.ring.lock();
        let bytes = RECORD_BYTES + length;
        if bytes > PIPE_BYTES - ring.used {
            return Err(Lost::Full);
        }
        let at = ring.first + ring.used;
        ring.parts(at + RECORD_BYTES, length, read).map_err(Lost::Unreadable)?;
        let mut record = [0; RECORD_BYTES];
        let (number, rest) = record.split_at_mut(4);
        number.copy_from_slice(&(length as u32).to_le_bytes());
        rest.iter_mut().zip(header.to_bytes()).for_each(|(place, byte)| *place = byte);
        ring.copy_in(at, &record);
        ring.used += bytes;
        pipe.frames.fetch_add(1, SeqCst);
        drop(ring);
        self.call();
        Ok(())
    }

    /// The frame that is next.
    pub(super) fn front(&self) -> Option<Front> {
        self.incoming().ring.lock().front()
    }

    /// `length` bytes of that frame from `at` on, which `write` gets in parts.
    pub(super) fn copy<E>(
        &self,
        at: usize,
        length: usize,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut ring = self.incoming().ring.lock();
        let from = ring.first + RECORD_BYTES + at;
        ring.parts(from, length, |part| write(part))
    }

    /// Writes the checksum that its sender has left to others, and says in the header that there is nothing left to do.
    pub(super) fn complete_checksum(&self, front: &Front) {
        let Some((start, place)) = front.header.checksum() else { return };
        let mut ring = self.incoming().ring.lock();
        let base = ring.first + RECORD_BYTES;
        let length = (front.length as usize).saturating_sub(start);
        let (mut sum, mut odd) = (0_u64, false);
        let _ = ring.parts(base + start, length, |part| {
            for byte in part.iter() {
                sum += if odd { u64::from(*byte) } else { u64::from(*byte) << 8 };
                odd = !odd;
            }
            Ok::<(), ()>(())
        });
        ring.copy_in(base + start + place, &super::frame::folded(sum).to_be_bytes());
        let done = front.header.without_checksum().to_bytes();
        let at = ring.first + 4;
        ring.copy_in(at, &done);
    }

    /// That frame is done with.
    pub(super) fn pop(&self) {
        let pipe = self.incoming();
        let mut ring = pipe.ring.lock();
        let Some(front) = ring.front() else { return };
        let bytes = RECORD_BYTES + front.length as usize;
        ring.first = (ring.first + bytes) % PIPE_BYTES;
        ring.used = ring.used.saturating_sub(bytes);
        pipe.frames.fetch_sub(1, SeqCst);
    }
}

const _: () = assert!(4 + HEADER_BYTES <= RECORD_BYTES + 2);
