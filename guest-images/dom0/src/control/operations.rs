//! What is asked of the node, and what comes of it.

use std::time::Duration;

use api::node::{Node, Power};
use api::status::{Vm, VmDetails};
use api::{Error, Reason};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

use super::refusals::{no_data, no_kernel, no_vm};
use super::server::Wish;
use super::{Control, images};
use crate::channel::Channel;
use crate::network::report::State;
use crate::operation::{Act, Call, Operation};
use crate::storage::report::Data;
use crate::{facts, log};

/// Bytes of a log that are told at most: they are one line on their way.
const MOST_LOG: usize = 256 << 10;
/// What somebody at a console sees of what was before.
const HISTORY: usize = 16 << 10;

type Outcome = Result<Value, Error>;

impl Control {
    /// Does what somebody wishes.
    pub(super) fn grant(&mut self, peer: u64, wish: Wish) {
        match wish {
            Wish::Calls => {
                if let Some(access) = &self.access {
                    self.server.tell_access(&access.known(), Some(peer));
                }
            }
            Wish::Call(Call { id, operation }) => {
                let outcome = self.carry_out(operation);
                self.server.answer(peer, id, outcome);
            }
            Wish::Console(vm) => {
                let is_there = self.kernel.watch.seen().iter().any(|seen| seen.name == vm.as_str());
                let history = match is_there {
                    true => Ok(self.kernel.log(vm.as_str(), HISTORY)),
                    false => Err(Error::new(Reason::State, format!("there is no VM {vm} that runs"))
                        .next(format!("start it first: `basalt vm start {vm}`"))),
                };
                self.server.attach(peer, vm, history);
            }
        }
    }

    fn carry_out(&mut self, operation: Operation) -> Outcome {
        match operation {
            Operation::Node => told(self.node()?),
            Operation::Power { power } => told(self.power(power)?),
            Operation::NodeLog { bytes } => told(text(&kernel_log(bytes.min(MOST_LOG))?)),
            Operation::Tasks => told(self.kernel.vms.tasks.all().collect::<Vec<_>>()),
            Operation::Task { id } => match self.kernel.vms.tasks.get(id) {
                Some(task) => told(task),
                None => Err(Error::new(Reason::NotFound, format!("there is no task {id}"))
                    .next("`basalt node tasks` shows those that are known")),
            },
            Operation::Images => told(images::list()),
            Operation::AddImage { image, file } => told(images::add(&image, &file)?),
            Operation::DeleteImage { image } => told(images::delete(&image, self.kernel.vms.files())?),
            Operation::Tokens => told(self.access()?.list()),
            Operation::MakeToken { token } => {
                let fingerprint = facts::read(facts::FINGERPRINT).unwrap_or_default().trim().to_owned();
                let made = self.access()?.make(&token, fingerprint)?;
                self.tell_access();
                told(made)
            }
            Operation::TokenUsed { token } => {
                self.access()?.is_used(&token);
                self.tell_access();
                told(())
            }
            Operation::DeleteToken { token } => {
                self.access()?.delete(&token)?;
                self.tell_access();
                told(())
            }
            of_vms => self.carry_out_of_vms(of_vms),
        }
    }

    fn carry_out_of_vms(&mut self, operation: Operation) -> Outcome {
        let kernel = &mut self.kernel;
        let seen = kernel.watch.seen().to_vec();
        match operation {
            Operation::Vms => told(kernel.vms.list(&seen)),
            Operation::Vm { vm } => match kernel.details(vm.as_str())? {
                Some(details) => told(details),
                None => Err(no_vm(vm.as_str())),
            },
            Operation::Counters => {
                let all = kernel.vms.list(&seen).into_iter();
                let details = all.filter_map(|Vm { name, .. }| kernel.details(name.as_str()).transpose());
                told(details.collect::<Result<Vec<VmDetails>, Error>>()?)
            }
            Operation::CreateVm { vm, file } => {
                kernel.vms.create(&vm, &file, &seen)?;
                told(kernel.details(vm.as_str())?)
            }
            Operation::ChangeVm { vm, file } => {
                kernel.vms.change(&vm, &file)?;
                told(kernel.details(vm.as_str())?)
            }
            Operation::DeleteVm { vm } => told(kernel.vms.delete(&vm)?),
            Operation::Act { vm, act } => {
                let channel = kernel.channel.as_mut().ok_or_else(no_kernel)?;
                let task = kernel.vms.act(&vm, act, &seen, channel)?;
                if matches!(act, Act::Pause | Act::Resume | Act::Reset) {
                    // Who looks next sees it.
                    kernel.hear(true);
                }
                told(task)
            }
            Operation::Usage { since, until } => {
                let accounts = kernel.accounts.as_ref().ok_or_else(no_data)?;
                told(accounts.tell(since, until)?)
            }
            Operation::VmLog { vm, bytes } => {
                if kernel.details(vm.as_str())?.is_none() {
                    return Err(no_vm(vm.as_str()));
                }
                told(text(&kernel.log(vm.as_str(), bytes.min(MOST_LOG))))
            }
            other => Err(Error::new(Reason::Unsupported, format!("{other:?} is not known here"))),
        }
    }

    fn access(&mut self) -> Result<&mut super::Access, Error> {
        self.access.as_mut().ok_or_else(no_data)
    }

    fn tell_access(&mut self) {
        if let Some(access) = &self.access {
            self.server.tell_access(&access.known(), None);
        }
    }

    fn node(&mut self) -> Result<Node, Error> {
        let status = &self.status;
        let [cpus, free] = match self.kernel.channel.as_mut().map(Channel::machine) {
            Some(machine) => {
                let (cpus, free) = machine?;
                [u64::from(cpus), free]
            }
            None => [0, 0],
        };
        let addresses = status.ports.iter().filter_map(|port| match port.state {
            State::Leased { address, prefix, .. } => Some(format!("{} {address}/{prefix}", port.name)),
            _ => None,
        });
        Ok(Node {
            name: status.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: status.is_ready,
            uptime: uptime().as_secs(),
            cpus: cpus as u16,
            free_memory_bytes: free,
            processes_memory_bytes: super::processes::memory(),
            addresses: addresses.collect(),
            data: match &status.storage.data {
                Some(Data::Mounted(device)) => Some(device.clone()),
                _ => None,
            },
            complaints: status.complaints.clone(),
            fingerprint: facts::read(facts::FINGERPRINT).unwrap_or_default().trim().to_owned(),
        })
    }

    /// Asks the first process to end the machine, as the programs do that people type.
    fn power(&self, power: Power) -> Result<(), Error> {
        let signal = match power {
            Power::Off => Signal::USR2,
            Power::Restart => Signal::TERM,
        };
        log::info(match power {
            Power::Off => "the node is asked to switch itself off",
            Power::Restart => "the node is asked to restart",
        });
        kill_process(Pid::INIT, signal).map_err(|error| Error::from(std::io::Error::from(error)))
    }
}

/// What is told, as JSON.
fn told(what: impl Serialize) -> Outcome {
    serde_json::to_value(what).map_err(|error| Error::new(Reason::Failed, error))
}

/// Text of bytes that may be any.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn uptime() -> Duration {
    Duration::from_secs(rustix::system::sysinfo().uptime.unsigned_abs())
}

/// The end of dom0's own log, which has the lines of all its processes.
fn kernel_log(bytes: usize) -> Result<Vec<u8>, Error> {
    let log = super::node_log::read()?;
    Ok(log.get(log.len().saturating_sub(bytes)..).unwrap_or_default().to_vec())
}
