//! The CPUs that the kernel runs on, by their numbers: 0 is the one that booted, the others count up without gaps as
//! they are started.

// UNSAFETY: follows the pointers in its list.
#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::PerCpu;

/// CPUs that the kernel can run on.
pub(crate) const MAX_CPUS: usize = 256;

static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// CPUs that run.
#[inline]
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Lists a CPU by its number. It counts from [`set_count`] on.
pub(super) fn list(cpu: &'static PerCpu) {
    if let Some(slot) = CPUS.get(cpu.number) {
        slot.store(ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    }
}

/// Takes a CPU off the list, which did not start.
pub(crate) fn unlist(number: usize) {
    if let Some(slot) = CPUS.get(number) {
        slot.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Says how many CPUs run: those with the numbers below.
pub(crate) fn set_count(count: usize) {
    COUNT.store(count.min(MAX_CPUS), Ordering::Release);
}

/// The CPU of this number.
#[inline]
pub(crate) fn get(number: usize) -> Option<&'static PerCpu> {
    let cpu = CPUS.get(number)?.load(Ordering::Acquire);
    // SAFETY: the list holds null and what `list` put there: static blocks.
    unsafe { cpu.as_ref() }
}

/// All CPUs on the list, those that are being started included.
pub(crate) fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..MAX_CPUS).filter_map(get)
}

/// The CPU on one of whose stacks `address` is. Works also where GS is not the kernel's.
pub(crate) fn owner_of(address: u64) -> Option<&'static PerCpu> {
    all().find(|cpu| cpu.stacks().is_some_and(|stacks| stacks.containing(address).is_some()))
}
