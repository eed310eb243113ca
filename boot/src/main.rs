//! The bootable binary: what a boot loader jumps to, and nothing else. [`entry`] holds the Multiboot2 header,
//! the PVH note and the way from 32-bit protected mode to Rust; `linker.ld` lays out the image. The kernel
//! itself is `basalt` and below.
//!
//! Sources: Multiboot2 Specification, "OS image format" and "Machine state"; Xen documentation, "x86/HVM direct
//! boot ABI"; Intel SDM vol. 3, "Initializing IA-32e Mode".
//!
//! A build for the host gives a program that only says what it is, so that lints run there.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod entry;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("This is a kernel; it runs on bare metal. Use `cargo xtask run`.");
    std::process::ExitCode::FAILURE
}
