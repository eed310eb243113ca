//! Multiboot2's tags as bytes: those that say what the screen is, and access to others without trusting their
//! sizes.
//!
//! Source: Multiboot2 Specification, "Boot information", "Framebuffer info".

use vcpu::Hpa;

use crate::screen::{Display, Field, Framebuffer};

/// Types of tags.
const END: u32 = 0;
const FRAMEBUFFER: u32 = 8;
const EFI_SYSTEM_TABLE_32: u32 = 11;
const EFI_SYSTEM_TABLE_64: u32 = 12;
/// The map that EFI's boot services left.
pub(super) const EFI_MEMORY_MAP: u32 = 17;

/// The information starts with its size and a reserved word, a tag with its type and size.
const INFORMATION_HEADER_BYTES: usize = 8;
const TAG_HEADER_BYTES: usize = 8;
const TAG_ALIGNMENT: usize = 8;

/// Offsets in the framebuffer's tag.
const ADDRESS: usize = 8;
const PITCH: usize = 16;
const WIDTH: usize = 20;
const HEIGHT: usize = 24;
const BITS: usize = 28;
const KIND: usize = 29;
/// Position and size of red, green and blue.
const FIELDS: usize = 32;
const KIND_RGB: u8 = 1;
const KIND_TEXT: u8 = 2;

/// What the tags say of the screen. On an EFI machine there is none but a framebuffer.
pub(super) fn display(information: &[u8]) -> Display {
    if let Some(tag) = find(information, FRAMEBUFFER) {
        return framebuffer(tag).unwrap_or(Display::Absent);
    }
    let efi = [EFI_SYSTEM_TABLE_32, EFI_SYSTEM_TABLE_64, EFI_MEMORY_MAP];
    if efi.into_iter().any(|kind| find(information, kind).is_some()) {
        Display::Absent
    } else {
        Display::Unknown
    }
}

/// The first tag of that type, header included.
pub(super) fn find(information: &[u8], kind: u32) -> Option<&[u8]> {
    let mut rest = information.get(INFORMATION_HEADER_BYTES..)?;
    loop {
        let (found, size) = (word(rest, 0)?, word(rest, 4)? as usize);
        if found == END || size < TAG_HEADER_BYTES {
            return None;
        }
        if found == kind {
            return rest.get(..size);
        }
        rest = rest.get(size.checked_next_multiple_of(TAG_ALIGNMENT)?..)?;
    }
}

fn framebuffer(tag: &[u8]) -> Option<Display> {
    let address = Hpa(u64::from_le_bytes(*tag.get(ADDRESS..)?.first_chunk()?));
    let (width, height) = (word(tag, WIDTH)?, word(tag, HEIGHT)?);
    match *tag.get(KIND)? {
        KIND_RGB => {
            let [red, red_size, green, green_size, blue, blue_size] = *tag.get(FIELDS..)?.first_chunk()?;
            let fields = [(red, red_size), (green, green_size), (blue, blue_size)];
            let fields = fields.map(|(position, size)| Field { position, size });
            let (pitch, bits) = (word(tag, PITCH)?, *tag.get(BITS)?);
            Some(Display::Pixels(Framebuffer { address, pitch, width, height, bits, fields }))
        }
        KIND_TEXT => Some(Display::Text { address, columns: width, lines: height }),
        // A palette: too few colours to be worth it.
        _ => None,
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use multiboot2::{
        Builder, CommandLineTag, EFISdt64Tag, FramebufferField, FramebufferTag, FramebufferType,
        MaybeDynSized,
    };
    use proptest::prelude::*;

    use super::*;

    fn bytes(builder: Builder) -> Vec<u8> {
        builder.build().as_bytes().to_vec()
    }

    fn field(position: u8, size: u8) -> FramebufferField {
        FramebufferField { position, size }
    }

    fn with_framebuffer(kind: FramebufferType<'_>) -> Vec<u8> {
        let tag = FramebufferTag::new(0x40_8000_0000, 4096, 1024, 768, 32, kind);
        bytes(Builder::new().cmdline(CommandLineTag::new("odd length")).framebuffer(tag))
    }

    #[test]
    fn a_framebuffer_is_read_whole_wherever_it_lies() {
        let rgb = FramebufferType::RGB { red: field(16, 8), green: field(8, 8), blue: field(0, 8) };
        let expected = Framebuffer {
            address: Hpa(0x40_8000_0000),
            pitch: 4096,
            width: 1024,
            height: 768,
            bits: 32,
            fields: [(16, 8), (8, 8), (0, 8)].map(|(position, size)| Field { position, size }),
        };
        assert_eq!(display(&with_framebuffer(rgb)), Display::Pixels(expected));
    }

    #[test]
    fn text_and_palettes_are_told_apart() {
        let text = Display::Text { address: Hpa(0x40_8000_0000), columns: 1024, lines: 768 };
        assert_eq!(display(&with_framebuffer(FramebufferType::Text)), text);
        assert_eq!(display(&with_framebuffer(FramebufferType::Indexed { palette: &[] })), Display::Absent);
    }

    #[test]
    fn without_a_tag_only_an_efi_machine_is_known_to_have_no_text() {
        assert_eq!(display(&bytes(Builder::new())), Display::Unknown);
        assert_eq!(display(&bytes(Builder::new().efi64(EFISdt64Tag::new(0x1000)))), Display::Absent);
    }

    proptest! {
        #[test]
        fn cut_and_spoilt_information_never_panics(
            length in 0_usize..120,
            spoilt in proptest::collection::vec((0_usize..120, any::<u8>()), 0..6),
        ) {
            let mut information = with_framebuffer(FramebufferType::Text);
            information.truncate(length);
            for (at, value) in spoilt {
                if let Some(byte) = information.get_mut(at) {
                    *byte = value;
                }
            }
            let _ = display(&information);
            let _ = find(&information, EFI_MEMORY_MAP);
        }
    }
}
