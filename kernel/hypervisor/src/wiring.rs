//! The wires between a VM's devices: interrupt messages to its local APICs, console bytes to its serial line, and what a
//! chipset access asks of the rest of the VM. Made for one access by the CPU that does it.

use core::ops::Range;

use devices::pci::FunctionAddress;
use devices::{
    ApicBus, ApicEffect, ApicMessage, ConsoleSink, DeliveryMode, LocalApic, Outside, PinSetting, Width,
};
use passthrough::PortWrite;
use passthrough::pci::Pages;
use vcpu::{AddressSpace, Backend, Host};

use crate::mailbox::Mailboxes;
use crate::processor::Attention;
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::Request;

/// The vCPU on whose behalf something happens.
pub(crate) struct Own<'a> {
    pub(crate) index: usize,
    pub(crate) apic: &'a mut LocalApic,
    /// The CPU has the state of its interrupts: what comes goes to the inbox.
    pub(crate) apic_given: bool,
    pub(crate) attention: &'a mut Attention,
}

/// What a chipset needs of the VM around it.
pub(crate) struct Wiring<'a, 'm, B: Backend, H: Host> {
    pub(crate) vm: &'a Vm<'m, B>,
    /// `None` where the CPU does it on its own account.
    pub(crate) own: Option<Own<'a>>,
    pub(crate) mailboxes: &'a Mailboxes,
    pub(crate) host: &'a mut H,
}

/// The addresses of pages.
const fn addresses(pages: Pages) -> Range<u64> {
    pages.start.0..pages.start.0.saturating_add(pages.bytes)
}

impl<B: Backend, H: Host> ApicBus for Wiring<'_, '_, B, H> {
    #[inline]
    fn deliver(&mut self, message: ApicMessage) {
        if message.delivery == DeliveryMode::LowestPriority && self.vm.slots.len() > 1 {
            if let Some(index) = self.vm.arbitrate(&message) {
                self.hand(index, &message);
            }
            return;
        }
        let own = self.own.as_ref().map(|own| (own.index, own.apic.accepts(&message)));
        if let Some((index, true)) = own {
            self.hand(index, &message);
        }
        let own = own.map(|(index, _)| index);
        if self.vm.slots.len() > 1 || own.is_none() {
            let vm = self.vm;
            vm.route(&message, own, |index| self.post(index, &message));
        }
    }
}

impl<B: Backend, H: Host> ConsoleSink for Wiring<'_, '_, B, H> {
    #[inline]
    fn put(&mut self, byte: u8) -> bool {
        self.vm.serial.put(byte)
    }
}

/// What the chipset has not is the machine's, for the VM that has that.
impl<B: Backend, H: Host> Outside for Wiring<'_, '_, B, H> {
    fn outside_read(&mut self, port: u16, width: Width) -> u32 {
        self.vm.hardware.as_ref().map_or(width.mask() as u32, |hardware| hardware.port_read(port, width))
    }

    fn outside_write(&mut self, port: u16, width: Width, value: u32) {
        let Some(hardware) = &self.vm.hardware else { return };
        match hardware.port_write(port, width, value) {
            PortWrite::Pass | PortWrite::Drop => {}
            PortWrite::Sleep(_) => self.ask(Request::Stop(StopReason::PowerOff)),
            PortWrite::Reset => self.ask(self.vm.own_reset()),
        }
    }

    fn outside_config_read(&mut self, function: FunctionAddress, register: u16, width: Width) -> u32 {
        match &self.vm.hardware {
            Some(hardware) => hardware
                .config_read((function, register, width), &mut |pages| self.withdraw(addresses(pages))),
            None => width.mask() as u32,
        }
    }

    fn outside_config_write(&mut self, function: FunctionAddress, register: u16, width: Width, value: u32) {
        if let Some(hardware) = &self.vm.hardware {
            hardware.config_write((function, register, width), value, &mut |pages| {
                self.withdraw(addresses(pages));
            });
        }
    }

    fn outside_pin(&mut self, pin: u8, setting: PinSetting) {
        if let Some(hardware) = &self.vm.hardware {
            hardware.set_pin(pin, setting);
        }
    }

    fn outside_pin_ended(&mut self, pin: u8) {
        if let Some(hardware) = &self.vm.hardware {
            hardware.end_pin(pin);
        }
    }
}

impl<B: Backend, H: Host> Wiring<'_, '_, B, H> {
    /// Takes device memory from the VM. This CPU forgets it before it enters a guest again, others when they next leave theirs, which they do at once.
    pub(crate) fn withdraw(&mut self, range: Range<u64>) {
        // Who has none has nothing to lose.
        let _ = self.vm.with_space(|space| space.unmap_device(range));
        if let Some(own) = &mut self.own {
            *own.attention |= Attention::HOST;
        }
    }

    /// Gives `message` to vCPU `index`, which may be the own one.
    pub(crate) fn hand(&mut self, index: usize, message: &ApicMessage) {
        match &mut self.own {
            Some(own) if own.index == index => {
                if own.apic_given {
                    if let Some(slot) = self.vm.slots.get(index)
                        && slot.inbox.post(message)
                    {
                        *own.attention |= Attention::INBOX;
                    }
                } else if own.apic.deliver(message) {
                    *own.attention |= Attention::INTERRUPTS;
                }
            }
            _ => self.post(index, message),
        }
    }

    fn post(&mut self, index: usize, message: &ApicMessage) {
        if let Some(slot) = self.vm.slots.get(index)
            && slot.inbox.post(message)
        {
            self.vm.poke(index, self.mailboxes, self.host);
        }
    }

    /// Does what a write of a local APIC's register asks of the world outside it.
    #[inline]
    pub(crate) fn apply(&mut self, effect: ApicEffect) {
        if let Some(own) = &mut self.own {
            // Any write can change what is deliverable: priorities, EOI, a self interrupt.
            *own.attention |= Attention::INTERRUPTS;
            match effect {
                ApicEffect::TimerChanged => *own.attention |= Attention::TIME,
                ApicEffect::RoutingChanged => {
                    if let Some(slot) = self.vm.slots.get(own.index) {
                        slot.inbox.publish(own.apic);
                    }
                }
                _ => {}
            }
        }
        match effect {
            ApicEffect::Send(message) => self.deliver(message),
            ApicEffect::EoiBroadcast(vector) => {
                let vm = self.vm;
                vm.with_chipset(self, |chipset, wiring| chipset.eoi_broadcast(vector, wiring));
            }
            ApicEffect::None | ApicEffect::TimerChanged | ApicEffect::RoutingChanged => {}
        }
    }

    /// The chipset's signals are others now: the 8259s' output has risen, or a timer is due earlier.
    pub(crate) fn signals_changed(&mut self, interrupt: bool, earlier: bool) {
        let own = self.own.as_ref().map(|own| own.index);
        if let Some(own) = &mut self.own {
            *own.attention |= Attention::DEVICES | Attention::INTERRUPTS;
        }
        // The 8259s' output is wired to the first processor.
        if interrupt
            && own != Some(0)
            && let Some(slot) = self.vm.slots.first()
        {
            slot.inbox.nudge();
            self.vm.poke(0, self.mailboxes, self.host);
        }
        let home = self.vm.home();
        if earlier {
            self.mailboxes.be_due(home, self.vm.chipset_deadline());
            if home != self.host.cpu() {
                self.host.kick(home);
            }
        }
    }

    /// Asks for a change of the whole VM.
    pub(crate) fn ask(&mut self, request: Request) {
        if let Some(own) = &mut self.own {
            *own.attention |= Attention::HOST;
        }
        self.vm.ask(request, self.host);
    }
}
