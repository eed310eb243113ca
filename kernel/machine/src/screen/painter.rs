//! Characters as pixels in a linear framebuffer of any arrangement of red, green and blue in 15 to 32 bits.
//!
//! Source: Multiboot2 Specification, "Framebuffer info". The font is Noto Sans Mono, drawn in shades.

use vcpu::Hpa;

use super::font::{self, Row, SHADES};
use super::grid::Cell;

/// A screen that claims more pixels one way is none.
const MAX_PIXELS: u32 = 1 << 14;
/// How often each pixel of a glyph is drawn both ways, largest first.
const SCALES: [usize; 3] = [3, 2, 1];
/// The largest font that leaves this many columns is used: most lines of the log fit.
const WANTED_COLUMNS: usize = 120;

/// Red, green, blue, 255 each at most.
type Rgb = [u8; 3];
const BLACK: Rgb = [0, 0, 0];
const LIGHT_GREY: Rgb = [200, 200, 200];
const WHITE: Rgb = [255, 255, 255];
const RED: Rgb = [160, 0, 0];

/// Where one of the primary colours is in a pixel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Field {
    /// Its lowest bit.
    pub(crate) position: u8,
    /// Bits.
    pub(crate) size: u8,
}

impl Field {
    /// The field's bits for a value of at most 255.
    fn place(self, value: u8) -> u32 {
        let most = (1_u64 << self.size) - 1;
        ((u64::from(value) * most / 255) << self.position) as u32
    }
}

/// A linear framebuffer, as the boot loader describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Framebuffer {
    /// The upper left pixel.
    pub(crate) address: Hpa,
    /// Bytes from a line to the next.
    pub(crate) pitch: u32,
    /// Pixels in a line.
    pub(crate) width: u32,
    /// Lines.
    pub(crate) height: u32,
    /// Bits that a pixel takes.
    pub(crate) bits: u8,
    /// Red, green and blue.
    pub(crate) fields: [Field; 3],
}

impl Framebuffer {
    /// Bytes of it all.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.pitch) * u64::from(self.height)
    }

    fn bytes_per_pixel(&self) -> usize {
        usize::from(self.bits).div_ceil(8)
    }

    /// Whether sizes and fields hold together.
    fn is_sound(&self) -> bool {
        let bytes_per_pixel = self.bytes_per_pixel() as u32;
        let fits = |field: &Field| {
            field.size != 0 && u32::from(field.position) + u32::from(field.size) <= u32::from(self.bits)
        };
        // Pixels of two and four bytes are written as whole words.
        let alignment = if bytes_per_pixel == 3 { 1 } else { u64::from(bytes_per_pixel) };
        (15..=32).contains(&self.bits)
            && (1..=MAX_PIXELS).contains(&self.width)
            && (1..=MAX_PIXELS).contains(&self.height)
            && self.pitch >= self.width * bytes_per_pixel
            && self.pitch <= MAX_PIXELS * 8
            && (u64::from(self.pitch) | self.address.0).is_multiple_of(alignment)
            && self.address.0 != 0
            && self.address.0.checked_add(self.bytes()).is_some()
            && self.fields.iter().all(fits)
    }
}

/// The pixels from background to foreground.
pub(super) struct Shades(pub(super) [u32; SHADES]);

impl Shades {
    /// One of the font's shades.
    #[inline]
    pub(super) fn of(&self, shade: u8) -> u32 {
        self.0[usize::from(shade) % SHADES]
    }
}

/// Memory that takes pixels.
pub(super) trait PixelMemory {
    /// Writes a row of a glyph, each pixel of it so many times beside each other: pixels of `bytes` bytes each (2, 3 or 4), the first at `offset` bytes.
    /// What would lie outside is left out.
    fn store(&mut self, offset: usize, row: Row, shades: &Shades, bytes_and_times: (usize, usize));

    /// Makes `length` bytes zero. What would lie outside is left out.
    fn zero(&mut self, offset: usize, length: usize);
}

/// How characters are drawn on a particular framebuffer.
pub(super) struct Painter {
    pub(super) framebuffer: Framebuffer,
    scale: usize,
    glyph_width: usize,
    shades: [Shades; 2],
}

impl Painter {
    /// `None` for a framebuffer whose description does not hold together.
    pub(super) fn new(framebuffer: Framebuffer) -> Option<Self> {
        if !framebuffer.is_sound() {
            return None;
        }
        let columns = |scale| framebuffer.width as usize / (font::WIDTH * scale);
        let scale = SCALES.into_iter().find(|scale| columns(*scale) >= WANTED_COLUMNS).unwrap_or(1);
        let shades = |background, foreground| {
            Shades(core::array::from_fn(|shade| pixel(&framebuffer.fields, background, foreground, shade)))
        };
        Some(Self {
            framebuffer,
            scale,
            glyph_width: font::WIDTH * scale,
            shades: [shades(BLACK, LIGHT_GREY), shades(RED, WHITE)],
        })
    }

