//! Conversations as the model knows them: a list without bounds, in which every line says who speaks to whom.

use std::vec::Vec;

use super::reader::{Ip, Part, Transport};
use crate::Nanos;
use crate::frame::Address;

const SECOND: Nanos = 1_000_000_000;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What is said about a frame: whether it may pass, and which rule says so.
pub(super) type Said = (bool, Option<usize>);

/// What tells a line from others beside its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Ports(u16, u16),
    Echo { asks: bool, identifier: u16 },
    Message(u8, u8),
    Fragments(u32),
}

/// One direction of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line {
    vlan: u16,
    v6: bool,
    number: u8,
    ends: (Address, Address),
    kind: Kind,
}

impl Line {
    /// That of a packet, or of its fragments.
    pub(super) fn of(ip: &Ip, vlan: u16) -> Option<Self> {
        Self::whole(ip, vlan).or_else(|| Self::fragments(ip, vlan))
    }

    fn whole(ip: &Ip, vlan: u16) -> Option<Self> {
        let kind = match (ip.part, ip.transport) {
            (Part::Later(_), _) | (_, Transport::Hidden) => return None,
            (_, Transport::Tcp { from, to, .. } | Transport::Ports { from, to }) => Kind::Ports(from, to),
            (_, Transport::Plain) => Kind::Ports(0, 0),
            (_, Transport::Icmp { kind, code, identifier }) => match (ip.number, kind) {
                (1, 8) | (58, 128) => Kind::Echo { asks: true, identifier },
                (1, 0) | (58, 129) => Kind::Echo { asks: false, identifier },
                _ => Kind::Message(kind, code),
            },
        };
        let ends = (ip.source, ip.destination);
        Some(Self { vlan, v6: ip.v6, number: ip.number, ends, kind })
    }

    pub(super) fn fragments(ip: &Ip, vlan: u16) -> Option<Self> {
        let (Part::First(number) | Part::Later(number)) = ip.part else { return None };
        let protocol = if ip.v6 { 0 } else { ip.number };
        let ends = (ip.source, ip.destination);
        Some(Self { vlan, v6: ip.v6, number: protocol, ends, kind: Kind::Fragments(number) })
    }

    /// The line of what answers this one.
    fn answer(&self) -> Option<Self> {
        let kind = match self.kind {
            Kind::Ports(from, to) => Kind::Ports(to, from),
            Kind::Echo { asks: true, identifier } => Kind::Echo { asks: false, identifier },
            _ => return None,
        };
        let answer = Self { ends: (self.ends.1, self.ends.0), kind, ..*self };
        // Who speaks to itself answers nobody.
        (answer != *self).then_some(answer)
    }

    fn is_tcp(&self) -> bool {
        self.number == 6 && !matches!(self.kind, Kind::Fragments(_))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Begun,
    Answered,
    Closing,
    Closed,
}

#[derive(Clone, Debug)]
struct Talk {
    line: Line,
    from: usize,
    to: Option<usize>,
    said: Said,
    rules: u32,
    /// What was said holds for other frames of the one who began, too.
    holds: bool,
    phase: Phase,
    fins: [bool; 2],
    last: Nanos,
}

/// A frame as conversations see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speech {
    pub(super) line: Line,
    pub(super) from: usize,
    pub(super) to: Option<usize>,
    pub(super) flags: Option<u8>,
    pub(super) rules: u32,
    pub(super) now: Nanos,
}

impl Speech {
    fn opens(&self) -> bool {
        self.flags.is_some_and(|flags| flags & (SYN | ACK) == SYN)
    }
}

impl Talk {
    fn new(speech: &Speech, said: Said, holds: bool) -> Self {
        let Speech { line, from, to, rules, now, .. } = *speech;
        let (phase, fins) = (Phase::Begun, [false; 2]);
        Self { line, from, to, said, rules, holds, phase, fins, last: now }
    }

    fn is_over_at(&self, now: Nanos) -> bool {
        let seconds = match (self.phase, self.line.number) {
            _ if !self.said.0 => 10,
            _ if matches!(self.line.kind, Kind::Fragments(_)) => 30,
            (Phase::Begun, 6) => 120,
            (Phase::Answered, 6) => 3600,
            (Phase::Closing, 6) => 240,
            (Phase::Closed, 6) => 10,
            (Phase::Answered, 17) => 180,
            (_, 17 | 1 | 58) => 30,
            _ => 60,
        };
        now - self.last >= seconds * SECOND
    }

    fn is_own(&self, speech: &Speech) -> bool {
        self.line == speech.line && self.from == speech.from
    }

    fn is_answered(&self, speech: &Speech) -> bool {
        self.said.0
            && self.line.answer() == Some(speech.line)
            && self.to.is_none_or(|to| to == speech.from)
            && speech.to.is_none_or(|to| to == self.from)
    }

    /// The frame begins another connection where this one was.
    fn is_replaced(&self, speech: &Speech) -> bool {
        let answers = self.line != speech.line;
        speech.opens()
            && match self.phase {
                Phase::Closed => true,
                Phase::Answered | Phase::Closing => self.line.is_tcp() && answers,
                Phase::Begun => false,
            }
    }

