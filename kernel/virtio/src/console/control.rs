//! Messages between driver and device about ports.
//!
//! Source: VIRTIO 1.2, "Multiport Device Operation".

use core::sync::atomic::Ordering::SeqCst;

use arrayvec::ArrayVec;
use bitflags::bitflags;
use vcpu::GuestMemory;

use super::{Console, MAX_NAME, Port};
use crate::queue::{Broken, Chain, Queue};

/// Bytes of a message without what follows it, and with the longest of that.
const MESSAGE_BYTES: usize = 8;
const LONGEST: usize = MESSAGE_BYTES + MAX_NAME;

/// Kinds of messages.
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const PORT_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

bitflags! {
    /// Messages that wait, in the order in which they are told.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Events: u8 {
        /// There is such a port.
        const ADD = 1 << 0;
        /// It is the console.
        const CONSOLE = 1 << 1;
        /// Its name.
        const NAME = 1 << 2;
        /// The size of its window.
        const SIZE = 1 << 3;
        /// Whether somebody is at its other end.
        const OPEN = 1 << 4;
    }
}

type Message = ArrayVec<u8, LONGEST>;

impl Console {
    /// Tells the driver what waits, as long as it has buffers. True where something was told.
    ///
    /// # Errors
    /// [`Broken`]: a buffer is too small, or not RAM.
    pub(crate) fn tell<M: GuestMemory>(
        &self,
        queue: &mut Queue,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<bool, Broken> {
        let mut told = false;
        for (number, port) in self.ports() {
            port.note_other_end();
            // What comes up meanwhile is for the next step.
            for event in Events::from_bits_truncate(port.pending.load(SeqCst)).iter() {
                // Before the look at the queue, as for input.
                self.starved.store(true, SeqCst);
                if queue.take(memory, chain)?.is_none() {
                    return Ok(told);
                }
                self.starved.store(false, SeqCst);
                port.pending.fetch_and(!event.bits(), SeqCst);
                let message = self.message(number, port, event);
                chain.writable().write(chain, memory, &message)?;
                queue.give(memory, chain.head(), message.len() as u32)?;
                told = true;
            }
        }
        Ok(told)
    }

    fn message(&self, number: usize, port: &Port, event: Events) -> Message {
        let mut message = Message::new();
        let (kind, value) = match event {
            Events::ADD => (event::PORT_ADD, 1),
            Events::CONSOLE => (event::CONSOLE_PORT, 1),
            Events::NAME => (event::PORT_NAME, 1),
            Events::SIZE => (event::RESIZE, 0),
            _ => (event::PORT_OPEN, u16::from(port.told_open.load(SeqCst))),
        };
        // There is room for all of it.
        let _ = message.try_extend_from_slice(&(number as u32).to_le_bytes());
        for word in [kind, value] {
            let _ = message.try_extend_from_slice(&word.to_le_bytes());
        }
        match event {
            Events::NAME => drop(message.try_extend_from_slice(port.name.as_bytes())),
            Events::SIZE => drop(message.try_extend_from_slice(&self.size())),
            _ => {}
        }
        message
    }

    /// Hears a message of the driver's. One about a port that there is not, or of an unknown kind, says nothing.
    ///
    /// # Errors
    /// [`Broken`]: it is shorter than a message, or not in RAM.
    pub(crate) fn hear<M: GuestMemory>(&self, chain: &Chain, memory: &M) -> Result<u32, Broken> {
        let mut bytes = [0; MESSAGE_BYTES];
        chain.readable().read(chain, memory, &mut bytes)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        let number = u32::from_le_bytes([a, b, c, d]) as usize;
        let (kind, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]) != 0);
        if kind == event::DEVICE_READY {
            if value {
                self.ports().for_each(|(_, port)| want(port, Events::ADD));
            }
            return Ok(0);
        }
        let Some(port) = self.port(number) else { return Ok(0) };
        match kind {
            event::PORT_READY if value => {
                port.known.store(true, SeqCst);
                port.told_open.store(port.line.is_open(), SeqCst);
                want(port, if port.is_console() { Events::CONSOLE | Events::SIZE } else { Events::NAME });
                want(port, Events::OPEN);
            }
            event::PORT_OPEN => port.set_opened(value),
            _ => {}
        }
        Ok(0)
    }
}

fn want(port: &Port, events: Events) {
    port.pending.fetch_or(events.bits(), SeqCst);
}
