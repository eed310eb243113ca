//! Which messages a local APIC takes, as a value of one word: others on the bus decide by it without the APIC.
//!
//! Source: Intel SDM volume 3, "Determining IPI Destination", "Logical Destination Mode in x2APIC Mode".

use super::{ApicMode, LocalApic, svr};
use crate::message::{ApicMessage, BROADCAST, Shorthand};

/// The model field of the destination format register.
const MODEL_FLAT: u8 = 0xf;
const MODEL_CLUSTER: u8 = 0x0;

/// Everything of a local APIC that decides about destinations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routing {
    id: u32,
    /// The logical id of xAPIC mode.
    logical: u8,
    /// The model of the destination format register, four bits.
    model: u8,
    mode: ApicMode,
    software_enabled: bool,
}

/// Places of the fields in the word.
const LOGICAL: u32 = 32;
const MODEL: u32 = 40;
const MODE: u32 = 44;
const ENABLED: u32 = 46;

impl Routing {
    /// One word that holds it all.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        let mode = match self.mode {
            ApicMode::Disabled => 0,
            ApicMode::XApic => 1,
            ApicMode::X2Apic => 2,
        };
        self.id as u64
            | (self.logical as u64) << LOGICAL
            | (self.model as u64) << MODEL
            | mode << MODE
            | (self.software_enabled as u64) << ENABLED
    }

    /// The reverse of [`Self::to_bits`].
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        let mode = match bits >> MODE & 3 {
            0 => ApicMode::Disabled,
            1 => ApicMode::XApic,
            _ => ApicMode::X2Apic,
        };
        Self {
            id: bits as u32,
            logical: (bits >> LOGICAL) as u8,
            model: (bits >> MODEL) as u8 & 0xf,
            mode,
            software_enabled: bits >> ENABLED & 1 != 0,
        }
    }

    /// Whether the APIC takes part in arbitration for the lowest priority.
    #[inline]
    pub const fn software_enabled(&self) -> bool {
        self.software_enabled
    }

    /// Whether `message` is for this APIC.
    #[inline]
    pub fn accepts(&self, message: &ApicMessage) -> bool {
        if self.mode == ApicMode::Disabled {
            return false;
        }
        let from_self = message.source == Some(self.id);
        match message.shorthand {
            Shorthand::None if message.logical => self.matches_logical(message.destination),
            Shorthand::None => self.matches_physical(message.destination),
            Shorthand::SelfOnly => from_self,
            Shorthand::AllIncludingSelf => true,
            Shorthand::AllExcludingSelf => !from_self,
        }
    }

    fn matches_physical(&self, destination: u32) -> bool {
        destination == BROADCAST
            || match self.mode {
                ApicMode::X2Apic => destination == self.id,
                _ => destination == self.id & 0xff,
            }
    }

    fn matches_logical(&self, destination: u32) -> bool {
        if destination == BROADCAST {
            return true;
        }
        if self.mode == ApicMode::X2Apic {
            let id = self.x2apic_logical_id();
            return id >> 16 == destination >> 16 && id & destination & 0xffff != 0;
        }
        let (id, destination) = (self.logical, destination as u8);
        match self.model {
            MODEL_FLAT => id & destination != 0,
            MODEL_CLUSTER => {
                destination == 0xff || id >> 4 == destination >> 4 && id & destination & 0xf != 0
            }
            _ => false,
        }
    }

    /// In x2APIC mode the logical id follows from the id: cluster in the high half, one bit in the low half.
    pub(super) const fn x2apic_logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xf)
    }
}

impl LocalApic {
    /// What decides now about the messages that this APIC takes.
    #[inline]
    pub const fn routing(&self) -> Routing {
        Routing {
            id: self.config.apic_id,
            logical: (self.logical_destination >> 24) as u8,
            model: (self.destination_format >> super::DFR_MODEL_SHIFT) as u8,
            mode: self.mode,
            software_enabled: !matches!(self.mode, ApicMode::Disabled) && self.spurious & svr::ENABLE != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_holds_everything(
            id in any::<u32>(),
            logical in any::<u8>(),
            model in 0..16u8,
            mode in prop::sample::select(&[ApicMode::Disabled, ApicMode::XApic, ApicMode::X2Apic][..]),
            software_enabled in any::<bool>(),
        ) {
            let routing = Routing { id, logical, model, mode, software_enabled };
            prop_assert_eq!(Routing::from_bits(routing.to_bits()), routing);
        }
    }
}
