//! Any accesses at all. The machine asserts that nothing is armed but what is open, that nothing lies over memory, and that hidden functions are
//! left alone; here is what dom0 must see, that tables are never in its reach, and that all sources come back.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    Config {
        function: usize,
        register: u16,
        width: Width,
        value: Option<u32>,
    },
    Table {
        offset: u64,
        width: Width,
        value: Option<u64>,
    },
    /// The disk decodes memory and MSI-X is enabled.
    Start,
    /// The control word of the disk's MSI-X.
    Control {
        value: u32,
    },
    /// The control word of an entry of its table.
    Unmask {
        entry: u64,
        value: u32,
    },
    Reset {
        function: usize,
    },
    /// It is pulled out, and another of its kind comes.
    Replace {
        function: usize,
    },
}

const FUNCTIONS: [PciFunction; 6] = [NET, DISK, BRIDGE, BEHIND, HOST, IOMMU];
const HIDDEN: PciFunction = PciFunction::new(0, 6, 0);

fn register() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(COMMAND),
        (0x10_u16..0x40).prop_map(|at| at & !3),
        0x10_u16..0x40,
        MSI..MSI + 0x18,
        MSIX..MSIX + 0xc,
        Just(MSI + 2),
        Just(MSIX + 2),
        0_u16..0x110,
    ]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        Just(u32::MAX),
        Just(0),
        Just(NET_BAR as u32),
        Just(0x10),
        Just(0xffff_ffe7),
        0_u32..8,
        prop::sample::select(vec![0x8000, 0xc000, 0x8000_0000, 0xc000_0000, 0x7000_9000, 0x9ff0_9000]),
    ]
}

fn width() -> impl Strategy<Value = Width> {
    prop::sample::select(vec![Byte, Word, Dword, Dword, Width::Qword])
}

fn act() -> impl Strategy<Value = Act> {
    let table = TABLE & 0xfff;
    let offset = prop_oneof![0..0x1000_u64, table..table + 16 * u64::from(ENTRIES)];
    let offset = prop_oneof![offset.clone(), offset.prop_map(|at| at & !3)];
    prop_oneof![
        8 => (0..FUNCTIONS.len() + 1, register(), width(), prop::option::weighted(0.8, value()))
            .prop_map(|(function, register, width, value)| Act::Config { function, register, width, value }),
        4 => (offset, width(), prop::option::weighted(0.8, prop_oneof![any::<u64>(), Just(0)]))
            .prop_map(|(offset, width, value)| Act::Table { offset, width, value }),
        1 => Just(Act::Start),
        1 => (0_u32..4).prop_map(|bits| Act::Control { value: bits << 14 }),
        2 => (0..u64::from(ENTRIES), 0_u32..2).prop_map(|(entry, value)| Act::Unmask { entry, value }),
        1 => (0..FUNCTIONS.len()).prop_map(|function| Act::Reset { function }),
        1 => (0..FUNCTIONS.len()).prop_map(|function| Act::Replace { function }),
    ]
}

/// What dom0 wrote for messages, by function and register or table byte.
#[derive(Default)]
struct Written {
    msi: BTreeMap<(PciFunction, u16), u8>,
    table: BTreeMap<u64, u8>,
}

/// Whether a byte of an MSI capability is kept by the filter.
fn is_message(function: PciFunction, register: u16) -> bool {
    let offset = register.wrapping_sub(MSI);
    match function {
        NET | BEHIND => (4..14).contains(&offset),
        DISK => (4..10).contains(&offset),
        _ => false,
    }
}

impl Written {
    fn config(&mut self, function: PciFunction, register: u16, width: Width, value: u32) {
        if lanes::crosses(register, width) {
            return;
        }
        for (at, byte) in (register..).zip(value.to_le_bytes()).take(width.bytes().into()) {
            if is_message(function, at) {
                let low = at - MSI == 4;
                self.msi.insert((function, at), if low { byte & !3 } else { byte });
            }
        }
    }

    fn table(&mut self, offset: u64, width: Width, value: u64) {
        let table = TABLE & 0xfff;
        for (at, byte) in (offset..0x1000).zip(value.to_le_bytes()).take(width.bytes().into()) {
            let entry = at.wrapping_sub(table);
            if entry < 16 * u64::from(ENTRIES) && entry % 16 < 12 {
                self.table.insert(at, if entry % 16 == 0 { byte & !3 } else { byte });
            }
        }
    }

    fn check(&self, driver: &mut Driver<'_>) {
        for ((function, register), byte) in &self.msi {
            assert_eq!(driver.read(*function, *register, Byte), u32::from(*byte));
        }
        let Some(pages) = driver.filter.tables().next() else { return };
        for (offset, byte) in &self.table {
            let at = Hpa(pages.start.0 + offset);
            assert_eq!(driver.filter.table_read(at, Byte), u64::from(*byte));
        }
    }
}

