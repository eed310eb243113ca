//! Interrupt messages: what I/O APICs, MSI writes and local APICs send to local APICs.
//!
//! Sources: Intel SDM volume 3, "Interrupt Command Register (ICR)" and "Message Signalled Interrupts".

/// How the receiver treats a message (the three-bit delivery mode field; encoding 3 is reserved).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector goes to every processor of the destination.
    Fixed = 0,
    /// The vector goes to the one processor of the destination that runs at the lowest priority.
    LowestPriority = 1,
    /// System-management interrupt.
    Smi = 2,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi = 4,
    /// INIT; the vector is ignored.
    Init = 5,
    /// Start-up IPI; the vector is the page to start at.
    Startup = 6,
    /// The processor fetches the vector from the 8259s.
    ExtInt = 7,
}

impl DeliveryMode {
    /// Decodes the three-bit field; `None` for the reserved encoding.
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }

    /// Whether the vector of the message is delivered through the receiver's IRR.
    #[inline]
    pub const fn carries_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// The destination shorthand of an interprocessor interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Shorthand {
    /// None: the destination field counts.
    #[default]
    None = 0,
    /// The sender only.
    SelfOnly = 1,
    /// Every processor and the sender.
    AllIncludingSelf = 2,
    /// Every processor but the sender.
    AllExcludingSelf = 3,
}

impl Shorthand {
    /// Decodes the two-bit field.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::SelfOnly,
            2 => Self::AllIncludingSelf,
            _ => Self::AllExcludingSelf,
        }
    }
}

/// The destination that addresses every processor. Eight-bit senders' 0xff in physical mode is widened to this.
pub const BROADCAST: u32 = 0xffff_ffff;

/// One interrupt message on its way to the local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicMessage {
    /// APIC id (physical mode, [`BROADCAST`] for all) or message destination address (logical mode).
    pub destination: u32,
    /// Logical instead of physical destination mode.
    pub logical: bool,
    /// What the receiver does with it.
    pub delivery: DeliveryMode,
    /// The vector, or the start-up page.
    pub vector: u8,
    /// Level-triggered: the receiver's EOI is broadcast to the I/O APICs.
    pub level_triggered: bool,
    /// Level asserted; false only in an INIT level de-assert, which receivers ignore.
    pub assert: bool,
    /// Destination shorthand; overrides `destination`.
    pub shorthand: Shorthand,
    /// x2APIC id of the sending local APIC; `None` for devices.
    pub source: Option<u32>,
}

impl ApicMessage {
    /// An edge-triggered fixed interrupt to one physical APIC id: what a simple device sends.
    #[inline]
    pub const fn fixed(destination: u32, vector: u8) -> Self {
        Self {
            destination,
            logical: false,
            delivery: DeliveryMode::Fixed,
            vector,
            level_triggered: false,
            assert: true,
            shorthand: Shorthand::None,
            source: None,
        }
    }
}

/// Widens an eight-bit physical or logical destination to [`ApicMessage::destination`].
#[inline]
pub(crate) const fn widen_destination(destination: u8, logical: bool) -> u32 {
    if destination == 0xff && !logical { BROADCAST } else { destination as u32 }
}

/// The way of interrupt messages to the local APICs: implemented by whoever owns them.
pub trait ApicBus {
    /// Routes `message` to the local APICs that accept it.
    fn deliver(&mut self, message: ApicMessage);
}

/// Decodes an MSI or MSI-X write into the message it stands for. `None` when the address is not in the
/// interrupt window (0xfee0_0000 to 0xfeef_ffff) or the delivery mode is reserved.
///
/// Source: Intel SDM volume 3, "Message Address Register Format", "Message Data Register Format".
#[inline]
pub const fn msi(address: u64, data: u32) -> Option<ApicMessage> {
    const WINDOW: u64 = 0xfee0_0000;
    const WINDOW_MASK: u64 = !0xf_ffff;
    const DESTINATION_LOGICAL: u64 = 1 << 2;
    const LEVEL_ASSERT: u32 = 1 << 14;
    const TRIGGER_LEVEL: u32 = 1 << 15;
    if address & WINDOW_MASK != WINDOW {
        return None;
    }
    let Some(delivery) = DeliveryMode::from_bits((data >> 8) as u8) else { return None };
    let logical = address & DESTINATION_LOGICAL != 0;
    let level_triggered = data & TRIGGER_LEVEL != 0;
    Some(ApicMessage {
        destination: widen_destination((address >> 12) as u8, logical),
        logical,
        delivery,
        vector: data as u8,
        level_triggered,
        assert: !level_triggered || data & LEVEL_ASSERT != 0,
        shorthand: Shorthand::None,
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let message = msi(0xfee0_3000, 0x0041).unwrap();
        assert_eq!(message, ApicMessage::fixed(3, 0x41));
        let message = msi(0xfeef_f004, 0xc1fe).unwrap();
        assert_eq!((message.destination, message.logical), (0xff, true));
        assert_eq!(message.delivery, DeliveryMode::LowestPriority);
        assert!(message.level_triggered && message.assert);
        assert_eq!(msi(0xfeef_f000, 0x41).unwrap().destination, BROADCAST);
    }

    #[test]
    fn msi_outside_the_window_or_reserved_is_none() {
        assert_eq!(msi(0xfed0_0000, 0x41), None);
        assert_eq!(msi(0x1_fee0_0000, 0x41), None);
        assert_eq!(msi(0xfee0_0000, 0x341), None);
    }
}
