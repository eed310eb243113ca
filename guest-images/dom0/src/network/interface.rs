//! One interface: switched on, waiting for a carrier, with a DHCP client while it has one.

use std::io::{ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::kernel::Kernel;
use super::report::{Port, State};
use super::seen::{self, Seen};
use crate::dhcp::{Action, Client, Lease};
use crate::log;

/// Links agree on their speed first. One without a carrier after so long has no cable.
const CARRIER_WAIT: Duration = Duration::from_secs(5);
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Messages taken from the network at a time: a neighbour that floods us is not to keep us from other interfaces.
const AT_ONCE: usize = 32;
/// Longer than any message that Ethernet carries.
const LONGEST: usize = 2048;

/// An interface that we have switched on.
pub(super) struct Interface {
    name: String,
    seen: Seen,
    /// Until then a carrier is waited for.
    patience: Duration,
    state: State,
    asking: Option<Asking>,
    lease: Option<Lease>,
}

struct Asking {
    client: Client,
    socket: UdpSocket,
}

impl Interface {
    /// Switches it on.
    pub(super) fn switch_on(name: &str, seen: &Seen, kernel: &Kernel, now: Duration) -> Self {
        if let Err(error) = kernel.switch_on(seen.index) {
            log::error(&format!("{name} cannot be switched on: {error}"));
        }
        let (asking, lease) = (None, None);
        let seen = Seen { has_carrier: false, ..seen.clone() };
        Self {
            name: name.to_owned(),
            seen,
            patience: now + CARRIER_WAIT,
            state: State::Starting,
            asking,
            lease,
        }
    }

    /// Whether it is the same one that is seen now.
    pub(super) fn is(&self, seen: &Seen) -> bool {
        (self.seen.index, self.seen.hardware) == (seen.index, seen.hardware)
    }

    /// Takes note of its carrier.
    pub(super) fn see(&mut self, has_carrier: bool, kernel: &Kernel, now: Duration) {
        if has_carrier == self.seen.has_carrier {
            return;
        }
        self.seen.has_carrier = has_carrier;
        if has_carrier {
            self.begin(now);
        } else {
            log::warn(&format!("{}: no carrier any more", self.name));
            self.asking = None;
            self.deconfigure(kernel);
            self.state = State::NoCarrier;
        }
    }

    /// What is to be told of it.
    pub(super) fn port(&self) -> Port {
        Port { name: self.name.clone(), hardware: seen::written(self.seen.hardware), state: self.state }
    }

    /// What it was granted.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// What wakes it.
    pub(super) fn socket(&self) -> Option<&UdpSocket> {
        self.asking.as_ref().map(|asking| &asking.socket)
    }

    /// When it has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let starting = (self.state == State::Starting).then_some(self.patience);
        self.asking.as_ref().map(|asking| asking.client.deadline()).or(starting)
    }

    /// Does what time and network ask for.
    pub(super) fn work(&mut self, kernel: &Kernel, now: Duration) {
        if self.state == State::Starting && self.asking.is_none() && now >= self.patience {
            self.state = State::NoCarrier;
            log::info(&format!("{}: no carrier", self.name));
        }
        let Some(asking) = &mut self.asking else { return };
        let mut actions = asking.receive(now);
        actions.extend(asking.client.due(now));
        actions.into_iter().for_each(|action| self.act(action, kernel));
    }

    fn begin(&mut self, now: Duration) {
        match Asking::begin(&self.name, self.seen.hardware, now) {
            Ok(asking) => {
                self.asking = Some(asking);
                self.state = State::Asking;
            }
            Err(error) => {
                log::error(&format!("{}: DHCP cannot be used: {error}", self.name));
                self.state = State::Unanswered;
            }
        }
    }

    fn act(&mut self, action: Action, kernel: &Kernel) {
        match action {
            Action::Send { bytes, to } => {
                let sent = self.socket().map(|socket| socket.send_to(&bytes, (to, SERVER_PORT)));
                if let Some(Err(error)) = sent {
                    log::warn(&format!("{}: a message to {to} was not sent: {error}", self.name));
                }
            }
            Action::Configure(lease) => self.configure(lease, kernel),
            Action::Deconfigure => {
                log::warn(&format!("{}: the lease is over", self.name));
                self.deconfigure(kernel);
                self.state = State::Asking;
            }
            Action::Unanswered => {
                log::warn(&format!("{}: no DHCP server has answered so far", self.name));
                self.state = State::Unanswered;
            }
        }
    }

    fn configure(&mut self, lease: Lease, kernel: &Kernel) {
        let is_same =
            self.lease.as_ref().is_some_and(|old| (old.address, old.prefix) == (lease.address, lease.prefix));
        if !is_same {
            self.deconfigure(kernel);
            log::info(&format!("{}: {}", self.name, described(&lease)));
        }
        if let Err(error) = kernel.configure(self.seen.index, &lease) {
            log::error(&format!("{}: {} cannot be set: {error}", self.name, lease.address));
        }
        self.state = State::Leased { address: lease.address, prefix: lease.prefix, router: lease.router };
        self.lease = Some(lease);
    }

    fn deconfigure(&mut self, kernel: &Kernel) {
        let Some(lease) = self.lease.take() else { return };
        if let Err(error) = kernel.deconfigure(self.seen.index, &lease) {
            // The kernel may have taken it away at the lease's end.
            log::warn(&format!("{}: {} cannot be removed: {error}", self.name, lease.address));
        }
    }
}

impl Asking {
    fn begin(name: &str, hardware: [u8; 6], now: Duration) -> Result<Self> {
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::INSECURE)?;
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let client = Client::new(hardware, &node, u64::from_le_bytes(seed), now);
        Ok(Self { client, socket: socket(name)? })
    }

    fn receive(&mut self, now: Duration) -> Vec<Action> {
        let (mut actions, mut bytes) = (Vec::new(), [0; LONGEST]);
        for _ in 0..AT_ONCE {
            match self.socket.recv_from(&mut bytes) {
                Ok((length, _)) => {
                    actions.extend(self.client.receive(bytes.get(..length).unwrap_or_default(), now));
                }
                // What the network says of a message that did not arrive.
                Err(error) if error.kind() != ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        actions
    }
}

/// A socket that hears and speaks on one interface only, also where that has no address yet.
fn socket(name: &str) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(name.as_bytes()))?;
    // Each interface has one.
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
    Ok(socket.into())
}

fn described(lease: &Lease) -> String {
    let Lease { address, prefix, router, server, seconds, .. } = lease;
    let router = router.map_or_else(|| "no router".to_owned(), |router| format!("router {router}"));
    let time = seconds.map_or_else(|| "for ever".to_owned(), |seconds| format!("for {seconds} s"));
    format!("address {address}/{prefix}, {router}, from {server} {time}")
}