    fn knows(&self, speech: &Speech) -> bool {
        let own = self.is_own(speech) && self.holds && self.to == speech.to;
        let answer = self.is_answered(speech) && speech.to.is_some();
        (own || answer) && self.rules == speech.rules && !self.is_replaced(speech)
    }

    fn hear(&mut self, speech: &Speech) {
        self.last = speech.now;
        if !self.said.0 {
            return;
        }
        let answers = self.line != speech.line;
        let flags = speech.flags.unwrap_or(0);
        if !self.line.is_tcp() {
            if answers {
                self.phase = Phase::Answered;
            }
        } else if self.phase != Phase::Closed {
            self.fins[usize::from(answers)] |= flags & FIN != 0 && flags & RST == 0;
            self.phase = match self.fins {
                _ if flags & RST != 0 => Phase::Closed,
                [true, true] => Phase::Closed,
                [false, false] if answers => Phase::Answered,
                [false, false] => self.phase,
                _ => Phase::Closing,
            };
        }
    }

    fn judge(&mut self, speech: &Speech, to: Option<usize>, said: Said, holds: bool) {
        if said.0 != self.said.0 {
            (self.phase, self.fins, self.last) = (Phase::Begun, [false; 2], speech.now);
        }
        (self.to, self.said, self.rules, self.holds) = (to, said, speech.rules, holds);
    }
}

/// All conversations.
#[derive(Default, Debug)]
pub(super) struct Talks {
    all: Vec<Talk>,
    /// Frames by the port that has sent them of which no conversation keeps count.
    pub(super) untracked: std::collections::HashMap<usize, u64>,
}

/// A question about the first frame of a conversation that began the other way, from that port to that one.
pub(super) type Ask<'a> = &'a mut dyn FnMut(Option<(usize, usize)>) -> Said;

impl Talks {
    fn own(&mut self, speech: &Speech) -> Option<&mut Talk> {
        self.all.iter_mut().find(|talk| talk.is_own(speech))
    }

    /// What is known of a frame for one port.
    pub(super) fn known(&self, speech: &Speech) -> Option<Said> {
        let known = self.all.iter().filter(|talk| !talk.is_over_at(speech.now) && talk.knows(speech));
        known.map(|talk| talk.said).max_by_key(|said| said.0)
    }

    /// A frame goes to one port.
    pub(super) fn pass(&mut self, speech: &Speech, ask: Ask<'_>) -> Said {
        self.all.retain(|talk| !talk.is_over_at(speech.now));
        if let Some(said) = self.known(speech) {
            let knowing = self.all.iter_mut().find(|talk| talk.knows(speech) && talk.said == said);
            knowing.expect("it knows").hear(speech);
            return said;
        }
        let replaced = |talk: &Talk| talk.is_replaced(speech);
        if let Some(talk) = self.all.iter_mut().find(|talk| talk.is_answered(speech) && !replaced(talk)) {
            // Other rules than those that have allowed it.
            let to = talk.to.unwrap_or(speech.from);
            let said = ask(Some((talk.from, to)));
            let holds = talk.holds;
            talk.judge(speech, Some(to), said, holds);
            if said.0 {
                talk.hear(speech);
                return said;
            }
        }
        let said = ask(None);
        self.all
            .retain(|talk| !(replaced(talk) && (talk.is_own(speech) || said.0 && talk.is_answered(speech))));
        self.keep(speech, said, true);
        said
    }

    fn keep(&mut self, speech: &Speech, said: Said, holds: bool) {
        match self.own(speech) {
            Some(own) => own.judge(speech, speech.to, said, holds),
            None => self.all.push(Talk::new(speech, said, holds)),
        }
        self.own(speech).expect("it is there now").hear(speech);
    }

    /// A frame goes to several ports, all of which may have it; or to none.
    pub(super) fn pass_to_many(&mut self, speech: &Speech) {
        let said = (true, None);
        self.all.retain(|talk| {
            let concerns = talk.is_own(speech) || talk.is_answered(speech);
            let is_replaced = concerns && talk.is_replaced(speech);
            !is_replaced && !talk.is_over_at(speech.now)
        });
        let answers = self.all.iter().any(|talk| talk.is_answered(speech));
        match self.own(speech) {
            Some(own) if own.said.0 => {
                if !own.holds && !answers {
                    own.judge(speech, speech.to, said, false);
                }
                own.hear(speech);
            }
            own => {
                let (is_there, holds) = (own.is_some(), own.is_some_and(|own| own.holds));
                let answered = self.all.iter_mut().filter(|talk| talk.is_answered(speech));
                if let Some(talk) = answered.min_by_key(|talk| talk.from) {
                    talk.hear(speech);
                } else if !is_there || !holds {
                    self.keep(speech, said, false);
                } else {
                    *self.untracked.entry(speech.from).or_default() += 1;
                }
            }
        }
    }

    /// The other fragments of a packet get what the first one got.
    pub(super) fn remember(&mut self, fragments: &Speech, said: Said) {
        self.all.retain(|talk| !talk.is_over_at(fragments.now));
        self.keep(fragments, said, true);
    }
}
