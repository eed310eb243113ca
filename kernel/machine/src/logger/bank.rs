//! A boot's log in memory that keeps its contents over a warm reset: how it is written, and how what an earlier
//! boot left is read without trust in a single byte.
//!
//! A bank is a header of one cache line, then a ring of records, of which a new one pushes out the oldest. A
//! record is the text's length, a check of it and its place, and the text. Positions count bytes since the
//! boot's start and never wrap; a record at position `p` begins at byte `p` modulo the ring's size.

use core::ops::Range;

/// Bytes of the header: a cache line, so that it is written whole or not at all.
const HEADER_BYTES: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"BASALTlg");
const VERSION: u64 = 1;
/// A record's length and its check, two bytes each.
const RECORD_HEADER_BYTES: usize = 4;
/// Longest text of a record in bytes; the rest is cut.
pub(super) const LINE_BYTES: usize = 256;

/// Words of the header: magic number, version and size, number of the boot, oldest record, end, ending, check.
const WORDS: usize = 7;

/// How a boot ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Ending {
    /// Without a word: it runs still, or a reset or a power loss cut it off.
    Unknown = 1,
    /// The machine was refused.
    Refused = 2,
    /// The kernel panicked.
    Panicked = 3,
    /// It switched the machine off or restarted it, as it was told.
    Ordered = 4,
}

impl Ending {
    const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            1 => Self::Unknown,
            2 => Self::Refused,
            3 => Self::Panicked,
            4 => Self::Ordered,
            _ => return None,
        })
    }
}

/// What a bank's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    /// Counts boots.
    number: u64,
    /// Position of the oldest record.
    oldest: u64,
    /// Position of the next record.
    end: u64,
    ending: Ending,
}

impl Header {
    /// Reads a header; `None` where the bytes are none, or not one of a bank of this size.
    fn read(bank: &[u8]) -> Option<Self> {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bank.get(..HEADER_BYTES)?.chunks_exact(8)) {
            *word = u64::from_le_bytes(*bytes.first_chunk()?);
        }
        let [magic, format, number, oldest, end, ending, check] = words;
        let sound = magic == MAGIC && format == format_word(bank) && check == sum(&words[..WORDS - 1]);
        let kept = end.checked_sub(oldest)?;
        let ring = (bank.len() - HEADER_BYTES) as u64;
        let ending = Ending::from_word(ending)?;
        (sound && kept <= ring).then_some(Self { number, oldest, end, ending })
    }

    fn write(self, bank: &mut [u8]) {
        let mut words = [MAGIC, format_word(bank), self.number, self.oldest, self.end, self.ending as u64, 0];
        words[WORDS - 1] = sum(&words[..WORDS - 1]);
        for (bytes, word) in bank.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

const fn format_word(bank: &[u8]) -> u64 {
    VERSION << 32 | bank.len() as u64
}

/// FNV-1a over the words' bytes.
fn sum(words: &[u64]) -> u64 {
    fnv(words.iter().flat_map(|word| word.to_le_bytes()))
}

fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// A record's check: of its place and its text, so that a record of an older round does not count.
fn record_check(position: u64, text: impl Iterator<Item = u8>) -> u16 {
    let hash = fnv(position.to_le_bytes().into_iter().chain(text));
    (hash ^ hash >> 16 ^ hash >> 32 ^ hash >> 48) as u16
}

/// The bank of the boot that runs.
pub(super) struct Bank<'a> {
    bytes: &'a mut [u8],
    header: Header,
    /// Brings bytes that were written to memory.
    write_back: fn(&[u8]),
}

impl<'a> Bank<'a> {
    /// Begins a boot's log in `bytes`, at least a header and a longest record of them.
    pub(super) fn begin(bytes: &'a mut [u8], number: u64, write_back: fn(&[u8])) -> Self {
        let header = Header { number, oldest: 0, end: 0, ending: Ending::Unknown };
        let mut bank = Self { bytes, header, write_back };
        bank.write_header();
        bank
    }

