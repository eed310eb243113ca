#![no_std]
#![forbid(unsafe_code)]
//! x
extern crate alloc;
#[cfg(test)]
extern crate std;
pub mod config;
pub mod console;
pub mod counters;
pub mod cpuid;
pub mod ratelimit;