fn perform(hardware: &FakeHardware, driver: &mut Driver<'_>, written: &mut Written, act: &Act) {
    match *act {
        Act::Config { function, register, width, value } => {
            let at = FUNCTIONS.get(function).copied().unwrap_or(HIDDEN);
            // Bus numbers that change have what is behind forgotten.
            if at == BRIDGE && register & !3 == 0x18 {
                written.msi.retain(|(function, _), _| function.bus() == 0);
            }
            match value {
                Some(value) => {
                    driver.write(at, register, width, value);
                    written.config(at, register, width, value);
                }
                None => {
                    let value = driver.read(at, register, width);
                    assert!(u64::from(value) <= width.mask());
                }
            }
        }
        Act::Table { offset, width, value } => {
            let Some(pages) = driver.filter.tables().next() else { return };
            let at = Hpa(pages.start.0 + offset);
            match value {
                Some(value) => {
                    driver.filter.table_write(at, width, value);
                    written.table(offset, width, value);
                }
                None => assert!(driver.filter.table_read(at, width) <= width.mask()),
            }
        }
        Act::Start => {
            driver.write(DISK, COMMAND, Word, 0);
            driver.write(DISK, 0x10, Dword, 0);
            driver.write(DISK, 0x14, Dword, 0x10);
            driver.write(DISK, COMMAND, Word, 6);
            driver.write(DISK, MSIX + 2, Word, 0x8000);
        }
        Act::Control { value } => driver.write(DISK, MSIX + 2, Word, value),
        Act::Unmask { entry, value } => {
            let pages = driver.filter.tables().next();
            if let Some(pages) = pages {
                let at = pages.start.0 + (TABLE & 0xfff) + 16 * entry + 12;
                driver.filter.table_write(Hpa(at), Dword, value.into());
            }
        }
        Act::Replace { function } => {
            let at = FUNCTIONS[function];
            let Some(old) = hardware.remove(at) else { return };
            driver.read(at, 0, Dword);
            driver.read(at, COMMAND, Word);
            written.msi.retain(|(function, _), _| *function != at);
            if at == DISK {
                written.table.clear();
            }
            let mut new = old.clone();
            new.reset();
            hardware.add(at, new);
        }
        Act::Reset { function } => {
            hardware.with(FUNCTIONS[function], FakeFunction::reset);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_dom0_does(acts in prop::collection::vec(act(), 1..120)) {
        let hardware = machine();
        hardware.add(HIDDEN, net());
        hardware.leave_alone(HIDDEN);
        let mut driver = Driver::new(&hardware);
        assert!(driver.filter.hide(HIDDEN));
        let mut written = Written::default();
        driver.read(DISK, 0, Dword);
        for act in &acts {
            let before = driver.filter.generation();
            let tables: Vec<_> = driver.filter.tables().collect();
            let withdrawn = driver.withdrawn.len();
            perform(&hardware, &mut driver, &mut written, act);
            let now: Vec<_> = driver.filter.tables().collect();
            assert!(now == tables || driver.filter.generation() != before);
            for pages in now.iter().filter(|pages| !tables.contains(pages)) {
                assert!(driver.withdrawn[withdrawn..].contains(pages), "{pages:?} were not withdrawn");
            }
            driver.read(DISK, 0, Dword);
            if let Some((_, base, _)) = hardware.with(DISK, |disk| disk.decoded()).and_then(|all| all.first().copied()) {
                assert_eq!(driver.filter.table_at(Hpa(base + TABLE)), Some(DISK));
            }
        }
        written.check(&mut driver);
        for (source, _) in hardware.open() {
            let _ = driver.filter.deliver(source);
        }
        for function in FUNCTIONS {
            driver.filter.hide(function);
        }
        assert_eq!(hardware.open(), [], "all sources come back");
    }

    #[test]
    fn whatever_a_device_says(
        bytes in prop::collection::vec(any::<u8>(), 256),
        links in prop::collection::vec((0x40_u8..=0xff, prop::sample::select(vec![5_u8, 0x11, 0xf, 0x14, 1])), 0..8),
        acts in prop::collection::vec((0_u16..0x1000, width(), value()), 1..60),
    ) {
        let hardware = FakeHardware::new(memory(), 8);
        let mut function = FakeFunction::new(0x1234_5678, 0x02_00_00);
        function.set(0x40, &bytes[0x40..], &[]);
        function.set(0x0e, &bytes[0x0e..0x0f], &[]);
        for (at, id) in links {
            function = function.capability(at & 0xfc, id, &[], &[]);
        }
        hardware.add(NET, function);
        let mut driver = Driver::new(&hardware);
        for (register, width, value) in acts {
            let _ = driver.read(NET, register, width);
            driver.write(NET, register, width, value);
            driver.filter.table_write(Hpa(value.into()), width, value.into());
        }
    }
}
