//! The PVH protocol's form of the boot information: a structure that points to tables and texts.
//!
//! Source: Xen documentation, "x86/HVM direct boot ABI", and the public header that it names for the structure,
//! `hvm_start_info`.

// UNSAFETY: boot information and modules are found by physical address, on the boot loader's word.
#![allow(unsafe_code)]

use core::ops::Range;
use core::slice;

use arrayvec::ArrayVec;
use vcpu::Hpa;

use super::{
    BootInfo, BootInfoError, KernelImage, MAPPED_AT_ENTRY, MemoryKind, MemoryMap, Module, RSDP_BYTES,
};
use crate::memory::direct_map;

/// The first word of the structure.
pub const PVH_MAGIC: u32 = 0x336e_c578;

/// Bytes of the structure of version 0, which has no memory map, and of version 1.
const VERSION_0_BYTES: usize = 40;
const VERSION_1_BYTES: usize = 56;

/// Places of its fields.
const MAGIC: usize = 0;
const VERSION: usize = 4;
const MODULE_COUNT: usize = 12;
const MODULES: usize = 16;
const COMMAND_LINE: usize = 24;
const RSDP: usize = 32;
const MEMORY_MAP: usize = 40;
const MEMORY_MAP_COUNT: usize = 48;

/// Bytes of a module's entry, and places of its fields.
const MODULE_BYTES: usize = 32;
const MODULE_START: usize = 0;
const MODULE_LENGTH: usize = 8;
const MODULE_COMMAND_LINE: usize = 16;

/// Bytes of an entry of the memory map, and places of its fields.
const MEMORY_BYTES: usize = 24;
const MEMORY_START: usize = 0;
const MEMORY_LENGTH: usize = 8;
const MEMORY_TYPE: usize = 16;

/// Types of memory, as in ACPI's address range types.
const TYPE_RAM: u32 = 1;
const TYPE_ACPI: u32 = 3;
const TYPE_NVS: u32 = 4;

/// More than any loader writes; more is a broken structure.
const MAX_TABLE_BYTES: usize = 1 << 20;
/// Longest text, its terminating zero included.
const MAX_TEXT_BYTES: usize = 4096;
/// Bytes of a root pointer of revision 0, and the place of its revision.
const RSDP_REVISION_0_BYTES: usize = 20;
const RSDP_REVISION: usize = 15;

impl BootInfo {
    /// Reads a start information structure.
    ///
    /// # Safety
    ///
    /// 1. `start_info` is what a loader of the PVH protocol left in EBX (a physical address), and the tables,
    ///    texts and modules that the structure names are where it says; nobody writes them.
    /// 2. The first 4 GiB are mapped at the direct map's address and stay so.
    /// 3. `image` is where the running kernel is.
    /// 4. It is called once.
    pub unsafe fn from_pvh(start_info: u32, image: KernelImage) -> Result<Self, BootInfoError> {
        let memory = |at: u64, length: usize| {
            let end = at.checked_add(length as u64)?;
            let reachable = at != 0 && end <= MAPPED_AT_ENTRY;
            // SAFETY: conditions 1 and 2: the bytes are mapped, and `read` asks only for what the structure names.
            reachable.then(|| unsafe { slice::from_raw_parts(direct_map(Hpa(at)).cast_const(), length) })
        };
        read(u64::from(start_info), &memory, image)
    }
}

/// Gives bytes of physical memory: address, length. `None` where they cannot be reached.
trait Memory: Fn(u64, usize) -> Option<&'static [u8]> {}

impl<F: Fn(u64, usize) -> Option<&'static [u8]>> Memory for F {}

fn read(start_info: u64, memory: &impl Memory, image: KernelImage) -> Result<BootInfo, BootInfoError> {
    let malformed = BootInfoError::Malformed;
    let info = memory(start_info, VERSION_0_BYTES).ok_or(malformed)?;
    let magic = half_quad(info, MAGIC).ok_or(malformed)?;
    if magic != PVH_MAGIC {
        return Err(BootInfoError::WrongMagic(magic));
    }
    if half_quad(info, VERSION).ok_or(malformed)? == 0 {
        return Err(BootInfoError::NoMemoryMap);
    }
    let info = memory(start_info, VERSION_1_BYTES).ok_or(malformed)?;
    let mut boot = BootInfo {
        command_line: "",
        loader: "a PVH loader",
        memory: read_memory_map(info, memory)?,
        modules: ArrayVec::new(),
        dropped: 0,
        rsdp: rsdp(info, memory),
        image,
        information: ArrayVec::new(),
    };
    boot.dropped = boot.memory.dropped();
    boot.command_line = text(quad(info, COMMAND_LINE), memory, &mut boot);
    read_modules(info, memory, &mut boot)?;
    Ok(boot)
}

