//! Takes the ELF kernel (`vmlinux`) out of a bzImage, so that no guest spends billions of instructions on
//! unpacking itself.
//!
//! Source: Linux, "The Linux/x86 Boot Protocol" (fields `setup_sects`, `header`, `version`,
//! `payload_offset`, `payload_length`).

use std::io::Write;
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Result};
use crate::packages::{self, Tool};

const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// A `setup_sects` of zero means this many, for history's sake.
const DEFAULT_SETUP_SECTS: usize = 4;
/// The first protocol with the payload fields.
const PAYLOAD_VERSION: u16 = 0x0208;
/// Linux appends the unpacked size to its packed payload.
const SIZE_TRAILER: usize = 4;

/// How a payload is packed, by its first bytes, and what unpacks it.
struct Packing {
    magic: &'static [u8],
    command: &'static [&'static str],
    tools: &'static [Tool],
}

const PACKINGS: [Packing; 5] = [
    Packing { magic: b"\xfd7zXZ\0", command: &["xz", "-dc"], tools: packages::DEBIAN_GUEST },
    Packing { magic: b"\x1f\x8b", command: &["gzip", "-dc"], tools: &[] },
    Packing { magic: b"\x28\xb5\x2f\xfd", command: &["zstd", "-dc"], tools: packages::ZSTD },
    Packing { magic: b"\x02\x21\x4c\x18", command: &["lz4", "-dc"], tools: packages::LZ4 },
    Packing { magic: b"BZh", command: &["bzip2", "-dc"], tools: packages::BZIP2 },
];

/// The ELF file inside a bzImage (or the file itself, if it is one already).
pub(super) fn extract(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    let payload = payload(image).ok_or_else(|| {
        Failure::new("the kernel is neither an ELF file nor a bzImage of boot protocol 2.08 or later")
    })?;
    let packing = PACKINGS.iter().find(|packing| payload.starts_with(packing.magic)).ok_or_else(|| {
        let start = &payload[..payload.len().min(8)];
        Failure::new(format!("the kernel is packed in a way we do not know (it begins with {start:02x?})"))
            .next("name an unpacked kernel in the guest's description: [kernel] file = \"vmlinux\"")
    })?;
    packages::ensure(packing.tools)?;
    let elf = unpack(packing, payload)?;
    if elf.starts_with(b"\x7fELF") {
        return Ok(elf);
    }
    Err(Failure::new("the kernel's payload is not an ELF file"))
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |offset| image.get(offset..offset + 4)?.try_into().ok().map(u32::from_le_bytes);
    let version = u16::from_le_bytes(image.get(VERSION..VERSION + 2)?.try_into().ok()?);
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4)? != b"HdrS" || version < PAYLOAD_VERSION {
        return None;
    }
    let sectors = match usize::from(*image.get(SETUP_SECTS)?) {
        0 => DEFAULT_SETUP_SECTS,
        sectors => sectors,
    };
    let start = (sectors + 1) * SECTOR + usize::try_from(word(PAYLOAD_OFFSET)?).ok()?;
    let length = usize::try_from(word(PAYLOAD_LENGTH)?).ok()?.checked_sub(SIZE_TRAILER)?;
    image.get(start..start.checked_add(length)?)
}

fn unpack(packing: &Packing, payload: &[u8]) -> Result<Vec<u8>> {
    let [program, arguments @ ..] = packing.command else { return Err(Failure::new("no unpacker")) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context(format_args!("starting {program}"))?;
    let mut input = child.stdin.take().ok_or_else(|| Failure::new("no pipe"))?;
    let output = std::thread::scope(|scope| {
        // An unpacker that gives up early shows that in its status.
        scope.spawn(move || input.write_all(payload));
        child.wait_with_output()
    });
    let output = output.context(format_args!("running {program}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Failure::new(format!("{program} could not unpack the kernel ({})", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0_u8; 2 * SECTOR + 16];
        image[SETUP_SECTS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len() + SIZE_TRAILER).expect("small");
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0; SIZE_TRAILER]);
        image
    }

    #[test]
    fn the_payload_is_found() {
        assert_eq!(payload(&bz_image(b"packed")), Some(&b"packed"[..]));
    }

    #[test]
    fn truncated_images_are_refused() {
        let image = bz_image(b"packed");
        for length in 0..image.len() - SIZE_TRAILER {
            assert_eq!(payload(&image[..length]), None);
        }
    }

    #[test]
    fn a_gzip_payload_is_unpacked() {
        let elf = b"\x7fELF and so on";
        let packed =
            unpack(&Packing { magic: b"", command: &["gzip", "-c"], tools: &[] }, elf).expect("gzip packs");
        assert_eq!(extract(&bz_image(&packed)).expect("unpacks"), elf);
    }

    #[test]
    fn unknown_packings_are_named() {
        let failure = extract(&bz_image(b"unknown!")).expect_err("not packed");
        assert!(failure.what.contains("do not know"), "{}", failure.what);
    }
}
