//! The local APIC of a vCPU between the software that is it and the CPU that may do a part of it.
//!
//! While the guest runs, the CPU may have the state of its interrupts: it is given before an entry, and taken back before
//! anything looks at it. Whoever takes it leaves it to the loop to give it again.

use devices::lapic::X2APIC_MSR_FIRST;
use devices::{ApicMode, Width};
use vcpu::{ApicAssists, Backend, Host, Vcpu};

use crate::dispatch::{Handled, Outcome};
use crate::guest::Guest;
use crate::processor::{Attention, Processor};

/// Bytes between two registers of the page.
const STRIDE: u64 = 16;
/// The halves of the interrupt command register, by their places in the page divided by 16.
const COMMAND: u16 = 0x30;
const COMMAND_HIGH: u16 = 0x31;
/// All registers that software can read have places below this.
const PLACES: u16 = 0x40;

impl<B: Backend> Processor<B> {
    /// Takes the state of the interrupts back from the CPU, if that has it.
    #[inline]
    pub(crate) fn take_apic(&mut self) {
        if self.apic_given {
            self.apic_given = false;
            self.vcpu.take_apic(self.apic.state_mut());
            self.attention |= Attention::INTERRUPTS;
        }
    }

    /// Hands it to the CPU, where that can do something with it.
    #[inline]
    pub(crate) fn give_apic(&mut self) {
        if !self.apic_assists.is_empty() {
            let broadcasts = self.apic.eoi_broadcasts();
            self.vcpu.give_apic(self.apic.state(), &broadcasts);
            self.apic_given = true;
        }
    }

    /// The guest reaches its local APIC in another way now, or all of its registers have changed.
    pub(crate) fn update_apic_view(&mut self) {
        self.take_apic();
        self.apic_assists = self.vcpu.set_apic_view(self.apic.view());
        self.attention |= Attention::INTERRUPTS;
        self.show_apic();
    }

    /// Shows the guest the registers of its local APIC, where it reads them without an exit.
    pub(crate) fn show_apic(&mut self) {
        if !self.apic_assists.contains(ApicAssists::REGISTERS) {
            return;
        }
        for index in 0..PLACES {
            if let Some(value) = self.apic.shown(index) {
                self.vcpu.set_apic_register(index, value);
            }
        }
    }
}

/// The guest has written a register of its local APIC's page; the instruction is done (SDM vol. 3, "APIC-Write VM Exits").
pub(crate) fn written<B: Backend, H: Host>(guest: &mut Guest<'_, '_, B, H>, index: u16) -> Handled {
    let now = guest.host.now();
    guest.cpu.take_apic();
    if guest.cpu.apic.mode() == ApicMode::X2Apic {
        // An interrupt to itself that is none.
        let value = guest.cpu.vcpu.apic_register(index).into();
        if let Ok(effect) = guest.cpu.apic.msr_write(X2APIC_MSR_FIRST + u32::from(index), value, now) {
            guest.wiring().apply(effect);
        }
    } else {
        let mut write = |index: u16| {
            let value = guest.cpu.vcpu.apic_register(index);
            guest.cpu.apic.mmio_write(STRIDE * u64::from(index), Width::Dword, value.into(), now)
        };
        if index == COMMAND && guest.cpu.apic_assists.contains(ApicAssists::REGISTERS) {
            // The upper half is written without an exit, and does nothing by itself.
            let _ = write(COMMAND_HIGH);
        }
        let effect = write(index);
        guest.wiring().apply(effect);
        if index != COMMAND {
            guest.cpu.show_apic();
        }
    }
    Ok(Outcome::Resume)
}
