//! Multiboot2's form of the boot information: a list of tags.
//!
//! Source: Multiboot2 Specification, "Boot information".

// UNSAFETY: boot information and modules are found by physical address, on the boot loader's word.
#![allow(unsafe_code)]

use core::slice;

use arrayvec::ArrayVec;
use multiboot2::{BootInformation, BootInformationHeader, MaybeDynSized, MemoryArea, MemoryAreaType};
use spin::Once;
use vcpu::Hpa;

use super::{
    BootInfo, BootInfoError, KernelImage, MAPPED_AT_ENTRY, MemoryKind, MemoryMap, Module, RSDP_BYTES, efi,
    tags,
};
use crate::memory::direct_map;
use crate::screen;

/// A tag starts with its type and size.
const TAG_HEADER_BYTES: usize = 8;
/// More than any loader writes; a bigger size is a broken header.
const MAX_INFORMATION_BYTES: u32 = 1 << 20;

impl BootInfo {
    /// Reads Multiboot2 information.
    ///
    /// # Safety
    ///
    /// 1. With the right `magic`, `information` is what a Multiboot2 loader left in EBX (a physical address),
    ///    and the memory map and modules it names are what it says.
    /// 2. The first 4 GiB are mapped at the direct map's address and stay so.
    /// 3. `image` is where the running kernel is.
    /// 4. It is called once.
    pub unsafe fn from_multiboot2(
        magic: u32,
        information: u32,
        image: KernelImage,
    ) -> Result<Self, BootInfoError> {
        if magic != multiboot2::MAGIC {
            return Err(BootInfoError::WrongMagic(magic));
        }
        let information = Hpa(u64::from(information));
        let header = direct_map(information).cast::<BootInformationHeader>().cast_const();
        if information.0 == 0 || !information.0.is_multiple_of(8) {
            return Err(BootInfoError::Malformed);
        }
        // SAFETY: condition 1: the information starts with its size in bytes, a 32-bit word.
        let size = unsafe { header.cast::<u32>().read() };
        if size > MAX_INFORMATION_BYTES || information.0 + u64::from(size) > MAPPED_AT_ENTRY {
            return Err(BootInfoError::Malformed);
        }
        // SAFETY: conditions 1 and 2; nobody writes it, because its frames stay reserved.
        let bytes = unsafe { slice::from_raw_parts(header.cast::<u8>(), size as usize) };
        // Before anything that can fail: what does is told there.
        screen::offer(tags::display(bytes));
        // SAFETY: as before.
        let view = unsafe { BootInformation::load(header) }.map_err(|_| BootInfoError::Malformed)?;
        let mut boot = Self::from_tags(VIEW.call_once(|| view), bytes, image)?;
        boot.information.push(information.0..information.0 + u64::from(size));
        // SAFETY: condition 1: the modules are where the tags say and nobody writes there; condition 2:
        // Multiboot2 addresses modules with 32 bits, so they are mapped.
        unsafe { boot.attach_modules() };
        Ok(boot)
    }

    /// Makes slices of the modules' ranges.
    ///
    /// # Safety
    ///
    /// The modules' ranges are mapped at the direct map and nobody writes there.
    unsafe fn attach_modules(&mut self) {
        for module in &mut self.modules {
            if module.length != 0 {
                let start = direct_map(module.start).cast_const();
                // SAFETY: as this function requires; the range is not empty and does not wrap.
                module.data = unsafe { slice::from_raw_parts(start, module.length) };
            }
        }
    }

    /// Reads the tags, which are also given as bytes. Modules have no data yet.
    fn from_tags(
        view: &'static BootInformation<'static>,
        bytes: &[u8],
        image: KernelImage,
    ) -> Result<Self, BootInfoError> {
        let mut boot = Self {
            command_line: text(view.command_line_tag().and_then(|tag| tag.cmdline().ok())),
            loader: text(view.boot_loader_name_tag().and_then(|tag| tag.name().ok())),
            memory: MemoryMap::default(),
            modules: ArrayVec::new(),
            dropped: 0,
            rsdp: rsdp(view),
            image,
            information: ArrayVec::new(),
        };
        boot.read_memory_map(view)?;
        if !boot.memory().iter().any(|range| range.kind == MemoryKind::Usable) {
            boot.read_efi_memory_map(bytes);
        }
        boot.dropped = boot.memory.dropped();
        for tag in view.module_tags() {
            let start = Hpa(u64::from(tag.start_address()));
            let length = tag.end_address().saturating_sub(tag.start_address()) as usize;
            let command_line = text(tag.cmdline().ok());
            let module = Module { command_line, start, length, data: &[] };
            boot.dropped += usize::from(boot.modules.try_push(module).is_err());
        }
        if boot.memory().is_empty() { Err(BootInfoError::NoMemoryMap) } else { Ok(boot) }
    }