    /// Columns and lines of text.
    pub(super) fn size(&self) -> (usize, usize) {
        let Framebuffer { width, height, .. } = self.framebuffer;
        (width as usize / self.glyph_width, height as usize / (font::HEIGHT * self.scale))
    }

    /// Makes all of it black.
    pub(super) fn clear(&self, memory: &mut impl PixelMemory) {
        let Framebuffer { width, height, pitch, .. } = self.framebuffer;
        let (width, pitch) = (width as usize, pitch as usize);
        let bytes = self.framebuffer.bytes_per_pixel();
        for line in 0..height as usize {
            memory.zero(line * pitch, width * bytes);
        }
    }

    /// Draws a character. `before` is what is there, where that is known: over a blank, rows without ink are left out.
    pub(super) fn draw(
        &self,
        memory: &mut impl PixelMemory,
        (line, column): (usize, usize),
        cell: Cell,
        before: Option<Cell>,
    ) {
        let Some(glyph) = font::glyph(cell.character()) else { return };
        let over_blank = before == Some(cell.blank());
        let bytes = self.framebuffer.bytes_per_pixel();
        let pitch = self.framebuffer.pitch as usize;
        let shades = &self.shades[cell.colour() as usize];
        let mut offset = line * font::HEIGHT * self.scale * pitch + column * self.glyph_width * bytes;
        for row in glyph {
            let is_drawn = !over_blank || row.has_ink();
            for _ in 0..self.scale {
                if is_drawn {
                    memory.store(offset, *row, shades, (bytes, self.scale));
                }
                offset += pitch;
            }
        }
    }
}

