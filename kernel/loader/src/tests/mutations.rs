//! Damaged images never do harm: no panic, no write outside RAM, nothing over anything else.

use std::vec::Vec;

use proptest::prelude::*;

use super::images::*;
use crate::fuzz::fuzz_one;

/// A fuzzer's input: options for 64 MiB to 4 GiB of RAM, then an image.
fn input(options: [u8; 8], image: &[u8]) -> Vec<u8> {
    options.iter().chain(image).copied().collect()
}

fn images() -> impl Strategy<Value = Vec<u8>> {
    let kernel = elf(16 * MIB + 4, &[Load::new(16 * MIB, b"code here"), Load::new(18 * MIB, b"data")]);
    prop::sample::select(std::vec![BzImage::default().bytes(), kernel, pvh_kernel(), flat_kernel()])
}

/// An ELF32 file with a PVH note and a Multiboot header.
fn pvh_kernel() -> Vec<u8> {
    let mut notes = note(b"GNU\0", 3, b"build");
    notes.extend(note(b"Xen\0", 18, &(MIB as u32 + 8).to_le_bytes()));
    let code = multiboot_header(3, [0; 5]);
    elf32(
        MIB as u32 + 4,
        &notes,
        &[Load { vaddr: MIB, ..Load::new(MIB, &code) }, Load::new(2 * MIB, b"data")],
    )
}

/// A file with a Multiboot header that has address fields.
fn flat_kernel() -> Vec<u8> {
    let base = MIB as u32;
    let mut file = b"#!..".to_vec();
    file.extend(multiboot_header(0x1_0003, [base + 4, base, base + 64, base + 4096, base + 40]));
    file.resize(100, 0x90);
    file
}

/// A header byte more often than any other.
fn position() -> impl Strategy<Value = usize> {
    prop_oneof![0..0x80_usize, 0x80..0x200_usize, 0x1f0..0x270_usize, any::<usize>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn random_bytes(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_one(&data);
    }

    #[test]
    fn changed_bytes(
        options in any::<[u8; 8]>(), mut image in images(),
        changes in prop::collection::vec((position(), any::<u8>()), 0..6), length in any::<usize>(), cut in any::<bool>(),
    ) {
        for (position, value) in changes {
            let position = position % image.len();
            image[position] = value;
        }
        if cut {
            image.truncate(length % (image.len() + 1));
        }
        fuzz_one(&input(options, &image));
    }
}

#[test]
fn every_bit_flip() {
    for image in [
        BzImage::default().bytes(),
        elf(MIB + 4, &[Load::new(MIB, b"code here"), Load::new(2 * MIB, b"data")]),
        pvh_kernel(),
        flat_kernel(),
    ] {
        for bit in 0..image.len().min(0x300) * 8 {
            let mut image = image.clone();
            image[bit / 8] ^= 1 << (bit % 8);
            for protocol in [0, 1, 6, 15] {
                fuzz_one(&input([0xff, 0x10, 1, 0x20, 1, 1, 0, protocol], &image));
            }
        }
    }
}

#[test]
fn placements_do_not_overlap() {
    let map = pc_map(64);
    let initrd = std::vec![0; 5 << 20];
    for pref in [2_u64, 16, 30, 48] {
        let file = BzImage { pref_address: pref * MIB, ..BzImage::default() }.bytes();
        let request = crate::Request { initrd: Some(&initrd), ..crate::Request::new(&file, &map) };
        let loaded = crate::load(&request, &mut Ram::new(&map)).unwrap();
        let low = crate::Range::new(crate::LOW_AREA.0, crate::LOW_AREA_SIZE).unwrap();
        assert!(disjoint(&[loaded.kernel, loaded.initrd.unwrap(), low]), "{pref}");
    }
}
