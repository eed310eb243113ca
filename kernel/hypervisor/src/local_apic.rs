//! The local APIC of a vCPU between the software that is it and the CPU that may do a part of it.
//!
//! While the guest runs, the CPU may have the state of its interrupts: it is given before an entry, and taken back before
//! anything looks at it. Whoever takes it leaves it to the loop to give it again.

use devices::lapic::X2APIC_MSR_FIRST;
use devices::{ApicMode, Width};
use vcpu::{ApicAssists, Backend, Host, Nanos, Vcpu};

use crate::dispatch::{Handled, Outcome};
use crate::guest::Guest;
use crate::processor::{Attention, Processor};

/// So many writes of the task priority are many.
const MANY_WRITES: u8 = 4;

/// Bytes between two registers of the page.
pub(crate) const STRIDE: u64 = 16;
/// Registers by their places in the page divided by 16 (SDM vol. 3, "Local APIC Register Address Map").
pub(crate) const TASK_PRIORITY: u16 = 0x8;
const EOI: u16 = 0xb;
const LOGICAL_DESTINATION: u16 = 0xd;
const DESTINATION_FORMAT: u16 = 0xe;
const COMMAND: u16 = 0x30;
const COMMAND_HIGH: u16 = 0x31;
const INITIAL_COUNT: u16 = 0x38;
const DIVIDE: u16 = 0x3e;
const SELF_IPI: u16 = 0x3f;
/// All registers that software can read have places below this.
const PLACES: u16 = 0x40;

impl Processor {
    /// Takes the state of the interrupts back from the CPU, if that has it.
    #[inline(always)]
    pub(crate) fn take_apic(&mut self, vcpu: &mut (impl Vcpu + ?Sized)) {
        if self.apic_given {
            self.take_given_apic(vcpu);
        }
    }

    fn take_given_apic(&mut self, vcpu: &mut (impl Vcpu + ?Sized)) {
        self.apic_given = false;
        vcpu.take_apic(self.apic.state_mut());
        self.attention |= Attention::INTERRUPTS;
    }

    /// The timer is due. Where the CPU has the state of the interrupts, it gets one more.
    #[inline]
    pub(crate) fn fire_timer(&mut self, vcpu: &mut (impl Vcpu + ?Sized), now: Nanos) {
        if self.apic_given
            && let Some(vector) = self.apic.timer_vector()
            && vcpu.add_request(vector)
        {
            self.apic.advance_timer_alone(now);
        } else {
            self.take_apic(vcpu);
            self.apic.advance(now);
        }
    }

    /// Hands it to the CPU, where that can do something with it. `waiting`: there is an interrupt to deliver.
    #[inline]
    pub(crate) fn give_apic(&mut self, vcpu: &mut (impl Vcpu + ?Sized), waiting: bool) {
        let always = !self.apic_assists.difference(ApicAssists::OFFER).is_empty();
        if always || waiting && self.apic_assists.contains(ApicAssists::OFFER) {
            vcpu.give_apic(self.apic.state(), self.apic.broadcasts_ends());
            self.apic_given = true;
        }
    }

    /// The guest reaches its local APIC in another way now, or all of its registers have changed.
    pub(crate) fn update_apic_view(&mut self, vcpu: &mut (impl Vcpu + ?Sized)) {
        self.take_apic(vcpu);
        self.apic_assists = vcpu.set_apic_view(self.apic.view(), self.uses_task_priority());
        self.attention |= Attention::INTERRUPTS;
        self.show_apic(vcpu);
    }

    /// Whether the guest uses its task priority again and again. 64-bit Linux writes it once; for others the CPU is to do it, which costs something at
    /// each interrupt.
    fn uses_task_priority(&self) -> bool {
        self.task_priority_writes >= MANY_WRITES
    }

    /// The guest has written its task priority by an exit: where it does so often and the CPU can do that by itself, it does so from now on.
    pub(crate) fn note_task_priority(&mut self, vcpu: &mut (impl Vcpu + ?Sized)) {
        self.task_priority_writes = self.task_priority_writes.saturating_add(1);
        if self.task_priority_writes == MANY_WRITES && !self.apic_assists.contains(ApicAssists::TASK_PRIORITY)
        {
            self.update_apic_view(vcpu);
        }
    }

    /// The guest has written a register: it reads what has come of it without an exit.
    #[inline(always)]
    pub(crate) fn show_written(&mut self, vcpu: &mut (impl Vcpu + ?Sized), index: u16) {
        if !self.apic_assists.contains(ApicAssists::REGISTERS) {
            return;
        }
        self.show_changed(vcpu, index);
    }

    fn show_changed(&self, vcpu: &mut (impl Vcpu + ?Sized), index: u16) {
        match index {
            // These change nothing that is shown,
            TASK_PRIORITY..=EOI | COMMAND | SELF_IPI => {}
            // and these only themselves.
            LOGICAL_DESTINATION | DESTINATION_FORMAT | COMMAND_HIGH | INITIAL_COUNT | DIVIDE => {
                if let Some(value) = self.apic.shown(index) {
                    vcpu.set_apic_register(index, value);
                }
            }
            _ => self.show_apic(vcpu),
        }
    }

    /// Shows the guest the registers of its local APIC, where it reads them without an exit.
    fn show_apic(&self, vcpu: &mut (impl Vcpu + ?Sized)) {
        if !self.apic_assists.contains(ApicAssists::REGISTERS) {
            return;
        }
        for index in 0..PLACES {
            if let Some(value) = self.apic.shown(index) {
                vcpu.set_apic_register(index, value);
            }
        }
    }
}

/// The guest has written a register of its local APIC's page; the instruction is done (SDM vol. 3, "APIC-Write VM Exits").
pub(crate) fn written<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    index: u16,
) -> Handled {
    let now = guest.host.now();
    guest.cpu.take_apic(guest.vcpu);
    if guest.cpu.apic.mode() == ApicMode::X2Apic {
        // An interrupt to itself that is none.
        let value = guest.vcpu.apic_register(index).into();
        if let Ok(effect) = guest.cpu.apic.msr_write(X2APIC_MSR_FIRST + u32::from(index), value, now) {
            guest.apply(effect);
        }
    } else {
        let mut write = |index: u16| {
            let value = guest.vcpu.apic_register(index);
            guest.cpu.apic.mmio_write(STRIDE * u64::from(index), Width::Dword, value.into(), now)
        };
        if index == COMMAND && guest.cpu.apic_assists.contains(ApicAssists::REGISTERS) {
            // The upper half is written without an exit, and does nothing by itself.
            let _ = write(COMMAND_HIGH);
        }
        let effect = write(index);
        guest.apply(effect);
        if index == TASK_PRIORITY {
            guest.cpu.note_task_priority(guest.vcpu);
        }
        guest.cpu.show_written(guest.vcpu, index);
    }
    Ok(Outcome::Resume)
}
