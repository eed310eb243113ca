//! Random bytes that are none.

use crate::Random;

/// Bytes that count up, so that a test knows which were written.
#[derive(Clone, Copy, Debug, Default)]
pub struct FakeRandom(u8);

impl Random for FakeRandom {
    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}
