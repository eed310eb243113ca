//! Images and memory made for the tests.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use vcpu::Gpa;

use crate::{E820Entry, GuestMemory, MemoryKind, OutOfRange, Range};

pub(super) const MIB: u64 = 1 << 20;

/// Sparse guest memory that refuses what its map does not call RAM, and starts full of rubbish.
pub(super) struct Ram {
    map: Vec<E820Entry>,
    pages: BTreeMap<u64, [u8; 4096]>,
}

const RUBBISH: u8 = 0xa5;

pub(super) fn region(base: u64, length: u64, kind: MemoryKind) -> E820Entry {
    E820Entry { base: Gpa(base), length, kind }
}

/// Conventional memory, the legacy area reserved, and RAM from 1 MiB to `mib` MiB.
pub(super) fn pc_map(mib: u64) -> Vec<E820Entry> {
    vec![
        region(0, 0x9_fc00, MemoryKind::RAM),
        region(0xf_0000, 0x1_0000, MemoryKind::RESERVED),
        region(MIB, (mib - 1) * MIB, MemoryKind::RAM),
    ]
}

impl Ram {
    pub(super) fn new(map: &[E820Entry]) -> Self {
        Self { map: map.to_vec(), pages: BTreeMap::new() }
    }

    pub(super) fn read(&self, gpa: u64, length: usize) -> Vec<u8> {
        let byte = |address: u64| {
            let page = self.pages.get(&(address >> 12));
            page.map_or(RUBBISH, |page| page[(address & 0xfff) as usize])
        };
        (gpa..gpa + length as u64).map(byte).collect()
    }

    pub(super) fn u64_at(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.read(gpa, 8).try_into().unwrap())
    }

    pub(super) fn u32_at(&self, gpa: u64) -> u32 {
        self.u64_at(gpa) as u32
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.pages == other.pages
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.pages.is_empty()
    }

    /// Calls `fill` with each page's part of a range, and that part's offset in the range.
    fn fill(&mut self, gpa: Gpa, length: u64, fill: impl Fn(&mut [u8], usize)) -> Result<(), OutOfRange> {
        let mut offset = 0;
        while offset < length {
            let address = gpa.0 + offset;
            let is_ram = |entry: &E820Entry| {
                entry.kind == MemoryKind::RAM
                    && (entry.base.0..entry.base.0 + entry.length).contains(&address)
            };
            if !self.map.iter().any(is_ram) {
                return Err(OutOfRange { gpa: Gpa(address) });
            }
            let start = (address & 0xfff) as usize;
            let part = (length - offset).min(4096 - start as u64) as usize;
            let page = self.pages.entry(address >> 12).or_insert([RUBBISH; 4096]);
            fill(&mut page[start..start + part], offset as usize);
            offset += part as u64;
        }
        Ok(())
    }
}

impl GuestMemory for Ram {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.fill(gpa, bytes.len() as u64, |part, offset| {
            part.copy_from_slice(&bytes[offset..offset + part.len()]);
        })
    }

    fn zero(&mut self, gpa: Gpa, length: u64) -> Result<(), OutOfRange> {
        self.fill(gpa, length, |part, _| part.fill(0))
    }
}

/// What a synthetic bzImage says of itself.
#[derive(Clone, Copy)]
pub(super) struct BzImage {
    pub version: u16,
    pub loadflags: u8,
    pub xloadflags: u16,
    pub relocatable: bool,
    pub alignment: u32,
    pub pref_address: u64,
    pub init_size: u32,
    pub initrd_addr_max: u32,
    pub cmdline_size: u32,
    pub setup_sects: u8,
    pub code: usize,
}

impl Default for BzImage {
    fn default() -> Self {
        Self {
            version: 0x20f,
            loadflags: 1,
            xloadflags: 0x3,
            relocatable: true,
            alignment: 0x20_0000,
            pref_address: 16 * MIB,
            init_size: 8 << 20,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            setup_sects: 3,
            code: 0x900,
        }
    }
}

