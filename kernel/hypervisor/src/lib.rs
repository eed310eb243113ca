#![no_std]
#![forbid(unsafe_code)]
//! x
extern crate alloc;
#[cfg(test)]
extern crate std;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
pub mod counters;
pub mod cpuid;
mod msr;
pub mod ratelimit;
