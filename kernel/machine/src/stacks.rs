//! The CPUs' stacks. Each has a page below it that the page tables leave unmapped, so an
//! overflow is a page fault (then a double fault on a stack of its own) and not silent damage. The boot CPU's are in
//! the kernel's image, the others' are taken and mapped when those CPUs are started.

// UNSAFETY: stacks are memory that the CPU writes behind the compiler's back.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ops::Range;

use vcpu::PAGE_SIZE;

use crate::cpu::{PerCpu, registry};
use crate::memory::{MapError, map_stack};

const GUARD_BYTES: usize = PAGE_SIZE as usize;

/// Size of [`BOOT_STACK`] in bytes, guard page included.
pub const BOOT_STACK_BYTES: usize = size_of::<Stack<BOOT_STACK_USABLE>>();

/// The instruction decoder unpacks its tables recursively at its first use, which takes some 100 KiB.
const BOOT_STACK_USABLE: usize = 256 * 1024;
/// The other CPUs do not do that.
const OTHER_STACK_USABLE: usize = 64 * 1024;
const INTERRUPT_STACK_USABLE: usize = 16 * 1024;

/// A stack with its guard page at the low end.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Stack<const BYTES: usize> {
    guard: [u8; GUARD_BYTES],
    usable: UnsafeCell<[u8; BYTES]>,
}

// SAFETY: nobody makes a reference to the bytes; the one CPU that has the stack loaded uses it.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

impl<const BYTES: usize> Stack<BYTES> {
    const fn new() -> Self {
        Self { guard: [0; GUARD_BYTES], usable: UnsafeCell::new([0; BYTES]) }
    }

    /// The address that goes into RSP: one past the last byte.
    pub fn top(&self) -> u64 {
        self.usable.get() as u64 + BYTES as u64
    }

    fn usable(&self) -> Range<u64> {
        self.usable.get() as u64..self.top()
    }

    fn guard(&self) -> Range<u64> {
        let start = &raw const self.guard as u64;
        start..start + GUARD_BYTES as u64
    }
}

/// The boot CPU's stack, on which everything but three exceptions runs.
pub static BOOT_STACK: Stack<BOOT_STACK_USABLE> = Stack::new();
/// For double faults: the interrupted stack may be what is broken.
pub(crate) static DOUBLE_FAULT_STACK: Stack<INTERRUPT_STACK_USABLE> = Stack::new();
/// For non-maskable interrupts, which come at any instruction.
pub(crate) static NMI_STACK: Stack<INTERRUPT_STACK_USABLE> = Stack::new();
/// For machine checks, likewise.
pub(crate) static MACHINE_CHECK_STACK: Stack<INTERRUPT_STACK_USABLE> = Stack::new();

/// The guard pages in the kernel's image, as virtual addresses.
pub(crate) fn guards() -> [Range<u64>; 4] {
    [BOOT_STACK.guard(), DOUBLE_FAULT_STACK.guard(), NMI_STACK.guard(), MACHINE_CHECK_STACK.guard()]
}

/// Bytes of stacks in the kernel's image.
pub(crate) fn image_bytes() -> u64 {
    let boot = CpuStacks::boot();
    boot.all().into_iter().map(|stack| stack.end - stack.start + GUARD_BYTES as u64).sum()
}

/// Where a CPU's stacks are: virtual addresses without the guard pages below.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CpuStacks {
    /// On which everything but three exceptions runs.
    pub(crate) main: Range<u64>,
    /// For double faults.
    pub(crate) double_fault: Range<u64>,
    /// For non-maskable interrupts.
    pub(crate) nmi: Range<u64>,
    /// For machine checks.
    pub(crate) machine_check: Range<u64>,
}

impl CpuStacks {
    /// The boot CPU's, which are in the kernel's image.
    pub(crate) fn boot() -> Self {
        Self {
            main: BOOT_STACK.usable(),
            double_fault: DOUBLE_FAULT_STACK.usable(),
            nmi: NMI_STACK.usable(),
            machine_check: MACHINE_CHECK_STACK.usable(),
        }
    }

    /// Another CPU's. They stay for good.
    pub(crate) fn allocate() -> Result<Self, MapError> {
        let stack = |bytes: usize| map_stack(bytes as u64);
        Ok(Self {
            main: stack(OTHER_STACK_USABLE)?,
            double_fault: stack(INTERRUPT_STACK_USABLE)?,
            nmi: stack(INTERRUPT_STACK_USABLE)?,
            machine_check: stack(INTERRUPT_STACK_USABLE)?,
        })
    }

    fn all(&self) -> [&Range<u64>; 4] {
        [&self.main, &self.double_fault, &self.nmi, &self.machine_check]
    }

    /// The stack that holds `address`, if one does.
    pub(crate) fn containing(&self, address: u64) -> Option<&Range<u64>> {
        self.all().into_iter().find(|stack| stack.contains(&address))
    }

    fn has_guard_at(&self, address: u64) -> bool {
        self.all().into_iter().any(|stack| (stack.start - GUARD_BYTES as u64..stack.start).contains(&address))
    }
}

/// True where `address` is in the guard page of some CPU's stack.
pub(crate) fn is_guard(address: u64) -> bool {
    registry::all().filter_map(PerCpu::stacks).any(|stacks| stacks.has_guard_at(address))
}

/// The stack that holds `address`, if one does.
pub(crate) fn containing(address: u64) -> Option<Range<u64>> {
    registry::all().filter_map(PerCpu::stacks).find_map(|stacks| stacks.containing(address).cloned())
}
