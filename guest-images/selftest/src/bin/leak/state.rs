//! Control, debug and model-specific registers.

use selftest::cpu::{self, msr};
use selftest::platform::{features, has};

/// Something that is not as it should be.
pub(crate) struct Found {
    /// Its place in [`REGISTERS`]; behind the last one for others.
    pub(crate) register: usize,
    pub(crate) value: u64,
    pub(crate) expected: u64,
}

/// A register: how it is read, written, and what value of it a mark makes.
pub(crate) struct Register {
    pub(crate) name: &'static str,
    read: fn() -> u64,
    write: fn(u64),
    value: fn(u64) -> u64,
    /// What it is after power-up.
    at_power_up: u64,
}

const fn any(mark: u64) -> u64 {
    mark
}

const fn low_half(mark: u64) -> u64 {
    mark & 0xffff_ffff
}

/// A canonical address.
const fn address(mark: u64) -> u64 {
    mark >> 18
}

/// Memory types that exist, in an order of the mark's.
const fn memory_types(mark: u64) -> u64 {
    0x0007_0406_0005_0106_u64.rotate_left((mark as u32 >> 3) % 8 * 8)
}

/// Breakpoints that are off, of different lengths.
const fn breakpoints(mark: u64) -> u64 {
    if mark & 2 == 0 { 0x1515_0400 } else { 0x5151_0400 }
}

const fn breakpoint_status(mark: u64) -> u64 {
    0xffff_0ff0 | mark & 0xf
}

/// Below all interrupts that are awaited.
const fn task_priority(mark: u64) -> u64 {
    1 + mark % 3
}

macro_rules! model_specific {
    ($name:ident, $value:ident) => {
        Register {
            name: stringify!($name),
            read: || cpu::rdmsr(msr::$name),
            write: |value| cpu::wrmsr(msr::$name, value),
            value: $value,
            at_power_up: 0,
        }
    };
}

macro_rules! register {
    ($name:literal, $read:ident, $write:ident, $value:ident, $at_power_up:literal) => {
        Register {
            name: $name,
            read: cpu::$read,
            write: cpu::$write,
            value: $value,
            at_power_up: $at_power_up,
        }
    };
}

/// All of them. TSC_AUX comes last, because not every processor has it.
pub(crate) const REGISTERS: [Register; 20] = [
    register!("CR2", read_cr2, write_cr2, any, 0),
    register!("CR8", read_cr8, write_cr8, task_priority, 0),
    register!("DR0", read_dr0, write_dr0, address, 0),
    register!("DR1", read_dr1, write_dr1, address, 0),
    register!("DR2", read_dr2, write_dr2, address, 0),
    register!("DR3", read_dr3, write_dr3, address, 0),
    register!("DR6", read_dr6, write_dr6, breakpoint_status, 0xffff_0ff0),
    register!("DR7", read_dr7, write_dr7, breakpoints, 0x400),
    model_specific!(STAR, any),
    model_specific!(LSTAR, address),
    model_specific!(CSTAR, address),
    model_specific!(SFMASK, low_half),
    model_specific!(FS_BASE, address),
    model_specific!(GS_BASE, address),
    model_specific!(KERNEL_GS_BASE, address),
    model_specific!(SYSENTER_CS, low_half),
    model_specific!(SYSENTER_ESP, address),
    model_specific!(SYSENTER_EIP, address),
    Register {
        name: "PAT",
        read: || cpu::rdmsr(msr::PAT),
        write: |value| cpu::wrmsr(msr::PAT, value),
        value: memory_types,
        at_power_up: 0x0007_0406_0007_0406,
    },
    model_specific!(TSC_AUX, low_half),
];

/// Behind those: a byte of the extended state, with its offset in the image above it; and a general register.
pub(crate) const EXTENDED: usize = REGISTERS.len();
pub(crate) const GENERAL: usize = EXTENDED + 1;

/// What the registers hold.
pub(crate) type Values = [u64; REGISTERS.len()];

fn present() -> impl Iterator<Item = (usize, &'static Register)> {
    const ALL: &[Register] = &REGISTERS;
    let count = if has(features::RDTSCP) { ALL.len() } else { ALL.len() - 1 };
    ALL.iter().take(count).enumerate()
}

/// Writes values of this mark.
pub(crate) fn mark(mark: u64) {
    for (index, register) in present() {
        (register.write)((register.value)(mark.rotate_left(index as u32)));
    }
}

/// Reads all. A guest that has marked nothing takes what the manuals say of power-up.
pub(crate) fn read() -> Values {
    let mut values = [0; REGISTERS.len()];
    for (index, register) in present() {
        values[index] =
            if super::IS_MARKER.load(super::SeqCst) { (register.read)() } else { register.at_power_up };
    }
    values
}

/// The first register that differs.
pub(crate) fn compare(expected: &Values) -> Option<Found> {
    present().find_map(|(index, register)| {
        let (value, expected) = ((register.read)(), expected[index]);
        (value != expected).then_some(Found { register: index, value, expected })
    })
}

/// Makes the processor usable again for others.
pub(crate) fn clear() {
    for (_, register) in present() {
        (register.write)(register.at_power_up);
    }
}
