//! The channel to the management domain: its requests are read, carried out and answered. `docs/abi.md` says what they are.
//!
//! The first CPU serves it beside the console: a few messages a look, and of what takes long a piece. Nothing here allocates but what making a VM
//! takes, and a ring for each console that is watched. What the domain sends is read by `abi`, which bounds all of it; a request names a VM by a
//! number that no other VM ever has. Lines that the domain can cause are limited.
//!
//! What is said first: what has become of VMs ([`events`]), then answers ([`waits`]); then a request is read; and where there is none, what is
//! watched comes ([`watch`]).

mod carry_out;
mod dealings;
mod desk;
mod disk_desk;
mod draft;
mod events;
mod switches;
mod traces;
mod waits;
mod watch;

use abi::{Answer, HEADER_BYTES, MAX_MESSAGE, PowerAction, Refusal, Request, Stream};
use alloc::boxed::Box;
use vcpu::{Backend, Host};
use virtio::console::Line;
use virtio::console::pipe::PipeEnd;

use crate::heap;
use crate::ratelimit::{RateLimits, Site};
use crate::run::Node;
use crate::schedule::VmId;
use desk::Desk;
pub(crate) use disk_desk::DiskDesk;

/// The names of the ports, in the domain and of the lines: what VMs are and do,
pub(crate) const PORT: &str = "basalt-control";
/// and what is under way of disks that the domain serves.
pub(crate) const DISKS_PORT: &str = "basalt-disks";
/// Both.
pub(crate) const PORTS: [&str; 2] = [PORT, DISKS_PORT];
/// Bytes that are taken from the line at a time.
const PIECE: usize = 512;
/// Such pieces on the line at most.
const LINE_PIECES: usize = 32;
/// Messages that are carried out in one look.
const MESSAGES: usize = 8;

/// Bytes on their way.
struct Buffer<const N: usize> {
    bytes: [u8; N],
    /// From here
    at: usize,
    /// to here.
    end: usize,
}

impl<const N: usize> Buffer<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], at: 0, end: 0 }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn clear(&mut self) {
        (self.at, self.end) = (0, 0);
    }
}

/// How far the two sides have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Talk {
    /// Nobody has opened the port.
    Closed,
    /// Hello is to come.
    Open,
    /// The versions fit.
    Greeted,
    /// What came was no message, or of another version: nothing more is read until the port is opened anew.
    Broken,
}