    /// Appends a line.
    pub(super) fn push(&mut self, line: &[u8]) {
        let text = &line[..line.len().min(LINE_BYTES)];
        let Header { end, .. } = self.header;
        let needed = (RECORD_HEADER_BYTES + text.len()) as u64;
        let ring = self.ring_bytes() as u64;
        while end + needed - self.header.oldest > ring {
            let length = View { bytes: self.bytes }.record(self.header.oldest, end).map(|text| text.end);
            // What cannot be read is left behind altogether.
            self.header.oldest = length.unwrap_or(end);
        }
        // The oldest records are given up before they are overwritten.
        self.write_header();
        let check = record_check(end, text.iter().copied());
        let head = (text.len() as u16).to_le_bytes().into_iter().chain(check.to_le_bytes());
        let mut position = end;
        for byte in head.chain(text.iter().copied()) {
            let at = HEADER_BYTES + (position % ring) as usize;
            self.bytes[at] = byte;
            position += 1;
        }
        self.write_ring_back(end..position);
        self.header.end = position;
        self.write_header();
    }

    /// Notes how the boot ends. The first word stands.
    pub(super) fn set_ending(&mut self, ending: Ending) {
        if self.header.ending == Ending::Unknown {
            self.header.ending = ending;
            self.write_header();
        }
    }

    fn ring_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    fn write_header(&mut self) {
        self.header.write(self.bytes);
        (self.write_back)(&self.bytes[..HEADER_BYTES]);
    }

    fn write_ring_back(&self, written: Range<u64>) {
        let ring = &self.bytes[HEADER_BYTES..];
        let start = (written.start % ring.len() as u64) as usize;
        let length = (written.end - written.start) as usize;
        let until_the_end = length.min(ring.len() - start);
        (self.write_back)(&ring[start..start + until_the_end]);
        (self.write_back)(&ring[..length - until_the_end]);
    }
}

/// What an earlier boot left in a bank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    view: View<'static>,
    header: Header,
}

impl Left {
    /// Reads a bank; `None` where it holds no boot's log.
    pub(super) fn read(bytes: &'static [u8]) -> Option<Self> {
        Some(Self { view: View { bytes }, header: Header::read(bytes)? })
    }

    /// Counts boots.
    pub(super) const fn number(&self) -> u64 {
        self.header.number
    }

    /// The number in a bank; 0 where it holds no boot's log.
    pub(super) fn number_in(bytes: &[u8]) -> u64 {
        Header::read(bytes).map_or(0, |header| header.number)
    }

    /// How that boot ended.
    pub(crate) const fn ending(&self) -> Ending {
        self.header.ending
    }

    /// The last `most` lines, oldest first, each at most [`LINE_BYTES`] of any bytes.
    pub(crate) fn last_lines(self, most: usize) -> impl Iterator<Item = Line> {
        let left_out = self.lines().count().saturating_sub(most);
        self.lines().skip(left_out)
    }

    /// All lines. Those behind one that is damaged are lost.
    fn lines(self) -> impl Iterator<Item = Line> {
        let mut position = self.header.oldest;
        core::iter::from_fn(move || {
            let text = self.view.record(position, self.header.end)?;
            position = text.end;
            let mut line = Line { bytes: [0; LINE_BYTES], length: 0 };
            for at in text {
                line.bytes[line.length] = self.view.at(at);
                line.length += 1;
            }
            Some(line)
        })
    }
}

/// A line that an earlier boot left: a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Line {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A bank's ring, to be read.
#[derive(Clone, Copy, Debug)]
struct View<'a> {
    bytes: &'a [u8],
}

