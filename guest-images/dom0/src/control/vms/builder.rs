//! What takes long is done by a thread of its own, one thing after the other: VMs are made and unmade, folders deleted. What it has to ask Basalt's
//! kernel it asks through the thread that has the channel, which goes on with everything else between two such questions.

use std::fs;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use abi::{Name, Request};

use super::make;
use super::window::Window;
use crate::channel::Asks;
use crate::hub::{Ask, DiskFile};
use crate::log;
use crate::signals::is_signalled;
use crate::worker::Limit;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// A VM is to be made of a folder and started. Another one with that number is unmade before.
    Make { before: Option<u64>, name: String, folder: PathBuf },
    /// What a VM began with is to be put into its memory again, and it is to start: it has been reset.
    Refill { vm: u64, name: String, folder: PathBuf, disks: Vec<DiskFile> },
    /// A VM is to be unmade.
    Unmake { vm: u64, name: String },
    /// Its disks are to be served by a process that knows nothing of them yet.
    Serve { vm: u64, name: String, disks: Vec<DiskFile> },
    /// Its disks may do so much from here on.
    Limit { name: String, limits: Vec<Limit> },
    /// A folder is to go, with all that is in it.
    Delete { folder: PathBuf },
}

/// What has become of a job.
pub(super) enum Outcome {
    /// A VM has this number, and these disks in files.
    Made(u64, Vec<DiskFile>),
    /// It is done.
    Done,
}

/// What the thread says.
enum Said {
    /// It has a question for the kernel: a message.
    Ask(Vec<u8>),
    /// The job of this number goes on.
    Progress(u64, Progress),
    /// The job of this number is over.
    Over(u64, Result<Outcome>),
}

/// How far it is with the making of a VM.
#[derive(Clone, Copy, Debug)]
pub(super) enum Progress {
    /// So many percent are done.
    Percent(u8),
    /// The kernel has the VM under this number.
    Number(u64),
}

/// News of jobs.
pub(super) enum News {
    /// This one goes on.
    Progress(u64, Progress),
    /// This one is over.
    Over(u64, Result<Outcome>),
}

/// The thread, as it is seen from the one with the channel.
pub(super) struct Builder {
    jobs: Sender<(u64, Job)>,
    said: Receiver<Said>,
    answers: Sender<Result<(u16, Vec<u8>)>>,
    /// Becomes readable when it has said something.
    bell: UnixStream,
}

impl Builder {
    /// Starts it.
    ///
    /// # Errors
    /// There is no memory for a thread.
    pub(super) fn new() -> Result<Self> {
        let (jobs, its_jobs) = channel();
        let (its_said, said) = channel();
        let (answers, its_answers) = channel();
        let (bell, its_bell) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        its_bell.set_nonblocking(true)?;
        let line = Line { said: its_said, answers: its_answers, bell: its_bell };
        thread::Builder::new().name("builder".to_owned()).spawn(move || work(&its_jobs, line))?;
        Ok(Self { jobs, said, answers, bell })
    }

    /// What becomes readable when [`Self::hear`] has something to do.
    pub(super) const fn bell(&self) -> &UnixStream {
        &self.bell
    }

    /// Has something done, after all that was to be done before.
    pub(super) fn give(&self, number: u64, job: Job) {
        // It lives as long as this.
        let _ = self.jobs.send((number, job));
    }

    /// Passes its questions on, and says what has become of jobs. None while it works on and says nothing.
    pub(super) fn hear(&self, channel: &mut impl Asks) -> Option<News> {
        is_signalled(&self.bell);
        loop {
            match self.said.try_recv() {
                Ok(Said::Ask(mut message)) => _ = self.answers.send(channel.exchange(&mut message)),
                Ok(Said::Progress(job, progress)) => return Some(News::Progress(job, progress)),
                Ok(Said::Over(job, outcome)) => return Some(News::Over(job, outcome)),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            }
        }
    }
}

/// The thread's side.
struct Line {
    said: Sender<Said>,
    answers: Receiver<Result<(u16, Vec<u8>)>>,
    bell: UnixStream,
}

impl Line {
    fn say(&mut self, said: Said) {
        // Whoever does not listen any more has ended, and this thread with it; a bell that is full rings.
        let _ = self.said.send(said);
        let _ = self.bell.write(&[0]);
    }
}

impl Asks for Line {
    fn exchange(&mut self, message: &mut [u8]) -> Result<(u16, Vec<u8>)> {
        self.say(Said::Ask(message.to_vec()));
        self.answers.recv().map_err(|_| Error::from(ErrorKind::BrokenPipe))?
    }
}

