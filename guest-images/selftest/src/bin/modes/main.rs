//! Processor modes: 32-bit protected mode without paging, with 32-bit and with PAE paging, compatibility mode, 16-bit
//! protected mode, virtual-8086 mode, real mode with and without large segments, and back to long mode; then the page
//! sizes of long mode, and long mode with five levels of tables.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests leave long mode, which only assembly can.
#![allow(unsafe_code)]

mod five_levels;
mod long_paging;
mod protected;
mod ram;
mod real;
mod trampoline;
mod visit;

selftest::group!("modes": protected::TESTS, real::TESTS, long_paging::TESTS, five_levels::TESTS, ram::TESTS);
