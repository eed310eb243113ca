//! Addresses as types, so that a guest's number is never taken for the host's.

use core::fmt;

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;

/// Where a local APIC's registers are in memory after power-up (SDM vol. 3, "Local APIC Status and Location").
pub const APIC_PAGE: Gpa = Gpa(0xfee0_0000);

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address rounded down to its 4 KiB page.
            #[inline]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Bytes from the start of its 4 KiB page.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address `bytes` further on, or `None` past the end of the address space.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A guest-physical address: what the guest believes to be RAM and device addresses.
    Gpa
);
address!(
    /// A guest-linear address: after segmentation, before the guest's own page tables.
    Gva
);
address!(
    /// A host-physical address. Only `machine` turns one into memory.
    Hpa
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_offset_split_an_address() {
        let address = Gpa(0x1234_5678);
        assert_eq!(address.page(), Gpa(0x1234_5000));
        assert_eq!(address.page_offset(), 0x678);
        assert_eq!(address.page().0 + address.page_offset(), address.0);
    }

    #[test]
    fn addition_past_the_end_is_none() {
        assert_eq!(Gpa(u64::MAX).checked_add(1), None);
        assert_eq!(Gpa(u64::MAX - 1).checked_add(1), Some(Gpa(u64::MAX)));
    }
}
