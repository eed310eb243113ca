//! A running machine with its serial console: what comes is kept, logged and handed on; what is typed goes
//! back.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ::tests::log::Log;

use crate::failure::{Context, Failure, Result};
use crate::machine::{Launch, Machine, Profile};
use crate::{interrupt, paths};

/// How often the wait for news looks whether we are asked to end.
const POLL: Duration = Duration::from_millis(100);
/// A guest that does not read must not block us for longer.
const WRITE_LIMIT: Duration = Duration::from_secs(2);
/// After a panic's first line, its backtrace follows within this.
const EPITAPH: Duration = Duration::from_secs(3);

/// A running machine and everything that it has said.
pub(crate) struct Console {
    machine: Machine,
    events: Receiver<Event>,
    sender: Sender<Event>,
    file: File,
    /// What has come so far.
    pub(crate) log: Log,
}

enum Event {
    Serial(Vec<u8>),
    SerialClosed,
    Keys(Vec<u8>),
}

/// What happened.
pub(crate) enum News {
    /// The machine wrote these bytes; they are in the log already.
    Output(Vec<u8>),
    /// The user typed these.
    Keys(Vec<u8>),
    /// Nothing within the limit.
    Silence,
    /// The machine has ended, or we are asked to end.
    End,
}

impl Console {
    /// Starts a machine.
    pub(crate) fn start(profile: &Profile, launch: &Launch<'_>) -> Result<Self> {
        let machine = profile.start(launch)?;
        let shown = paths::shown(&machine.serial_log);
        let file = File::create(&machine.serial_log).context(format_args!("writing {shown}"))?;
        let (sender, events) = channel();
        let serial = machine.serial.try_clone().context("reading the serial line")?;
        machine.serial.set_write_timeout(Some(WRITE_LIMIT)).context("setting up the serial line")?;
        let to_us = sender.clone();
        std::thread::spawn(move || read_serial(serial, &to_us));
        Ok(Self { machine, events, sender, file, log: Log::default() })
    }

    /// From now on what the user types comes as news.
    pub(crate) fn read_keyboard(&self) {
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if sender.send(Event::Keys(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
    }

    /// Waits for news, at most this long.
    pub(crate) fn next(&mut self, limit: Duration) -> Result<News> {
        let deadline = Instant::now() + limit;
        loop {
            if interrupt::requested() {
                return Ok(News::End);
            }
            let wait = deadline.saturating_duration_since(Instant::now()).min(POLL);
            match self.events.recv_timeout(wait) {
                Ok(Event::Serial(bytes)) => {
                    self.file.write_all(&bytes).context("writing the serial log")?;
                    self.log.push(&bytes);
                    return Ok(News::Output(bytes));
                }
                Ok(Event::Keys(bytes)) => return Ok(News::Keys(bytes)),
                Ok(Event::SerialClosed) | Err(RecvTimeoutError::Disconnected) => return Ok(News::End),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => return Ok(News::Silence),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Types these bytes. A machine that has just ended, or does not read, gets nothing.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.machine.serial.write_all(bytes);
    }

    /// The machine, to look into it.
    pub(crate) fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The lines of text on the machine's screen.
    pub(crate) fn screen(&mut self) -> Result<Vec<String>> {
        let picture = self.machine.screen()?;
        ::tests::screen::read(&picture)
            .ok_or_else(|| Failure::new("the emulator's picture of the screen is broken"))
    }

    /// True when the emulator runs no more.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.machine.ended().is_some()
    }

    /// Waits until the rest of a panic's epitaph has come, or the machine has ended.
    pub(crate) fn await_epitaph(&mut self, mut seen: impl FnMut(&[u8])) -> Result<()> {
        let deadline = Instant::now() + EPITAPH;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now()))? {
                News::Output(bytes) => seen(&bytes),
                News::Keys(_) => {}
                News::Silence | News::End => return Ok(()),
            }
        }
    }

    /// Where the log lies, for messages.
    pub(crate) fn log_path(&self) -> String {
        paths::shown(&self.machine.serial_log)
    }
}

fn read_serial(mut serial: TcpStream, to_us: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = serial.read(&mut buffer) {
        if to_us.send(Event::Serial(buffer[..count].to_vec())).is_err() {
            return;
        }
    }
    // Nobody listens any more when this fails.
    let _ = to_us.send(Event::SerialClosed);
}
