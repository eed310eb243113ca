//! The console device: up to [`MAX_PORTS`] ports, each a line of bytes both ways. Port 0 is the console, where there is one; others have
//! names.
//!
//! Source: VIRTIO 1.2, "Console Device".

mod control;
pub mod pipe;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};

use arrayvec::{ArrayString, ArrayVec};
use vcpu::GuestMemory;

use crate::queue::{Broken, Chain, Cursor, Queue};
use control::Events;

/// The device's type, and its PCI class: communication controller, other.
pub(crate) const TYPE: u16 = 3;
pub(crate) const CLASS: u32 = 0x07_80_00;
/// Ports of a device at most.
pub const MAX_PORTS: usize = 4;
/// Bytes of a port's name at most.
pub const MAX_NAME: usize = 31;
/// Bytes that are moved in one piece, and of a port's input in one step.
const PIECE: usize = 256;
const MOST_INPUT: u32 = 4096;

/// Features.
mod feature {
    pub(super) const SIZE: u64 = 1 << 0;
    pub(super) const MULTIPORT: u64 = 1 << 1;
    pub(super) const EMERGENCY_WRITE: u64 = 1 << 2;
}
/// Where in the configuration a byte can be written before there are queues.
const EMERGENCY_AT: u64 = 8;

/// What is at the other end of a port.
pub trait Line: Send + Sync {
    /// Takes bytes from the guest, and says how many; the rest is offered again once there is room.
    fn put(&self, bytes: &[u8]) -> usize;

    /// Whether there is room.
    fn has_room(&self) -> bool;

    /// Gives bytes for the guest, and says how many.
    fn take(&self, buffer: &mut [u8]) -> usize;

    /// Whether there are some.
    fn has_input(&self) -> bool;

    /// Whether somebody is there.
    fn is_open(&self) -> bool;

    /// The guest has opened the port, or closed it.
    fn set_open(&self, open: bool);
}

/// A port.
pub struct Port {
    line: Arc<dyn Line>,
    /// Empty for the console.
    name: ArrayString<MAX_NAME>,
    /// What the driver has to be told.
    pending: AtomicU8,
    /// The driver knows the port.
    known: AtomicBool,
    /// The guest has it open.
    opened: AtomicBool,
    /// What the driver was told of the other end.
    told_open: AtomicBool,
    /// Input waits for buffers.
    starved: AtomicBool,
    /// Output waits for room.
    stalled: AtomicBool,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Port {
    fn new(line: Arc<dyn Line>, name: ArrayString<MAX_NAME>) -> Self {
        let no = || AtomicBool::new(false);
        Self {
            line,
            name,
            pending: AtomicU8::new(0),
            known: no(),
            opened: no(),
            told_open: no(),
            starved: no(),
            stalled: no(),
        }
    }

    fn is_console(&self) -> bool {
        self.name.is_empty()
    }

    fn reset(&self) {
        self.set_opened(false);
        self.pending.store(0, SeqCst);
        for flag in [&self.known, &self.told_open, &self.starved, &self.stalled] {
            flag.store(false, SeqCst);
        }
    }

    fn set_opened(&self, open: bool) {
        if self.opened.swap(open, SeqCst) != open {
            self.line.set_open(open);
        }
    }

    fn can_receive(&self) -> bool {
        self.opened.load(SeqCst) && !self.starved.load(SeqCst) && self.line.has_input()
    }

    /// Where the other end has come or gone since the driver was told: notes that.
    fn note_other_end(&self) {
        if self.known.load(SeqCst) {
            let open = self.line.is_open();
            if self.told_open.swap(open, SeqCst) != open {
                self.pending.fetch_or(Events::OPEN.bits(), SeqCst);
            }
        }
    }
}

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Bytes for the guest, from this port.
    Input(usize),
    /// Bytes of the guest's, for this port.
    Output(usize),
    /// Messages for the driver.
    Tell,
    /// Messages of the driver's.
    Hear,
    Nothing,
}

/// What sending has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// All of it is on its way.
    All,
    /// There is more: from here on.
    More(Cursor),
    /// The same, once there is room.
    Stalls(Cursor),
}

/// A console device.
#[derive(Debug)]
pub struct Console {
    ports: ArrayVec<Option<Port>, MAX_PORTS>,
    features: AtomicU64,
    /// Columns and rows: 16 bits each.
    size: AtomicU32,
    /// The configuration has changed, and a driver that knows of no messages was not told.
    resized: AtomicBool,
    /// Messages wait for buffers.
    starved: AtomicBool,
}

