//! A driver for virtio devices on the PCI bus: modern, split queues, polled. It allocates nothing but pages ([`crate::memory`]), and a
//! request costs a few stores, so that what remains is the device's.
//!
//! It trusts its caller: everything of a queue, and every register, can be reached past it. Tests attack devices that way.
//!
//! Source: Virtual I/O Device (VIRTIO) Version 1.2, "Virtio Over PCI Bus", "Split Virtqueues".

pub mod block;
mod device;
mod msix;
mod queue;

pub use device::{Device, feature, kind, register, status};
pub use msix::{NO_VECTOR, entry};
pub use queue::{Buffer, Layout, Queue, Used, describe, descriptor};