    /// The ordinary map, which loaders give on EFI machines as well. None is no error here.
    fn read_memory_map(&mut self, view: &BootInformation<'_>) -> Result<(), BootInfoError> {
        let Some(map) = view.memory_map_tag() else { return Ok(()) };
        if map.entry_size() as usize != size_of::<MemoryArea>() {
            return Err(BootInfoError::Malformed);
        }
        for area in map.memory_areas() {
            let kind = match area.typ() {
                MemoryAreaType::Available => MemoryKind::Usable,
                MemoryAreaType::AcpiAvailable => MemoryKind::AcpiTables,
                MemoryAreaType::ReservedHibernate => MemoryKind::AcpiNvs,
                _ => MemoryKind::Reserved,
            };
            self.memory.add(area.start_address(), area.size(), kind);
        }
        Ok(())
    }

    /// EFI's own map, which has many entries, in the place of an ordinary one that is missing or has no memory
    /// to use.
    fn read_efi_memory_map(&mut self, bytes: &[u8]) {
        for (start, length, kind) in
            tags::find(bytes, tags::EFI_MEMORY_MAP).into_iter().flat_map(efi::memory_map)
        {
            self.memory.add(start, length, kind);
        }
    }
}

/// The information's tags, for the borrows in [`BootInfo`].
static VIEW: Once<BootInformation<'static>> = Once::new();

