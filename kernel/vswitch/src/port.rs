//! Ports by number, sets of them, and addresses of network devices.

use core::fmt;

/// Ports of a switch at most.
pub const MAX_PORTS: usize = 64;

/// An address of a network device.
pub type Mac = [u8; 6];

/// The address that stands for all devices.
pub const BROADCAST: Mac = [0xff; 6];

/// Whether an address stands for several devices.
pub const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// A port of a switch, by its number below [`MAX_PORTS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(u8);

impl PortId {
    /// The one with the lowest number.
    pub const FIRST: Self = Self(0);

    /// The port of that number, where there can be one.
    pub const fn new(number: usize) -> Option<Self> {
        if number < MAX_PORTS { Some(Self(number as u8)) } else { None }
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Some of a switch's ports.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortSet(u64);

impl PortSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(u64::MAX);

    /// Just this one.
    pub const fn one(port: PortId) -> Self {
        Self(1 << port.0)
    }

    /// Those whose bits are set.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// A bit for each.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the port is one of them.
    pub const fn has(self, port: PortId) -> bool {
        self.0 >> port.0 & 1 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and another one.
    #[must_use]
    pub const fn with(self, port: PortId) -> Self {
        Self(self.0 | 1 << port.0)
    }

    /// All but that one.
    #[must_use]
    pub const fn without(self, port: PortId) -> Self {
        Self(self.0 & !(1 << port.0))
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in one of them.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Takes the one with the lowest number.
    pub const fn take_first(&mut self) -> Option<PortId> {
        if self.0 == 0 {
            return None;
        }
        let port = PortId(self.0.trailing_zeros() as u8);
        self.0 &= self.0 - 1;
        Some(port)
    }

    /// How many they are.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for PortSet {
    type Item = PortId;

    fn next(&mut self) -> Option<PortId> {
        self.take_first()
    }
}
