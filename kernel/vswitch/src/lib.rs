//! The virtual switch: what becomes of a frame between the network device that sends it and those that receive it.
//!
//! A switch sees the first bytes of a frame ([`Frame`]), never guest memory: it says to which ports the frame goes and how it looks there,
//! and keeps the frames that wait. Who carries bytes from VM to VM (`virtio`) asks it.
//!
//! - [`frame`] reads headers; [`offload`], [`segment`] and [`checksum`] are about what senders leave undone, [`tag`] and [`retag`] about VLAN tags.
//! - [`settings`] says what can be set of a port, [`learn`] where addresses are; [`guard`], [`rules`] and [`flows`] say what may pass.
//! - [`output`] and [`meter`] say when; [`mirror`] and [`counters`] who watches. [`switch`] puts them together: the way of a frame.
//!
//! **Bounds**: tables have fixed sizes, and no port can push out what another has in them. Nothing allocates but the making of a switch.
//! **Locks**, each held for a bounded number of instructions, never two at once: a bucket of the flow table, a bucket of the address table, a
//! port's output, a port's settings, the rules, the mirrors.
//!
//! Sources: IEEE 802.1Q-2018 ("Principles of Bridge operation", "Tag format"), RFC 791, 8200, 826, 4861, 9293, 768, 7011.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod checksum;
pub mod counters;
pub mod flows;
pub mod frame;
pub mod guard;
pub mod learn;
pub mod meter;
pub mod mirror;
pub mod offload;
pub mod output;
pub mod port;
pub mod retag;
pub mod rules;
pub mod segment;
pub mod settings;
pub mod switch;
pub mod tag;

pub use frame::{Frame, HEAD_BYTES, Layers};
pub use offload::{Checksum, Large, LargeKind, Offload, Takes};
pub use port::{MAX_PORTS, Mac, PortId, PortSet};
pub use switch::Switch;

/// Nanoseconds since the machine started.
pub type Nanos = u64;
