//! The whole loop against a scripted guest: exits in, what the guest and the console see out.

/// Ends the tests where something is allocated that must not be.
#[global_allocator]
static ALLOCATOR: assert_no_alloc::AllocDisabler = assert_no_alloc::AllocDisabler;

mod bench;
mod channel;
mod channel_dealings;
mod channel_devices;
mod channel_disks;
mod channel_events;
mod channel_firmware;
mod channel_networks;
mod channel_power;
mod channel_random;
mod channel_trace;
mod channel_watch;
mod devices;
mod disks;
mod ends;
mod firmware;
mod instructions;
mod lifecycle;
mod local_apic;
mod made;
mod many;
mod network_prompt;
mod networks;
mod paravirtual;
mod random;
mod registers;
mod unplugged;
mod yard;
