//! What the first CPU does for the management domain: talks to it, and does to the machine what it wants.

use abi::PowerAction;
use vcpu::{Backend, Host};

use super::cpu::Cpu;
use super::lead::{Goodbye, Lead};
use crate::stop::StopReason;
use crate::vm::life::State;

/// Turns of talk in one look: a copy goes on by a piece in each.
const TURNS: usize = 8;

impl Lead {
    /// Goes on with what the domain has asked for. True where there is more to do soon.
    pub(super) fn talk<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) -> bool {
        let Some(channel) = &mut self.channel else { return false };
        let mut goes_on = true;
        for _ in 0..TURNS {
            goes_on = channel.serve(cpu.node, cpu.host);
            cpu.rota.look(cpu.host, "the management domain's requests");
            if !goes_on {
                break;
            }
        }
        match channel.power() {
            Some(PowerAction::Off) => self.end_all(cpu, Goodbye::Off),
            Some(PowerAction::Restart) => self.end_all(cpu, Goodbye::Restart),
            None => {}
        }
        goes_on
    }

    /// The domain has the machine's power switch, too: its own end by that is the machine's. One that has crashed is gone, and VMs run on.
    pub(super) fn heed_the_domain<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let Some((id, _)) = cpu.node.domain else { return };
        let state = cpu.node.places.with(id.index(), |vm| (vm.life.state(), vm.name));
        let Some((State::Stopped(reason), name)) = state else {
            self.domain_ended = false;
            return;
        };
        match reason {
            StopReason::PowerOff => self.end_all(cpu, Goodbye::Off),
            StopReason::Restart => self.end_all(cpu, Goodbye::Restart),
            _ if self.domain_ended || self.has_goodbye() || reason == StopReason::NotStarted => {}
            _ => log::warn!(
                "nobody manages the VMs, which run on; start {name} starts the management domain anew"
            ),
        }
        self.domain_ended = true;
    }
}
