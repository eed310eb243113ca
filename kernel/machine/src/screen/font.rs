//! The characters' glyphs: Noto Sans Mono in sixteen shades, half a byte for each pixel. The font itself has a byte for each, which the image would
//! have to carry.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const WEIGHT: FontWeight = FontWeight::Regular;
/// The font's size. Glyphs of larger ones would take more than the rest of the screen's code.
const SIZE: RasterHeight = RasterHeight::Size16;
/// Pixels in a row of a glyph.
pub(super) const WIDTH: usize = get_raster_width(WEIGHT, SIZE);
/// Rows of a glyph.
pub(super) const HEIGHT: usize = SIZE.val();
/// Shades from background to foreground.
pub(super) const SHADES: usize = 16;
const SHADE_BITS: usize = 4;

const FIRST: char = ' ';
const LAST: char = '~';
const COUNT: usize = LAST as usize - FIRST as usize + 1;

/// A row of a glyph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row(u32);

impl Row {
    /// One with these shades.
    #[cfg(test)]
    pub(super) fn of(shades: [u8; WIDTH]) -> Self {
        Self(shades.iter().rev().fold(0, |row, shade| row << SHADE_BITS | u32::from(*shade)))
    }

    /// Whether it is more than background.
    #[inline]
    pub(super) const fn has_ink(self) -> bool {
        self.0 != 0
    }

    /// The shade of each pixel, from left to right; 0 is background.
    #[inline(always)]
    pub(super) fn shades(self) -> impl Iterator<Item = u8> {
        let mut rest = self.0;
        (0..WIDTH).map(move |_| {
            let shade = rest as u8 % SHADES as u8;
            rest >>= SHADE_BITS;
            shade
        })
    }
}

static GLYPHS: [[Row; HEIGHT]; COUNT] = glyphs();

/// The glyph of a printable ASCII character, from top to bottom.
#[inline]
pub(super) fn glyph(character: u8) -> Option<&'static [Row; HEIGHT]> {
    GLYPHS.get(usize::from(character).checked_sub(FIRST as usize)?)
}

/// Made by the compiler.
const fn glyphs() -> [[Row; HEIGHT]; COUNT] {
    assert!(WIDTH * SHADE_BITS <= u32::BITS as usize);
    let mut glyphs = [[Row(0); HEIGHT]; COUNT];
    let mut index = 0;
    while index < COUNT {
        let Some(raster) = get_raster((FIRST as u8 + index as u8) as char, WEIGHT, SIZE) else {
            panic!("the font lacks a printable character")
        };
        let mut pixel = 0;
        while pixel < WIDTH * HEIGHT {
            let (x, y) = (pixel % WIDTH, pixel / WIDTH);
            let shade = raster.pixels()[pixel] >> (u8::BITS as usize - SHADE_BITS);
            glyphs[index][y].0 |= (shade as u32) << (x * SHADE_BITS);
            pixel += 1;
        }
        index += 1;
    }
    glyphs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glyphs_are_the_fonts() {
        for character in 0..=u8::MAX {
            let rows = glyph(character);
            assert_eq!(rows.is_some(), (b' '..=b'~').contains(&character), "{character}");
            let Some(rows) = rows else { continue };
            let raster = get_raster(char::from(character), WEIGHT, SIZE).unwrap();
            for (row, pixels) in rows.iter().zip(raster.rows()) {
                assert_eq!(row.has_ink(), row.shades().any(|shade| shade != 0));
                assert!(row.shades().zip(pixels).all(|(shade, pixel)| shade == pixel >> 4));
            }
        }
        assert!(!glyph(b' ').unwrap().iter().any(|row| row.has_ink()));
    }
}
