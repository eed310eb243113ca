//! virtio devices as PCI functions: what a guest sees of them ([`pci`]), the registers of the transport ([`transport`]), the
//! queues that requests travel in ([`queue`]), and the devices themselves ([`block`], [`console`], [`entropy`], [`net`]).
//!
//! - **Nothing of the guest's is trusted, and nothing is read twice**: a descriptor, an index, a header is copied once and
//!   checked as the copy. What a queue looks like is fixed when the driver enables it. Chains end after as many
//!   descriptors as the queue has. (A request to a disk that a server has is read anew, as a whole and with all checks, when it is answered.) A queue that makes no sense puts its device, and only that, into DEVICE_NEEDS_RESET.
//! - **Work is bounded**: [`Function::step`] does a piece of at most [`STEP_BYTES`] or one small request; who calls it looks for
//!   other work in between. Nothing allocates but the making of a function.
//! - **Locks**, in this order: a function's registers, then one of its queues, then (in the caller's [`Signals`]) the chipset, then the
//!   function's interrupts. A queue's lock is held for one step; a reset waits for it, so that nothing is under way afterwards.
//!
//! Not its job: where a disk's bytes are kept ([`vcpu::Image`]), which devices a VM has, guest memory
//! itself, and the PCI bus.
//!
//! Source: Virtual I/O Device (VIRTIO) Version 1.2; each module names its sections.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod balloon;
pub mod block;
pub mod console;
pub mod entropy;
mod function;
mod image;
mod interrupts;
mod joint;
mod memory;
pub mod net;
pub mod pci;
pub mod queue;
#[cfg(test)]
mod served_tests;
#[cfg(test)]
mod tests;
pub mod transport;
mod vm_set;

pub(crate) use function::BUFFER_BYTES;
pub use function::{Function, Kind, Progress};
pub use interrupts::{Signal, Signals, Wires};
pub use vm_set::{MAX_VMS, VmSet, bits};

/// Bytes that one step copies at most.
pub const STEP_BYTES: u32 = 64 << 10;
/// Queues of a device at most.
pub const MAX_QUEUES: usize = 16;