fn work(jobs: &Receiver<(u64, Job)>, mut line: Line) {
    let mut window = None;
    while let Ok((number, job)) = jobs.recv() {
        let outcome = carry_out(&mut line, &mut window, number, job);
        line.say(Said::Over(number, outcome));
    }
}

fn carry_out(line: &mut Line, window: &mut Option<Window>, number: u64, job: Job) -> Result<Outcome> {
    match job {
        Job::Make { before, name, folder } => {
            if let Some(vm) = before {
                unmake(line, vm, &name)?;
            }
            make(line, window, number, &name, &folder)
        }
        Job::Refill { vm, name, folder, disks } => {
            if let Err(error) = refill(line, window, (vm, &name), &folder) {
                // It may be described in another way by now.
                log::info(&format!("VM {name}: is made anew: {error}"));
                unmake(line, vm, &name)?;
                return make(line, window, number, &name, &folder);
            }
            Ok(Outcome::Made(vm, disks))
        }
        Job::Unmake { vm, name } => unmake(line, vm, &name),
        Job::Serve { vm, name, disks } => {
            make::open_disks(&name, &disks)?;
            make::serve_disks(&name, vm, &disks)?;
            Ok(Outcome::Done)
        }
        Job::Limit { name, limits } => {
            for limit in limits {
                super::disks::ask(&Ask::Limit { name: name.clone(), limit })?;
            }
            Ok(Outcome::Done)
        }
        Job::Delete { folder } => {
            fs::remove_dir_all(&folder)?;
            Ok(Outcome::Done)
        }
    }
}

fn make(
    line: &mut Line,
    window: &mut Option<Window>,
    number: u64,
    name: &str,
    folder: &Path,
) -> Result<Outcome> {
    let name = Name::new(name).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidInput,
            "its folder's name is no name for a VM; write 1 to 31 of a-z, 0-9 and -",
        )
    })?;
    let window = opened(window)?;
    let made = make::make(line, window, name, folder, |line, progress| {
        line.say(Said::Progress(number, progress));
    });
    made.map(|(vm, disks)| Outcome::Made(vm, disks))
}

fn refill(line: &mut Line, window: &mut Option<Window>, vm: (u64, &str), folder: &Path) -> Result<()> {
    make::refill(line, opened(window)?, vm, folder)
}

fn opened(window: &mut Option<Window>) -> Result<&mut Window> {
    Ok(match window {
        Some(window) => window,
        none => none.insert(Window::new()?),
    })
}

fn unmake(line: &mut Line, vm: u64, name: &str) -> Result<Outcome> {
    line.order(&Request::DestroyVm { vm })?;
    // One that has no such disks is none of it.
    let _ = super::disks::ask(&Ask::Close { name: name.to_owned() });
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A kernel that answers everything by `Done`.
    struct Willing(Vec<Vec<u8>>);

    impl Asks for Willing {
        fn exchange(&mut self, message: &mut [u8]) -> Result<(u16, Vec<u8>)> {
            self.0.push(message.to_vec());
            Ok((abi::Answer::Done {}.kind(), Vec::new()))
        }
    }

    fn outcome(builder: &Builder, kernel: &mut Willing, wanted: u64) -> Result<Outcome> {
        builder.bell().set_nonblocking(false).expect("a socket");
        builder.bell().set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        for _ in 0..100 {
            let mut byte = [0];
            std::io::Read::read_exact(&mut builder.bell(), &mut byte).expect("it says something");
            builder.bell().set_nonblocking(true).expect("a socket");
            if let Some(News::Over(number, outcome)) = builder.hear(kernel) {
                assert_eq!(number, wanted);
                return outcome;
            }
            builder.bell().set_nonblocking(false).expect("a socket");
        }
        panic!("it is never over");
    }

    #[test]
    fn questions_go_through_who_has_the_channel() {
        let (builder, mut kernel) = (Builder::new().expect("a thread"), Willing(Vec::new()));
        builder.give(7, Job::Unmake { vm: 3, name: "web".to_owned() });
        assert!(outcome(&builder, &mut kernel, 7).is_ok());
        assert_eq!(kernel.0.len(), 1);
        let gone = PathBuf::from("/no/such/folder");
        builder.give(8, Job::Make { before: None, name: "web".to_owned(), folder: gone });
        assert!(outcome(&builder, &mut kernel, 8).is_err());
    }
}
