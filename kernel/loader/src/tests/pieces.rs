//! A load in pieces is the load in one.

use proptest::prelude::*;

use super::images::*;
use crate::{BootModule, GuestMemory, LoadError, OutOfRange, Progress, Protocol, Request, load, load_some};
use vcpu::Gpa;

/// Counts what one piece writes.
struct Counting<'a> {
    ram: &'a mut Ram,
    bytes: u64,
}

impl GuestMemory for Counting<'_> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.bytes += bytes.len() as u64;
        self.ram.write(gpa, bytes)
    }

    fn zero(&mut self, gpa: Gpa, length: u64) -> Result<(), OutOfRange> {
        self.bytes += length;
        self.ram.zero(gpa, length)
    }
}

fn in_pieces(request: &Request<'_>, ram: &mut Ram, budget: u64) -> Result<crate::Loaded, LoadError> {
    let mut done = 0;
    loop {
        let mut memory = Counting { ram, bytes: 0 };
        let progress = load_some(request, &mut memory, done, budget)?;
        assert!(memory.bytes <= budget, "{} bytes", memory.bytes);
        match progress {
            Progress::Until(next) => {
                assert_eq!((next, memory.bytes), (done + budget, budget));
                done = next;
            }
            Progress::Done(loaded) => return Ok(loaded),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pieces_give_the_same(budget in 1u64..200_000, big in 0usize..100_000, which in 0usize..3) {
        let map = pc_map(64);
        let initrd = std::vec![7; big];
        let modules = [BootModule { bytes: b"module", command_line: b"its line" }];
        let kernel = match which {
            0 => BzImage::default().bytes(),
            _ => elf(16 * MIB + 4, &[Load::new(16 * MIB, b"code here"), Load::new(18 * MIB, b"data")]),
        };
        let request = Request {
            initrd: Some(&initrd),
            command_line: b"console=ttyS0",
            modules: if which == 2 { &modules } else { &[] },
            protocol: Some(Protocol::Linux),
            ..Request::new(&kernel, &map)
        };
        // A byte a piece is slow: then less is loaded.
        let budget = if big > 2000 { budget.max(500) } else { budget };
        let (mut one, mut other) = (Ram::new(&map), Ram::new(&map));
        let loaded = load(&request, &mut one);
        prop_assert_eq!(in_pieces(&request, &mut other, budget), loaded);
        prop_assert!(one.same_as(&other));
    }
}

#[test]
fn an_error_comes_with_the_first_piece() {
    let map = pc_map(64);
    let mut ram = Ram::new(&map);
    let request = Request::new(b"no kernel", &map);
    assert!(load_some(&request, &mut ram, 0, 1).is_err() && ram.is_untouched());
}
