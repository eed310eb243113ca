//! Reads the text off a picture of the machine's screen, drawn in the kernel's font (Noto Sans Mono).
//!
//! Every cell must be the picture of a character, in the kernel's shades of grey or in those of its last
//! words; what is not reads as U+FFFD. So a text that is found has really been drawn, pixel by pixel.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const WEIGHT: FontWeight = FontWeight::Regular;
/// The font's size, and how often each pixel of a glyph is drawn both ways.
type Size = (RasterHeight, usize);
const SIZES: [Size; 3] = [(RasterHeight::Size16, 1), (RasterHeight::Size16, 2), (RasterHeight::Size16, 3)];
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
    SIZES.iter().map(|size| picture.text(*size)).max_by_key(|lines| -> i32 { readable(lines) })
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

    fn text(&self, size: Size) -> Vec<String> {
        let (height, scale) = size;
        let columns = self.width / (get_raster_width(WEIGHT, height) * scale);
        let line = |line| {
            let text: String = (0..columns).map(|column| self.character(size, line, column)).collect();
            text.trim_end().to_owned()
        };
        (0..self.height / (height.val() * scale)).map(line).collect()
    }

    fn character(&self, size: Size, line: usize, column: usize) -> char {
        // The space first: most cells are.
        (' '..='~').find(|character| self.shows(*character, size, line, column)).unwrap_or(UNREADABLE)
    }

    fn shows(&self, character: char, (height, scale): Size, line: usize, column: usize) -> bool {
        let Some(glyph) = get_raster(character, WEIGHT, height) else { return false };
        let (left, top) = (column * glyph.width() * scale, line * glyph.height() * scale);
        let differs = |x, y, expected: i32| (self.green(left + x, top + y) - expected).abs() > TOLERANCE;
        FOREGROUNDS.iter().any(|foreground| {
            glyph.rows().enumerate().all(|(y, row)| {
                row.iter().enumerate().all(|(x, intensity)| {
                    let expected = i32::from(*intensity) * foreground / 255;
                    let mut points =
                        (0..scale * scale).map(|n| (x * scale + n % scale, y * scale + n / scale));
                    !points.any(|(x, y)| differs(x, y, expected))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with this text in its upper left corner.
    fn picture(width: usize, rows: usize, (height, scale): Size, text: &str) -> Vec<u8> {
        let mut ppm = format!("P6\n{width} {rows}\n255\n").into_bytes();
        let start = ppm.len();
        ppm.resize(start + width * rows * 3, 0);
        for (column, character) in text.chars().enumerate() {
            let glyph = get_raster(character, WEIGHT, height).expect("ASCII");
            for (y, row) in glyph.rows().enumerate() {
                for (x, intensity) in row.iter().enumerate() {
                    for n in 0..scale * scale {
                        let (x, y) =
                            ((column * glyph.width() + x) * scale + n % scale, y * scale + n / scale);
                        ppm[start + (y * width + x) * 3 + 1] = (u32::from(intensity >> 4) * 200 / 15) as u8;
                    }
                }
            }
        }
        ppm
    }

    #[test]
    fn text_of_every_size_is_read_back() {
        let text = "What to do: 0O 1lI |!i .,:;'\" [~] {_}";
        for size in SIZES {
            let lines = read(&picture(1000, 150, size, text)).expect("a picture");
            assert_eq!(lines[0], text, "{size:?}");
            assert!(lines[1..].iter().all(String::is_empty));
        }
    }

    #[test]
    fn a_spoilt_pixel_spoils_the_character() {
        let mut ppm = picture(400, 40, (RasterHeight::Size16, 1), "abc");
        let start = ppm.len() - 400 * 40 * 3;
        ppm[start + (15 * 400 + 10) * 3 + 1] = 255;
        assert_eq!(read(&ppm).expect("a picture")[0], format!("a{UNREADABLE}c"));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for bytes in [&b""[..], b"P5\n1 1\n255\n...", b"P6\n2 2\n255\n...", b"P6\n99999999999 9\n255\n."] {
            assert!(read(bytes).is_none());
        }
    }
}
