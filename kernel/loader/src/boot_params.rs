//! `boot_params`, the page that tells Linux what it runs on (Linux documentation, "Zero Page" and "The
//! Linux/x86 Boot Protocol").

use vcpu::{Framebuffer, Gpa, PAGE_SIZE};

use crate::entry::{BOOT_PARAMS_OFFSET, COMMAND_LINE_OFFSET};
use crate::{E820Entry, Format, GuestMemory, LoadError, Plan, Range, Request, TextScreen, bzimage};

/// Offsets and values of the setup header, the same in a bzImage's file and in `boot_params`.
pub(crate) mod header {
    /// The header's first field.
    pub(crate) const START: u64 = SETUP_SECTS;
    pub(crate) const SETUP_SECTS: u64 = 0x1f1;
    pub(crate) const SYSSIZE: u64 = 0x1f4;
    pub(crate) const VID_MODE: u64 = 0x1fa;
    pub(crate) const BOOT_FLAG: u64 = 0x1fe;
    pub(crate) const BOOT_FLAG_VALUE: u16 = 0xaa55;
    /// The second byte of the jump over the header: its length from [`MAGIC`] on.
    pub(crate) const JUMP_DISPLACEMENT: u64 = 0x201;
    pub(crate) const MAGIC: u64 = 0x202;
    /// "HdrS".
    pub(crate) const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"HdrS");
    pub(crate) const VERSION: u64 = 0x206;
    pub(crate) const TYPE_OF_LOADER: u64 = 0x210;
    pub(crate) const LOADFLAGS: u64 = 0x211;
    pub(crate) const CODE32_START: u64 = 0x214;
    pub(crate) const RAMDISK_IMAGE: u64 = 0x218;
    pub(crate) const RAMDISK_SIZE: u64 = 0x21c;
    pub(crate) const CMD_LINE_PTR: u64 = 0x228;
    pub(crate) const INITRD_ADDR_MAX: u64 = 0x22c;
    pub(crate) const KERNEL_ALIGNMENT: u64 = 0x230;
    pub(crate) const RELOCATABLE_KERNEL: u64 = 0x234;
    pub(crate) const XLOADFLAGS: u64 = 0x236;
    pub(crate) const CMDLINE_SIZE: u64 = 0x238;
    pub(crate) const SETUP_DATA: u64 = 0x250;
    pub(crate) const PREF_ADDRESS: u64 = 0x258;
    pub(crate) const INIT_SIZE: u64 = 0x260;
    /// End of the last field that a 64-bit entry needs.
    pub(crate) const KERNEL_64_END: u64 = 0x264;
    /// End of the room for the header in `boot_params`.
    pub(crate) const ROOM_END: u64 = 0x290;
}

/// `screen_info`, at the very start: offsets and values.
mod screen_info {
    pub(super) const ORIG_VIDEO_MODE: u64 = 0x06;
    pub(super) const ORIG_VIDEO_COLS: u64 = 0x07;
    pub(super) const ORIG_VIDEO_LINES: u64 = 0x0e;
    pub(super) const ORIG_VIDEO_IS_VGA: u64 = 0x0f;
    pub(super) const ORIG_VIDEO_POINTS: u64 = 0x10;
    pub(super) const LFB_WIDTH: u64 = 0x12;
    pub(super) const LFB_HEIGHT: u64 = 0x14;
    pub(super) const LFB_DEPTH: u64 = 0x16;
    pub(super) const LFB_BASE: u64 = 0x18;
    pub(super) const LFB_SIZE: u64 = 0x1c;
    pub(super) const LFB_LINELENGTH: u64 = 0x24;
    /// Size and position of red, green, blue and what is reserved, a byte each.
    pub(super) const COLOURS: u64 = 0x26;
    pub(super) const CAPABILITIES: u64 = 0x36;
    pub(super) const EXT_LFB_BASE: u64 = 0x3a;
    /// `VIDEO_TYPE_VLFB`, and the unit of its size.
    pub(super) const LINEAR: u8 = 0x23;
    pub(super) const SIZE_UNIT: u64 = 64 << 10;
    /// `VIDEO_CAPABILITY_64BIT_BASE`.
    pub(super) const WIDE_BASE: u32 = 1 << 1;
    /// 80 × 25 characters in 16 colours.
    pub(super) const MODE_3: u8 = 3;
    /// Scan lines of a character.
    pub(super) const SCAN_LINES: u8 = 16;
}

