//! (being written)
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod time;

pub use address::{Gpa, Gva, Hpa, PAGE_SIZE};
pub use time::Nanos;
