//! Random bytes for guests: ChaCha20 that begins with what the CPU's own source gives, and takes in more of that now and then. Each
//! user has a generator of its own.
//!
//! Sources: Intel SDM vol. 1, "Random Number Generator Instructions"; AMD APM vol. 3, "RDRAND", "RDSEED"; RFC 8439, "The ChaCha20 Block
//! Function".

// UNSAFETY: RDRAND and RDSEED.
#![allow(unsafe_code)]

use core::arch::asm;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use vcpu::Random;

use crate::registers;

// Its other backends use vector registers, which are the guest's (xtask's build says so to the crate).
#[cfg(all(target_os = "none", not(chacha20_backend = "soft")))]
compile_error!("build the kernel by cargo xtask: chacha20 must not use vector registers");

/// CPUID leaf 1 ECX, and leaf 7 EBX.
const RDRAND: u32 = 1 << 30;
const RDSEED: u32 = 1 << 18;
const LEAF_FEATURES: u32 = 7;
/// So often in a row an instruction may have nothing to give. RDRAND fails ten times only when it is broken; RDSEED is slower than
/// who asks in a loop, so others may drain it.
const RDRAND_TRIES: u32 = 10;
const RDSEED_TRIES: u32 = 100;
/// So many bytes are made of one seed.
const BYTES_OF_SEED: usize = 1 << 20;
const SEED_WORDS: usize = 4;

/// A source in the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Rdseed,
    Rdrand,
}

impl Source {
    /// Those that the CPU has, the better one first.
    fn of_cpu() -> impl Iterator<Item = Self> {
        let seed = registers::cpuid(0, 0).eax >= LEAF_FEATURES
            && registers::cpuid(LEAF_FEATURES, 0).ebx & RDSEED != 0;
        let rand = registers::cpuid(1, 0).ecx & RDRAND != 0;
        [(seed, Self::Rdseed), (rand, Self::Rdrand)].into_iter().filter_map(|(has, it)| has.then_some(it))
    }

    fn word(self) -> Option<u64> {
        let tries = if self == Self::Rdseed { RDSEED_TRIES } else { RDRAND_TRIES };
        (0..tries).find_map(|_| self.try_word())
    }

    fn try_word(self) -> Option<u64> {
        let (word, given): (u64, u8);
        // SAFETY: `of_cpu` found the instruction in CPUID; it only writes the register and the flags.
        unsafe {
            match self {
                Self::Rdseed => {
                    asm!("rdseed {}", "setc {}", out(reg) word, out(reg_byte) given, options(nomem, nostack));
                }
                Self::Rdrand => {
                    asm!("rdrand {}", "setc {}", out(reg) word, out(reg_byte) given, options(nomem, nostack));
                }
            }
        }
        (given != 0).then_some(word)
    }

    fn seed(self) -> Option<[u64; SEED_WORDS]> {
        let mut words = [0; SEED_WORDS];
        for word in &mut words {
            *word = self.word()?;
        }
        is_plausible(&words).then_some(words)
    }
}

/// Firmware and sleep have left some CPUs with a source that gives the same word for ever.
fn is_plausible(words: &[u64]) -> bool {
    words.windows(2).all(|pair| pair.first() != pair.last())
}

/// What the CPU gives now.
fn seed() -> Option<[u64; SEED_WORDS]> {
    Source::of_cpu().find_map(Source::seed)
}

/// A generator of random bytes.
#[derive(Debug)]
pub struct Generator {
    cipher: ChaCha20Rng,
    /// Bytes until it takes in another seed.
    left: usize,
}

impl Generator {
    /// One that begins with a seed of the CPU's. `None` where the CPU has none to give.
    pub(crate) fn new() -> Option<Self> {
        Some(Self::of_seed(seed()?))
    }

    fn of_seed(words: [u64; SEED_WORDS]) -> Self {
        let mut bytes = [0; 8 * SEED_WORDS];
        bytes
            .chunks_exact_mut(8)
            .zip(words)
            .for_each(|(place, word)| place.copy_from_slice(&word.to_le_bytes()));
        Self { cipher: ChaCha20Rng::from_seed(bytes), left: BYTES_OF_SEED }
    }

    /// Goes on with what it would have given next and a new seed together: as good as the better of the two.
    fn take_in(&mut self, words: [u64; SEED_WORDS]) {
        let next = words.map(|word| word ^ self.cipher.next_u64());
        *self = Self::of_seed(next);
    }
}

impl Random for Generator {
    fn fill(&mut self, buffer: &mut [u8]) {
        if self.left < buffer.len() {
            self.left = BYTES_OF_SEED;
            if let Some(words) = seed() {
                self.take_in(words);
            }
        }
        self.left = self.left.saturating_sub(buffer.len());
        self.cipher.fill_bytes(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_chacha20() {
        // RFC 8439, "Test Vectors" of the block function, number 1: key, nonce and counter zero.
        let mut bytes = [0; 8];
        Generator::of_seed([0; SEED_WORDS]).fill(&mut bytes);
        assert_eq!(bytes, [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
    }

    #[test]
    fn what_it_takes_in_changes_what_follows() {
        let take = |words| {
            let (mut generator, mut bytes) = (Generator::of_seed([1; SEED_WORDS]), [0; 16]);
            generator.take_in(words);
            generator.fill(&mut bytes);
            bytes
        };
        assert_ne!(take([0; SEED_WORDS]), take([0, 0, 0, 1]));
        let mut without = [0; 16];
        Generator::of_seed([1; SEED_WORDS]).fill(&mut without);
        assert_ne!(take([0; SEED_WORDS]), without, "not even a seed of nothing shows what went before");
    }

    #[test]
    fn it_takes_in_more_after_a_while_and_goes_on() {
        let (mut generator, mut bytes) = (Generator::of_seed([2; SEED_WORDS]), vec![0; 4096]);
        for _ in 0..2 * BYTES_OF_SEED / bytes.len() {
            let before = bytes.clone();
            generator.fill(&mut bytes);
            assert_ne!(bytes, before);
        }
    }

    #[test]
    fn a_source_that_repeats_itself_is_none() {
        assert!(is_plausible(&[1, 2, 3, 4]));
        assert!(!is_plausible(&[1, 2, 2, 4]) && !is_plausible(&[u64::MAX; 4]));
    }
}
