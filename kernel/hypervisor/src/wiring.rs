//! The wires between a VM's devices: interrupt messages to its local APICs, console bytes to the multiplexer.

use devices::{ApicBus, ApicEffect, ApicMessage, Chipset, ConsoleSink, LocalApic};

use crate::console::Console;
use crate::processor::Attention;

/// What a chipset needs of the VM around it.
pub(crate) struct Wiring<'a, 'm> {
    pub(crate) apic: &'a mut LocalApic,
    pub(crate) attention: &'a mut Attention,
    pub(crate) console: &'a mut Console<'m>,
    /// The VM's number.
    pub(crate) guest: usize,
}

impl ApicBus for Wiring<'_, '_> {
    #[inline]
    fn deliver(&mut self, message: ApicMessage) {
        if self.apic.accepts(&message) && self.apic.deliver(&message) {
            *self.attention |= Attention::INTERRUPTS;
        }
    }
}

impl ConsoleSink for Wiring<'_, '_> {
    #[inline]
    fn put(&mut self, byte: u8) -> bool {
        self.console.put(self.guest, byte)
    }
}

impl Wiring<'_, '_> {
    /// Does what a write of a local APIC's register asks of the world outside it.
    #[inline]
    pub(crate) fn apply(&mut self, effect: ApicEffect, chipset: &mut Chipset<'_>) {
        // Any write can change what is deliverable: priorities, EOI, a self interrupt.
        *self.attention |= Attention::INTERRUPTS;
        match effect {
            ApicEffect::None => {}
            ApicEffect::Send(message) => self.deliver(message),
            ApicEffect::EoiBroadcast(vector) => chipset.eoi_broadcast(vector, self),
            ApicEffect::TimerChanged => *self.attention |= Attention::TIME,
        }
    }
}
