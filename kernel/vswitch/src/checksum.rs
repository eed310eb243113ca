//! The Internet checksum, and making those that senders have left to others.
//!
//! Sources: RFC 1071, "Computing the Internet Checksum"; RFC 1624, "Computation of the Internet Checksum via Incremental Update"; RFC 768,
//! "Fields"; VIRTIO 1.2, "Packet Transmission" of the network device.

use core::ops::Range;

use arrayvec::ArrayVec;

use crate::Frame;

/// Bytes of a frame that are copied at a time to be summed: those of a frame of the usual size at once.
const BOUNCE_BYTES: usize = 1536;

/// The ones' complement sum of 16-bit big-endian words, to which bytes can be added in pieces of any length.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum {
    words: u64,
    /// The bytes so far are odd in number: the next one is the lower half of its word.
    odd: bool,
}

impl Sum {
    /// Adds bytes that follow those added so far.
    pub fn add(&mut self, bytes: &[u8]) {
        let (chunks, last) = bytes.as_chunks();
        // The carries go into the upper half, and are added at the end. The sum can be made with words of any byte order, and of any size
        // that is a multiple of its own.
        let mut sum = 0;
        for chunk in chunks {
            sum += u128::from(u64::from_le_bytes(*chunk));
        }
        let mut padded = [0; 8];
        padded.iter_mut().zip(last).for_each(|(place, byte)| *place = *byte);
        sum += u128::from(u64::from_le_bytes(padded));
        let sum = folded((sum & u128::from(u64::MAX)) as u64) + folded((sum >> 64) as u64);
        let sum = folded(sum.into()) as u16;
        // Bytes at odd places are what those at even places are in the other byte order.
        self.words += u64::from(if self.odd { sum } else { sum.swap_bytes() });
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// Adds two bytes: those of this word.
    pub const fn add_word(&mut self, word: u16) {
        self.words += (if self.odd { word.swap_bytes() } else { word }) as u64;
    }

    /// The sum. It is 0 only where all that was added is.
    pub const fn fold(self) -> u16 {
        folded(self.words) as u16
    }

    /// The checksum, as the header of IPv4 has it.
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum as transports have it: UDP's is never 0, which says that there is none, and to who checks it 0xffff is the same.
    pub const fn transport_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// The sum of both halves of a number, of both halves of that, and so on, until it has 16 bits.
const fn folded(mut sum: u64) -> u32 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u32
}

/// A checksum of the IPv4 header's kind, after a word that counts in it has changed (RFC 1624, equation 3).
pub const fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !(folded(!checksum as u64 + !old as u64 + new as u64) as u16)
}

/// Bytes of a checksum that belong behind a frame's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Where the first one belongs, in bytes from the frame's first.
    pub at: u32,
    /// One or two bytes.
    pub bytes: ArrayVec<u8, 2>,
}

/// Makes the checksum that a frame's sender has left to others, and puts it into the head. Where it belongs behind that, which no
/// transport's does, what is to be written there is returned.
///
/// `read` is asked for bytes that the sender has: it is told where they begin in what the sender has (as [`Frame::rest_at`] counts), and
/// fills the slice. It gets each byte behind the head once at most, in order, at most 1536 at a time.
///
/// For a large frame nothing is done: it has as many checksums as segments. A checksum that would be outside of the frame is forgotten.
pub fn complete<E>(
    frame: &mut Frame,
    read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
) -> Result<Option<Patch>, E> {
    let Some(checksum) = frame.offload.checksum.filter(|_| frame.offload.large.is_none()) else {
        return Ok(None);
    };
    let start = u32::from(checksum.start);
    let place = start + u32::from(checksum.offset);
    if place + 2 > frame.length() {
        frame.offload.checksum = None;
        return Ok(None);
    }
    let (head, rest) = frame.split(start..frame.length());
    let mut sum = Sum::default();
    // The sum of the pseudo header is in the checksum's place, and so in the sum.
    sum.add(head);
    add_rest(&mut sum, rest, read)?;
    frame.offload.checksum = None;
    let mut patch = Patch { at: place.max(frame.head_bytes() as u32), bytes: ArrayVec::new() };
    for (at, byte) in (place as usize..).zip(sum.transport_checksum().to_be_bytes()) {
        match frame.head_mut().get_mut(at) {
            Some(place) => *place = byte,
            None => patch.bytes.push(byte),
        }
    }
    Ok((!patch.bytes.is_empty()).then_some(patch))
}

