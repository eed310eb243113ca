//! A cable between two network devices: a pipe each way, which holds a few frames. A frame that finds no room, or nobody at the other
//! end, is lost and counted, as on a cable.
//!
//! Both ends use a pipe's lock, for the time that one piece of a frame takes to be copied.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::Mutex;

use crate::joint::{Calls, Ring, Side, join};

use super::header::{HEADER_BYTES, Header};

/// Bytes that a pipe holds: a few frames of the largest size, or a hundred of the usual one.
const PIPE_BYTES: usize = 256 << 10;
/// What is before a frame: its length, its header, two unused bytes.
const RECORD_BYTES: usize = 16;
/// Bytes of a frame that its receiver looks at: as far as ports, behind a VLAN's tag and IPv6.
pub(super) const LOOK_BYTES: usize = 64;
/// The frame that is next in a ring.
fn front_of(ring: &mut Ring) -> Option<Front> {
    if ring.used == 0 {
        return None;
    }
    let mut record = [0; RECORD_BYTES];
    ring.copy_out(ring.first, &mut record);
    let (length, header) = record.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    let mut start = [0; LOOK_BYTES];
    let most = LOOK_BYTES.min(length as usize);
    ring.copy_out(ring.first + RECORD_BYTES, start.get_mut(..most)?);
    let mut found =
        Front { length, header: Header::from_bytes(header.first_chunk()?), start: ArrayVec::from(start) };
    found.start.truncate(most);
    Some(found)
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

/// One end, with what comes for it.
#[derive(Debug)]
struct End {
    incoming: Pipe,
    /// Its driver is ready.
    up: AtomicBool,
    /// The other end has gone up or down since this was last asked.
    changed: AtomicBool,
}

impl End {
    fn new() -> Option<Self> {
        let incoming = Pipe { ring: Mutex::new(Ring::new(PIPE_BYTES)?), frames: AtomicU32::new(0) };
        Some(Self { incoming, up: AtomicBool::new(false), changed: AtomicBool::new(false) })
    }
}

/// One end of a cable, for one device.
#[derive(Debug)]
pub struct Plug(Side<End>);

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
    Some(join([End::new()?, End::new()?], calls).map(Plug))
}

impl Plug {
    /// The device is this VM's, which is called when something comes.
    pub fn belongs_to(&self, vm: usize) {
        self.0.belongs_to(vm);
    }

    fn incoming(&self) -> &Pipe {
        &self.0.own().incoming
    }

    /// This end's driver is ready, or no longer: the other end hears of it. Frames from before are lost.
    pub(super) fn set_up(&self, up: bool) {
        if up {
            self.0.own().changed.store(false, SeqCst);
        }
        if self.0.own().up.swap(up, SeqCst) == up {
            return;
        }
        self.drain();
        self.0.other().changed.store(true, SeqCst);
        self.0.call();
    }

    fn drain(&self) {
        let pipe = self.incoming();
        let mut ring = pipe.ring.lock();
        ring.clear();
        pipe.frames.store(0, SeqCst);
    }

    /// Whether somebody is at the other end.
    pub(super) fn is_up(&self) -> bool {
        self.0.other().up.load(SeqCst)
    }

    /// Whether the other end has gone up or down.
    #[inline]
    pub(super) fn has_changed(&self) -> bool {
        self.0.own().changed.load(SeqCst)
    }

    /// The same, once.
    pub(super) fn take_change(&self) -> bool {
        self.0.own().changed.swap(false, SeqCst)
    }

    /// Whether a frame has come.
    #[inline]
    pub(super) fn has_frames(&self) -> bool {
        self.incoming().frames.load(SeqCst) != 0
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
        let pipe = &self.0.other().incoming;
        let mut ring = pipe.ring.lock();
        let bytes = RECORD_BYTES + length;
        if bytes > ring.free() {
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
        self.0.call();
        Ok(())
    }

    /// The frame that is next.
    pub(super) fn front(&self) -> Option<Front> {
        front_of(&mut self.incoming().ring.lock())
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
        let Some(front) = front_of(&mut ring) else { return };
        let bytes = RECORD_BYTES + front.length as usize;
        ring.pass(bytes);
        pipe.frames.fetch_sub(1, SeqCst);
    }
}

const _: () = assert!(4 + HEADER_BYTES <= RECORD_BYTES + 2);
