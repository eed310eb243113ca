//! The channel to Basalt's kernel: a port of a virtio console, by which this process asks for what only the kernel knows or does. What is said is
//! in the crate `abi` and in docs/abi.md.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use abi::{Answer, Event, MAX_MESSAGE, Refusal, Request, Stream};
use api::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use trace::{EVENT_BYTES, Event as Traced};

const PORTS: &str = "/sys/class/virtio-ports";
/// The port where VMs are made and managed.
pub(crate) const CONTROL: &str = "basalt-control";
/// The port where disks are served.
pub(crate) const DISKS: &str = "basalt-disks";
/// How often the kernel is asked nothing, to see how long that takes.
const PINGS: u32 = 16;
/// The kernel answers at once; where it does not, the machine has other troubles.
const PATIENCE: Duration = Duration::from_secs(5);

/// The channel, once the versions of both sides are told.
pub(crate) struct Channel {
    file: File,
    stream: Box<Stream>,
    /// What has come and was not looked at yet.
    input: Vec<u8>,
    next: u64,
    tsc_hz: u64,
    /// What was told unasked and not heard yet.
    news: VecDeque<News>,
}

/// What the kernel tells unasked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// A VM has ended.
    Ended(u64, abi::Reason),
    /// A VM starts over.
    Reset(u64),
    /// A VM stands still, as there is no room for what it writes.
    NoRoom(u64),
    /// Orders for a VM's disks, as they came.
    Orders(u64, Vec<u8>),
    /// What a VM has written to its console.
    Console(u64, Vec<u8>),
    /// So many bytes of a console were lost.
    ConsoleLost(u64, u64),
}

/// Where a message has its number (docs/abi.md, "Messages").
const ID: std::ops::Range<usize> = 8..16;

/// Whoever can be asked for what Basalt's kernel does: the channel itself, or a way to who has it.
pub(crate) trait Asks {
    /// Hands over a message, whose number is still to be set, and waits for what comes of it: kind and body.
    ///
    /// # Errors
    /// The channel is of no use any more.
    fn exchange(&mut self, message: &mut [u8]) -> Result<(u16, Vec<u8>)>;

    /// Asks for something, and hears what comes of it.
    ///
    /// # Errors
    /// Those of `hear`; the channel is of no use any more.
    fn ask<T>(&mut self, request: &Request<'_>, hear: impl FnOnce(Answer<'_>) -> Result<T>) -> Result<T> {
        let mut buffer = [0; MAX_MESSAGE];
        let length = request.write(0, &mut buffer).ok_or(ErrorKind::InvalidInput)?;
        let (kind, body) = self.exchange(buffer.get_mut(..length).unwrap_or_default())?;
        Answer::read(kind, &body).map_err(Error::other).and_then(hear)
    }

    /// Has something done.
    ///
    /// # Errors
    /// It was refused, or the channel is of no use any more.
    fn order(&mut self, request: &Request<'_>) -> Result<()> {
        self.ask(request, |answer| match answer {
            Answer::Done {} => Ok(()),
            other => Err(strange(&other)),
        })
    }
}

/// The port's device, where the kernel has such a port: Linux names them after their numbers.
fn device(port: &str) -> Option<PathBuf> {
    let ports = fs::read_dir(PORTS).ok()?;
    let is_it =
        |folder: &PathBuf| fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == port);
    let folder = ports.flatten().map(|port| port.path()).find(is_it)?;
    Some(PathBuf::from("/dev").join(folder.file_name()?))
}