/// A pixel so many sixteenths from background to foreground.
fn pixel(fields: &[Field; 3], background: Rgb, foreground: Rgb, shade: usize) -> u32 {
    let last = SHADES as u32 - 1;
    let mix =
        |from: u8, to: u8| (u32::from(from) * (last - shade as u32) + u32::from(to) * shade as u32) / last;
    let primaries = fields.iter().zip(background).zip(foreground);
    primaries.fold(0, |pixel, ((field, from), to)| pixel | field.place(mix(from, to) as u8))
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster};

    use super::super::grid::Colour;
    use super::*;

    impl PixelMemory for Vec<u8> {
        fn store(&mut self, offset: usize, row: Row, shades: &Shades, (bytes, times): (usize, usize)) {
            let pixels = row.shades().flat_map(|shade| core::iter::repeat_n(shade, times));
            for (index, shade) in pixels.enumerate() {
                let at = offset + index * bytes;
                self[at..at + bytes].copy_from_slice(&shades.of(shade).to_le_bytes()[..bytes]);
            }
        }

        fn zero(&mut self, offset: usize, length: usize) {
            self[offset..offset + length].fill(0);
        }
    }

    const FIELDS_888: [Field; 3] =
        [Field { position: 16, size: 8 }, Field { position: 8, size: 8 }, Field { position: 0, size: 8 }];
    const FIELDS_565: [Field; 3] =
        [Field { position: 11, size: 5 }, Field { position: 5, size: 6 }, Field { position: 0, size: 5 }];
    const FIELDS_555: [Field; 3] =
        [Field { position: 10, size: 5 }, Field { position: 5, size: 5 }, Field { position: 0, size: 5 }];
    /// The order of OVMF's second pixel format: red first.
    const FIELDS_BGR: [Field; 3] =
        [Field { position: 0, size: 8 }, Field { position: 8, size: 8 }, Field { position: 16, size: 8 }];

    fn framebuffer(width: u32, height: u32, bits: u8, fields: [Field; 3]) -> Framebuffer {
        let pitch = width * u32::from(bits).div_ceil(8) + 64;
        Framebuffer { address: Hpa(0x8000_0000), pitch, width, height, bits, fields }
    }

    /// Red, green and blue of a pixel, each scaled to 255.
    fn rgb(memory: &[u8], screen: &Framebuffer, x: usize, y: usize) -> Rgb {
        let bytes = screen.bytes_per_pixel();
        let at = y * screen.pitch as usize + x * bytes;
        let mut word = [0; 4];
        word[..bytes].copy_from_slice(&memory[at..at + bytes]);
        let pixel = u32::from_le_bytes(word);
        screen.fields.map(|field| {
            let most = (1_u32 << field.size) - 1;
            ((pixel >> field.position & most) * 255 / most) as u8
        })
    }

    fn near(one: Rgb, other: Rgb) -> bool {
        one.iter().zip(other).all(|(one, other)| one.abs_diff(other) <= 24)
    }

    #[test]
    fn a_character_looks_the_same_in_every_format() {
        let formats =
            [(32, FIELDS_888), (24, FIELDS_888), (32, FIELDS_BGR), (16, FIELDS_565), (15, FIELDS_555)];
        for (bits, fields) in formats {
            let painter = Painter::new(framebuffer(640, 480, bits, fields)).unwrap();
            let screen = painter.framebuffer;
            let mut memory = vec![0xa5; screen.bytes() as usize];
            painter.clear(&mut memory);
            painter.draw(&mut memory, (2, 3), Cell::new('B', Colour::Alarm), Some(Cell::BLANK));
            let glyph = get_raster('B', FontWeight::Regular, RasterHeight::Size16).unwrap();
            let (left, top) = (3 * glyph.width(), 2 * glyph.height());
            for y in 0..480_usize {
                for x in 0..640_usize {
                    let inside = x.wrapping_sub(left) < glyph.width() && y.wrapping_sub(top) < glyph.height();
                    let intensity = if inside { glyph.pixel(x - left, y - top) } else { None };
                    let found = rgb(&memory, &screen, x, y);
                    let expected = intensity.map_or(BLACK, |intensity| {
                        let mix = |from: u8, to: u8| {
                            ((u32::from(from) * u32::from(255 - intensity)
                                + u32::from(to) * u32::from(intensity))
                                / 255) as u8
                        };
                        [mix(RED[0], WHITE[0]), mix(RED[1], WHITE[1]), mix(RED[2], WHITE[2])]
                    });
                    assert!(near(found, expected), "{bits} bits, {x},{y}: {found:?}, {expected:?}");
                }
            }
            // What lies between the end of a line and the pitch is not ours.
            assert!(memory[640 * screen.bytes_per_pixel()..][..64].iter().all(|byte| *byte == 0xa5));
        }
    }

    #[test]
    fn what_was_there_before_leaves_no_trace() {
        let painter = Painter::new(framebuffer(640, 480, 32, FIELDS_888)).unwrap();
        let cells = ['|', ' ', '_', 'g', '.', '#'].map(|character| Cell::new(character, Colour::Normal));
        let mut cells = cells.to_vec();
        cells.push(Cell::new(' ', Colour::Alarm));
        for before in &cells {
            for after in &cells {
                let mut anew = vec![0; painter.framebuffer.bytes() as usize];
                painter.draw(&mut anew, (1, 1), *after, None);
                let mut over = vec![0; painter.framebuffer.bytes() as usize];
                painter.draw(&mut over, (1, 1), *before, Some(Cell::BLANK));
                painter.draw(&mut over, (1, 1), *after, Some(*before));
                assert!(anew == over, "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn the_font_fits_the_screen() {
        let size = |width, height| Painter::new(framebuffer(width, height, 32, FIELDS_888)).unwrap().size();
        assert_eq!(size(640, 480), (91, 30));
        assert_eq!(size(800, 600), (114, 37));
        assert_eq!(size(1280, 800), (182, 50));
        assert_eq!(size(1920, 1080), (137, 33));
        assert_eq!(size(3840, 2160), (182, 45));
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        let good = framebuffer(1024, 768, 32, FIELDS_888);
        assert!(Painter::new(good).is_some());
        let deep = Field { position: 25, size: 8 };
        let bad = [
            Framebuffer { width: 0, ..good },
            Framebuffer { height: 0, ..good },
            Framebuffer { height: u32::MAX, ..good },
            Framebuffer { pitch: 4095, ..good },
            Framebuffer { pitch: 4098, ..good },
            Framebuffer { pitch: 0xffff_fffc, ..good },
            Framebuffer { bits: 8, ..good },
            Framebuffer { bits: 64, ..good },
            Framebuffer { address: Hpa(0), ..good },
            Framebuffer { address: Hpa(2), ..good },
            Framebuffer { address: Hpa(0xffff_ffff_ffff_fffc), ..good },
            Framebuffer { fields: [deep, FIELDS_888[1], FIELDS_888[2]], ..good },
            Framebuffer { fields: [FIELDS_888[0], Field { position: 8, size: 0 }, FIELDS_888[2]], ..good },
        ];
        for framebuffer in bad {
            assert!(Painter::new(framebuffer).is_none(), "{framebuffer:?}");
        }
    }

    fn field() -> impl Strategy<Value = Field> {
        (any::<u8>(), any::<u8>()).prop_map(|(position, size)| Field { position, size })
    }

    proptest! {
        #[test]
        fn nothing_is_drawn_outside_whatever_the_loader_says(
            (pitch, width, height, bits) in (0_u32..5000, 0_u32..1300, 0_u32..70, 0_u8..40),
            fields in [field(), field(), field()],
        ) {
            let framebuffer = Framebuffer { address: Hpa(0x1000), pitch, width, height, bits, fields };
            if let Some(painter) = Painter::new(framebuffer) {
                // The test's memory panics outside.
                let mut memory = vec![0; framebuffer.bytes() as usize];
                painter.clear(&mut memory);
                let (columns, lines) = painter.size();
                if columns > 0 && lines > 0 {
                    painter.draw(&mut memory, (lines - 1, columns - 1), Cell::new('#', Colour::Normal), None);
                }
            }
        }
    }
}