impl View<'_> {
    fn at(&self, position: u64) -> u8 {
        let ring = &self.bytes[HEADER_BYTES..];
        ring[(position % ring.len() as u64) as usize]
    }

    /// The positions of the text of the record at `position`, if there is a sound one before `end`.
    fn record(&self, position: u64, end: u64) -> Option<Range<u64>> {
        let text_start = position.checked_add(RECORD_HEADER_BYTES as u64).filter(|start| *start <= end)?;
        let word = |offset| u16::from_le_bytes([self.at(position + offset), self.at(position + offset + 1)]);
        let length = usize::from(word(0));
        let text = text_start..text_start.checked_add(length as u64).filter(|stop| *stop <= end)?;
        let sound =
            length <= LINE_BYTES && word(2) == record_check(position, text.clone().map(|at| self.at(at)));
        sound.then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = HEADER_BYTES + 700;

    fn lines_of(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        let left = Left::read(Box::leak(bytes.to_vec().into_boxed_slice()))?;
        Some(left.lines().map(|line| line.bytes().to_vec()).collect())
    }

    fn written(lines: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xaa; BYTES];
        let mut bank = Bank::begin(&mut bytes, 7, |_| {});
        lines.iter().for_each(|line| bank.push(line));
        bytes
    }

    #[test]
    fn what_is_written_is_there_after_a_reset() {
        let bytes = written(&[b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
        assert_eq!(lines_of(&bytes).unwrap(), [&b"one"[..], b"", b"three"]);
        let left = Left::read(Box::leak(bytes.into_boxed_slice())).unwrap();
        assert_eq!((left.number(), left.ending()), (7, Ending::Unknown));
        let last: Vec<_> = left.last_lines(1).map(|line| line.bytes().to_vec()).collect();
        assert_eq!(last, [b"three"]);
    }

    #[test]
    fn the_first_word_on_the_end_stands() {
        let mut bytes = vec![0; BYTES];
        let mut bank = Bank::begin(&mut bytes, 1, |_| {});
        bank.set_ending(Ending::Panicked);
        bank.set_ending(Ending::Ordered);
        assert_eq!(Header::read(&bytes).unwrap().ending, Ending::Panicked);
    }

    #[test]
    fn what_changes_is_written_back() {
        use core::sync::atomic::{AtomicUsize, Ordering};
        static WRITTEN_BACK: AtomicUsize = AtomicUsize::new(0);
        let mut bytes = vec![0; BYTES];
        let mut bank = Bank::begin(&mut bytes, 1, |bytes| {
            WRITTEN_BACK.fetch_add(bytes.len(), Ordering::Relaxed);
        });
        let before = WRITTEN_BACK.load(Ordering::Relaxed);
        bank.push(b"12345");
        assert_eq!(WRITTEN_BACK.load(Ordering::Relaxed) - before, 2 * HEADER_BYTES + RECORD_HEADER_BYTES + 5);
    }

    #[test]
    fn memory_after_power_up_is_no_log() {
        for fill in [0, 0xff, 0x55] {
            assert!(lines_of(&vec![fill; BYTES]).is_none());
        }
        assert!(lines_of(&[]).is_none());
    }

    #[test]
    fn a_bank_of_another_size_is_no_log() {
        let mut bytes = written(&[b"one".to_vec()]);
        bytes.push(0);
        assert!(lines_of(&bytes).is_none());
    }

    proptest! {
        #[test]
        fn the_newest_lines_survive_whole_and_in_order(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..40)
        ) {
            let kept = lines_of(&written(&lines)).unwrap();
            let expected: Vec<Vec<u8>> =
                lines.iter().map(|line| line[..line.len().min(LINE_BYTES)].to_vec()).collect();
            prop_assert!(expected.ends_with(&kept));
            prop_assert!(!kept.is_empty());
        }

        #[test]
        fn damaged_memory_never_panics_nor_invents_lines(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..30),
            damage in proptest::collection::vec((0..BYTES, any::<u8>()), 1..20),
        ) {
            let mut bytes = written(&lines);
            let whole = lines_of(&bytes).unwrap();
            let in_header = damage.iter().any(|(at, value)| *at < HEADER_BYTES - 8 && bytes[*at] != *value);
            for (at, value) in damage {
                bytes[at] = value;
            }
            match lines_of(&bytes) {
                None => prop_assert!(in_header),
                // A check of 16 bits lets one damaged record in 65536 through.
                Some(kept) => prop_assert!(kept.len() <= whole.len()),
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), oldest: u64, end: u64) {
            let _ = lines_of(&bytes);
            let mut bytes = bytes;
            if bytes.len() > HEADER_BYTES {
                Header { number: 1, oldest, end, ending: Ending::Unknown }.write(&mut bytes);
                let _ = lines_of(&bytes);
            }
        }
    }
}
