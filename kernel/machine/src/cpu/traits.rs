//! What a CPU tells of itself by CPUID, to compare it with the boot CPU: guests are promised what that has, and may run
//! on any.
//!
//! Source: Intel SDM vol. 2, "CPUID"; AMD APM vol. 3, "Obtaining Processor Information Via the CPUID Instruction".

use core::fmt;

use spin::Once;
use vcpu::CpuidResult;

use crate::fault::{self, Fault};
use crate::registers;

/// Which register of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A word of features: leaf, subleaf, register, and the bits that tell of the present and not of an ability.
type Word = (u32, u32, Register, u32);

/// CR4.OSXSAVE and CR4.PKE, mirrored.
const OSXSAVE: u32 = 1 << 27;
const OSPKE: u32 = 1 << 4;
const EXTENDED: u32 = 0x8000_0000;
/// The leaf whose EAX has the bits of a physical address lowest.
const ADDRESS_SIZES: u32 = 0x8000_0008;

const WORDS: [Word; 12] = [
    (1, 0, Register::Ecx, OSXSAVE),
    (1, 0, Register::Edx, 0),
    (7, 0, Register::Ebx, 0),
    (7, 0, Register::Ecx, OSPKE),
    (7, 0, Register::Edx, 0),
    (0xd, 0, Register::Eax, 0),
    (0xd, 0, Register::Edx, 0),
    (0xd, 1, Register::Eax, 0),
    (0x8000_0001, 0, Register::Ecx, 0),
    (0x8000_0001, 0, Register::Edx, 0),
    (0x8000_0007, 0, Register::Edx, 0),
    (ADDRESS_SIZES, 0, Register::Ebx, 0),
];

/// A CPU's features.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Traits {
    words: [u32; WORDS.len()],
    physical_bits: u8,
}

static BOOT_CPU: Once<Traits> = Once::new();

/// What one CPU has and another lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lack {
    /// Bits of a CPUID word.
    Features {
        /// CPUID leaf.
        leaf: u32,
        /// Register.
        register: &'static str,
        /// The bits.
        bits: u32,
    },
    /// Bits of a physical address.
    AddressBits {
        /// How many it has.
        bits: u8,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Features { leaf, register, bits } => {
                write!(f, "bits {bits:#x} of CPUID leaf {leaf:X}H {register}")
            }
            Self::AddressBits { bits } => write!(f, "physical addresses have {bits} bits only"),
        }
    }
}

impl Traits {
    /// Those of the calling CPU.
    pub(crate) fn of_this_cpu() -> Self {
        let mut traits = Self::read(registers::cpuid);
        if fault::is(Fault::UnlikeCpu) && BOOT_CPU.is_completed() {
            traits.words[0] = 0;
        }
        traits
    }

    /// Keeps those of the calling CPU as what all others are compared with. The first call counts.
    pub(crate) fn remember_boot_cpu() {
        BOOT_CPU.call_once(Self::of_this_cpu);
    }

    /// What [`Self::remember_boot_cpu`] has kept.
    pub(crate) fn boot_cpu() -> Option<&'static Self> {
        BOOT_CPU.get()
    }

    fn read(cpuid: impl Fn(u32, u32) -> CpuidResult) -> Self {
        let last = [cpuid(0, 0).eax, cpuid(EXTENDED, 0).eax];
        // What comes beyond the last leaf means nothing.
        let known = |leaf: u32| leaf <= last[usize::from(leaf >= EXTENDED)];
        let words = WORDS.map(|(leaf, subleaf, register, passing)| {
            let result = if known(leaf) { cpuid(leaf, subleaf) } else { CpuidResult::default() };
            let word = match register {
                Register::Eax => result.eax,
                Register::Ebx => result.ebx,
                Register::Ecx => result.ecx,
                Register::Edx => result.edx,
            };
            word & !passing
        });
        let physical_bits = if known(ADDRESS_SIZES) { cpuid(ADDRESS_SIZES, 0).eax as u8 } else { 0 };
        Self { words, physical_bits }
    }

    /// What these have and `other` has not, the first that is found. What `other` has beyond does no harm.
    pub(crate) fn missing_in(&self, other: &Self) -> Option<Lack> {
        let words = self.words.iter().zip(&other.words).zip(&WORDS);
        let features = words.into_iter().find_map(|((own, theirs), (leaf, _, register, _))| {
            let bits = own & !theirs;
            let register = match register {
                Register::Eax => "EAX",
                Register::Ebx => "EBX",
                Register::Ecx => "ECX",
                Register::Edx => "EDX",
            };
            (bits != 0).then_some(Lack::Features { leaf: *leaf, register, bits })
        });
        let narrow = other.physical_bits < self.physical_bits;
        features.or(narrow.then_some(Lack::AddressBits { bits: other.physical_bits }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(leaf: u32, _: u32) -> CpuidResult {
        match leaf {
            0 => CpuidResult { eax: 7, ..CpuidResult::default() },
            EXTENDED => CpuidResult { eax: ADDRESS_SIZES, ..CpuidResult::default() },
            ADDRESS_SIZES => CpuidResult { eax: 0x3030, ebx: 1, ..CpuidResult::default() },
            _ => CpuidResult { eax: 3, ebx: 6, ecx: 0xc, edx: 0x18 },
        }
    }

    #[test]
    fn equal_cpus_lack_nothing() {
        let traits = Traits::read(cpu);
        assert_eq!(traits.missing_in(&traits), None);
    }

    #[test]
    fn what_a_cpu_lacks_is_named_and_what_it_has_beyond_is_not() {
        let boot = Traits::read(cpu);
        let other = Traits::read(|leaf, subleaf| match leaf {
            7 => CpuidResult { ebx: 0xff04, ..cpu(leaf, subleaf) },
            _ => cpu(leaf, subleaf),
        });
        assert_eq!(boot.missing_in(&other), Some(Lack::Features { leaf: 7, register: "EBX", bits: 2 }));
        assert_eq!(other.missing_in(&boot), Some(Lack::Features { leaf: 7, register: "EBX", bits: 0xff00 }));
        let narrow = Traits { physical_bits: 36, ..boot };
        assert_eq!(boot.missing_in(&narrow), Some(Lack::AddressBits { bits: 36 }));
        assert_eq!(narrow.missing_in(&boot), None);
    }

    #[test]
    fn what_mirrors_a_control_register_is_no_ability() {
        let boot = Traits::read(|leaf, subleaf| match leaf {
            1 => CpuidResult { ecx: 0xc | OSXSAVE, ..cpu(leaf, subleaf) },
            _ => cpu(leaf, subleaf),
        });
        assert_eq!(boot.missing_in(&Traits::read(cpu)), None);
    }

    #[test]
    fn leaves_beyond_the_last_mean_nothing() {
        let boot = Traits::read(cpu);
        let old = Traits::read(|leaf, subleaf| match leaf {
            0 => CpuidResult { eax: 1, ..CpuidResult::default() },
            _ => cpu(leaf, subleaf),
        });
        assert_eq!(boot.missing_in(&old), Some(Lack::Features { leaf: 7, register: "EBX", bits: 6 }));
    }
}
