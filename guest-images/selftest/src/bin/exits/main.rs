//! Instructions that leave the guest: CPUID, MSRs, ports, hypercalls and the forbidden ones. Each must act as the
//! manuals say, touch no other register, and go on at the right next instruction.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod cpuid;
mod decoding;
mod instructions;
mod model_specific;
mod ports;
mod system_calls;

selftest::group!(
    "exits": cpuid::TESTS, model_specific::TESTS, system_calls::TESTS, instructions::TESTS, decoding::TESTS, ports::TESTS
);
