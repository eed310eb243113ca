//! Resets the machine in the way that `reset=` on the command line names (`cf9`, `i8042`, `port92`, `acpi`, `triple`),
//! after it has left traces in every register it can; the second start checks that none is left.
//!
//! The first start prints `reset WAY: now`. A mark in CMOS memory, or in RAM where the loader leaves it alone, tells the
//! second start from the first; where neither survives, every start is a first one, and whoever watches ends it.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: tests execute instructions that only assembly can spell.
#![allow(unsafe_code)]

mod traces;

use selftest::cpu::{inb, outb, outl};
use selftest::{acpi, boot, cpu, memory, println, probe, rtc, runner, serial, tsc};

/// CMOS bytes that no firmware uses, and what marks the second start.
const CMOS_MARK: [(u8, u8); 2] = [(0x6e, 0xb5), (0x6f, 0x1e)];
const RAM_MARK: u64 = 0x5e1f_7e57_0bad_cafe;
/// How long a reset may take.
const PATIENCE_US: u64 = 1_000_000;

/// The last page that the framework hands out.
fn ram_mark() -> u64 {
    memory::page() + memory::available() - memory::PAGE
}

fn marked() -> bool {
    CMOS_MARK.iter().all(|&(index, value)| rtc::read(index) == value) || cpu::read64(ram_mark()) == RAM_MARK
}

fn mark(set: bool) {
    for (index, value) in CMOS_MARK {
        rtc::write(index, if set { value } else { 0 });
    }
    cpu::write64(ram_mark(), if set { RAM_MARK } else { 0 });
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
        _ => println!("reset: no way named; use reset=cf9|i8042|port92|acpi|triple"),
    }
}

fn by_acpi() {
    const SYSTEM_IO: u8 = 1;
    match acpi::fadt() {
        Some(fadt) if fadt.flags & acpi::RESET_SUPPORTED != 0 && fadt.reset.0 == SYSTEM_IO => {
            outb(fadt.reset.1 as u16, fadt.reset_value);
        }
        Some(fadt) if fadt.flags & acpi::RESET_SUPPORTED != 0 => cpu::write8(fadt.reset.1, fadt.reset_value),
        _ => println!("reset acpi: the FADT names no reset register"),
    }
}

fn main_program() {
    let way = boot::option("reset").unwrap_or("");
    let snapshot = traces::Snapshot::take();
    if marked() {
        mark(false);
        traces::SNAPSHOT.set(snapshot);
        println!("reset {way}: second start");
        runner::run_group("reset", &[traces::TESTS]);
        return;
    }
    runner::announce("reset");
    runner::baseline();
    mark(true);
    println!("reset {way}: now");
    serial::drain();
    traces::leave();
    reset(way);
    tsc::delay_us(PATIENCE_US);
    mark(false);
    outl(0xcf8, 0);
    println!("FAILED reset_{way}: still running");
    println!("selftest reset done: 0 passed, 1 failed, 0 skipped");
}

selftest::program!(main_program());
