//! x87, SSE and AVX state, XCR0 and the debug registers across exits. The framework itself uses no vector register, so
//! what changes there was changed from outside. Two virtual machines that run this group at once show whether state
//! leaks from one to the other.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod save;
mod state;
mod survive;

selftest::group!("fpu": survive::TESTS, save::TESTS);
