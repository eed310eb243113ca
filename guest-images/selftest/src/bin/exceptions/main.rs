//! Exceptions and their error codes, control registers, single-stepping and breakpoints around exits, NMIs and interrupt
//! shadows.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod breakpoint;
mod control;
mod fault;
mod nmi;
mod page_fault;
mod segment;
mod shadow;
mod step;

selftest::group!(
    "exceptions": fault::TESTS, segment::TESTS, page_fault::TESTS, control::TESTS, step::TESTS, breakpoint::TESTS,
    shadow::TESTS, nmi::TESTS
);
