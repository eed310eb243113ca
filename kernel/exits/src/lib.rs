//! The way of an exit on this machine's CPUs, as code.
//!
//! What the hypervisor does is generic over the backend and the host, so that tests can put fakes there, and the compiler makes code of it where both are
//! named, with that crate's settings. Named here, all that [`turn`] reaches is made for speed; the rest, bring-up and the console's commands, is made in
//! `basalt`, to be small. (Crates that are built for size use what one below them has made already.)
//!
//! Not its job: anything else.

#![no_std]
#![forbid(unsafe_code)]

use hypervisor::Prepared;
use machine::extensions::Extensions;
use machine::host::PcHost;

/// One turn of a CPU's loop, see [`Prepared::turn`].
pub fn turn(cpu: &mut Prepared<'_, '_, '_, Extensions, PcHost>) -> bool {
    cpu.turn()
}
