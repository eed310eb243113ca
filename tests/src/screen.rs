//! Reads the text off a picture of the machine's screen, drawn in the kernel's font (Noto Sans Mono).
//!
//! Every cell must be the picture of a character, in the kernel's shades of grey or in those of its last
//! words; what is not reads as U+FFFD. So a text that is found has really been drawn, pixel by pixel.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const WEIGHT: FontWeight = FontWeight::Regular;
const HEIGHTS: [RasterHeight; 4] =
    [RasterHeight::Size16, RasterHeight::Size20, RasterHeight::Size24, RasterHeight::Size32];
/// The green of the kernel's light grey and of the white of its last words; the backgrounds have none.
const FOREGROUNDS: [i32; 2] = [200, 255];
/// How far a pixel may be off: the kernel draws sixteen shades, and screens of 15 bits round again.
const TOLERANCE: i32 = 24;
const UNREADABLE: char = '\u{fffd}';

/// A picture: the green of each pixel, line by line.
struct Picture<'a> {
    width: usize,
    height: usize,
    pixels: &'a [u8],
}

/// The lines of text in a picture in the PPM format (binary, 255 shades), without spaces at their ends. `None` for
/// what is no such picture. The size of the font is the one in which most can be read.
#[must_use]
pub fn read(ppm: &[u8]) -> Option<Vec<String>> {
    let picture = Picture::parse(ppm)?;
    let readable = |lines: &Vec<String>| {
        let characters = lines.iter().flat_map(|line| line.chars());
        characters
            .map(|character| if character == UNREADABLE { -1 } else { i32::from(character != ' ') })
            .sum()
    };
    HEIGHTS.iter().map(|height| picture.text(*height)).max_by_key(|lines| -> i32 { readable(lines) })
}

impl<'a> Picture<'a> {
    fn parse(ppm: &'a [u8]) -> Option<Self> {
        let mut rest = ppm.strip_prefix(b"P6")?;
        let mut number = || {
            let start = rest.iter().position(u8::is_ascii_digit)?;
            let length = rest[start..].iter().position(|byte| !byte.is_ascii_digit())?;
            let (digits, after) = rest[start..].split_at(length);
            rest = after;
            std::str::from_utf8(digits).ok()?.parse::<usize>().ok()
        };
        let (width, height, most) = (number()?, number()?, number()?);
        let pixels = rest.get(1..)?;
        let whole = width.checked_mul(height)?.checked_mul(3)? <= pixels.len();
        (whole && most == 255 && width > 0).then_some(Self { width, height, pixels })
    }

    fn green(&self, x: usize, y: usize) -> i32 {
        i32::from(self.pixels[(y * self.width + x) * 3 + 1])
    }

    fn text(&self, height: RasterHeight) -> Vec<String> {
        let columns = self.width / get_raster_width(WEIGHT, height);
        let line = |line| {
            let text: String = (0..columns).map(|column| self.character(height, line, column)).collect();
            text.trim_end().to_owned()
        };
        (0..self.height / height.val()).map(line).collect()
    }

    fn character(&self, height: RasterHeight, line: usize, column: usize) -> char {
        // The space first: most cells are.
        (' '..='~').find(|character| self.shows(*character, height, line, column)).unwrap_or(UNREADABLE)
    }

    fn shows(&self, character: char, height: RasterHeight, line: usize, column: usize) -> bool {
        let Some(glyph) = get_raster(character, WEIGHT, height) else { return false };
        let (left, top) = (column * glyph.width(), line * glyph.height());
        FOREGROUNDS.iter().any(|foreground| {
            glyph.rows().enumerate().all(|(y, row)| {
                row.iter().enumerate().all(|(x, intensity)| {
                    let expected = i32::from(*intensity) * foreground / 255;
                    (self.green(left + x, top + y) - expected).abs() <= TOLERANCE
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with this text in its upper left corner.
    fn picture(width: usize, rows: usize, height: RasterHeight, text: &str) -> Vec<u8> {
        let mut ppm = format!("P6\n{width} {rows}\n255\n").into_bytes();
        let start = ppm.len();
        ppm.resize(start + width * rows * 3, 0);
        for (column, character) in text.chars().enumerate() {
            let glyph = get_raster(character, WEIGHT, height).expect("ASCII");
            for (y, row) in glyph.rows().enumerate() {
                for (x, intensity) in row.iter().enumerate() {
                    let at = start + (y * width + column * glyph.width() + x) * 3 + 1;
                    ppm[at] = (u32::from(intensity >> 4) * 200 / 15) as u8;
                }
            }
        }
        ppm
    }

    #[test]
    fn text_of_every_size_is_read_back() {
        let text = "What to do: 0O 1lI |!i .,:;'\" [~] {_}";
        for height in HEIGHTS {
            let lines = read(&picture(800, 100, height, text)).expect("a picture");
            assert_eq!(lines[0], text, "{height:?}");
            assert!(lines[1..].iter().all(String::is_empty));
        }
    }

    #[test]
    fn a_spoilt_pixel_spoils_the_character() {
        let mut ppm = picture(400, 40, RasterHeight::Size20, "abc");
        let start = ppm.len() - 400 * 40 * 3;
        ppm[start + (19 * 400 + 10) * 3 + 1] = 255;
        assert_eq!(read(&ppm).expect("a picture")[0], format!("a{UNREADABLE}c"));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for bytes in [&b""[..], b"P5\n1 1\n255\n...", b"P6\n2 2\n255\n...", b"P6\n99999999999 9\n255\n."] {
            assert!(read(bytes).is_none());
        }
    }
}
