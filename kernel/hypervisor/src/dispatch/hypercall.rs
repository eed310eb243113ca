//! VMCALL and VMMCALL by KVM's convention: the number is in RAX, arguments in RBX, RCX, RDX and RSI, the result in RAX.
//!
//! Source: Linux documentation, "Linux KVM Hypercall" and "KVM CPUID bits".

use devices::{ApicMessage, DeliveryMode};
use emulator::Intercept;
use vcpu::{Backend, Gpr, Host, Vcpu};

use super::{Handled, Outcome};
use crate::guest::Guest;
use crate::paravirtual::Features;

/// KVM_HC_KICK_CPU: a vCPU by its APIC id leaves its HLT.
const KICK_CPU: u64 = 5;
/// KVM_HC_SEND_IPI: an interrupt for vCPUs by a bitmap of APIC ids.
const SEND_IPI: u64 = 10;
/// KVM_HC_SCHED_YIELD: a vCPU by its APIC id may have this one's time.
const SCHED_YIELD: u64 = 11;

/// KVM_ENOSYS: no such hypercall.
const NO_SUCH_CALL: i64 = -1000;
/// KVM_EPERM: not from user mode.
const NOT_PERMITTED: i64 = -1;
/// KVM_EINVAL: a command that is not one.
const INVALID: i64 = -22;

/// Of the command of SEND_IPI: vector and delivery mode, and what must be clear: a destination of its own.
const VECTOR: u64 = 0xff;
const DELIVERY_SHIFT: u32 = 8;
const SHORTHAND: u64 = 3 << 18;
const LOGICAL: u64 = 1 << 11;

#[inline(always)]
pub(super) fn handle<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>) -> Handled {
    let next = guest.next_rip(|found| matches!(found, Intercept::Vmcall | Intercept::Vmmcall))?;
    let long = guest.vcpu.is_in_64_bit_mode();
    let mask = if long { u64::MAX } else { u32::MAX.into() };
    let result = if guest.vcpu.cpl() > 0 {
        NOT_PERMITTED
    } else if matches!(guest.vcpu.registers().rax() & mask, KICK_CPU | SEND_IPI | SCHED_YIELD) {
        let (result, to) = call(guest, long);
        if to.is_some() {
            guest.vcpu.registers_mut().set_rax(result.cast_unsigned() & mask);
            return Ok(Outcome::GiveWay { next, to });
        }
        result
    } else {
        NO_SUCH_CALL
    };
    guest.vcpu.registers_mut().set_rax(result.cast_unsigned() & mask);
    Ok(Outcome::Advance(next))
}

/// A call that exists, if the VM has the feature. Its result, and whom the vCPU gives way to.
#[inline(never)]
fn call<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    long: bool,
) -> (i64, Option<usize>) {
    let mask = if long { u64::MAX } else { u32::MAX.into() };
    let features = guest.cpu.paravirtual.features;
    let argument = |gpr| guest.vcpu.gpr(gpr) & mask;
    let [first, second, third, fourth] = [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi].map(argument);
    let (mut result, mut to) = (NO_SUCH_CALL, None);
    match argument(Gpr::Rax) {
        KICK_CPU if features.contains(Features::UNHALT) => result = kick(guest, second),
        SEND_IPI if features.contains(Features::IPI) => {
            let half = if long { u64::BITS } else { u32::BITS };
            let bitmap = u128::from(first) | u128::from(second) << half;
            result = send(guest, bitmap, third, fourth);
        }
        SCHED_YIELD if features.contains(Features::YIELD) => {
            to = usize::try_from(first).ok().filter(|to| *to < guest.vm.slots.len());
            result = 0;
        }
        _ => {}
    }
    (result, to)
}

/// Ends a vCPU's HLT, the present one or the next. One that does not exist needs none.
fn kick<B: Backend, V: Vcpu, H: Host>(guest: &mut Guest<'_, '_, B, V, H>, apic_id: u64) -> i64 {
    let index = usize::try_from(apic_id).unwrap_or(usize::MAX);
    if index == guest.cpu.index {
        guest.cpu.paravirtual.unhalted = true;
    } else if let Some(slot) = guest.vm.slots.get(index) {
        slot.inbox.unhalt();
        guest.vm.poke(index, guest.mailboxes, guest.host);
    }
    0
}

/// Sends an interrupt or NMI to the vCPUs of a bitmap, whose bit 0 is the APIC id `least`. Returns how many there are.
fn send<B: Backend, V: Vcpu, H: Host>(
    guest: &mut Guest<'_, '_, B, V, H>,
    bitmap: u128,
    least: u64,
    command: u64,
) -> i64 {
    if command & (SHORTHAND | LOGICAL) != 0 {
        return INVALID;
    }
    let delivery = match DeliveryMode::from_bits((command >> DELIVERY_SHIFT) as u8 & 7) {
        Some(delivery @ (DeliveryMode::Fixed | DeliveryMode::Nmi)) => delivery,
        _ => return INVALID,
    };
    let message = ApicMessage {
        delivery,
        source: Some(guest.cpu.apic.apic_id()),
        ..ApicMessage::fixed(0, (command & VECTOR) as u8)
    };
    let mut sent = 0;
    let mut rest = bitmap;
    while rest != 0 {
        let bit = u64::from(rest.trailing_zeros());
        rest &= rest - 1;
        let index = least.checked_add(bit).and_then(|id| usize::try_from(id).ok());
        if let Some(index) = index.filter(|index| *index < guest.vm.slots.len()) {
            guest.wiring().hand(index, &message);
            sent += 1;
        }
    }
    sent
}