impl Channel {
    /// Opens it. `None` where this is not Basalt's management domain, or the driver is not loaded yet.
    ///
    /// # Errors
    /// The port cannot be opened, the kernel does not answer, or is of another version.
    pub(crate) fn open(port: &str) -> Result<Option<Self>> {
        let Some(device) = device(port) else { return Ok(None) };
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)?;
        let (input, news) = (Vec::new(), VecDeque::new());
        let mut channel = Self { file, stream: Box::default(), input, next: 1, tsc_hz: 0, news };
        let hello = Request::Hello { major: abi::MAJOR, minor: abi::MINOR };
        channel.tsc_hz = channel.ask(&hello, |answer| match answer {
            Answer::Hello { tsc_hz, .. } => Ok(tsc_hz),
            other => Err(strange(&other)),
        })?;
        Ok(Some(channel))
    }

    /// How long it takes until the kernel answers a question that means nothing.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(crate) fn round_trip(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        for cookie in 0..PINGS {
            self.ask(&Request::Ping { cookie: cookie.into() }, |answer| match answer {
                Answer::Pong { cookie: told } if told == u64::from(cookie) => Ok(()),
                other => Err(strange(&other)),
            })?;
        }
        Ok(begun.elapsed() / PINGS)
    }

    /// What a CPU of the machine did last, as far as that is kept.
    ///
    /// # Errors
    /// There is no such CPU, or the channel is of no use any more.
    pub(crate) fn trace(&mut self, cpu: u16) -> Result<Vec<Traced>> {
        let (mut events, mut from) = (Vec::new(), 0);
        // A CPU goes on meanwhile: nobody reads after it for ever.
        while events.len() < trace::KEPT {
            let (next, count) = self.ask(&Request::ReadTrace { cpu, from }, |answer| match answer {
                Answer::Trace { next, bytes, .. } => {
                    let (whole, _) = bytes.as_chunks::<EVENT_BYTES>();
                    events.extend(whole.iter().map(Traced::from_bytes));
                    Ok((next, whole.len()))
                }
                other => Err(strange(&other)),
            })?;
            if count == 0 {
                break;
            }
            from = next;
        }
        Ok(events)
    }

    /// What the kernel has told unasked, the oldest first.
    pub(crate) fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Hears what the kernel has told without being asked.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(crate) fn listen(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.file.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            let (taken, whole) = self.stream.take(&self.input).map_err(Error::other)?;
            let is_done = whole.is_none();
            if let Some((header, body)) = whole {
                note(&mut self.news, header.kind, body);
            }
            self.input.drain(..taken);
            if is_done {
                return Ok(());
            }
        }
    }

    /// CPUs of the machine on which VMs run, and bytes of memory that they can still have.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(crate) fn machine(&mut self) -> Result<(u16, u64)> {
        self.ask(&Request::Machine {}, |answer| match answer {
            Answer::Machine { cpus, free } => Ok((cpus, free)),
            other => Err(strange(&other)),
        })
    }

    /// Ticks of the time-stamp counter in a second.
    pub(crate) const fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// What becomes readable when the kernel tells something.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(crate) fn say(&mut self, request: &Request<'_>) -> Result<()> {
        let mut buffer = [0; MAX_MESSAGE];
        let length = request.write(0, &mut buffer).ok_or(ErrorKind::InvalidInput)?;
        self.write_all(buffer.get(..length).unwrap_or_default(), Instant::now() + PATIENCE)
    }

    fn write_all(&mut self, mut bytes: &[u8], until: Instant) -> Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT, until)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_some(&mut self, until: Instant) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.file.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.extend_from_slice(bytes.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN, until)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self, what: PollFlags, until: Instant) -> Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(Error::other)?;
        match poll(&mut [PollFd::new(&self.file, what)], Some(&left)) {
            Ok(0) => Err(Error::new(ErrorKind::TimedOut, "Basalt's kernel does not answer")),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Asks for Channel {
    fn exchange(&mut self, message: &mut [u8]) -> Result<(u16, Vec<u8>)> {
        let id = self.next;
        self.next += 1;
        message.get_mut(ID).ok_or(ErrorKind::InvalidInput)?.copy_from_slice(&id.to_le_bytes());
        let mut until = Instant::now() + PATIENCE;
        self.write_all(message, until)?;
        loop {
            let (taken, whole) = self.stream.take(&self.input).map_err(Error::other)?;
            if let Some((header, body)) = whole {
                if header.id == id {
                    let answer = (header.kind, body.to_vec());
                    self.input.drain(..taken);
                    return Ok(answer);
                }
                // An event, or an answer to what nobody waits for any more; who tells of a long job's progress is at it.
                note(&mut self.news, header.kind, body);
                until = Instant::now() + PATIENCE;
            }
            let is_done = whole.is_none();
            self.input.drain(..taken);
            if is_done {
                self.read_some(until)?;
            }
        }
    }
}

/// Keeps an event that somebody here hears of.
fn note(news: &mut VecDeque<News>, kind: u16, body: &[u8]) {
    match Event::read(kind, body) {
        Ok(Event::Ended { vm, reason }) => news.push_back(News::Ended(vm, reason)),
        Ok(Event::Reset { vm }) => news.push_back(News::Reset(vm)),
        Ok(Event::NoRoom { vm }) => news.push_back(News::NoRoom(vm)),
        Ok(Event::ConsoleOutput { vm, bytes }) => news.push_back(News::Console(vm, bytes.to_vec())),
        Ok(Event::ConsoleLost { vm, count }) => news.push_back(News::ConsoleLost(vm, count)),
        Ok(Event::DiskOrders { vm, orders }) => news.push_back(News::Orders(vm, orders.to_vec())),
        _ => {}
    }
}

/// What an answer means to whoever asked for something else.
pub(crate) fn strange(answer: &Answer<'_>) -> Error {
    match *answer {
        Answer::Refused { refusal, first, second } => {
            api::Error::new(reason(refusal), why_not(refusal, first, second)).into()
        }
        Answer::Misread { bytes } => api::Error::new(Reason::Invalid, String::from_utf8_lossy(bytes)).into(),
        ref other => Error::other(format!("Basalt's kernel answers {other:?}")),
    }
}

/// The same for programs.
const fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NoVm | Refusal::NoNetwork => Reason::NotFound,
        Refusal::NameTaken => Reason::NameTaken,
        Refusal::NoMemory => Reason::NoMemory,
        Refusal::TooMany => Reason::TooMany,
        Refusal::Range => Reason::Invalid,
        Refusal::State => Reason::State,
        Refusal::Version | Refusal::Unsupported => Reason::Unsupported,
        Refusal::Malformed | Refusal::Address | Refusal::Start => Reason::Failed,
    }
}

