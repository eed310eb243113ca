//! A small framework for guest micro-kernels that test a hypervisor from inside.
//!
//! A micro-kernel is a binary of this package: a few tables of tests ([`tests!`]) tied together by [`group!`]. It is
//! a static ELF64 image that starts in four ways: by the Linux 64-bit boot protocol (as a `vmlinux`), by its PVH note
//! (`qemu-system-x86_64 -kernel`), or by its Multiboot or Multiboot2 header (GRUB). So the same image runs under a hypervisor and
//! bare, and a bare processor model says what is right.
//!
//! On COM1 it prints `ok NAME`, `FAILED NAME: reason` or `skipped NAME: reason` for each test, then
//! `selftest GROUP done: N passed, M failed, K skipped`, and powers the machine off through ACPI. The command line
//! selects tests: `test=NAME,OTHER*`. `emulator=tcg` or `emulator=bochs` says what the processor below is, whose known
//! deviations from the manuals then skip a test, or a part of it, instead of failing it; `masked=delivered` names one that
//! only some set-ups have. Without them the processor counts as real.
//!
//! It runs on one processor, with interrupts off but where a test asks for them; tests start others by [`smp`]. The first 4 GiB are mapped one to
//! one. A test's exceptions are caught ([`exception::catch`]); what nobody expects fails the test with its registers,
//! and the next test starts from [`runner::baseline`].
//!
//! Safety here is coarser than in a kernel: the image has the machine to itself, and a test's wrong MSR, port or control
//! register is its subject. Functions that touch the processor or a device are therefore safe to call; what could
//! break the framework's own memory is `unsafe`.
//!
//! Sources: Intel SDM vol. 3 and AMD APM vol. 2 for everything tested; "The Linux/x86 Boot Protocol", Xen "x86/HVM direct
//! boot ABI" (PVH), Multiboot and Multiboot2 specifications, ACPI specification.
#![no_std]
// UNSAFETY: the micro-kernels are bare-metal programs; each block says why it holds.
#![allow(unsafe_code)]
#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "`probe!` is inline assembly, and its operands are plain values"
)]

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod cpu;
pub mod descriptor;
#[cfg(target_os = "none")]
mod entry;
pub mod exception;
mod global;
pub mod interrupt;
pub mod ioapic;
pub mod kvm;
pub mod memory;
pub mod paging;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod platform;
pub mod power;
pub mod rtc;
pub mod runner;
pub mod serial;
pub mod smp;
pub mod snippet;
pub mod tsc;
pub mod uart;
pub mod user;
pub mod verdict;
pub mod virtio;

pub use exception::{Exception, catch, expect_exception};
pub use global::{Global, PerCpu};
pub use runner::Test;
pub use verdict::{TestResult, Verdict};
