//! Frames with another VLAN tag, or without one. Only the head changes: what is behind it stays where the sender has it.
//!
//! Source: IEEE 802.1Q-2018, "Tag format".

use crate::frame::{ADDRESSES_BYTES, ETHERNET_BYTES, Frame, TAG_BYTES, ether_type, put, word};
use crate::offload::{Checksum, Offload};

/// The frame with one more tag, the first of all that it has then. `tci` is the tag control information: the priority in bits 15 to 13, the
/// VLAN's number in bits 11 to 0.
///
/// `None` where it would be longer than [`MOST_BYTES`](crate::frame::MOST_BYTES), where its head has got a tag before (a second one would
/// push out bytes that were looked at), or where its sender wants a checksum over the addresses.
pub fn tag(frame: &Frame, tci: u16) -> Option<Frame> {
    let mut tagged = frame.clone();
    let ([a, b], [c, d]) = (ether_type::VLAN.to_be_bytes(), tci.to_be_bytes());
    tagged.insert_tag([a, b, c, d])?;
    tagged.offload = moved(frame.offload, ADDRESSES_BYTES, TAG_BYTES as i16)?;
    Some(tagged)
}

/// The frame without its VLAN tag: the first one, where the first word behind the addresses says that there is one. Without a tag it is the
/// frame as it was.
///
/// `None` where nothing is behind the tag, or where its sender wants a checksum over the tag.
pub fn untag(frame: &Frame) -> Option<Frame> {
    let mut bare = frame.clone();
    if is_tagged(frame) {
        bare.remove_tag()?;
        bare.offload = moved(frame.offload, ADDRESSES_BYTES + TAG_BYTES, -(TAG_BYTES as i16))?;
    }
    Some(bare)
}

/// The frame with this tag control information in its tag. Without a tag, it gets one, as with [`tag`].
///
/// `None` where [`tag`] says so, or where the tag that it has is cut off.
pub fn retag(frame: &Frame, tci: u16) -> Option<Frame> {
    if !is_tagged(frame) {
        return tag(frame, tci);
    }
    let mut retagged = frame.clone();
    put(retagged.head_mut(), ETHERNET_BYTES, tci.to_be_bytes())?;
    Some(retagged)
}

fn is_tagged(frame: &Frame) -> bool {
    word(frame.head(), ADDRESSES_BYTES) == Some(ether_type::VLAN)
}

