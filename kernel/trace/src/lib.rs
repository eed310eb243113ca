//! What each CPU did last: small events in a ring of the CPU's own, which are always recorded and never told, until somebody asks or the kernel panics.
//!
//! An [`Event`] is four numbers. A [`Ring`] keeps the last ones; its CPU writes without waiting for anybody, and whoever reads meanwhile is told how
//! many it has missed. `docs/abi.md` says what the numbers of each [`Kind`] are, and how the management domain reads them.
//!
//! Not its job: what is worth recording (`hypervisor`), whose ring is whose (`machine`). No locks, nothing is allocated.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod event;
mod ring;
#[cfg(test)]
mod tests;

pub use event::{EVENT_BYTES, Event, Kind, Subject};
pub use ring::{KEPT, Ring, Taken};
