//! The machine's own devices as the management domain (dom0) sees them: what it may reach, and what stays the kernel's.
//!
//! The opposite of a guest's: everything is allowed and where it is, but for what would let dom0 reach memory that is not its own, or take from
//! the kernel what that needs. [`pci`] filters configuration space: dom0's message interrupts become the kernel's.
//!
//! Not its job: reaching the hardware ([`vcpu::Hardware`], which `machine` implements and a fake in tests), memory, virtual CPUs.
//! No locks; the owner brings one. What is made for a function is allocated when dom0 finds it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod pci;
mod ports;

pub use ports::{PortWrite, Ports};
