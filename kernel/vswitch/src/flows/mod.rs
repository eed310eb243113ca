//! Conversations: connection tracking, a cache of verdicts, and flow accounting in one table, so that a frame
//! of a known flow costs one look-up.
//!
//! Who has a packet makes its [`Key`], and [`Table::pass`] says what becomes of it: an entry that knows the
//! packet says so itself, and otherwise rules are asked. What is allowed one way is allowed back, to where it
//! came from. Flows that end, and every minute those that go on, leave a [`Record`], in the sense of IPFIX.
//!
//! **Whose an entry is**: the port's from which its first packet came. An entry is known by its key *and* that
//! port, so a port that sends in another's name has entries of its own and changes none of the other's. No port
//! owns more than a quarter of the table, and where there is no room it displaces its own entries only. The other
//! end of a connection may end its entry, where rules let it begin another one with the same ports.
//!
//! **Locks**: one for each bucket of eight entries, one for the records; never two at once, and none while
//! rules are asked or a caller's function runs.
//!
//! Sources: RFC 9293 (TCP), RFC 7011, 7012 (IPFIX, `flowEndReason`); times in `state.rs`.

mod accounts;
mod bucket;
mod entry;
mod key;
mod record;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use accounts::PortTotals;
pub use entry::Flow;
pub use key::{Ends, Key, Way};
pub use record::{Count, EndReason, Record};
pub use state::{State, timeout};
pub use table::{STEP_BUCKETS, Table, Totals};

use crate::Nanos;
use crate::frame::Flags;
use crate::port::PortId;

/// A packet that asks to pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The port it comes from.
    pub from: PortId,
    /// The port it goes to; `None` where it goes to several.
    pub to: Option<PortId>,
    /// Its length in bytes, as on the wire: a large one counts the headers of all its segments.
    pub bytes: u64,
    /// Packets that it stands for: the segments of a large one, else 1.
    pub packets: u32,
    /// TCP's flags, where it is TCP.
    pub flags: Option<Flags>,
    /// A verdict about it holds for the flow's next one. Where this is false, as for a packet whose receivers
    /// are judged one by one, rules are always asked, and an entry that has a cached verdict keeps it.
    pub cacheable: bool,
    /// The time, in ns.
    pub now: Nanos,
}

impl Packet {
    /// It begins a TCP connection, and does not answer.
    const fn is_bare_syn(&self) -> bool {
        matches!(self.flags, Some(flags) if flags.0 & (Flags::SYN | Flags::ACK) == Flags::SYN)
    }
}

/// What rules are asked about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// It is about the packet's flow, which began the other way: addresses and ports are to be exchanged.
    pub reply: bool,
    /// The port from which the packet in question comes: where `reply` is set, the one that began the flow.
    pub from: PortId,
    /// The port to which it goes.
    pub to: Option<PortId>,
}

/// What rules say about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// It may pass.
    pub allowed: bool,
    /// The rule that says so, by number.
    pub rule: u16,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    /// Its flow's entry knew, and nobody was asked. A reply has the verdict, and the rule, of the flow's
    /// first packet.
    Known(Verdict),
    /// Rules were asked, and the flow's entry has it now.
    Decided(Verdict),
    /// Rules were asked, and no entry counts the packet: there is no room for its port, or it is not
    /// cacheable and was judged otherwise than its flow.
    Untracked(Verdict),
}

impl Passed {
    /// The verdict.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Known(verdict) | Self::Decided(verdict) | Self::Untracked(verdict) => verdict,
        }
    }

    /// Whether the packet may pass.
    pub const fn allowed(self) -> bool {
        self.verdict().allowed
    }
}
