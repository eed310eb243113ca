//! The socket at which `control` is asked: by the process with the API, and through it by everybody. A peer that does not read what it is sent, or sends
//! what is none of it, is let go.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Result, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};

use api::event::{Event, What};
use api::name::Name;
use api::{Error, Reason};
use rustix::event::PollFlags;
use serde::Serialize;

use crate::clock;
use crate::log;
use crate::operation::{Call, Greeting, Known, MOST_BYTES, SOCKET, Told};

/// Connections at most: consoles are one each.
const MOST_PEERS: usize = 80;
/// What waits for a peer at most. One that lets more than this wait does not read.
const MOST_OUTPUT: usize = 8 << 20;
/// What waits of a console's output at most: older bytes go.
const MOST_CONSOLE: usize = 256 << 10;
/// Typed bytes that wait for a VM at most: then the peer waits.
const MOST_TYPED: usize = 4 << 10;

/// All who have come.
pub(super) struct Server {
    listener: UnixListener,
    peers: Vec<Peer>,
    next: u64,
    /// The number of the last event.
    events: u64,
}

struct Peer {
    number: u64,
    stream: UnixStream,
    kind: Kind,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// It is to go, once it has its output.
    ends: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    /// It has not said yet what it wants.
    New,
    Calls,
    /// The console of this VM.
    Console(Name),
}

/// What a peer wants.
#[derive(Debug)]
pub(super) enum Wish {
    /// To be told what happens, and who may ask.
    Calls,
    /// Something is asked.
    Call(Call),
    /// To be at this VM's console.
    Console(Name),
}

impl Server {
    /// Opens the socket, for the user that the process with the API runs as.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(user: u32) -> Result<Self> {
        let _ = fs::remove_file(SOCKET);
        let listener = UnixListener::bind(SOCKET)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o600))?;
        chown(SOCKET, Some(user), Some(user))?;
        Ok(Self { listener, peers: Vec::new(), next: 1, events: 0 })
    }

    /// What is to be watched, and for what.
    pub(super) fn files(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let peers = self.peers.iter().map(|peer| {
            let reads = if peer.is_full() { PollFlags::empty() } else { PollFlags::IN };
            let writes = if peer.output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            (peer.stream.as_fd(), reads | writes)
        });
        std::iter::once((self.listener.as_fd(), PollFlags::IN)).chain(peers)
    }

    /// Takes what has come, and sends what waits. What is wished, with the number of who wishes it.
    pub(super) fn turn(&mut self) -> Vec<(u64, Wish)> {
        self.accept();
        let mut wishes = Vec::new();
        for peer in &mut self.peers {
            peer.read();
            while let Some(wish) = peer.wish() {
                wishes.push((peer.number, wish));
            }
        }
        self.send();
        wishes
    }

    /// Sends what waits, and lets those go who do not take it.
    pub(super) fn send(&mut self) {
        self.peers.iter_mut().for_each(Peer::write);
        self.peers.retain(|peer| !(peer.ends && peer.output.is_empty()));
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() >= MOST_PEERS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let number = self.next;
            self.next += 1;
            let (input, output) = Default::default();
            self.peers.push(Peer { number, stream, kind: Kind::New, input, output, ends: false });
        }
    }

    /// Says what has come of a call.
    pub(super) fn answer(
        &mut self,
        peer: u64,
        id: u64,
        result: std::result::Result<serde_json::Value, Error>,
    ) {
        self.peers.iter_mut().filter(|it| it.number == peer).for_each(|peer| {
            peer.say(&Told::Answer { id, result: result.clone() });
        });
    }

    /// Lets somebody to a VM's console, whose last bytes are these; or not.
    pub(super) fn attach(&mut self, peer: u64, vm: Name, history: std::result::Result<Vec<u8>, Error>) {
        let Some(peer) = self.peers.iter_mut().find(|it| it.number == peer) else { return };
        match history {
            Ok(history) => {
                peer.say(&Told::Answer { id: 0, result: Ok(serde_json::Value::Null) });
                peer.output.extend(history);
                peer.kind = Kind::Console(vm);
            }
            Err(error) => {
                peer.say(&Told::Answer { id: 0, result: Err(error) });
                peer.ends = true;
            }
        }
    }

    /// Tells all who listen what has happened.
    pub(super) fn tell(&mut self, what: What) {
        self.events += 1;
        let event = Event { number: self.events, time: clock::seconds(), what };
        self.peers.iter_mut().filter(|peer| peer.kind == Kind::Calls).for_each(|peer| {
            peer.say(&Told::Event { event: event.clone() });
        });
    }

    /// Tells who may ask: all that listen, or one who has just come.
    pub(super) fn tell_access(&mut self, tokens: &[Known], only: Option<u64>) {
        let wanted =
            |peer: &&mut Peer| peer.kind == Kind::Calls && only.is_none_or(|only| only == peer.number);
        self.peers
            .iter_mut()
            .filter(wanted)
            .for_each(|peer| peer.say(&Told::Access { tokens: tokens.to_vec() }));
    }

    /// A VM has said something.
    pub(super) fn say(&mut self, vm: &str, bytes: &[u8]) {
        for peer in &mut self.peers {
            if matches!(&peer.kind, Kind::Console(name) if name.as_str() == vm) {
                peer.output.extend(bytes);
                let over = peer.output.len().saturating_sub(MOST_CONSOLE);
                peer.output.drain(..over);
            }
        }
    }

    /// The VM's consoles are left: it is no more.
    pub(super) fn leave(&mut self, vm: &str) {
        let is_its = |peer: &&mut Peer| matches!(&peer.kind, Kind::Console(name) if name.as_str() == vm);
        self.peers.iter_mut().filter(is_its).for_each(|peer| peer.ends = true);
    }

    /// What was typed at consoles. `take` says how many of the bytes the VM has taken; the rest stays.
    pub(super) fn typed(&mut self, mut take: impl FnMut(&str, &[u8]) -> usize) {
        for peer in &mut self.peers {
            let Kind::Console(vm) = &peer.kind else { continue };
            if !peer.input.is_empty() {
                let taken = take(vm.as_str(), &peer.input).min(peer.input.len());
                peer.input.drain(..taken);
            }
        }
    }

    /// Whether something is typed that no VM has taken yet.
    pub(super) fn has_typed(&self) -> bool {
        self.peers.iter().any(|peer| matches!(peer.kind, Kind::Console(_)) && !peer.input.is_empty())
    }
}

