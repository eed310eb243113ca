//! Sets of interrupt vectors: what a local APIC's 256-bit registers hold.

/// A set of interrupt vectors, such as ISR, TMR and IRR (SDM vol. 3, "Interrupt Acceptance for Fixed Interrupts").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// No vector.
    pub const EMPTY: Self = Self([0; 4]);

    #[inline]
    const fn place(vector: u8) -> (usize, u64) {
        ((vector >> 6) as usize, 1 << (vector & 63))
    }

    /// Whether the vector is in it.
    #[inline]
    pub const fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.0[word] & bit != 0
    }

    /// Adds the vector, or takes it out.
    #[inline]
    pub fn set(&mut self, vector: u8, value: bool) {
        let (word, bit) = Self::place(vector);
        if value {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    /// The highest vector set.
    #[inline(always)]
    pub fn highest(&self) -> Option<u8> {
        let [first, second, third, fourth] = self.0;
        let (base, bits) = if fourth != 0 {
            (192, fourth)
        } else if third != 0 {
            (128, third)
        } else if second != 0 {
            (64, second)
        } else if first != 0 {
            (0, first)
        } else {
            return None;
        };
        Some(base + bits.ilog2() as u8)
    }

    /// The only vector set, where there is just one.
    #[inline]
    pub fn only(&self) -> Option<u8> {
        let vector = self.highest()?;
        let count: u32 = self.0.iter().map(|word| u32::from(*word != 0)).sum();
        (count == 1 && self.0[(vector >> 6) as usize].is_power_of_two()).then_some(vector)
    }

    /// Whether none is set.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        let [first, second, third, fourth] = self.0;
        first | second | third | fourth == 0
    }

    /// All of it, the lowest vectors first.
    #[inline]
    pub const fn words(&self) -> [u64; 4] {
        self.0
    }

    /// The set with these words, the lowest vectors first.
    #[inline]
    pub const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// The 32 vectors from `index * 32` on; `index` is taken modulo 8.
    pub const fn word(&self, index: u16) -> u32 {
        let index = index & 7;
        (self.0[(index >> 1) as usize] >> (32 * (index & 1) as u32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_table(steps in prop::collection::vec(any::<(u8, bool)>(), 0..100)) {
            let mut bits = VectorSet::EMPTY;
            let mut table = [false; 256];
            for (vector, value) in steps {
                bits.set(vector, value);
                table[usize::from(vector)] = value;
                prop_assert_eq!(bits.is_empty(), !table.contains(&true));
                let only = (table.iter().filter(|set| **set).count() == 1).then(|| bits.highest()).flatten();
                prop_assert_eq!(bits.only(), only);
                prop_assert_eq!(bits.highest(), table.iter().rposition(|set| *set).map(|at| at as u8));
            }
            for vector in 0..=255u8 {
                let set = table[usize::from(vector)];
                prop_assert_eq!(bits.contains(vector), set);
                prop_assert_eq!(bits.word(u16::from(vector) / 32) >> (vector % 32) & 1 != 0, set);
            }
        }
    }
}
