//! Who watches whom: copies of frames for a port or a VLAN.
//!
//! A port that watches has no other traffic. Copies into a VLAN have its tag, and go to all ports that have it, which learn nothing from
//! them (what Cisco's documents call SPAN and RSPAN).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use arrayvec::ArrayVec;
use spin::RwLock;

use crate::port::{PortId, PortSet};

/// Sessions at most.
pub const MOST_SESSIONS: usize = 4;
/// VLANs of a session at most.
pub const MOST_VLANS: usize = 8;

/// Where copies go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// To a port, with the tag that the frame had where it was seen.
    Port(PortId),
    /// To a VLAN.
    Vlan(u16),
}

/// Who is watched, and who watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// What these ports send.
    pub sent: PortSet,
    /// What these receive.
    pub received: PortSet,
    /// What any port sends in these VLANs.
    pub vlans: ArrayVec<u16, MOST_VLANS>,
    /// Where copies go.
    pub target: Target,
    /// How many bytes of each frame; `None` for all.
    pub snap: Option<u16>,
}

/// Where copies of a frame go, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Where.
    pub target: Target,
    /// How many bytes; `None` for all.
    pub snap: Option<u16>,
}

/// Copies of one frame.
pub type Copies = ArrayVec<Copy, MOST_SESSIONS>;

/// All sessions.
#[derive(Debug, Default)]
pub struct Mirrors {
    sessions: RwLock<ArrayVec<Session, MOST_SESSIONS>>,
    /// Ports of whom somebody may want to see something, and those that watch.
    watched: AtomicU64,
    watchers: AtomicU64,
    /// There is a VLAN for copies.
    into_vlans: AtomicBool,
}

impl Mirrors {
    /// Whether somebody may want to see what one of these ports sends or receives.
    #[inline]
    pub fn may_watch(&self, ports: PortSet) -> bool {
        self.watched.load(SeqCst) & ports.bits() != 0
    }

    /// Ports that only watch.
    #[inline]
    pub fn watchers(&self) -> PortSet {
        PortSet::from_bits(self.watchers.load(SeqCst))
    }

    /// Whether a VLAN is for copies only.
    pub fn is_target(&self, vlan: u16) -> bool {
        self.into_vlans.load(SeqCst) && self.sessions.read().iter().any(|it| it.target == Target::Vlan(vlan))
    }

    /// Copies of a frame that `from` has sent in `vlan`.
    pub fn of_sent(&self, from: PortId, vlan: u16) -> Copies {
        self.of(|session| session.sent.has(from) || session.vlans.contains(&vlan))
    }

    /// Copies of a frame that `to` receives, which `from` has sent in `vlan`. What is copied already where it was sent is not copied again.
    pub fn of_received(&self, (from, vlan): (PortId, u16), to: PortId) -> Copies {
        self.of(|session| {
            session.received.has(to) && !session.sent.has(from) && !session.vlans.contains(&vlan)
        })
    }

    fn of(&self, wants: impl Fn(&Session) -> bool) -> Copies {
        let sessions = self.sessions.read();
        let wanted = sessions.iter().filter(|session| wants(session));
        wanted.map(|it| Copy { target: it.target, snap: it.snap }).collect()
    }

    /// Changes the sessions, in any way.
    pub fn change(&self, change: impl FnOnce(&mut ArrayVec<Session, MOST_SESSIONS>)) {
        let mut sessions = self.sessions.write();
        change(&mut sessions);
        let (mut watched, mut watchers) = (PortSet::NONE, PortSet::NONE);
        for session in sessions.iter() {
            watched = watched.or(session.sent).or(session.received);
            if !session.vlans.is_empty() {
                watched = PortSet::ALL;
            }
            if let Target::Port(port) = session.target {
                watchers = watchers.with(port);
            }
        }
        let into_vlans = sessions.iter().any(|session| matches!(session.target, Target::Vlan(_)));
        self.into_vlans.store(into_vlans, SeqCst);
        self.watched.store(watched.bits(), SeqCst);
        self.watchers.store(watchers.bits(), SeqCst);
    }

    /// A port was taken away: nobody watches it any more, and sessions for which it watched end.
    pub(crate) fn forget_port(&self, port: PortId) {
        self.change(|sessions| {
            sessions.retain(|session| session.target != Target::Port(port));
            for session in sessions {
                (session.sent, session.received) =
                    (session.sent.without(port), session.received.without(port));
            }
        });
    }

    /// The sessions.
    pub fn list(&self) -> ArrayVec<Session, MOST_SESSIONS> {
        self.sessions.read().clone()
    }
}
