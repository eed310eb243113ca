//! How far a conversation has come, and how long it may be silent.
//!
//! Times of RFC 5382 (TCP), 4787 (UDP) and 5508 (ICMP) are what a NAT must keep at least, where an entry that
//! goes takes the conversation with it. Here it is asked about anew when its first end speaks, so some are
//! shorter, as Linux's connection tracking has them ("nf_conntrack-sysctl" of its documentation).

use super::Key;
use crate::Nanos;
use crate::frame::{Flags, protocol};

/// How long a conversation may be silent.
pub mod timeout {
    use crate::Nanos;

    const SECOND: Nanos = 1_000_000_000;

    /// TCP without an answer, in ns; Linux: 120 s for `syn_sent`.
    pub const TCP_UNREPLIED: Nanos = 120 * SECOND;
    /// TCP on its way, in ns. RFC 5382 (REQ-5) has 2 h 4 min, so that keepalives every two hours keep it; an
    /// hour bounds what VMs that have gone leave behind, and who began may always go on.
    pub const TCP_ESTABLISHED: Nanos = 3_600 * SECOND;
    /// TCP of which one side has said that it ends, in ns: RFC 5382 (REQ-5), "transitory".
    pub const TCP_CLOSING: Nanos = 240 * SECOND;
    /// TCP that is over, in ns: what is still on its way arrives; Linux: 10 s for `close`.
    pub const TCP_CLOSED: Nanos = 10 * SECOND;
    /// UDP without an answer, in ns; Linux: 30 s.
    pub const UDP_UNREPLIED: Nanos = 30 * SECOND;
    /// UDP both ways, in ns: RFC 4787 (REQ-5) has at least 2 min; Linux: 120 to 180 s.
    pub const UDP_REPLIED: Nanos = 180 * SECOND;
    /// ICMP, in ns; Linux: 30 s.
    pub const ICMP: Nanos = 30 * SECOND;
    /// Other transports, in ns.
    pub const OTHER: Nanos = 60 * SECOND;
    /// What was denied, in ns: long enough that a flood of it is judged once.
    pub const DENIED: Nanos = 10 * SECOND;
    /// What a packet's first fragment got, in ns: no receiver waits longer for the rest, but for IPv6's 60 s
    /// (RFC 8200, 4.5); Linux: 30 s.
    pub const FRAGMENT: Nanos = 30 * SECOND;
    /// A flow that goes on leaves a record this often, in ns (RFC 5470, section 5.1.1, active timeout).
    pub const ACTIVE: Nanos = 60 * SECOND;
}

/// How far a conversation has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// TCP: nobody has answered.
    SynSent,
    /// TCP: both ends have spoken.
    Established,
    /// TCP: one side has sent a FIN.
    Closing,
    /// TCP: both sides have sent a FIN, or one a RST.
    Closed,
    /// Not TCP: nobody has answered.
    Unreplied,
    /// Not TCP: both ends have spoken.
    Replied,
}

/// Which sides have sent a FIN: bit 0 who began, bit 1 who replies.
pub(super) type Fins = u8;
const BOTH: Fins = 3;

impl State {
    /// That of a conversation of which nothing was seen.
    pub(super) const fn first(key: &Key) -> Self {
        if key.protocol() == protocol::TCP && !key.is_fragment() { Self::SynSent } else { Self::Unreplied }
    }

    /// Nobody has answered.
    pub(super) const fn is_unreplied(self) -> bool {
        matches!(self, Self::SynSent | Self::Unreplied)
    }

    /// What it is after a packet.
    pub(super) const fn after(self, reply: bool, flags: Flags, fins: &mut Fins) -> Self {
        match self {
            Self::Unreplied | Self::Replied if reply => Self::Replied,
            Self::Unreplied | Self::Replied => self,
            Self::Closed => Self::Closed,
            _ if flags.any(Flags::RST) => Self::Closed,
            Self::SynSent | Self::Established | Self::Closing => {
                if flags.any(Flags::FIN) {
                    *fins |= 1 << reply as u8;
                }
                match *fins {
                    BOTH => Self::Closed,
                    0 if reply => Self::Established,
                    0 => self,
                    _ => Self::Closing,
                }
            }
        }
    }

    /// How long a conversation may be silent in this state, in ns.
    pub(super) const fn timeout(self, key: &Key, allowed: bool) -> Nanos {
        if !allowed {
            return timeout::DENIED;
        }
        if key.is_fragment() {
            return timeout::FRAGMENT;
        }
        match (self, key.protocol()) {
            (Self::SynSent, _) => timeout::TCP_UNREPLIED,
            (Self::Established, _) => timeout::TCP_ESTABLISHED,
            (Self::Closing, _) => timeout::TCP_CLOSING,
            (Self::Closed, _) => timeout::TCP_CLOSED,
            (Self::Unreplied, protocol::UDP) => timeout::UDP_UNREPLIED,
            (Self::Replied, protocol::UDP) => timeout::UDP_REPLIED,
            (_, protocol::ICMP | protocol::ICMPV6) => timeout::ICMP,
            _ => timeout::OTHER,
        }
    }
}
