//! A DHCP client as a state machine: time and messages in, messages and settings out. It opens nothing and waits for nothing; [`crate::network`]
//! does.
//!
//! Source: RFC 2131, "Dynamic Host Configuration Protocol", sections 4.1 (retransmission) and 4.4 (the client); RFC 2132 for the options. Left out: INIT-REBOOT
//! (an address is not remembered over a boot), DHCPDECLINE (the address is not probed), DHCPRELEASE.

mod lease;
mod message;
mod random;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::time::Duration;

pub(crate) use lease::Lease;
use lease::Terms;
use message::{Kind, Reply, Request};
use random::Random;

/// Waits for the first answer; doubled with each message, and a second more or less by chance.
const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// Renewals come no faster than this.
const RENEWAL_WAIT: Duration = Duration::from_secs(60);
/// After a refusal, so that a server that offers and refuses is not asked without end.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// So many messages without an answer are worth telling: after 12 seconds.
const UNANSWERED: u32 = 2;
/// So often an offer is asked for before others are looked for.
const REQUESTS: u32 = 4;

/// What a client wants to be done.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Send this to a server's port: to one, or to all by broadcast.
    Send { bytes: Vec<u8>, to: Ipv4Addr },
    /// Take this address, or go on with it for so long.
    Configure(Lease),
    /// The address is not ours any more.
    Deconfigure,
    /// Nobody has answered for a while. The client goes on asking.
    Unanswered,
}

/// The client of one interface. Times are since any fixed moment.
pub(crate) struct Client {
    hardware: [u8; 6],
    name: String,
    random: Random,
    state: State,
    /// Which messages belong together.
    exchange: u32,
    /// When the exchange began.
    began: Duration,
    /// When the last request went out: a lease counts from there.
    asked: Duration,
    /// Messages of this state so far.
    sent: u32,
    /// When there is something to do.
    next: Duration,
}

enum State {
    /// Looking for servers.
    Selecting,
    /// Asking for what one has offered.
    Requesting { offer: Lease },
    /// There is an address.
    Bound { lease: Lease, terms: Terms },
    /// Asking its server to let us keep it.
    Renewing { lease: Lease, terms: Terms },
    /// Asking any server.
    Rebinding { lease: Lease, terms: Terms },
}

impl Client {
    /// A client for the interface with this hardware address, on a machine of this name. `seed` is different at each start.
    pub(crate) fn new(hardware: [u8; 6], name: &str, seed: u64, now: Duration) -> Self {
        let mut random = Random::new(seed);
        let exchange = random.next();
        let state = State::Selecting;
        Self {
            hardware,
            name: name.to_owned(),
            random,
            state,
            exchange,
            began: now,
            asked: now,
            sent: 0,
            next: now,
        }
    }

    /// When [`Self::due`] has something to do, if nothing is received before.
    pub(crate) fn deadline(&self) -> Duration {
        self.next
    }