/// Adds bytes that a sender has.
fn add_rest<E>(
    sum: &mut Sum,
    mut rest: Range<u32>,
    mut read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    if rest.is_empty() {
        return Ok(());
    }
    let mut bounce = [0; BOUNCE_BYTES];
    while !rest.is_empty() {
        let piece = bounce.get_mut(..rest.len().min(BOUNCE_BYTES)).unwrap_or_default();
        read(rest.start, piece)?;
        sum.add(piece);
        rest.start += piece.len() as u32;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;
    use crate::{Checksum, HEAD_BYTES, Large, LargeKind, Offload, frame::tests::frame};

    /// The sum as RFC 1071 words it.
    pub(crate) fn plain(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u64::from(*b)));
        let mut sum: u64 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn sum(bytes: &[u8]) -> Sum {
        let mut sum = Sum::default();
        sum.add(bytes);
        sum
    }

    #[test]
    fn the_examples_of_the_rfcs() {
        let found = sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((found.fold(), found.checksum()), (0xddf2, !0xddf2));
        // RFC 1624, section 4: the equation of RFC 1141 would make this 0xffff.
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0);
    }

    #[test]
    fn long_runs_of_ones_carry() {
        for length in (0..100).chain(69_900..70_000) {
            let bytes = std::vec![0xff; length];
            assert_eq!(sum(&bytes).fold(), plain(&bytes), "{length} bytes");
        }
        assert_eq!(sum(&[0xff; 8]).checksum(), 0);
        assert_eq!(sum(&[0xff; 8]).transport_checksum(), 0xffff);
        assert_eq!(sum(&[0; 8]).transport_checksum(), 0xffff);
    }

    proptest! {
        #[test]
        fn pieces_sum_up_to_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(0_usize..3000, 0..8),
            word: u16,
            word_at in 0_usize..8,
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut sum, mut whole) = (Sum::default(), Vec::new());
            for (number, piece) in cuts.windows(2).enumerate() {
                if number == word_at {
                    sum.add_word(word);
                    whole.extend(word.to_be_bytes());
                }
                sum.add(&bytes[piece[0]..piece[1]]);
                whole.extend(&bytes[piece[0]..piece[1]]);
            }
            prop_assert_eq!(sum.fold(), plain(&whole));
        }

        #[test]
        fn an_updated_checksum_is_that_of_the_changed_words(words in prop::collection::vec(any::<u16>(), 1..40), new: u16) {
            let of = |words: &[u16]| {
                let mut sum = Sum::default();
                words.iter().for_each(|word| sum.add_word(*word));
                sum.checksum()
            };
            // As a header's, the words are never all 0.
            let mut words = [words, Vec::from([0x4500])].concat();
            let before = of(&words);
            let old = std::mem::replace(&mut words[0], new);
            prop_assert_eq!(updated(before, old, new), of(&words));
        }

        #[test]
        fn checksums_are_made_wherever_they_belong(
            mut bytes in prop::collection::vec(any::<u8>(), 60..6000),
            start in 0_u16..160,
            place in prop_oneof![0_u16..400, 150_u16..170],
        ) {
            let offset = place.saturating_sub(start);
            let mut frame = frame(&bytes);
            frame.offload.checksum = Some(Checksum { start, offset });
            let sent = bytes.clone();
            let mut next = HEAD_BYTES as u32;
            let patch = complete(&mut frame, |at, piece: &mut [u8]| {
                prop_assert_eq!(at, next.max(start.into()));
                next = at + piece.len() as u32;
                piece.copy_from_slice(&sent[at as usize..][..piece.len()]);
                Ok(())
            })?;
            prop_assert_eq!(frame.offload, Offload::default());
            let place = usize::from(start) + usize::from(offset);
            if place + 2 <= bytes.len() {
                let made = match !plain(&bytes[start.into()..]) { 0 => 0xffff, made => made };
                bytes[place..place + 2].copy_from_slice(&made.to_be_bytes());
            }
            let mut got = [frame.head(), &sent[frame.rest_at() as usize..]].concat();
            if let Some(Patch { at, bytes }) = patch {
                prop_assert!(at as usize >= frame.head_bytes());
                got[at as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            prop_assert_eq!(got, bytes);
        }
    }

    #[test]
    fn a_large_frame_and_what_cannot_be_read_stay_as_they_are() {
        let checksum = Some(Checksum { start: 34, offset: 16 });
        let mut it = frame(&[7; 900]);
        it.offload.checksum = checksum;
        assert_eq!(complete(&mut it, |_, _| Err(5)), Err(5));
        it.offload.large = Some(Large { kind: LargeKind::Tcp4, ecn: false, size: 100, header_bytes: 54 });
        assert_eq!(complete(&mut it, |_, _| Err(5)), Ok(None));
        assert_eq!((it.head(), it.offload.checksum), (&[7; HEAD_BYTES][..], checksum));
    }
}
