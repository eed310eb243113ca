//! The log's memory: the newest lines, as many as fit.

use vcpu::{LogPlace, LogRead};

/// A line's length goes before its text as two bytes, so that a reader always finds the next line.
const LENGTH_BYTES: usize = 2;

/// Lines of text in `N` bytes. A new line pushes out the oldest. Positions count bytes since the start and
/// never wrap (2^64 bytes are more than will ever be logged).
#[derive(Debug)]
pub(super) struct LogRing<const N: usize> {
    bytes: [u8; N],
    /// Where the oldest line starts.
    oldest: u64,
    /// Lines before that one, which are gone.
    gone: u64,
    /// Where the next line will start.
    end: u64,
    /// The next line to be read.
    unread: u64,
    /// Up to here lines were shown already when reading began.
    shown_end: u64,
}

impl<const N: usize> LogRing<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], oldest: 0, gone: 0, end: 0, unread: 0, shown_end: 0 }
    }

    /// Appends a line, given without its line feed. One that is too long for the ring is cut.
    pub(super) fn push(&mut self, line: &[u8]) {
        let length = line.len().min(N / 2).min(usize::from(u16::MAX));
        let needed = (LENGTH_BYTES + length) as u64;
        while self.end + needed - self.oldest > N as u64 {
            self.oldest += self.line_bytes(self.oldest);
            self.gone += 1;
        }
        self.unread = self.unread.max(self.oldest);
        for byte in (length as u16).to_le_bytes().iter().chain(&line[..length]) {
            self.bytes[(self.end % N as u64) as usize] = *byte;
            self.end += 1;
        }
    }

    /// Copies the next unread line, as much as fits, and returns how many bytes were copied. Leaves out what was
    /// [marked](Self::mark_shown) as shown.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.unread = self.unread.max(self.shown_end);
        self.read_until(self.end, buffer)
    }

    /// The same for what was marked as shown.
    pub(super) fn read_shown(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.read_until(self.shown_end, buffer)
    }

    fn read_until(&mut self, end: u64, buffer: &mut [u8]) -> Option<usize> {
        if self.unread >= end {
            return None;
        }
        let length = self.copy_line(self.unread, buffer);
        self.unread += self.line_bytes(self.unread);
        Some(length)
    }

    /// Looks at a reader's own place, and passes what is there.
    pub(super) fn read_at(&self, place: &mut LogPlace, buffer: &mut [u8]) -> LogRead {
        if place.bytes < self.oldest {
            let lost = self.gone.saturating_sub(place.lines);
            *place = LogPlace { bytes: self.oldest, lines: self.gone };
            return LogRead::Lost(lost);
        }
        if place.bytes >= self.end {
            return LogRead::End;
        }
        let length = self.copy_line(place.bytes, buffer);
        place.bytes += self.line_bytes(place.bytes);
        place.lines += 1;
        LogRead::Line(length)
    }

    /// Copies as much of the line at `position` as fits, and says how much that is.
    fn copy_line(&self, position: u64, buffer: &mut [u8]) -> usize {
        let bytes = self.line_bytes(position) - LENGTH_BYTES as u64;
        let length = buffer.len().min(bytes as usize);
        for (offset, byte) in buffer[..length].iter_mut().enumerate() {
            *byte = self.at(position + LENGTH_BYTES as u64 + offset as u64);
        }
        length
    }

    /// Notes that all lines so far were shown already, and begins reading anew.
    pub(super) const fn mark_shown(&mut self) {
        (self.unread, self.shown_end) = (self.oldest, self.end);
    }

    const fn at(&self, position: u64) -> u8 {
        self.bytes[(position % N as u64) as usize]
    }

    /// Bytes that the line at `position` takes, its length included.
    const fn line_bytes(&self, position: u64) -> u64 {
        let length = u16::from_le_bytes([self.at(position), self.at(position + 1)]);
        LENGTH_BYTES as u64 + length as u64
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn read_all<const N: usize>(ring: &mut LogRing<N>) -> Vec<Vec<u8>> {
        let mut buffer = [0; 64];
        core::iter::from_fn(|| ring.read(&mut buffer).map(|length| buffer[..length].to_vec())).collect()
    }

    #[test]
    fn lines_before_the_hand_over_are_not_read_again() {
        let mut ring = LogRing::<64>::new();
        ring.push(b"early");
        ring.mark_shown();
        ring.push(b"late");
        assert_eq!(read_all(&mut ring), [b"late"]);
        let mut buffer = [0; 8];
        assert_eq!(ring.read_shown(&mut buffer), None, "new lines come after the old ones");
    }

    #[test]
    fn lines_before_the_hand_over_can_be_had_once() {
        let mut ring = LogRing::<64>::new();
        let mut buffer = [0; 8];
        ring.push(b"first");
        assert_eq!(ring.read(&mut buffer), Some(5));
        ring.push(b"early");
        ring.mark_shown();
        ring.push(b"late");
        assert_eq!((ring.read_shown(&mut buffer), &buffer[..5]), (Some(5), &b"first"[..]));
        assert_eq!((ring.read_shown(&mut buffer), &buffer[..5]), (Some(5), &b"early"[..]));
        assert_eq!(ring.read_shown(&mut buffer), None);
        assert_eq!(read_all(&mut ring), [b"late"]);
    }

    #[test]
    fn of_lines_before_the_hand_over_the_newest_are_left() {
        let mut ring = LogRing::<64>::new();
        let mut buffer = [0; 8];
        ring.push(b"early");
        ring.mark_shown();
        for _ in 0..10 {
            ring.push(b"a later line");
        }
        assert_eq!(ring.read_shown(&mut buffer), None);
        assert_eq!(read_all(&mut ring).len(), 4);
    }

    #[test]
    fn a_reader_with_a_place_of_its_own_has_all_that_is_kept_and_hears_what_is_lost() {
        let mut ring = LogRing::<64>::new();
        let (mut place, mut buffer) = (LogPlace::default(), [0; 32]);
        assert_eq!(ring.read_at(&mut place, &mut buffer), LogRead::End);
        ring.push(b"early");
        ring.mark_shown();
        ring.push(b"late");
        assert_eq!(ring.read_at(&mut place, &mut buffer), LogRead::Line(5));
        assert_eq!(&buffer[..5], b"early");
        assert_eq!(read_all(&mut ring), [b"late"], "others' readings are their own");
        assert_eq!(ring.read_at(&mut place, &mut buffer[..2]), LogRead::Line(2));
        assert_eq!((ring.read_at(&mut place, &mut buffer), place.lines), (LogRead::End, 2));
        (0..10).for_each(|_| ring.push(b"a later line"));
        assert_eq!(ring.read_at(&mut place, &mut buffer), LogRead::Lost(6), "four of ten are kept");
        for _ in 0..4 {
            assert_eq!(ring.read_at(&mut place, &mut buffer), LogRead::Line(12));
        }
        assert_eq!((ring.read_at(&mut place, &mut buffer), place.lines), (LogRead::End, 12));
    }

    #[test]
    fn a_small_buffer_gets_the_start_of_the_line_and_the_next_line_is_whole() {
        let mut ring = LogRing::<64>::new();
        ring.push(b"abcdef");
        ring.push(b"gh");
        let mut buffer = [0; 3];
        assert_eq!(ring.read(&mut buffer), Some(3));
        assert_eq!(&buffer, b"abc");
        assert_eq!(ring.read(&mut buffer), Some(2));
        assert_eq!(ring.read(&mut buffer), None);
    }

    proptest! {
        #[test]
        fn the_newest_lines_survive_whole_and_in_order(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..60)
        ) {
            let mut ring = LogRing::<64>::new();
            for line in &lines {
                ring.push(line);
            }
            let kept = read_all(&mut ring);
            let expected: Vec<Vec<u8>> =
                lines.iter().map(|line| line[..line.len().min(32)].to_vec()).collect();
            prop_assert!(expected.ends_with(&kept));
            prop_assert_eq!(kept.is_empty(), lines.is_empty());
        }
    }
}