const ACPI_RSDP_ADDR: u64 = 0x070;
const EXT_RAMDISK_IMAGE: u64 = 0x0c0;
const EXT_RAMDISK_SIZE: u64 = 0x0c4;
const EXT_CMD_LINE_PTR: u64 = 0x0c8;
const E820_ENTRIES: u64 = 0x1e8;
const E820_TABLE: u64 = 0x2d0;
const E820_ENTRY_SIZE: usize = 20;
/// Entries that the table has room for.
pub(crate) const E820_MAX: usize = 128;

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode` "normal": no mode is set.
const VIDEO_NORMAL: u16 = 0xffff;

/// What a header says that is made for a `vmlinux`, which brings none.
const SYNTHETIC_VERSION: u16 = 0x020f;
const SYNTHETIC_LOADFLAGS: u8 = 1;
const SYNTHETIC_ALIGNMENT: u32 = 1 << 24;
/// XLF_KERNEL_64 and XLF_CAN_BE_LOADED_ABOVE_4G.
const SYNTHETIC_XLOADFLAGS: u16 = 3;
/// The longest command line of an x86 Linux, which a `vmlinux` does not tell: `COMMAND_LINE_SIZE` is 2048.
pub(crate) const VMLINUX_COMMAND_LINE_MAX: u64 = 2047;

/// Writes fields relative to an address.
struct Writer<'a, M: GuestMemory + ?Sized> {
    memory: &'a mut M,
    base: u64,
}

impl<M: GuestMemory + ?Sized> Writer<'_, M> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        Ok(self.memory.write(Gpa(self.base + offset), bytes)?)
    }

    fn put_u32(&mut self, offset: u64, value: u64) -> Result<(), LoadError> {
        self.put(offset, &(value as u32).to_le_bytes())
    }

    /// The low half of `value` to `low`, the high half to `high`.
    fn put_halves(&mut self, low: u64, high: u64, value: u64) -> Result<(), LoadError> {
        self.put_u32(low, value)?;
        self.put_u32(high, value >> 32)
    }
}

/// Writes `boot_params` and the command line. Gives the address for RSI.
pub(crate) fn write<M: GuestMemory + ?Sized>(
    request: &Request<'_>,
    plan: &Plan,
    initrd: Option<Range>,
    memory: &mut M,
) -> Result<u64, LoadError> {
    let base = request.low_area.0 + BOOT_PARAMS_OFFSET;
    let command_line = request.low_area.0 + COMMAND_LINE_OFFSET;
    memory.zero(Gpa(base), PAGE_SIZE)?;
    memory.write(Gpa(command_line), request.command_line)?;
    memory.write(Gpa(command_line + request.command_line.len() as u64), &[0])?;

    let mut page = Writer { memory, base };
    match plan.format {
        Format::BzImage => page.put(header::START, bzimage::setup_header(request.kernel)?)?,
        _ => put_synthetic_header(&mut page)?,
    }
    page.put(header::VID_MODE, &VIDEO_NORMAL.to_le_bytes())?;
    page.put(header::TYPE_OF_LOADER, &[LOADER_UNDEFINED])?;
    page.put_u32(header::CODE32_START, plan.kernel.start)?;
    if let Some(screen) = request.screen {
        put_screen(&mut page, screen)?;
    }
    if let Some(framebuffer) = request.framebuffer {
        put_framebuffer(&mut page, &framebuffer)?;
    }
    page.put(header::SETUP_DATA, &[0; 8])?;
    page.put_halves(header::CMD_LINE_PTR, EXT_CMD_LINE_PTR, command_line)?;
    let (image, size) = initrd.map_or((0, 0), |range| (range.start, range.size()));
    page.put_halves(header::RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, image)?;
    page.put_halves(header::RAMDISK_SIZE, EXT_RAMDISK_SIZE, size)?;
    page.put(ACPI_RSDP_ADDR, &request.rsdp.unwrap_or_default().0.to_le_bytes())?;
    page.put(E820_ENTRIES, &[request.memory_map.len() as u8])?;
    for (index, entry) in request.memory_map.iter().take(E820_MAX).enumerate() {
        page.put(E820_TABLE + (index * E820_ENTRY_SIZE) as u64, &e820_bytes(entry))?;
    }
    Ok(base)
}

/// `screen_info`: a VGA adapter in text mode 3, the cursor at the upper left.
fn put_screen<M: GuestMemory + ?Sized>(
    page: &mut Writer<'_, M>,
    screen: TextScreen,
) -> Result<(), LoadError> {
    page.put(screen_info::ORIG_VIDEO_MODE, &[screen_info::MODE_3])?;
    page.put(screen_info::ORIG_VIDEO_COLS, &[screen.columns])?;
    page.put(screen_info::ORIG_VIDEO_LINES, &[screen.rows])?;
    page.put(screen_info::ORIG_VIDEO_IS_VGA, &[1])?;
    page.put(screen_info::ORIG_VIDEO_POINTS, &[screen_info::SCAN_LINES, 0])
}

/// `screen_info`: a linear framebuffer. One that is larger than the fields can say is not told of.
fn put_framebuffer<M: GuestMemory + ?Sized>(
    page: &mut Writer<'_, M>,
    framebuffer: &Framebuffer,
) -> Result<(), LoadError> {
    let words = [framebuffer.width, framebuffer.height, framebuffer.bits.into(), framebuffer.pitch];
    let [Ok(width), Ok(height), Ok(depth), Ok(pitch)] = words.map(u16::try_from) else { return Ok(()) };
    let bytes = u64::from(framebuffer.pitch) * u64::from(framebuffer.height);
    page.put(screen_info::ORIG_VIDEO_IS_VGA, &[screen_info::LINEAR])?;
    for (offset, word) in [
        (screen_info::LFB_WIDTH, width),
        (screen_info::LFB_HEIGHT, height),
        (screen_info::LFB_DEPTH, depth),
        (screen_info::LFB_LINELENGTH, pitch),
    ] {
        page.put(offset, &word.to_le_bytes())?;
    }
    page.put_halves(screen_info::LFB_BASE, screen_info::EXT_LFB_BASE, framebuffer.address)?;
    page.put_u32(screen_info::LFB_SIZE, bytes.div_ceil(screen_info::SIZE_UNIT))?;
    page.put(screen_info::CAPABILITIES, &screen_info::WIDE_BASE.to_le_bytes())?;
    for (offset, (position, size)) in (screen_info::COLOURS..).step_by(2).zip(framebuffer.fields) {
        page.put(offset, &[size, position])?;
    }
    Ok(())
}

fn put_synthetic_header<M: GuestMemory + ?Sized>(page: &mut Writer<'_, M>) -> Result<(), LoadError> {
    page.put(header::BOOT_FLAG, &header::BOOT_FLAG_VALUE.to_le_bytes())?;
    page.put(header::MAGIC, &header::MAGIC_VALUE.to_le_bytes())?;
    page.put(header::VERSION, &SYNTHETIC_VERSION.to_le_bytes())?;
    page.put(header::LOADFLAGS, &[SYNTHETIC_LOADFLAGS])?;
    page.put(header::KERNEL_ALIGNMENT, &SYNTHETIC_ALIGNMENT.to_le_bytes())?;
    page.put(header::RELOCATABLE_KERNEL, &[1])?;
    page.put(header::XLOADFLAGS, &SYNTHETIC_XLOADFLAGS.to_le_bytes())?;
    page.put_u32(header::INITRD_ADDR_MAX, u32::MAX.into())?;
    page.put_u32(header::CMDLINE_SIZE, VMLINUX_COMMAND_LINE_MAX)
}

fn e820_bytes(entry: &E820Entry) -> [u8; E820_ENTRY_SIZE] {
    let mut bytes = [0; E820_ENTRY_SIZE];
    let fields = entry.base.0.to_le_bytes().into_iter().chain(entry.length.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(fields.chain(entry.kind.0.to_le_bytes())) {
        *to = from;
    }
    bytes
}
