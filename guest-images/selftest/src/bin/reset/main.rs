//! Resets the machine in each way a PC has, after leaving traces in every register it can; each start that follows checks
//! that none is left. `reset=WAY` on the command line (`cf9`, `i8042`, `port92`, `acpi`, `triple`) picks one; without it
//! all but the triple fault come in turn.
//!
//! How far it has come, and the counts, stand in CMOS memory, which a reset does not clear.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod traces;

use selftest::cpu::{inb, outb};
use selftest::runner::{self, Counts};
use selftest::{acpi, boot, cpu, println, probe, rtc, serial, tsc, verdict};

/// CMOS bytes that no firmware uses: two that mark a run under way, the next way, and the counts.
mod cmos {
    pub(crate) const MARKS: [(u8, u8); 2] = [(0x6e, 0xb5), (0x6f, 0x1e)];
    pub(crate) const WAY: u8 = 0x6d;
    pub(crate) const COUNTS: [u8; 3] = [0x6a, 0x6b, 0x6c];
}

/// How long a reset may take.
const PATIENCE_US: u64 = 1_000_000;

/// The ways that come in turn.
const WAYS: [&str; 4] = ["cf9", "i8042", "port92", "acpi"];

/// The way of a number, and whether there is one.
fn way(number: u8) -> Option<&'static str> {
    match boot::option("reset") {
        Some(only) => (number == 0).then_some(only),
        None => WAYS.get(usize::from(number)).copied(),
    }
}

fn under_way() -> bool {
    cmos::MARKS.iter().all(|&(index, value)| rtc::read(index) == value)
}

fn store(number: u8, counts: Counts) {
    rtc::write(cmos::WAY, number);
    for (index, count) in cmos::COUNTS.into_iter().zip([counts.passed, counts.failed, counts.skipped]) {
        rtc::write(index, count as u8);
    }
    for (index, value) in cmos::MARKS {
        rtc::write(index, value);
    }
}

fn load() -> (u8, Counts) {
    let [passed, failed, skipped] = cmos::COUNTS.map(|index| u32::from(rtc::read(index)));
    (rtc::read(cmos::WAY), Counts { passed, failed, skipped })
}

fn forget() {
    for (index, _) in cmos::MARKS {
        rtc::write(index, 0);
    }
}

fn reset(way: &str) {
    match way {
        "cf9" => {
            outb(0xcf9, 0x02);
            outb(0xcf9, 0x06);
        }
        "i8042" => {
            tsc::wait_us(10_000, || inb(0x64) & 2 == 0);
            outb(0x64, 0xfe);
        }
        "port92" => {
            let value = inb(0x92) & !1;
            outb(0x92, value);
            outb(0x92, value | 1);
        }
        "acpi" => by_acpi(),
        "triple" => {
            selftest::descriptor::load_idt(0, 0);
            probe!("ud2");
        }
        _ => println!("reset: there is no way {way}; use reset=cf9|i8042|port92|acpi|triple"),
    }
}

fn has_reset_register() -> bool {
    acpi::fadt().is_some_and(|fadt| fadt.flags & acpi::RESET_SUPPORTED != 0)
}

fn by_acpi() {
    const SYSTEM_IO: u8 = 1;
    let Some(fadt) = acpi::fadt() else { return };
    if fadt.reset.0 == SYSTEM_IO {
        outb(fadt.reset.1 as u16, fadt.reset_value);
    } else {
        cpu::write8(fadt.reset.1, fadt.reset_value);
    }
}

fn main_program() {
    let snapshot = traces::Snapshot::take();
    let (mut number, mut counts) = (0, Counts::default());
    if under_way() {
        (number, counts) = load();
        forget();
        if let Some(way) = way(number) {
            println!("reset {way}: started again");
            counts.record(way, Ok(()));
        }
        traces::SNAPSHOT.set(snapshot);
        runner::run_tests(&[traces::TESTS], &mut counts);
        number += 1;
    } else {
        runner::announce("reset");
    }
    while let Some(way) = way(number) {
        runner::baseline();
        if way == "acpi" && !has_reset_register() {
            counts.record(way, Err(verdict::skip(format_args!("the FADT names no reset register"))));
            number += 1;
            continue;
        }
        store(number, counts);
        println!("reset {way}: now");
        serial::drain();
        traces::leave();
        reset(way);
        tsc::delay_us(PATIENCE_US);
        forget();
        counts.record(way, Err(verdict::fail(format_args!("still running"))));
        number += 1;
    }
    counts.print("reset");
}

selftest::program!(main_program());
