//! Time that guests can trust, and what KVM's paravirtual interface gives them. `seconds=N` is how long clocks are compared.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell, and share memory with the hypervisor.
#![allow(unsafe_code)]

mod clock;
mod interrupt;
mod steal;

selftest::group!("time": clock::TESTS, interrupt::TESTS, steal::TESTS);
