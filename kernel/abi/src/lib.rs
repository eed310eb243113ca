//! What the kernel and the management domain say to each other, over a port of its virtio console: messages, one after the other.
//!
//! `docs/abi.md` is the reference; this is the only place where both sides get their layouts from. A message is a [`Header`] and a body of a size that
//! its kind says; bodies that end with bytes have a length of their own for these. Numbers are little-endian, and nothing is padded by a compiler.
//!
//! - **Requests** go to the kernel, each with an id that its [`Answer`] repeats. Answers come in any order.
//! - **Events** come unasked, with id 0.
//! - **Hello** is the first message of both sides. Whoever sees another [`MAJOR`] says so, with both versions, and hears nothing more.
//!
//! Reading never panics and never allocates: what does not fit is an [`Error`] with the culprit. Not its job: what a request does, and the channel.
//!
//! Changes: see [`MINOR`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod answer;
mod codec;
mod disk;
mod event;
mod frame;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Link, Refusal, VmState};
pub use codec::{Error, Name};
pub use disk::{DiskAnswer, DiskOrder, DiskStatus, DiskVerb};
pub use event::{Event, Reason};
pub use frame::{HEADER_BYTES, Header, MAX_MESSAGE, Message, Stream};
pub use request::{ALL_VCPUS, DeviceKind, MAX_INLINE, MAX_WORDS, NetworkList, PowerAction, Request};

/// Both sides must have the same.
pub const MAJOR: u16 = 1;
/// Who has the larger one knows more than the other, and says nothing that the other does not know. Changelog:
///
/// | version | what is new |
/// |---|---|
/// | 1.0 | hello, VMs (create, destroy, start, stop, pause, resume, reset, button), memory copies, processors, devices, shares, status, pins, exit counters, trace rings, consoles, log, power, switch ports, rules and mirrors, disks that the domain serves |
/// | 1.1 | how much of the machine is free; devices: firmware, debug console, text screen |
pub const MINOR: u16 = 1;
