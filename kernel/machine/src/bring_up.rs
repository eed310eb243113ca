//! What bringing the machine up takes: ticks from the boot loader's jump to the kernel on, and those of them that clear memory or
//! wait for timers, which depend on the machine and not on the kernel. Reported once, when the first guest is entered.

use core::sync::atomic::{AtomicU64, Ordering};

use vcpu::BringUp;

use crate::clock;

static SCRUBBING: AtomicU64 = AtomicU64::new(0);
static CALIBRATION: AtomicU64 = AtomicU64::new(0);

/// Clears memory, and counts how long that takes.
pub(crate) fn scrubbing<R>(clear: impl FnOnce() -> R) -> R {
    let start = clock::tsc();
    let result = clear();
    SCRUBBING.fetch_add(clock::tsc().wrapping_sub(start), Ordering::Relaxed);
    result
}

/// Timers were waited for so long.
pub(crate) fn calibrated(ticks: u64) {
    CALIBRATION.fetch_add(ticks, Ordering::Relaxed);
}

/// All of it until now.
pub(crate) fn so_far() -> BringUp {
    BringUp {
        total: clock::ticks(),
        scrubbing: SCRUBBING.load(Ordering::Relaxed),
        calibration: CALIBRATION.load(Ordering::Relaxed),
    }
}
