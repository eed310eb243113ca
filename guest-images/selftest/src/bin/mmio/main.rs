//! Instructions on device memory, which a hypervisor has to decode and execute itself: every form that real kernels use
//! on device registers, in every size and addressing mode, with its flags.
//!
//! Three places serve as devices: the local APIC's initial count (32 bits that keep what is written, its timer being
//! masked), the I/O APIC's data window, and an address that nobody claims (reads all ones, drops writes). What an
//! instruction should do is taken from the same instruction on RAM.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod addressing;
mod arithmetic;
mod form;
mod paging;
mod sizes;
mod strings;

selftest::group!(
    "mmio": addressing::TESTS, arithmetic::TESTS, sizes::TESTS, strings::TESTS, paging::TESTS
);
