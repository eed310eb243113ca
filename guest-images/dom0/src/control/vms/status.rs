//! What is known of VMs, in the words of the API: their folders, what the kernel says of them, and what happens in between.

use std::io::Result;

use abi::{Answer, Request, VmState};
use api::amount::Bytes;
use api::event::What;
use api::name::Name;
use api::status::{Counters, Exits, NetworkCounters, State, Vm, VmDetails};
use api::vm::VmFile;

use super::{Entry, Phase, Vms, file, store};
use crate::channel::{Asks, strange};
use crate::control::watch::Seen;

/// Reasons of exits, as the kernel counts them (docs/abi.md, `Exits`).
const EXITS: [&str; 12] = [
    "port",
    "memory",
    "cpuid",
    "msr_read",
    "msr_write",
    "control_register",
    "halt",
    "hypercall",
    "host_interrupt",
    "interrupt_window",
    "pause",
    "other",
];
/// Network devices of a VM at most.
const MOST_DEVICES: u16 = 8;

impl Vms {
    /// All VMs: those with folders, and those that only the kernel knows, which the boot line has started.
    pub(in crate::control) fn list(&self, seen: &[Seen]) -> Vec<Vm> {
        let ours = self.all.iter().filter_map(|(name, entry)| self.vm(name, entry, seen));
        let others = seen.iter().filter(|seen| !self.all.contains_key(&seen.name));
        ours.chain(others.filter_map(other)).collect()
    }

    /// One of them with all that is known of it.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(in crate::control) fn details(
        &self,
        name: &str,
        seen: &[Seen],
        asks: &mut impl Asks,
        tsc_hz: u64,
    ) -> Result<Option<VmDetails>> {
        let known = seen.iter().find(|seen| seen.name == name);
        let entry = self.all.get(name);
        let vm = entry.map_or_else(|| known.and_then(other), |entry| self.vm(name, entry, seen));
        let Some(vm) = vm else { return Ok(None) };
        let description = entry.and_then(|entry| file::read(&entry.folder).ok());
        let is_there = known.filter(|_| entry.is_none_or(|entry| entry.phase != Phase::Stopped));
        let counters = is_there.map(|seen| counters(seen, asks, tsc_hz)).transpose()?;
        Ok(Some(VmDetails { vm, description, counters }))
    }

    /// Notes which VMs are in another state than was told last.
    pub(in crate::control) fn note_states(&mut self, seen: &[Seen]) {
        let now: Vec<_> = self.all.iter().filter_map(|(name, entry)| self.vm(name, entry, seen)).collect();
        for Vm { name: vm, state, reason, .. } in now {
            let Some(entry) = self.all.get_mut(vm.as_str()) else { continue };
            let told = Some((state, reason.clone()));
            if entry.told != told {
                entry.told = told;
                self.events.push(What::Vm { vm, state, reason });
            }
        }
    }

    fn vm(&self, name: &str, entry: &Entry, seen: &[Seen]) -> Option<Vm> {
        let known = seen.iter().find(|seen| Some(seen.number) == entry.number());
        let state = match entry.phase {
            Phase::Stopped => State::Stopped,
            Phase::Changing(_) => State::Changing,
            Phase::Made { .. } => known.map_or(State::Changing, |seen| state(seen.state)),
        };
        let read = file::read(&entry.folder);
        let (reason, file) = match read {
            Ok(file) => (entry.trouble.clone(), Some(file)),
            Err(error) => (Some(entry.trouble.clone().unwrap_or_else(|| error.to_string())), None),
        };
        let has = |of: fn(&VmFile) -> u64| file.as_ref().map_or(0, of);
        Some(Vm {
            name: name.parse::<Name>().ok()?,
            state,
            reason,
            autostart: file.as_ref().is_some_and(|file| file.autostart) || !store::is_own(&entry.folder),
            own: store::is_own(&entry.folder),
            cpus: known.map_or_else(|| has(|file| file.cpus.into()) as u16, |seen| seen.cpus),
            memory: Bytes(known.map_or_else(|| has(|file| file.memory.0), |seen| seen.memory)),
            load: known.and_then(|seen| seen.load),
            addresses: Vec::new(),
        })
    }
}

/// A VM that only the kernel knows.
fn other(seen: &Seen) -> Option<Vm> {
    Some(Vm {
        name: seen.name.parse::<Name>().ok()?,
        state: state(seen.state),
        reason: None,
        autostart: true,
        own: false,
        cpus: seen.cpus,
        memory: Bytes(seen.memory),
        load: seen.load,
        addresses: Vec::new(),
    })
}

const fn state(state: VmState) -> State {
    match state {
        VmState::Stopped => State::Stopped,
        VmState::Changing | VmState::Held => State::Changing,
        VmState::Running => State::Running,
        VmState::Paused => State::Paused,
    }
}

fn counters(seen: &Seen, asks: &mut impl Asks, tsc_hz: u64) -> Result<Counters> {
    let vm = seen.number;
    let seconds = |ticks: u64| ticks as f64 / tsc_hz.max(1) as f64;
    let exits = asks.ask(&Request::ExitCounters { vm }, |answer| match answer {
        Answer::Exits { counts } => {
            let exits = EXITS.iter().zip(counts);
            Ok(exits.map(|(reason, count)| Exits { reason: (*reason).to_owned(), count }).collect())
        }
        // It has ended meanwhile.
        Answer::Refused { .. } => Ok(Vec::new()),
        other => Err(strange(&other)),
    })?;
    let mut networks = Vec::new();
    for device in 0..MOST_DEVICES {
        let port = asks.ask(&Request::Port { vm, device }, |answer| match answer {
            Answer::Port { network, mac, sent, received, lost, .. } => Ok(Some(NetworkCounters {
                network: network.as_str().to_owned(),
                mac: hardware_address(mac),
                sent_frames: sent[0],
                sent_bytes: sent[1],
                received_frames: received[0],
                received_bytes: received[1],
                lost_frames: lost.iter().fold(0, |sum, lost| sum.saturating_add(*lost)),
            })),
            Answer::Refused { .. } => Ok(None),
            other => Err(strange(&other)),
        })?;
        let Some(port) = port else { break };
        networks.push(port);
    }
    Ok(Counters {
        cpu_seconds: seconds(seen.ticks[0]),
        steal_seconds: seconds(seen.ticks[1]),
        resident_bytes: seen.resident,
        exits,
        networks,
        disks: Vec::new(),
    })
}

/// As it is written, from the form that the kernel tells it in.
fn hardware_address(mac: u64) -> String {
    mac.to_le_bytes().iter().take(6).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
