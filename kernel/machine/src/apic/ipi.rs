//! Messages from one CPU to another.
//!
//! Source: Intel SDM vol. 3, "Issuing Interprocessor Interrupts".

use super::local;
use crate::cpu;

/// The kick's vector: it does nothing but end a guest's run or a halt.
const KICK_VECTOR: u8 = 0xeb;

const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
/// The largest id that a message can name outside x2APIC mode; the next means all CPUs.
const LARGEST_XAPIC_ID: u32 = 254;

/// Makes this CPU, and all others, ready to be kicked.
pub(super) fn start() {
    cpu::set_handler(KICK_VECTOR, local::end_of_interrupt);
}

/// True where a message can be sent to the local APIC with this id.
pub(crate) fn reaches(apic_id: u32) -> bool {
    apic_id <= LARGEST_XAPIC_ID || local::is_x2apic() && apic_id != u32::MAX
}

/// Interrupts a CPU: it leaves its guest or its halt.
#[inline]
pub(crate) fn send_kick(apic_id: u32) {
    local::send(apic_id, ASSERT | u32::from(KICK_VECTOR));
}

/// Interrupts a CPU with any vector, for tests.
#[cfg(feature = "faults")]
pub(crate) fn send_vector(apic_id: u32, vector: u8) {
    local::send(apic_id, ASSERT | u32::from(vector));
}

/// Sends a non-maskable interrupt. An NMI's handler may do so, too.
pub(crate) fn send_nmi(apic_id: u32) {
    local::send_between(apic_id, ASSERT | DELIVERY_NMI);
}

/// Makes a CPU wait for a start-up message, wherever it is.
pub(crate) fn send_init(apic_id: u32) {
    local::send(apic_id, ASSERT | DELIVERY_INIT);
}

/// Starts a CPU that waits for it, in real mode at the start of the page with this number.
pub(crate) fn send_startup(apic_id: u32, page: u8) {
    local::send(apic_id, ASSERT | DELIVERY_STARTUP | u32::from(page));
}
