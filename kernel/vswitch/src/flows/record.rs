//! What ended flows leave behind.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::{Ends, Verdict};
use crate::Nanos;
use crate::frame::Flags;
use crate::port::PortId;

/// Packets, and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// Packets; a large one counts as its segments.
    pub packets: u64,
    /// Bytes, as on the wire.
    pub bytes: u64,
}

impl Count {
    /// These and more.
    #[inline]
    pub(super) const fn add(&mut self, more: Self) {
        self.packets = self.packets.wrapping_add(more.packets);
        self.bytes = self.bytes.wrapping_add(more.bytes);
    }
}

/// Why there is a record, by the number that IPFIX has for it (`flowEndReason`, element 136 of the IANA
/// registry).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EndReason {
    /// The flow was silent for too long.
    IdleTimeout = 1,
    /// It goes on, and some time has passed since the last record.
    ActiveTimeout = 2,
    /// Its ends have ended it.
    EndOfFlow = 3,
    /// A port was taken away, or rules have changed what becomes of it.
    Forced = 4,
    /// Another flow of its port needed the room.
    NoResources = 5,
}

/// A flow, or what was seen of it since its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Between whom, from the one who began.
    pub ends: Ends,
    /// The port it came from.
    pub from: PortId,
    /// The port it went to; `None` where it went to several.
    pub to: Option<PortId>,
    /// What passed since the flow's last record, from the one who began (0) and back (1); where `denied` is
    /// set, what did not pass.
    pub counts: [Count; 2],
    /// When the flow began.
    pub began: Nanos,
    /// When its last packet was seen.
    pub last: Nanos,
    /// All of TCP's flags that were seen since it began.
    pub flags: Flags,
    /// Why there is a record.
    pub reason: EndReason,
    /// The flow was denied.
    pub denied: bool,
    /// The rule that has allowed or denied it.
    pub rule: u16,
}

impl Record {
    pub(super) const fn new(ends: Ends, from: PortId, verdict: Verdict, reason: EndReason) -> Self {
        let (flags, counts) = (Flags(0), [Count { packets: 0, bytes: 0 }; 2]);
        let (denied, rule) = (!verdict.allowed, verdict.rule);
        Self { ends, from, to: None, counts, began: 0, last: 0, flags, reason, denied, rule }
    }
}

/// Records that wait for whom they are for.
pub(super) struct Ring {
    waiting: Mutex<VecDeque<Record>>,
    most: usize,
    lost: AtomicU64,
}

impl Ring {
    /// One that holds so many. `None` without memory.
    pub(super) fn new(most: usize) -> Option<Self> {
        let mut waiting = VecDeque::new();
        waiting.try_reserve_exact(most).ok()?;
        Some(Self { waiting: Mutex::new(waiting), most, lost: AtomicU64::new(0) })
    }

    /// Keeps them, as far as there is room, which was all taken when it was made.
    pub(super) fn push(&self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        let room = self.most.saturating_sub(waiting.len()).min(records.len());
        waiting.extend(records.iter().take(room));
        drop(waiting);
        self.lose(records.len() - room);
    }

    pub(super) fn lose(&self, records: usize) {
        if records != 0 {
            self.lost.fetch_add(records as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn pop(&self) -> Option<Record> {
        self.waiting.lock().pop_front()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