fn read_memory_map(info: &[u8], memory: &impl Memory) -> Result<MemoryMap, BootInfoError> {
    let table = table(info, MEMORY_MAP, MEMORY_MAP_COUNT, MEMORY_BYTES, memory)?;
    let mut map = MemoryMap::default();
    for entry in table.chunks_exact(MEMORY_BYTES) {
        let kind = match half_quad(entry, MEMORY_TYPE) {
            Some(TYPE_RAM) => MemoryKind::Usable,
            Some(TYPE_ACPI) => MemoryKind::AcpiTables,
            Some(TYPE_NVS) => MemoryKind::AcpiNvs,
            _ => MemoryKind::Reserved,
        };
        let (start, length) = (quad(entry, MEMORY_START), quad(entry, MEMORY_LENGTH));
        map.add(start.unwrap_or(0), length.unwrap_or(0), kind);
    }
    if map.ranges().is_empty() { Err(BootInfoError::NoMemoryMap) } else { Ok(map) }
}

fn read_modules(info: &[u8], memory: &impl Memory, boot: &mut BootInfo) -> Result<(), BootInfoError> {
    let table = table(info, MODULES, MODULE_COUNT, MODULE_BYTES, memory)?;
    for entry in table.chunks_exact(MODULE_BYTES) {
        if boot.modules.is_full() {
            boot.dropped += 1;
            continue;
        }
        let start = quad(entry, MODULE_START).unwrap_or(0);
        let length = quad(entry, MODULE_LENGTH).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or(BootInfoError::Malformed)?;
        let data = if length == 0 { Some(&[][..]) } else { memory(start, length) };
        let data = data.ok_or(BootInfoError::OutOfReach { address: start })?;
        let command_line = text(quad(entry, MODULE_COMMAND_LINE), memory, boot);
        boot.modules.push(Module { command_line, start: Hpa(start), length, data });
    }
    Ok(())
}

/// A table of which the structure has the address and the number of entries.
fn table(
    info: &[u8],
    address: usize,
    count: usize,
    entry_bytes: usize,
    memory: &impl Memory,
) -> Result<&'static [u8], BootInfoError> {
    let address = quad(info, address).unwrap_or(0);
    let bytes =
        half_quad(info, count).and_then(|count| (count as usize).checked_mul(entry_bytes)).unwrap_or(0);
    match bytes {
        0 => Ok(&[]),
        1..=MAX_TABLE_BYTES => memory(address, bytes).ok_or(BootInfoError::OutOfReach { address }),
        _ => Err(BootInfoError::Malformed),
    }
}

/// The text at an address, whose place is noted as part of the boot information. One that is missing, endless
/// or no UTF-8 counts as empty.
fn text(address: Option<u64>, memory: &impl Memory, boot: &mut BootInfo) -> &'static str {
    let found = address.filter(|address| *address != 0).and_then(|address| {
        let byte = |at| memory(address.checked_add(at as u64)?, 1)?.first().copied();
        let length = (0..MAX_TEXT_BYTES).map_while(byte).position(|byte| byte == 0)?;
        let bytes = memory(address, length)?;
        Some((core::str::from_utf8(bytes).ok()?, address..address + length as u64))
    });
    let Some((text, range)) = found else { return "" };
    note(range, boot);
    text.trim()
}

fn note(range: Range<u64>, boot: &mut BootInfo) {
    // There is room for the texts of the kernel and of all modules.
    let _ = boot.information.try_push(range);
}

/// A copy of ACPI's root pointer.
fn rsdp(info: &[u8], memory: &impl Memory) -> Option<[u8; RSDP_BYTES]> {
    let address = quad(info, RSDP).filter(|address| *address != 0)?;
    let plain = memory(address, RSDP_REVISION_0_BYTES)?;
    let bytes = match plain.get(RSDP_REVISION) {
        Some(0 | 1) => plain,
        _ => memory(address, RSDP_BYTES)?,
    };
    let mut copy = [0; RSDP_BYTES];
    copy.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(copy)
}