/// What is left to do, where all bytes from `from` on move by so many. `None` where a checksum is wanted over bytes before that: what
/// moves would be in its sum, or no longer.
fn moved(offload: Offload, from: usize, by: i16) -> Option<Offload> {
    let checksum = match offload.checksum {
        Some(it) if usize::from(it.start) < from => return None,
        Some(it) => Some(Checksum { start: it.start.checked_add_signed(by)?, ..it }),
        None => None,
    };
    let mut large = offload.large;
    if let Some(large) = &mut large {
        // It is what the sender says, and nobody relies on it.
        large.header_bytes = large.header_bytes.saturating_add_signed(by);
    }
    Some(Offload { checksum, large })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;
    use crate::frame::tests::{ethernet, frame, ipv4, udp};
    use crate::frame::{HEAD_BYTES, MOST_BYTES, protocol};
    use crate::{Large, LargeKind};

    /// The frame's bytes, where its sender has these.
    fn delivered(frame: &Frame, sent: &[u8]) -> Vec<u8> {
        let rest = sent.get(frame.rest_at() as usize..).unwrap_or_default();
        assert_eq!(rest.len(), frame.rest_bytes() as usize);
        let bytes = [frame.head(), rest].concat();
        assert_eq!(bytes.len(), frame.length() as usize);
        bytes
    }

    fn with_tag(bytes: &[u8], tci: u16) -> Vec<u8> {
        [&bytes[..12], &[0x81, 0], &tci.to_be_bytes(), &bytes[12..]].concat()
    }

    fn offloads() -> impl Strategy<Value = Offload> {
        let checksum = (16_u16..200, 0_u16..200).prop_map(|(start, offset)| Checksum { start, offset });
        let large = (any::<u16>(), 4_u16..60_000).prop_map(|(size, header_bytes)| Large {
            kind: LargeKind::Udp,
            ecn: false,
            size,
            header_bytes,
        });
        (prop::option::of(checksum), prop::option::of(large))
            .prop_map(|(checksum, large)| Offload { checksum, large })
    }

    proptest! {
        #[test]
        fn tagging_and_untagging_is_as_if_nothing_was(
            mut bytes in prop::collection::vec(any::<u8>(), 14..400),
            offload in offloads(),
            tci: u16,
            other: u16,
        ) {
            bytes[12] = 8;
            let mut bare = frame(&bytes);
            bare.offload = offload;
            let tagged = tag(&bare, tci).expect("a tagged frame");
            prop_assert_eq!(delivered(&tagged, &bytes), with_tag(&bytes, tci));
            prop_assert_eq!(tagged.layers().tag, Some(tci));
            prop_assert_eq!(tagged.offload.checksum.map(|it| it.start - 4), offload.checksum.map(|it| it.start));
            prop_assert_eq!(tagged.offload.large.map(|it| it.header_bytes - 4), offload.large.map(|it| it.header_bytes));
            let retagged = retag(&tagged, other).expect("another tag");
            prop_assert_eq!(delivered(&retagged, &bytes), with_tag(&bytes, other));
            prop_assert_eq!(retagged.offload, tagged.offload);
            let added = retag(&bare, other).expect("a tag");
            prop_assert_eq!(added.head(), retagged.head());
            let again = untag(&tagged).expect("the frame");
            prop_assert_eq!(again.head(), bare.head());
            prop_assert_eq!((again.rest_at(), again.rest_bytes()), (bare.rest_at(), bare.rest_bytes()));
            prop_assert_eq!((again.length(), again.offload), (bare.length(), offload));
        }

        #[test]
        fn untagging_and_tagging_is_as_if_nothing_was(
            bytes in prop::collection::vec(any::<u8>(), 14..400),
            offload in offloads(),
            tci: u16,
        ) {
            let bytes = with_tag(&bytes, tci);
            let mut tagged = frame(&bytes);
            tagged.offload = offload;
            let bare = untag(&tagged).expect("a frame");
            prop_assert_eq!(delivered(&bare, &bytes), [&bytes[..12], &bytes[16..]].concat());
            let again = tag(&bare, tci).expect("a tagged frame");
            prop_assert_eq!(again.head(), tagged.head());
            prop_assert_eq!((again.rest_at(), again.length(), again.offload), (tagged.rest_at(), tagged.length(), offload));
        }

        #[test]
        fn any_frame_can_be_asked_for(bytes in prop::collection::vec(any::<u8>(), 14..200), start: u16, offset: u16, what in 0..4) {
            let mut bytes = bytes;
            if what != 0 {
                bytes[12..14].copy_from_slice(&ether_type::VLAN.to_be_bytes());
            }
            let mut it = frame(&bytes);
            it.offload.checksum = Some(Checksum { start, offset });
            for made in [tag(&it, 5), untag(&it), retag(&it, 5)].into_iter().flatten() {
                prop_assert!(made.length() >= ETHERNET_BYTES as u32 && made.head_bytes() as u32 <= made.length());
            }
        }
    }

    #[test]
    fn ports_are_still_found() {
        let packet = ipv4([10, 0, 0, 1], [10, 0, 0, 2], protocol::UDP, (7, 0), &udp(1000, 53));
        let bare = frame(&ethernet([2; 6], [4; 6], &[], ether_type::IPV4, &packet));
        let found = tag(&bare, 7).and_then(|it| it.layers().internet().copied()).expect("IPv4");
        assert_eq!((found.at, found.ports()), (18, (1000, 53)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let long = |length| Frame::new(&[8; HEAD_BYTES], length, Offload::default()).expect("a frame");
        assert!(tag(&long(MOST_BYTES), 1).is_none());
        let once = tag(&long(MOST_BYTES - 8), 1).expect("a tag");
        assert!(tag(&once, 1).is_none(), "its head has no room for a second one");
        assert!(retag(&once, 1).is_some());
        let cut = with_tag(&[2; 12], 1);
        assert!(untag(&frame(&cut[..15])).is_none() && untag(&frame(&cut)).is_none());
        assert!(retag(&frame(&cut[..15]), 1).is_none() && retag(&frame(&cut), 1).is_some());
        let mut over_all = frame(&with_tag(&[2; 100], 1));
        over_all.offload.checksum = Some(Checksum { start: 15, offset: 0 });
        assert!(untag(&over_all).is_none() && tag(&over_all, 1).is_some());
        over_all.offload.checksum = Some(Checksum { start: 11, offset: 0 });
        assert!(tag(&over_all, 1).is_none());
        over_all.offload.checksum = Some(Checksum { start: u16::MAX - 3, offset: 0 });
        assert!(tag(&over_all, 1).is_none());
    }
}