/// Who does what is asked at a port, and has something to say there.
pub(crate) trait Service {
    /// A conversation begins.
    fn begin<B: Backend>(&mut self, node: &Node<'_, B>);

    /// A conversation is over.
    fn clear<B: Backend>(&mut self, node: &Node<'_, B>);

    /// Whether nothing more can be asked for now.
    fn is_full(&self) -> bool {
        false
    }

    /// Whether there is more to do at once.
    fn is_working(&self) -> bool {
        false
    }

    /// Does a piece of what takes long.
    fn work<B: Backend>(&mut self, _node: &Node<'_, B>) {}

    /// Carries a request out, and writes its answer. How long that is; `None` where it comes later, or there is none.
    fn carry_out<B: Backend, H: Host>(
        &mut self,
        node: &Node<'_, B>,
        host: &mut H,
        request: (u64, &Request<'_>),
        to: &mut [u8],
    ) -> Option<usize>;

    /// What is to be said before anything else is heard.
    fn next<B: Backend, H: Host>(&mut self, node: &Node<'_, B>, host: &H, to: &mut [u8]) -> Option<usize>;

    /// What can be said where nothing else is to be done.
    fn next_watched<H: Host>(&mut self, _host: &mut H, _to: &mut [u8]) -> Option<usize> {
        None
    }
}

/// The kernel's end.
pub(crate) struct Channel<S = Desk> {
    line: PipeEnd,
    talk: Talk,
    stream: Box<Stream>,
    input: Buffer<PIECE>,
    output: Box<Buffer<MAX_MESSAGE>>,
    desk: S,
    limits: RateLimits,
}

impl Channel {
    /// At an end of the line whose other one is the domain's port, for VMs in so many places. `None` where there is no memory for it.
    pub(crate) fn new(line: PipeEnd, places: usize) -> Option<Self> {
        Self::at(line, Desk::new(places)?)
    }

    /// What is to become of the machine, where the domain has said that.
    pub(crate) const fn power(&self) -> Option<PowerAction> {
        self.desk.power()
    }

    /// The VM in a place says something at its console.
    #[inline]
    pub(crate) fn overhear(&mut self, place: usize, byte: u8) {
        self.desk.consoles().overhear(place, byte);
    }

    /// Whether nobody waits to hear what has become of a VM.
    pub(crate) fn has_told<B: Backend>(&self, node: &Node<'_, B>, vm: VmId) -> bool {
        self.talk != Talk::Greeted || self.desk.events().has_told(node, vm)
    }

    /// The VM in a place is gone.
    pub(crate) fn forget(&mut self, place: usize) {
        self.desk.consoles().leave(place);
    }
}

impl Channel<DiskDesk> {
    /// The same for disks that the domain serves.
    pub(crate) fn of_disks(line: PipeEnd) -> Option<Self> {
        Self::at(line, DiskDesk)
    }
}

impl<S: Service> Channel<S> {
    fn at(line: PipeEnd, desk: S) -> Option<Self> {
        line.set_open(true);
        Some(Self {
            line,
            talk: Talk::Closed,
            stream: heap::boxed(Stream::new())?,
            input: Buffer::new(),
            output: heap::boxed(Buffer::new())?,
            desk,
            limits: RateLimits::default(),
        })
    }

    /// Whether something has come that can be looked at.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.line.has_input() && !self.desk.is_full()
    }

    /// Goes on with what is in hand. True where there is more to do at once.
    pub(crate) fn serve<B: Backend, H: Host>(&mut self, node: &Node<'_, B>, host: &mut H) -> bool {
        self.look_who_is_there(node);
        if self.talk == Talk::Closed {
            return false;
        }
        self.desk.work(node);
        for _ in 0..MESSAGES {
            if !self.flush() {
                return self.desk.is_working();
            }
            let is_said = self.talk == Talk::Greeted && self.say(|desk, to| desk.next(node, host, to));
            if is_said || !self.desk.is_full() && self.read_one(node, host) {
                continue;
            }
            if self.talk != Talk::Greeted || !self.say(|desk, to| desk.next_watched(host, to)) {
                return self.desk.is_working();
            }
        }
        true
    }

    /// A port that was closed and opened again is another conversation.
    fn look_who_is_there<B: Backend>(&mut self, node: &Node<'_, B>) {
        let open = self.line.is_open();
        if open == (self.talk != Talk::Closed) {
            return;
        }
        if !open {
            // What is left of this conversation is not the next one's beginning.
            self.discard();
        }
        self.talk = if open { Talk::Open } else { Talk::Closed };
        *self.stream = Stream::new();
        self.input.clear();
        self.output.clear();
        self.desk.clear(node);
    }

    /// Throws away what waits on the line: at most what that holds, however much comes meanwhile.
    fn discard(&mut self) {
        for _ in 0..LINE_PIECES {
            if self.line.take(&mut self.input.bytes) == 0 {
                break;
            }
        }
        self.input.clear();
    }

    /// Gives what was said to the line. False where not all has room.
    fn flush(&mut self) -> bool {
        let output = &mut self.output;
        output.at += self.line.put(output.rest());
        output.is_empty()
    }

    /// Reads a message and carries it out. False where there is none yet.
    fn read_one<B: Backend, H: Host>(&mut self, node: &Node<'_, B>, host: &mut H) -> bool {
        loop {
            if self.talk == Talk::Broken {
                self.discard();
                return false;
            }
            if self.input.is_empty() {
                self.input.clear();
                self.input.end = self.line.take(&mut self.input.bytes);
                if self.input.is_empty() {
                    return false;
                }
            }
            let (taken, whole) = match self.stream.take(self.input.rest()) {
                Ok(read) => read,
                Err(error) => {
                    if let Some(left_out) = self.limits.allow(Site::Message, host.now()) {
                        log::error!(
                            "the management domain's channel is closed: {error} ({left_out} lines left out)"
                        );
                    }
                    self.talk = Talk::Broken;
                    continue;
                }
            };
            self.input.at += taken;
            let Some((header, body)) = whole else { continue };
            // What waits to be said has been taken: see `serve`.
            self.output.clear();
            let (id, to) = (header.id, &mut self.output.bytes);
            let written = match Request::read(header.kind, body) {
                Err(error) => {
                    if let Some(left_out) = self.limits.allow(Site::Message, host.now()) {
                        log::warn!("the management domain: {error} ({left_out} lines left out)");
                    }
                    refused(Refusal::Malformed, header.kind.into(), 0).answer().write(id, to)
                }
                Ok(Request::Hello { major, minor }) => {
                    self.desk.begin(node);
                    let (talk, answer) = greet(node, host, &mut self.limits, major, minor);
                    self.talk = talk;
                    answer.write(id, to)
                }
                Ok(request) if self.talk == Talk::Greeted => {
                    self.desk.carry_out(node, host, (id, &request), to)
                }
                Ok(_) => refused(Refusal::Version, abi::MAJOR.into(), 0).answer().write(id, to),
            };
            self.output.end = written.unwrap_or(0);
            self.flush();
            return true;
        }
    }

    /// Says something, where nothing else waits to be said. False where there is nothing.
    fn say(&mut self, write: impl FnOnce(&mut S, &mut [u8]) -> Option<usize>) -> bool {
        self.output.clear();
        // What the kernel says is short: it fits.
        let Some(length) = write(&mut self.desk, &mut self.output.bytes) else { return false };
        self.output.end = length;
        self.flush();
        true
    }
}

/// Whether there may be anything in a message of the kernel's that is longer than its own buffer: never.
const _: () = assert!(HEADER_BYTES < MAX_MESSAGE);

fn greet<'a, B: Backend, H: Host>(
    node: &Node<'_, B>,
    host: &H,
    limits: &mut RateLimits,
    major: u16,
    minor: u16,
) -> (Talk, Answer<'a>) {
    if major != abi::MAJOR {
        if let Some(left_out) = limits.allow(Site::Message, host.now()) {
            log::error!(
                "the management domain speaks version {major}.{minor}, the kernel {}.{}: update the older one ({left_out} lines left out)",
                abi::MAJOR,
                abi::MINOR
            );
        }
        return (Talk::Broken, refused(Refusal::Version, abi::MAJOR.into(), major.into()).answer());
    }
    let answer = Answer::Hello {
        major: abi::MAJOR,
        minor: abi::MINOR,
        tsc_hz: host.tsc_hz(),
        cpus: host.cpus() as u16,
        free: node.free_memory(),
    };
    (Talk::Greeted, answer)
}

/// Why nothing comes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Refused {
    refusal: Refusal,
    first: u64,
    second: u64,
}

impl Refused {
    const fn answer<'a>(self) -> Answer<'a> {
        Answer::Refused { refusal: self.refusal, first: self.first, second: self.second }
    }
}

const fn refused(refusal: Refusal, first: u64, second: u64) -> Refused {
    Refused { refusal, first, second }
}
