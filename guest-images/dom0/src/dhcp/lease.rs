//! What a server has granted.

use std::net::Ipv4Addr;
use std::time::Duration;

/// A lease of this length does not end (RFC 2131, section 3.3).
const INFINITE: u32 = u32::MAX;

/// An address and what goes with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Lease {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// How many of its bits are the network's: 1 to 32.
    pub(crate) prefix: u8,
    /// The way to other networks.
    pub(crate) router: Option<Ipv4Addr>,
    /// Servers of names.
    pub(crate) names: Vec<Ipv4Addr>,
    /// The server that granted it.
    pub(crate) server: Ipv4Addr,
    /// For how many seconds it is granted; `None` is for ever.
    pub(crate) seconds: Option<u32>,
}

/// When what becomes of a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Terms {
    /// Its server is asked (T1).
    pub(super) renew: Duration,
    /// Any server is asked (T2).
    pub(super) rebind: Duration,
    /// It is over.
    pub(super) end: Duration,
}

impl Terms {
    /// For a lease that counts from `begin`. What a server says of T1 and T2 counts where it makes sense (RFC 2131, section 4.4.5, for the rest).
    pub(super) fn new(begin: Duration, seconds: u32, renew: Option<u32>, rebind: Option<u32>) -> Self {
        if seconds == INFINITE {
            return Self { renew: Duration::MAX, rebind: Duration::MAX, end: Duration::MAX };
        }
        let eighths = |eighths: u64| Duration::from_millis(u64::from(seconds) * 125 * eighths);
        let said = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let end = eighths(8);
        let rebind = said(rebind).filter(|time| *time < end).unwrap_or(eighths(7));
        let renew =
            said(renew).filter(|time| *time < rebind && !time.is_zero()).unwrap_or(eighths(4).min(rebind));
        Self { renew: begin + renew, rebind: begin + rebind, end: begin + end }
    }
}

/// A lease's length, as it is told to others.
pub(super) fn length(seconds: u32) -> Option<u32> {
    (seconds != INFINITE).then_some(seconds)
}

/// An address that a machine can have.
pub(super) fn is_usable(address: Ipv4Addr) -> bool {
    // From 224 on there are groups, and what is reserved.
    (1..224).contains(&address.octets()[0]) && !address.is_loopback()
}

/// The number of the network's bits, from the mask that a server gave, or as it was before there were masks.
pub(super) fn prefix(address: Ipv4Addr, mask: Option<Ipv4Addr>) -> Option<u8> {
    let Some(mask) = mask.map(u32::from) else {
        return Some(match address.octets()[0] {
            ..128 => 8,
            128..192 => 16,
            192.. => 24,
        });
    };
    let ones = mask.leading_ones();
    let is_mask = mask.count_ones() == ones && ones > 0;
    is_mask.then(|| u8::try_from(ones).ok()).flatten()
}