impl Peer {
    /// Whether it has to wait until somebody takes what it has sent.
    fn is_full(&self) -> bool {
        self.ends || matches!(self.kind, Kind::Console(_)) && self.input.len() >= MOST_TYPED
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while !self.is_full() && self.input.len() <= MOST_BYTES {
            match self.stream.read(&mut bytes) {
                Ok(0) => (self.ends, self.output) = (true, VecDeque::new()),
                Ok(count) => self.input.extend(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => (self.ends, self.output) = (true, VecDeque::new()),
            }
        }
    }

    /// The next thing that it wishes, if that is here as a whole.
    fn wish(&mut self) -> Option<Wish> {
        if self.ends || matches!(self.kind, Kind::Console(_)) {
            return None;
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            if self.input.len() > MOST_BYTES {
                self.refuse("a line is too long");
            }
            return None;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let read = match self.kind {
            Kind::New => serde_json::from_slice(&line).map(|greeting| match greeting {
                Greeting::Console { vm } => Wish::Console(vm),
                Greeting::Calls => Wish::Calls,
            }),
            Kind::Calls | Kind::Console(_) => serde_json::from_slice(&line).map(Wish::Call),
        };
        match read {
            Ok(Wish::Calls) => {
                self.kind = Kind::Calls;
                self.say(&Told::Answer { id: 0, result: Ok(serde_json::Value::Null) });
                Some(Wish::Calls)
            }
            Ok(wish) => Some(wish),
            Err(error) => {
                self.refuse(&error.to_string());
                None
            }
        }
    }

    fn refuse(&mut self, why: &str) {
        log::warn(&format!("who asks for VMs says what is no call: {why}"));
        self.say(&Told::Answer { id: 0, result: Err(Error::new(Reason::Invalid, why)) });
        self.ends = true;
    }

    fn say(&mut self, told: &impl Serialize) {
        let Ok(text) = serde_json::to_vec(told) else { return };
        self.output.extend(text);
        self.output.push_back(b'\n');
        if self.output.len() > MOST_OUTPUT {
            log::warn("who asks for VMs does not read the answers, and is let go");
            (self.ends, self.output) = (true, VecDeque::new());
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.stream.write(front) {
                Ok(written) => _ = self.output.drain(..written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => (self.ends, self.output) = (true, VecDeque::new()),
            }
        }
    }
}