impl Console {
    /// A device with a console, where there is a line for that, and with named ports; of more than fit the last ones are left out.
    pub fn new<'n>(
        console: Option<Arc<dyn Line>>,
        ports: impl IntoIterator<Item = (&'n str, Arc<dyn Line>)>,
        (columns, rows): (u16, u16),
    ) -> Self {
        let mut all = ArrayVec::new();
        all.push(console.map(|line| Port::new(line, ArrayString::new())));
        for (name, line) in ports.into_iter().take(MAX_PORTS - 1) {
            let mut short = ArrayString::new();
            let _ = name.chars().try_for_each(|symbol| short.try_push(symbol));
            all.push(Some(Port::new(line, short)));
        }
        Self {
            ports: all,
            features: AtomicU64::new(0),
            size: AtomicU32::new(packed(columns, rows)),
            resized: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        }
    }

    /// Its queues: two for each port, and two for messages.
    pub fn queues(&self) -> usize {
        2 * self.ports.len() + 2
    }

    /// The console's window has another size now.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = packed(columns, rows);
        if self.size.swap(size, SeqCst) == size {
            return;
        }
        if self.has(feature::MULTIPORT) {
            self.ports().filter(|(_, port)| port.is_console() && port.known.load(SeqCst)).for_each(
                |(_, port)| {
                    port.pending.fetch_or(Events::SIZE.bits(), SeqCst);
                },
            );
        } else if self.has(feature::SIZE) {
            self.resized.store(true, SeqCst);
        }
    }

    fn size(&self) -> [u8; 4] {
        self.size.load(SeqCst).to_le_bytes()
    }

    pub(crate) const fn offered() -> u64 {
        feature::SIZE | feature::MULTIPORT | feature::EMERGENCY_WRITE
    }

    pub(crate) fn configuration(&self) -> ArrayVec<u8, 64> {
        let mut bytes = ArrayVec::new();
        // There is room for all of it.
        for part in [self.size(), (self.ports.len() as u32).to_le_bytes(), [0; 4]] {
            let _ = bytes.try_extend_from_slice(&part);
        }
        bytes
    }

    /// The driver writes its configuration: a byte for the console, without any queue.
    pub(crate) fn write_configuration(&self, at: u64, value: u64) {
        if at == EMERGENCY_AT
            && let Some(port) = self.port(0)
        {
            // What finds no room is lost.
            port.line.put(&[value as u8]);
        }
    }

    pub(crate) fn go_live(&self, features: u64) {
        self.features.store(features, SeqCst);
        if !self.has(feature::MULTIPORT)
            && let Some(port) = self.port(0)
        {
            port.set_opened(true);
        }
    }

    pub(crate) fn reset(&self) {
        self.features.store(0, SeqCst);
        self.starved.store(false, SeqCst);
        self.resized.store(false, SeqCst);
        self.ports().for_each(|(_, port)| port.reset());
    }

    fn has(&self, feature: u64) -> bool {
        self.features.load(SeqCst) & feature != 0
    }

    fn port(&self, number: usize) -> Option<&Port> {
        self.ports.get(number)?.as_ref()
    }

    fn ports(&self) -> impl Iterator<Item = (usize, &Port)> {
        self.ports.iter().enumerate().filter_map(|(number, port)| Some((number, port.as_ref()?)))
    }

    /// What queue number `index` is for.
    pub(crate) fn role(&self, index: usize) -> Role {
        let several = self.has(feature::MULTIPORT);
        let port = match index {
            0 | 1 => 0,
            2 if several => return Role::Tell,
            3 if several => return Role::Hear,
            _ if several => index / 2 - 1,
            _ => return Role::Nothing,
        };
        match self.port(port) {
            None => Role::Nothing,
            Some(_) if index.is_multiple_of(2) => Role::Input(port),
            Some(_) => Role::Output(port),
        }
    }

    /// The queue for a port's input.
    pub(crate) const fn input_queue(port: usize) -> usize {
        if port == 0 { 0 } else { 2 * port + 2 }
    }

    /// The queue for messages.
    pub(crate) const TELL: usize = 2;

    /// Whether there is something that no doorbell tells of.
    pub(crate) fn has_news(&self) -> bool {
        self.resized.load(SeqCst)
            || self.ports().any(|(_, port)| {
                let known = port.known.load(SeqCst);
                port.can_receive()
                    || port.stalled.load(SeqCst) && port.line.has_room()
                    || known && port.line.is_open() != port.told_open.load(SeqCst)
                    || port.pending.load(SeqCst) != 0 && !self.starved.load(SeqCst)
            })
    }

    /// Whether the driver is to read its configuration anew.
    pub(crate) fn take_resize(&self) -> bool {
        self.resized.swap(false, SeqCst)
    }

    /// The queues whose output can go on: a bit for each.
    pub(crate) fn take_unstalled(&self) -> u32 {
        let ready = self.ports().filter(|(_, port)| port.stalled.load(SeqCst) && port.line.has_room());
        ready.fold(0, |queues, (number, port)| {
            port.stalled.store(false, SeqCst);
            queues | 1 << (Self::input_queue(number) + 1)
        })
    }

    /// Ports with input that their guest can have.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = usize> {
        self.ports().filter(|(_, port)| port.can_receive()).map(|(number, _)| number)
    }

    /// There may be buffers in this queue for what waits.
    pub(crate) fn is_fed(&self, role: Role) {
        match role {
            Role::Input(port) => {
                if let Some(port) = self.port(port) {
                    port.starved.store(false, SeqCst);
                }
            }
            Role::Tell => self.starved.store(false, SeqCst),
            _ => {}
        }
    }

    /// The driver has no queue for a port's input.
    pub(crate) fn is_deaf(&self, port: usize) {
        if let Some(port) = self.port(port) {
            port.starved.store(true, SeqCst);
        }
    }

    /// The driver has no queue for messages.
    pub(crate) fn is_mute(&self) {
        self.starved.store(true, SeqCst);
    }

    /// Fills a buffer of the driver's with what has come for a port. False where there is no buffer.
    ///
    /// # Errors
    /// [`Broken`]: the buffer is not RAM, or has no room.
    pub(crate) fn receive<M: GuestMemory>(
        &self,
        port: usize,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<bool, Broken> {
        let Some(port) = self.port(port) else { return Ok(false) };
        // Before the look at the queue: buffers that come behind it undo it.
        port.starved.store(true, SeqCst);
        if queue.take(memory, chain)?.is_none() {
            return Ok(false);
        }
        port.starved.store(false, SeqCst);
        let most = chain.writable_bytes().min(MOST_INPUT);
        if most == 0 {
            return Err(Broken::Request);
        }
        let (mut place, mut done, mut piece) = (chain.writable(), 0, [0; PIECE]);
        // Without memory the buffer goes back as it came.
        while done < most && chain.has_memory(memory, most) {
            let room = (most - done).min(PIECE as u32) as usize;
            let taken = port.line.take(piece.get_mut(..room).unwrap_or_default());
            let bytes = piece.get(..taken).filter(|bytes| !bytes.is_empty());
            let Some(bytes) = bytes else { break };
            place.write(chain, memory, bytes)?;
            done += bytes.len() as u32;
        }
        queue.give(memory, chain.head(), done)?;
        Ok(true)
    }

    /// Sends the guest's bytes from a place on, at most `most` of them.
    ///
    /// # Errors
    /// [`Broken`]: a buffer is not RAM.
    pub(crate) fn transmit<M: GuestMemory>(
        &self,
        port: usize,
        mut place: Cursor,
        chain: &Chain,
        memory: &M,
        most: u32,
    ) -> Result<Sent, Broken> {
        let Some(port) = self.port(port) else { return Ok(Sent::All) };
        let (mut done, mut piece) = (0, [0; PIECE]);
        while done < most {
            let before = place;
            let Some(part) = place.next(chain, PIECE as u32) else { return Ok(Sent::All) };
            let bytes = piece.get_mut(..part.length as usize).unwrap_or_default();
            memory.read(part.gpa, bytes)?;
            // Before the offer: room that comes behind it undoes it.
            port.stalled.store(true, SeqCst);
            let taken = port.line.put(bytes) as u32;
            if taken < part.length {
                place = before;
                place.skip(chain, taken);
                return Ok(Sent::Stalls(place));
            }
            port.stalled.store(false, SeqCst);
            done += part.length;
        }
        Ok(Sent::More(place))
    }
}

const fn packed(columns: u16, rows: u16) -> u32 {
    (rows as u32) << 16 | columns as u32
}