/// A text that is missing or no UTF-8 counts as empty.
fn text(found: Option<&'static str>) -> &'static str {
    found.unwrap_or_default().trim()
}

/// A copy of ACPI's root pointer, the newer revision where there are both.
fn rsdp(view: &BootInformation<'_>) -> Option<[u8; RSDP_BYTES]> {
    let newer = view.rsdp_v2_tag().map(MaybeDynSized::as_bytes);
    let bytes = newer.or_else(|| view.rsdp_v1_tag().map(MaybeDynSized::as_bytes))?;
    let content = bytes.get(TAG_HEADER_BYTES..)?;
    let mut copy = [0; RSDP_BYTES];
    let length = content.len().min(RSDP_BYTES);
    copy[..length].copy_from_slice(&content[..length]);
    Some(copy)
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use multiboot2::{
        Builder, CommandLineTag, EFIMemoryMapTag, MemoryMapTag, ModuleTag, RsdpV1Tag, RsdpV2Tag,
    };

    use super::super::{MAX_MEMORY_RANGES, MAX_MODULES};
    use super::*;
    use crate::smp::Trampoline;

    const IMAGE: KernelImage =
        KernelImage { physical: 0..0, text: 0..0, rodata: 0..0, data: 0..0, trampoline: Trampoline::NONE };

    fn parse(builder: Builder) -> Result<BootInfo, BootInfoError> {
        let bytes = Box::leak(builder.build());
        let header = bytes.as_bytes().as_ptr().cast::<BootInformationHeader>();
        // SAFETY: the bytes are what the builder made, aligned, and leaked.
        let view = unsafe { BootInformation::load(header) }.unwrap();
        BootInfo::from_tags(Box::leak(Box::new(view)), bytes.as_bytes(), IMAGE)
    }

    fn memory(areas: &[(u64, u64, MemoryAreaType)]) -> Builder {
        let areas: Vec<MemoryArea> =
            areas.iter().map(|(start, length, kind)| MemoryArea::new(*start, *length, *kind)).collect();
        Builder::new().mmap(MemoryMapTag::new(&areas))
    }

    #[test]
    fn memory_modules_and_texts_are_read() {
        let builder = memory(&[
            (0x10_0000, 0x1000, MemoryAreaType::Available),
            (0, 0x1000, MemoryAreaType::AcpiAvailable),
            (0xffff_ffff_ffff_f000, u64::MAX, MemoryAreaType::Custom(77)),
        ])
        .cmdline(CommandLineTag::new("loglevel=debug"))
        .add_module(ModuleTag::new(0x1000, 0x1800, "vm=demo kernel"));
        let boot = parse(builder).unwrap();
        assert_eq!(boot.command_line, "loglevel=debug");
        assert_eq!(boot.loader, "");
        let kinds: Vec<_> =
            boot.memory().iter().map(|range| (range.start.0, range.length, range.kind)).collect();
        assert_eq!(
            kinds,
            [
                (0, 0x1000, MemoryKind::AcpiTables),
                (0x10_0000, 0x1000, MemoryKind::Usable),
                (0xffff_ffff_ffff_f000, 0xfff, MemoryKind::Reserved),
            ]
        );
        let module = boot.modules[0];
        assert_eq!(
            (module.command_line, module.start, module.length),
            ("vm=demo kernel", Hpa(0x1000), 0x800)
        );
        assert_eq!((boot.dropped, boot.rsdp), (0, None));
    }

    #[test]
    fn too_many_entries_are_counted_and_left_out() {
        let areas: Vec<_> =
            (0..MAX_MEMORY_RANGES as u64 + 3).map(|at| (at << 20, 1, MemoryAreaType::Available)).collect();
        let mut builder = memory(&areas);
        for _ in 0..MAX_MODULES + 2 {
            builder = builder.add_module(ModuleTag::new(0, 1, "m"));
        }
        let boot = parse(builder).unwrap();
        assert_eq!((boot.memory().len(), boot.modules.len()), (MAX_MEMORY_RANGES, MAX_MODULES));
        assert_eq!(boot.dropped, 5);
    }

    #[test]
    fn the_newer_root_pointer_is_copied_whole() {
        let both = memory(&[(0, 1, MemoryAreaType::Available)])
            .rsdpv1(RsdpV1Tag::new(*b"BASALT", 0, 0x1234))
            .rsdpv2(RsdpV2Tag::new(*b"BASALT", 2, 0x1234, 36, 0x5678));
        let rsdp = parse(both).unwrap().rsdp.unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((rsdp[15], rsdp[24], rsdp[25]), (2, 0x78, 0x56));
        let older =
            memory(&[(0, 1, MemoryAreaType::Available)]).rsdpv1(RsdpV1Tag::new(*b"BASALT", 0, 0x1234));
        let rsdp = parse(older).unwrap().rsdp.unwrap();
        assert_eq!((rsdp[16], rsdp[17], rsdp[20]), (0x34, 0x12, 0));
    }

    #[test]
    fn efis_map_serves_where_the_ordinary_one_is_missing_or_has_nothing_to_use() {
        let descriptors = [(7, 0x10_0000, 16, 0xf), (4, 0x11_0000, 16, 0xf), (10, 0x12_0000, 1, 0xf)];
        let tag = || {
            let bytes = efi::tests::tag(&descriptors);
            EFIMemoryMapTag::new_from_map(48, 1, &bytes[16..])
        };
        let usable = |boot: &BootInfo| {
            let usable = boot.memory().iter().find(|range| range.kind == MemoryKind::Usable).copied();
            usable.map(|range| (range.start.0, range.end().0))
        };
        let alone = parse(Builder::new().efi_mmap(tag())).unwrap();
        assert_eq!((usable(&alone), alone.memory().len()), (Some((0x10_0000, 0x12_0000)), 2));
        let poor = memory(&[(0, 0x1000, MemoryAreaType::Reserved)]).efi_mmap(tag());
        assert_eq!(usable(&parse(poor).unwrap()), Some((0x10_0000, 0x12_0000)));
        let good = memory(&[(0x20_0000, 0x1000, MemoryAreaType::Available)]).efi_mmap(tag());
        assert_eq!(usable(&parse(good).unwrap()), Some((0x20_0000, 0x20_1000)));
    }

    #[test]
    fn without_a_memory_map_nothing_goes() {
        assert_eq!(parse(Builder::new()).err(), Some(BootInfoError::NoMemoryMap));
        assert_eq!(parse(memory(&[])).err(), Some(BootInfoError::NoMemoryMap));
    }
}
