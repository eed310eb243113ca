//! Virtual machines: what they are made of, how they run, and what becomes of each exit.
//!
//! A [`Node`] makes the VMs that the boot modules describe; every CPU runs it. It is generic over the vendor's
//! virtualization extensions ([`vcpu::Backend`]) and the machine ([`vcpu::Host`]), so that the whole of it runs on a
//! development host against a scripted fake.
//!
//! - [`config`] reads the modules' command lines; [`memory_map`] and `vm` lay a VM out and load its kernel.
//! - `run` is a CPU's loop and says whose turn it is; [`schedule`] is the policy that will.
//! - `dispatch` turns an exit into an outcome; the loop applies outcomes, in one place.
//! - [`cpuid`], `msr` and [`control`] are the policy: what a guest sees and may switch on. Deny by default.
//! - [`console`] shares the machine's serial port; `report` and [`counters`] tell what a VM did.
//!
//! Not its job: VMCS and VMCB, frames, interrupts of the machine (`machine`); devices' registers (`devices`).
//!
//! A guest can only hurt itself: whatever it does ends in an architectural effect or in a stop of its VM ([`StopReason`])
//! with a dump. Memory is allocated while VMs are made, never on an exit. Log
//! lines that a guest can cause are limited ([`ratelimit`]). Locks, in order: a vCPU's (held by the CPU that runs it, never
//! waited for), the chipset's, and below it the serial line's, the rate limits' and the state of the VM's life.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod channel;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
pub mod counters;
pub mod cpu_list;
pub mod cpuid;
mod disks;
mod dispatch;
mod firmware;
mod guest;
mod hardware;
mod heap;
mod instruction;
mod linear;
mod links;
mod local_apic;
mod mailbox;
pub mod memory_map;
mod msr;
mod networks;
pub mod paravirtual;
mod processor;
pub mod ratelimit;
mod report;
mod run;
pub mod schedule;
mod scheduler;
mod screen;
mod serial_line;
mod stop;
#[cfg(test)]
mod tests;
mod virtio_bus;
mod vm;
mod wiring;

pub use config::hardware_memory;
pub use config::{End, FirstView, Module, Options};
pub use run::{CreateVmError, Ended, ManageError, Node, Prepared, VmState};
pub use stop::StopReason;
pub use vm::StartError;