    /// Does what the time asks for.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Action> {
        if now < self.next {
            return Vec::new();
        }
        match std::mem::replace(&mut self.state, State::Selecting) {
            State::Selecting => self.discover(now),
            State::Requesting { .. } if self.sent >= REQUESTS => {
                self.restart(now);
                self.discover(now)
            }
            State::Requesting { offer } => self.request(offer, now),
            State::Bound { lease, terms } => {
                self.begin_exchange(now);
                self.renew(lease, terms, now)
            }
            State::Renewing { lease, terms } => self.renew(lease, terms, now),
            State::Rebinding { lease, terms } => self.rebind(lease, terms, now),
        }
    }

    /// Takes what came from the network.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Duration) -> Vec<Action> {
        let Some(reply) = Reply::read(bytes) else { return Vec::new() };
        if reply.exchange != self.exchange || reply.hardware != self.hardware {
            return Vec::new();
        }
        match (&self.state, reply.kind) {
            (State::Selecting, Kind::Offer) if self.sent > 0 => match reply.lease() {
                Some(offer) => {
                    self.sent = 0;
                    self.request(offer, now)
                }
                None => Vec::new(),
            },
            (State::Requesting { offer }, Kind::Ack) if reply.is_of(offer.server) => {
                self.bind(&reply, offer.server)
            }
            (State::Renewing { lease, .. } | State::Rebinding { lease, .. }, Kind::Ack) => {
                self.bind(&reply, lease.server)
            }
            (State::Requesting { offer }, Kind::Nak) if reply.is_of(offer.server) => {
                self.restart(now + REFUSED_WAIT);
                Vec::new()
            }
            (State::Renewing { .. } | State::Rebinding { .. }, Kind::Nak) => {
                self.restart(now + REFUSED_WAIT);
                vec![Action::Deconfigure]
            }
            _ => Vec::new(),
        }
    }

    fn restart(&mut self, when: Duration) {
        self.state = State::Selecting;
        self.begin_exchange(when);
        self.next = when;
    }

    fn begin_exchange(&mut self, now: Duration) {
        self.exchange = self.random.next();
        self.began = now;
        self.sent = 0;
    }

    fn discover(&mut self, now: Duration) -> Vec<Action> {
        self.state = State::Selecting;
        let request = Request::Discover;
        let mut actions = vec![self.send(&request, Ipv4Addr::BROADCAST, now)];
        if self.sent == UNANSWERED + 1 {
            actions.push(Action::Unanswered);
        }
        self.next = now + self.wait();
        actions
    }

    fn request(&mut self, offer: Lease, now: Duration) -> Vec<Action> {
        let request = Request::Take { address: offer.address, server: offer.server };
        let action = self.send(&request, Ipv4Addr::BROADCAST, now);
        self.next = now + self.wait();
        self.state = State::Requesting { offer };
        vec![action]
    }

    fn renew(&mut self, lease: Lease, terms: Terms, now: Duration) -> Vec<Action> {
        if now >= terms.rebind {
            return self.rebind(lease, terms, now);
        }
        let action = self.send(&Request::Keep { address: lease.address }, lease.server, now);
        self.next = half_way(now, terms.rebind);
        self.state = State::Renewing { lease, terms };
        vec![action]
    }

    fn rebind(&mut self, lease: Lease, terms: Terms, now: Duration) -> Vec<Action> {
        if now >= terms.end {
            self.restart(now);
            let mut actions = vec![Action::Deconfigure];
            actions.extend(self.discover(now));
            return actions;
        }
        let action = self.send(&Request::Keep { address: lease.address }, Ipv4Addr::BROADCAST, now);
        self.next = half_way(now, terms.end);
        self.state = State::Rebinding { lease, terms };
        vec![action]
    }

    /// Takes what a server has granted; one that does not name itself is the one that we know.
    fn bind(&mut self, reply: &Reply, server: Ipv4Addr) -> Vec<Action> {
        let Some(lease) = reply.lease_of(reply.server.unwrap_or(server)) else { return Vec::new() };
        let terms = reply.terms(self.asked);
        self.next = terms.renew;
        self.state = State::Bound { lease: lease.clone(), terms };
        vec![Action::Configure(lease)]
    }

    fn send(&mut self, request: &Request, to: Ipv4Addr, now: Duration) -> Action {
        self.sent = self.sent.saturating_add(1);
        self.asked = now;
        let seconds = now.saturating_sub(self.began).as_secs();
        let bytes = request.write(self.hardware, self.exchange, seconds, &self.name);
        Action::Send { bytes, to }
    }

    /// How long to wait for an answer to the message that was sent last.
    fn wait(&mut self) -> Duration {
        let doublings = self.sent.saturating_sub(1).min(4);
        let wait = (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
        wait - Duration::from_secs(1) + Duration::from_millis(u64::from(self.random.next() % 2000))
    }
}

/// The next try on the way to a deadline.
fn half_way(now: Duration, end: Duration) -> Duration {
    let wait = (end.saturating_sub(now) / 2).max(RENEWAL_WAIT);
    now.saturating_add(wait).min(end)
}
