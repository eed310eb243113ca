//! Keeps log lines that a guest can cause from flooding the log: each VM has a small allowance per call site.

use vcpu::Nanos;

/// Lines in one window.
const BURST: u32 = 5;
/// Length of a window.
const WINDOW: Nanos = Nanos::from_secs(10);

/// A place in the code that logs what a guest does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Site {
    /// A denied RDMSR.
    ReadMsr,
    /// A denied WRMSR.
    WriteMsr,
    /// A refused control-register write.
    ControlRegister,
    /// An access to device memory where no device is.
    UnclaimedMemory,
    /// An instruction that the virtual CPU does not have.
    Undefined,
    /// A touch of memory that was given back, when the machine has none.
    NoMemory,
    /// A message of the management domain's that makes no sense.
    Message,
}

impl Site {
    const COUNT: usize = Self::Message as usize + 1;
}

#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    window_end: Nanos,
    used: u32,
    suppressed: u32,
}

/// The allowances of one VM.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    sites: [Allowance; Site::COUNT],
}

impl RateLimits {
    /// Whether `site` may log now: the number of lines that were left out since its last one.
    pub fn allow(&mut self, site: Site, now: Nanos) -> Option<u32> {
        let allowance = self.sites.get_mut(site as usize)?;
        if now >= allowance.window_end {
            allowance.window_end = now + WINDOW;
            allowance.used = 0;
        }
        if allowance.used >= BURST {
            allowance.suppressed = allowance.suppressed.saturating_add(1);
            return None;
        }
        allowance.used += 1;
        Some(core::mem::take(&mut allowance.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_silence_then_the_count() {
        let mut limits = RateLimits::default();
        for _ in 0..BURST {
            assert_eq!(limits.allow(Site::ReadMsr, Nanos(1)), Some(0));
        }
        assert_eq!(limits.allow(Site::ReadMsr, Nanos(2)), None);
        assert_eq!(limits.allow(Site::ReadMsr, Nanos(3)), None);
        assert_eq!(limits.allow(Site::WriteMsr, Nanos(3)), Some(0), "another site has its own allowance");
        assert_eq!(limits.allow(Site::ReadMsr, Nanos(1) + WINDOW), Some(2));
    }
}
