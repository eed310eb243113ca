//! Basalt's kernel, as far as it can be heard, and the VMs that it has.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use abi::{Answer, Request, VmState};
use api::Error;
use api::event::What;
use api::status::{State, VmDetails};

use super::VMS_PATIENCE;
use super::consoles::Consoles;
use super::refusals::no_kernel;
use super::server::Server;
use super::usage::Accounts;
use super::vms::Vms;
use super::wall_clock::WallClock;
use super::watch::{Seen, Watch};
use crate::channel::{self, Asks, Channel, strange};
use crate::status::{RUNNING, Status, Vm};
use crate::{facts, log, storage};

/// All that is known of it.
pub(super) struct Kernel {
    pub(super) channel: Option<Channel>,
    pub(super) watch: Watch,
    pub(super) vms: Vms,
    pub(super) consoles: Consoles,
    /// What VMs use; not before the node's data is there.
    pub(super) accounts: Option<Accounts>,
    wall_clock: WallClock,
    /// Why it cannot be heard, as it was said last.
    trouble: Option<String>,
}

impl Kernel {
    /// Before it was heard.
    ///
    /// # Errors
    /// There is no memory for a thread.
    pub(super) fn new() -> Result<Self> {
        let (channel, watch, consoles, accounts, wall_clock, trouble) = Default::default();
        Ok(Self { channel, watch, vms: Vms::new()?, consoles, accounts, wall_clock, trouble })
    }

    /// What becomes readable when there is something to [`Self::hear`].
    pub(super) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let channel = self.channel.as_ref().map(|channel| channel.file().as_fd());
        channel.into_iter().chain([self.vms.bell().as_fd()])
    }

    /// Adds what the kernel says of VMs, or why it cannot be asked.
    pub(super) fn tell(&mut self, status: &mut Status) {
        match self.ask() {
            Ok(vms) => {
                status.vms = vms;
                status.complaints.extend(self.vms.complaints());
                self.trouble = None;
            }
            Err(error) => {
                let trouble = format!("Basalt's kernel cannot be asked: {error}");
                if self.trouble.as_ref() != Some(&trouble) {
                    log::error(&trouble);
                }
                status.complaints.push(trouble.clone());
                (self.channel, self.trouble) = (None, Some(trouble));
            }
        }
    }

    /// Asks all VMs to shut down, and waits for that.
    pub(super) fn shut_down(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        self.vms.shut_down(channel, &mut self.watch, Instant::now() + VMS_PATIENCE)?;
        let (seen, hz) = (self.watch.look(channel)?, channel.tsc_hz());
        if let Some(accounts) = &mut self.accounts {
            accounts.see(seen, hz);
            accounts.close();
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<Vec<Vm>> {
        let is_new = self.channel.is_none();
        if is_new {
            self.channel = Channel::open(channel::CONTROL)?;
            self.channel.as_mut().map_or(Ok(()), greet)?;
        }
        let Some(channel) = &mut self.channel else { return Ok(Vec::new()) };
        self.wall_clock.tell(channel)?;
        let storage = storage::report::read(&facts::read(facts::STORAGE).unwrap_or_default());
        self.vms.begin(self.watch.look(channel)?, storage.data.is_some());
        if storage.data.is_some() {
            self.accounts.get_or_insert_with(Accounts::open);
        }
        if is_new {
            self.vms.watch_consoles(channel);
        }
        self.vms.tell_hub();
        self.look(true)?;
        if let Some(channel) = &mut self.channel {
            self.vms.see_to_room(channel, self.watch.seen());
        }
        Ok(self.watch.seen().iter().map(shown).collect())
    }

    /// Hears what the kernel and the builder have said, and looks at VMs where that, or what was asked, may have changed them. False where that went
    /// wrong: everything is to be looked at again.
    pub(super) fn hear(&mut self, is_asked: bool) -> bool {
        self.look(is_asked).is_ok()
    }

    fn look(&mut self, is_asked: bool) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        channel.listen()?;
        let is_built = self.vms.build(channel);
        if self.vms.hear(channel) || is_built || is_asked {
            let seen = self.watch.look(channel)?;
            self.vms.note_states(seen);
            let hz = channel.tsc_hz();
            self.accounts.as_mut().into_iter().for_each(|accounts| accounts.see(seen, hz));
        }
        Ok(())
    }

    /// Tells those who listen what has happened, and what VMs have said. Whether a VM is in another state.
    pub(super) fn pass_on(&mut self, server: &mut Server) -> bool {
        let mut any = false;
        for (vm, bytes) in self.vms.said() {
            self.consoles.write(&vm, self.vms.folder(&vm), &bytes);
            server.say(&vm, &bytes);
        }
        for what in self.vms.events() {
            any |= matches!(what, What::Vm { .. });
            match &what {
                What::Vm { vm, state: State::Stopped, .. } => server.leave(vm.as_str()),
                What::Deleted { vm } => {
                    server.leave(vm.as_str());
                    self.consoles.forget(vm.as_str());
                }
                _ => {}
            }
            server.tell(what);
        }
        any
    }

    /// The last bytes that a VM has written to its console.
    pub(super) fn log(&self, vm: &str, bytes: usize) -> Vec<u8> {
        self.consoles.tail(vm, self.vms.folder(vm), bytes)
    }

    /// All that is known of a VM.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) fn details(&mut self, vm: &str) -> std::result::Result<Option<VmDetails>, Error> {
        let channel = self.channel.as_mut().ok_or_else(no_kernel)?;
        let hz = channel.tsc_hz();
        Ok(self.vms.details(vm, self.watch.seen(), channel, hz)?)
    }

    /// Hands VMs what was typed for them.
    pub(super) fn type_for(&mut self, server: &mut Server) {
        let Some(channel) = &mut self.channel else { return };
        let seen = self.watch.seen();
        server.typed(|vm, bytes| {
            // What is typed at a VM that is not there goes nowhere.
            let Some(number) = number_of(seen, vm) else { return bytes.len() };
            type_at(channel, number, bytes).unwrap_or(bytes.len())
        });
    }
}

fn number_of(seen: &[Seen], vm: &str) -> Option<u64> {
    seen.iter().find(|seen| seen.name == vm).map(|seen| seen.number)
}

fn type_at(channel: &mut Channel, vm: u64, bytes: &[u8]) -> Result<usize> {
    let bytes = bytes.get(..abi::MAX_INLINE).unwrap_or(bytes);
    channel.ask(&Request::ConsoleInput { vm, bytes }, |answer| match answer {
        Answer::Taken { count } => Ok(count as usize),
        // It stands still, or has ended.
        Answer::Refused { .. } => Ok(bytes.len()),
        other => Err(strange(&other)),
    })
}

fn greet(channel: &mut Channel) -> Result<()> {
    log::info(&format!("Basalt's kernel answers, in {} us", channel.round_trip()?.as_micros()));
    let events = channel.trace(0)?;
    let last = events.last().map_or("none".to_owned(), ToString::to_string);
    log::info(&format!("trace: {} events of CPU 0, the last one: {last}", events.len()));
    Ok(())
}

/// A VM on the status page.
fn shown(seen: &Seen) -> Vm {
    let state = match seen.state {
        VmState::Stopped => "stopped",
        VmState::Changing => "starting or ending",
        VmState::Running => RUNNING,
        VmState::Paused => "paused",
        VmState::Held => "held",
    };
    Vm { name: seen.name.clone(), state: state.to_owned(), load: seen.load }
}