fn half_quad(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn quad(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::smp::Trampoline;

    const IMAGE: KernelImage =
        KernelImage { physical: 0..0, text: 0..0, rodata: 0..0, data: 0..0, trampoline: Trampoline::NONE };
    const START_INFO: usize = 0x100;

    /// Physical memory from address 0 on, filled piece by piece.
    struct Physical(Vec<u8>);

    impl Physical {
        fn new() -> Self {
            Self(vec![0; 0x4000])
        }

        fn put(mut self, at: usize, bytes: &[u8]) -> Self {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
            self
        }

        fn quads(self, at: usize, quads: &[u64]) -> Self {
            let bytes: Vec<u8> = quads.iter().flat_map(|quad| quad.to_le_bytes()).collect();
            self.put(at, &bytes)
        }

        /// Start information with these counts and addresses.
        fn info(self, modules: (u64, u64), command_line: u64, rsdp: u64, map: (u64, u64)) -> Self {
            let first = u64::from(PVH_MAGIC) | 1 << 32;
            self.quads(START_INFO, &[first, modules.1 << 32, modules.0, command_line, rsdp, map.0, map.1])
        }

        fn read(self) -> Result<BootInfo, BootInfoError> {
            let bytes: &'static [u8] = Box::leak(self.0.into_boxed_slice());
            let memory = |at: u64, length: usize| {
                let start = usize::try_from(at).ok().filter(|start| *start != 0)?;
                bytes.get(start..start.checked_add(length)?)
            };
            read(START_INFO as u64, &memory, IMAGE)
        }
    }

    fn whole() -> Physical {
        Physical::new()
            .info((0x200, 2), 0x300, 0x400, (0x500, 3))
            .quads(0x200, &[0x1000, 8, 0x340, 0, 0x2000, 0, 0, 0])
            .put(0x300, b" loglevel=debug \0")
            .put(0x340, b"vm=demo kernel\0")
            .put(0x400, b"RSD PTR ")
            .put(0x40f, &[2, 0x34])
            .put(0x423, &[9])
            .quads(0x500, &[0x10_0000, 1 << 32, 1, 0, 0x9_fc00, 1, 0xf_0000, 0x1_0000, 2])
            .put(0x1000, b"contents")
    }

    #[test]
    fn everything_is_read() {
        let boot = whole().read().unwrap();
        assert_eq!((boot.command_line, boot.dropped), ("loglevel=debug", 0));
        assert_eq!(boot.information.as_slice(), [0x300..0x310, 0x340..0x34e]);
        let ranges: Vec<_> =
            boot.memory().iter().map(|range| (range.start.0, range.length, range.kind)).collect();
        assert_eq!(
            ranges,
            [
                (0, 0x9_fc00, MemoryKind::Usable),
                (0xf_0000, 0x1_0000, MemoryKind::Reserved),
                (0x10_0000, 1 << 32, MemoryKind::Usable),
            ]
        );
        assert_eq!(
            (boot.modules[0].command_line, boot.modules[0].data()),
            ("vm=demo kernel", &b"contents"[..])
        );
        assert_eq!((boot.modules[1].command_line, boot.modules[1].data()), ("", &b""[..]));
        let rsdp = boot.rsdp.unwrap();
        assert_eq!((rsdp[15], rsdp[16], rsdp[35]), (2, 0x34, 9));
    }

    #[test]
    fn of_an_old_root_pointer_nothing_beyond_its_end_is_copied() {
        let rsdp = whole().put(0x40f, &[0]).read().unwrap().rsdp.unwrap();
        assert_eq!((rsdp[16], rsdp[35]), (0x34, 0));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let map = (0x500, 3);
        let cases = [
            (whole().put(START_INFO, &[0]), BootInfoError::WrongMagic(PVH_MAGIC & !0xff)),
            (whole().put(START_INFO + VERSION, &[0]), BootInfoError::NoMemoryMap),
            (whole().info((0, 0), 0, 0, (0x500, 0)), BootInfoError::NoMemoryMap),
            (whole().info((0, 0), 0, 0, (0, 1)), BootInfoError::OutOfReach { address: 0 }),
            (whole().info((0, 0), 0, 0, (0x500, u64::MAX)), BootInfoError::Malformed),
            (whole().info((1 << 40, 1), 0, 0, map), BootInfoError::OutOfReach { address: 1 << 40 }),
            (whole().quads(0x200, &[1 << 32, 8]), BootInfoError::OutOfReach { address: 1 << 32 }),
        ];
        for (physical, error) in cases {
            assert_eq!(physical.read().err(), Some(error));
        }
    }

    #[test]
    fn a_text_that_is_endless_or_no_text_counts_as_empty() {
        assert_eq!(whole().put(0x300, &[0xff]).read().unwrap().command_line, "");
        assert_eq!(
            whole()
                .put(0x1000, &[b'a'; 0x3000])
                .info((0, 0), 0x1000, 0, (0x500, 3))
                .read()
                .unwrap()
                .command_line,
            ""
        );
    }

    #[test]
    fn too_many_modules_are_counted() {
        let count = super::super::MAX_MODULES as u64 + 3;
        let boot = Physical::new()
            .info((0x1000, count), 0, 0, (0x500, 1))
            .quads(0x500, &[0, 0x1000, 1])
            .read()
            .unwrap();
        assert_eq!((boot.modules.len(), boot.dropped), (super::super::MAX_MODULES, 3));
    }

    proptest! {
        #[test]
        fn arbitrary_structures_never_panic(
            fields in proptest::array::uniform6(prop_oneof![0..0x4000_u64, any::<u64>()]),
            bytes in proptest::collection::vec(any::<u8>(), 0x200),
        ) {
            let first = u64::from(PVH_MAGIC) | 1 << 32;
            let [a, b, c, d, e, f] = fields;
            let _ = Physical::new().put(0x200, &bytes).quads(START_INFO, &[first, a, b, c, d, e, f]).read();
        }
    }
}
