//! What the first CPU shows of VMs, and that they come and go.
//!
//! A VM that is made while the machine runs brings what shows it with it; the first CPU takes that at its next look. One that is to be unmade goes
//! at a look of the first CPU, too, which lets its console go with it: whoever finds the place empty finds all of it back.

use core::sync::atomic::Ordering::SeqCst;

use alloc::boxed::Box;

use trace::Kind;
use vcpu::{Backend, Host};

use super::cpu::Cpu;
use super::lead::Lead;
use crate::config::{Name, VmConfig};
use crate::console::GuestConsole;
use crate::schedule::VmId;
use crate::scheduler::ticks;
use crate::screen::Screen;
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::{GONE, Request};

/// What it takes to show a VM.
pub(crate) struct Presence {
    console: Box<GuestConsole>,
    screen: Option<Box<Screen>>,
}

impl Presence {
    /// `None` where there is no memory for it.
    pub(crate) fn new(name: Name, config: &VmConfig<'_>) -> Option<Self> {
        let console = GuestConsole::new(name)?;
        let screen = if config.devices.vga_text { Some(Screen::new()?) } else { None };
        Some(Self { console, screen })
    }
}

/// What of a VM was shown.
pub(super) struct Shown {
    /// Which VM it is.
    id: VmId,
    /// The console knows that it has ended.
    pub(super) end: bool,
    /// What was shown of its VGA screen, where it has one.
    pub(super) screen: Option<Box<Screen>>,
}

impl Lead {
    /// VMs that have come since the last look get their consoles; those that are to be unmade, and have ended, go.
    pub(super) fn meet<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let node = cpu.node;
        if node.changed.swap(false, SeqCst) {
            node.places.each(|vm| self.welcome(vm));
        }
        node.leaving.any(|place| {
            self.let_go(cpu, place);
            cpu.rota.look(cpu.host, "a VM that is unmade");
            false
        });
    }

    /// Shows a VM from here on.
    pub(super) fn welcome<B: Backend>(&mut self, vm: &Vm<'_, B>) {
        let Some(place) = self.shown.get_mut(vm.number) else { return };
        if place.as_ref().is_some_and(|shown| shown.id == vm.id) {
            return;
        }
        let Some(Presence { console, screen }) = vm.take_presence() else {
            log::error!("vm {}: no memory for its console: it is not shown", vm.name);
            *place = Some(Shown { id: vm.id, end: false, screen: None });
            return;
        };
        *place = Some(Shown { id: vm.id, end: false, screen });
        self.console.add(vm.number, console);
    }

    /// Unmakes a VM, once it has ended and nobody is at it.
    fn let_go<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, place: usize) {
        let node = cpu.node;
        let gone = node.places.with(place, |vm| {
            if vm.life.is_alive() && !vm.is_ending() {
                // It has just begun anew.
                vm.ask(Request::Stop(StopReason::Ended), cpu.host);
            }
            vm.has_nothing().then_some((vm.id, vm.name))
        });
        let Some((id, name)) = gone.flatten() else { return };
        // Whoever manages it hears of its end first.
        if self.channel.as_ref().is_some_and(|channel| !channel.has_told(node, id)) {
            return;
        }
        // Another one may come and go in this place from there on.
        node.leaving.remove(place);
        if !node.unmake(id, ticks(cpu.host)) {
            node.leaving.insert(place);
            return;
        }
        cpu.host.trace(Kind::State, id.subject(), GONE, 0);
        self.console.remove(place);
        if let Some(channel) = &mut self.channel {
            channel.forget(place);
        }
        self.rates.forget(place);
        if let Some(shown) = self.shown.get_mut(place) {
            *shown = None;
        }
        log::info!("vm {name}: is gone");
    }
}