impl BzImage {
    pub(super) fn code_bytes(&self) -> Vec<u8> {
        (0..self.code).map(|index| (index * 7) as u8).collect()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let sectors = if self.setup_sects == 0 { 4 } else { usize::from(self.setup_sects) };
        let mut file = vec![0x11; (sectors + 1) * 512];
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x1f1, &[self.setup_sects]);
        put(0x1f4, &(self.code.div_ceil(16) as u32).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.loadflags]);
        put(0x22c, &self.initrd_addr_max.to_le_bytes());
        put(0x230, &self.alignment.to_le_bytes());
        put(0x234, &[u8::from(self.relocatable)]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x250, &[0xff; 8]); // a setup_data pointer that must not survive
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        file.extend(self.code_bytes());
        file
    }
}

/// A program header with its content.
#[derive(Clone)]
pub(super) struct Load {
    pub paddr: u64,
    pub vaddr: u64,
    pub content: Vec<u8>,
    pub memsz: u64,
}

impl Load {
    /// `content` at `paddr`, linked 0xffffffff80000000 higher, with 0x100 zero bytes behind it.
    pub(super) fn new(paddr: u64, content: &[u8]) -> Self {
        let vaddr = paddr.wrapping_add(0xffff_ffff_8000_0000);
        Self { paddr, vaddr, content: content.to_vec(), memsz: content.len() as u64 + 0x100 }
    }
}

/// An ELF64 executable: a note that is not loaded, then the segments.
pub(super) fn elf(entry: u64, loads: &[Load]) -> Vec<u8> {
    let mut file = vec![0; 64];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &(loads.len() as u16 + 1).to_le_bytes());
    let mut offset = 64 + 56 * (loads.len() as u64 + 1);
    let header = |kind: u32, fields: [u64; 6]| {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend(7_u32.to_le_bytes());
        header.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        header
    };
    // A PT_NOTE whose addresses would be wrong for a segment.
    file.extend(header(4, [u64::MAX, 0, u64::MAX, u64::MAX, u64::MAX, 4]));
    for load in loads {
        let size = load.content.len() as u64;
        file.extend(header(1, [offset, load.vaddr, load.paddr, size, load.memsz, 0x1000]));
        offset += size;
    }
    for load in loads {
        file.extend(&load.content);
    }
    file
}

/// An ELF32 executable: notes, then the segments.
pub(super) fn elf32(entry: u32, notes: &[u8], loads: &[Load]) -> Vec<u8> {
    let mut file = vec![0; 52];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x01\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &3_u16.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(28, &52_u32.to_le_bytes());
    put(42, &32_u16.to_le_bytes());
    put(44, &(loads.len() as u16 + 1).to_le_bytes());
    let mut offset = 52 + 32 * (loads.len() as u32 + 1);
    let header = |fields: [u32; 8]| fields.iter().flat_map(|field| field.to_le_bytes()).collect::<Vec<_>>();
    let size = notes.len() as u32;
    file.extend(header([4, offset, 0, 0, size, size, 4, 4]));
    offset += size;
    for load in loads {
        let size = load.content.len() as u32;
        let (vaddr, paddr) = (load.vaddr as u32, load.paddr as u32);
        file.extend(header([1, offset, vaddr, paddr, size, load.memsz as u32, 7, 0x1000]));
        offset += size;
    }
    file.extend(notes);
    loads.iter().for_each(|load| file.extend(&load.content));
    file
}

/// An ELF note.
pub(super) fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, value.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, value] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// A Multiboot header with these flags and, where the flags say so, address fields.
pub(super) fn multiboot_header(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [MAGIC, flags, checksum].iter().chain(&addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// True where nothing in `ranges` touches anything else in it.
pub(super) fn disjoint(ranges: &[Range]) -> bool {
    ranges
        .iter()
        .enumerate()
        .all(|(index, range)| ranges[..index].iter().all(|other| !range.overlaps(*other)))
}
