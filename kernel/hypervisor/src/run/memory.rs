//! A VM's memory at the prompt: how much of it it is to keep, and what it does with it.

use core::fmt::Write as _;

use vcpu::{Backend, GuestMemory, Host, PAGE_SIZE};
use virtio::balloon;

use super::cpu::Cpu;
use super::lead::Lead;
use crate::config::{MIN_MEMORY, Size};

/// A number of pages, as text in bytes.
const fn pages(count: u32) -> Size {
    Size(count as u64 * PAGE_SIZE)
}

impl Lead {
    /// Lets a VM have so many bytes of its memory; its driver does the rest when it gets to it.
    pub(super) fn balloon<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        vm: usize,
        keeps: u64,
    ) {
        let Some(vm) = cpu.node.places.get(vm) else { return };
        let (name, all) = (vm.name, vm.config.memory);
        let Some(balloon) = vm.virtio.balloon() else {
            self.answer(format_args!("vm {name} has no balloon: its line says balloon=no"));
            return;
        };
        if !(MIN_MEMORY..=all).contains(&keeps) {
            let (least, most) = (Size(MIN_MEMORY), Size(all));
            self.answer(format_args!("vm {name}: nothing has changed: it can keep from {least} to {most}"));
            return;
        }
        balloon.set_target(((all - keeps) / PAGE_SIZE) as u32);
        cpu.node.calls.insert(vm.number);
        self.answer(format_args!(
            "vm {name}: it is to keep {} of its {}; usage {name} tells what it has",
            Size(keeps),
            Size(all)
        ));
    }

    /// Tells what a VM has of its memory, and what its driver has said last; it is asked for more.
    pub(super) fn tell_usage<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>, vm: usize) {
        let Some(vm) = cpu.node.places.get(vm) else { return };
        let (name, all) = (vm.name, vm.config.memory);
        let Some(taken) = vm.with_space(GuestMemory::taken_back) else {
            self.answer(format_args!("vm {name} has no memory, as it does not run"));
            return;
        };
        let mut voice = self.console.voice();
        // The console's voice takes everything.
        let _ = writeln!(voice, "vm {name}: it has {} of its {}", Size(all.saturating_sub(taken)), Size(all));
        let Some(balloon) = vm.virtio.balloon() else { return };
        let (target, actual) = balloon.pages();
        let _ = writeln!(voice, "in its balloon {} of {}", pages(actual), pages(target));
        let statistics = balloon.statistics();
        cpu.node.calls.insert(vm.number);
        for (what, value, is_bytes) in balloon::named(&statistics) {
            let _ = if is_bytes {
                writeln!(voice, "{what:>18} {}", Size(value))
            } else {
                writeln!(voice, "{what:>18} {value}")
            };
        }
    }
}