/// Why something was refused, and what to do about it.
fn why_not(refusal: Refusal, first: u64, second: u64) -> String {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    match refusal {
        Refusal::Version => {
            format!("Basalt's kernel speaks version {first}, basaltd {}: update the older one", abi::MAJOR)
        }
        Refusal::Malformed => format!("Basalt's kernel cannot read messages of kind {first:#x}"),
        Refusal::NoVm => "there is no such VM any more".to_owned(),
        Refusal::NameTaken => {
            "there is another VM of that name; destroy it first, or choose another name".to_owned()
        }
        Refusal::NoMemory => format!(
            "not enough memory: {} MiB are wanted, {} MiB are free; stop another VM, or give it less",
            mebibytes(first),
            second >> 20
        ),
        Refusal::TooMany => "there are as many as there can be; destroy another first".to_owned(),
        Refusal::Range => format!("{first} is out of range; {second} is the most"),
        Refusal::State => "that cannot be in the state that it is in".to_owned(),
        Refusal::Address => format!("there is no memory at {first:#x}"),
        Refusal::Unsupported => "Basalt's kernel cannot do that".to_owned(),
        Refusal::NoNetwork => "there is no network of that name".to_owned(),
        Refusal::Start => "it cannot start; the kernel's log says why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let refused =
            Answer::Refused { refusal: Refusal::NoMemory, first: (300 << 20) - 1, second: 100 << 20 };
        let text = strange(&refused).to_string();
        assert!(text.contains("300 MiB are wanted, 100 MiB are free; stop another VM"), "{text}");
    }
}
