//! The channel to Basalt's kernel: a port of a virtio console, by which this process asks for what only the kernel knows or does. What is said is
//! in the crate `abi` and in docs/abi.md.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use abi::{Answer, MAX_MESSAGE, Refusal, Request, Stream, VmState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::status::Vm;

const PORTS: &str = "/sys/class/virtio-ports";
const PORT: &str = "basalt-control";
/// The kernel answers at once; where it does not, the machine has other troubles.
const PATIENCE: Duration = Duration::from_secs(5);
/// More VMs than there can be: whoever tells of so many tells nonsense.
const MOST_VMS: usize = 4096;

/// The channel, once the versions of both sides are told.
pub(super) struct Channel {
    file: File,
    stream: Box<Stream>,
    /// What has come and was not looked at yet.
    input: Vec<u8>,
    next: u64,
    tsc_hz: u64,
    /// What each VM had run when it was last looked at.
    before: HashMap<u64, (u64, Instant)>,
}

/// The port's device, where the kernel has such a port: Linux names them after their numbers.
fn device() -> Option<PathBuf> {
    let ports = fs::read_dir(PORTS).ok()?;
    let is_it =
        |folder: &PathBuf| fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == PORT);
    let folder = ports.flatten().map(|port| port.path()).find(is_it)?;
    Some(PathBuf::from("/dev").join(folder.file_name()?))
}

impl Channel {
    /// Opens it. `None` where this is not Basalt's management domain, or the driver is not loaded yet.
    ///
    /// # Errors
    /// The port cannot be opened, the kernel does not answer, or is of another version.
    pub(super) fn open() -> Result<Option<Self>> {
        let Some(device) = device() else { return Ok(None) };
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)?;
        let (input, before) = (Vec::new(), HashMap::new());
        let mut channel = Self { file, stream: Box::default(), input, next: 1, tsc_hz: 0, before };
        let hello = Request::Hello { major: abi::MAJOR, minor: abi::MINOR };
        channel.tsc_hz = channel.ask(&hello, |answer| match answer {
            Answer::Hello { tsc_hz, .. } => Ok(tsc_hz),
            Answer::Refused { refusal: Refusal::Version, first, .. } => Err(Error::other(format!(
                "Basalt's kernel speaks version {first}, basaltd {}: update the older one",
                abi::MAJOR
            ))),
            other => Err(strange(&other)),
        })?;
        Ok(Some(channel))
    }

    /// All VMs but dom0 itself, and what they do.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) fn vms(&mut self) -> Result<Vec<Vm>> {
        let (mut vms, mut seen, mut after) = (Vec::new(), HashMap::new(), 0);
        for _ in 0..MOST_VMS {
            let next = self.ask(&Request::NextVm { after }, |answer| match answer {
                Answer::Status { vm, name, state, ticks: [ran, _], .. } => {
                    Ok(Some((vm, name.as_str().to_owned(), state, ran)))
                }
                Answer::Refused { refusal: Refusal::NoVm, .. } => Ok(None),
                other => Err(strange(&other)),
            })?;
            let Some((number, name, state, ran)) = next else { break };
            let now = Instant::now();
            let load = self.before.get(&number).and_then(|(ran_before, then)| {
                load(ran.wrapping_sub(*ran_before), now.duration_since(*then), self.tsc_hz)
            });
            seen.insert(number, (ran, now));
            after = number;
            if name != DOM0 {
                let load = load.filter(|_| state == VmState::Running);
                vms.push(Vm { name, state: word(state).to_owned(), load });
            }
        }
        self.before = seen;
        Ok(vms)
    }

    /// Asks for something, and hears what comes of it.
    fn ask<T>(&mut self, request: &Request<'_>, hear: impl FnOnce(Answer<'_>) -> Result<T>) -> Result<T> {
        let id = self.next;
        self.next += 1;
        let mut buffer = [0; MAX_MESSAGE];
        let length = request.write(id, &mut buffer).ok_or(ErrorKind::InvalidInput)?;
        let until = Instant::now() + PATIENCE;
        self.write_all(buffer.get(..length).unwrap_or_default(), until)?;
        loop {
            let (taken, whole) = self.stream.take(&self.input).map_err(Error::other)?;
            if let Some((header, body)) = whole
                && header.id == id
            {
                let heard = Answer::read(header.kind, body).map_err(Error::other).and_then(hear);
                self.input.drain(..taken);
                return heard;
            }
            // Events, and answers to what nobody waits for any more.
            let is_done = whole.is_none();
            self.input.drain(..taken);
            if is_done {
                self.read_some(until)?;
            }
        }
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

/// The name of the VM that this is.
const DOM0: &str = "dom0";

fn strange(answer: &Answer<'_>) -> Error {
    Error::other(format!("Basalt's kernel answers {answer:?}"))
}

fn word(state: VmState) -> &'static str {
    match state {
        VmState::Stopped => "stopped",
        VmState::Changing => "starting or ending",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Held => "held",
    }
}

/// Percent of a CPU: ticks that were run, in a time, at so many ticks a second. `None` where no time has passed.
fn load(ran: u64, time: Duration, tsc_hz: u64) -> Option<u32> {
    let all = u128::from(tsc_hz) * time.as_micros();
    let percent = (u128::from(ran) * 100 * 1_000_000).checked_div(all)?;
    u32::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_was_run_of_what_has_passed() {
        let second = Duration::from_secs(1);
        assert_eq!(load(500, second, 1000), Some(50));
        assert_eq!(load(2000, second, 1000), Some(200));
        assert_eq!(load(0, second, 1000), Some(0));
        assert_eq!(load(1, Duration::ZERO, 1000), None);
        assert_eq!(load(1, second, 0), None);
        assert_eq!(load(u64::MAX, Duration::from_micros(1), 1), None, "nonsense is not shown");
    }
}
