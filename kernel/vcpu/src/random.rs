//! Random bytes.

/// Bytes that nobody can guess, neither from those before nor from those behind.
pub trait Random: Send {
    /// Fills the buffer. It takes time in proportion to its length, and never waits.
    fn fill(&mut self, buffer: &mut [u8]);
}
