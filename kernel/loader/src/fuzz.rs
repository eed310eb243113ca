//! The entry of a fuzzer: any bytes are a kernel and the memory that it is to go to.

use vcpu::Gpa;

use crate::{
    BootModule, E820Entry, GuestMemory, IdentityMap, MemoryKind, OutOfRange, Protocol, Range, Request,
    TextScreen, load,
};

/// Memory that swallows everything but checks that it is RAM.
struct Swallow<'a>(&'a [E820Entry]);

impl Swallow<'_> {
    fn check(&self, gpa: Gpa, length: u64) {
        let range = Range::new(gpa.0, length).expect("a write ends inside the address space");
        let mut ram = false;
        for entry in self.0 {
            let region = Range::new(entry.base.0, entry.length).expect("the map is sound");
            if entry.kind == MemoryKind::RAM {
                ram |= region.start <= range.start && range.end <= region.end;
            } else {
                assert!(length == 0 || !region.overlaps(range), "write of {length:#x} bytes at {gpa:?}");
            }
        }
        assert!(length == 0 || ram, "write of {length:#x} bytes at {gpa:?}, outside RAM");
    }
}

impl GuestMemory for Swallow<'_> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.check(gpa, bytes.len() as u64);
        Ok(())
    }

    fn zero(&mut self, gpa: Gpa, length: u64) -> Result<(), OutOfRange> {
        self.check(gpa, length);
        Ok(())
    }
}

/// Bytes of a fuzzer's input that choose the memory and the options; the kernel follows.
const OPTION_BYTES: usize = 8;

/// Loads whatever `data` is. It must return, whatever that is, and write to RAM only.
pub fn fuzz_one(data: &[u8]) {
    let (options, kernel) = data.split_at_checked(OPTION_BYTES).unwrap_or((data, &[]));
    let option = |index: usize| options.get(index).copied().unwrap_or(0);
    let ram = |base, length| E820Entry { base: Gpa(base), length, kind: MemoryKind::RAM };
    let hole =
        E820Entry { base: Gpa(u64::from(option(0)) << 20), length: 0x1000, kind: MemoryKind::RESERVED };
    let high = u64::from(option(2)) << 28;
    let memory_map = [
        ram(0, 0x9_fc00),
        ram(1 << 20, u64::from(option(1)) << 24),
        E820Entry { base: Gpa(0xf_0000), length: 0x1_0000, kind: MemoryKind::RESERVED },
        hole,
        ram(1 << 32, high),
    ];
    let initrd = &kernel[..kernel.len().min(usize::from(option(3)) << 4)];
    let module = BootModule { bytes: initrd, command_line: initrd.get(..40).unwrap_or_default() };
    let request = Request {
        protocol: match option(7) & 3 {
            0 => None,
            1 => Some(Protocol::Linux),
            2 => Some(Protocol::Pvh),
            _ => Some(Protocol::Multiboot),
        },
        modules: &[module; 3][..usize::from(option(7) >> 2) % 4],
        framebuffer: (option(6) & 0x80 != 0).then_some(vcpu::Framebuffer {
            address: 0xfd00_0000,
            pitch: 1024 * 4,
            width: 1024,
            height: 768,
            bits: 32,
            fields: [(16, 8), (8, 8), (0, 8)],
        }),
        screen: (option(7) & 0x80 != 0).then_some(TextScreen { base: Gpa(0xb_8000), columns: 80, rows: 25 }),
        initrd: (option(4) & 1 != 0).then_some(initrd),
        command_line: &kernel[..kernel.len().min(usize::from(option(5)) << 5)],
        rsdp: Some(Gpa(0xf_0000)),
        load_address: (option(4) & 2 != 0).then(|| Gpa(u64::from(option(6)) << 21)),
        identity_map: if option(4) & 4 != 0 { IdentityMap::HalfTib } else { IdentityMap::FourGib },
        ..Request::new(kernel, &memory_map)
    };
    if let Ok(loaded) = load(&request, &mut Swallow(&memory_map)) {
        let entry = loaded.entry.rip;
        assert!(loaded.kernel.contains(entry), "entry {entry:#x} in {:x?}", loaded.kernel);
        if let Some(initrd) = loaded.initrd {
            assert!(!initrd.overlaps(loaded.kernel));
            assert!(!initrd.overlaps(Range { start: hole.base.0, end: hole.base.0 + hole.length }));
        }
    }
}
