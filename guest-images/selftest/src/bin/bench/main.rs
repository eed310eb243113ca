//! What one exit costs: ticks of the time-stamp counter for a round trip, the median over many rounds with the loop
//! around it taken off. In Bochs the counter counts instructions.
//!
//! Prints `bench NAME VALUE ticks (least LEAST)`, or `skipped NAME: reason`. The names stay stable:
//!
//! - `cpuid`: CPUID leaf 0;
//! - `hypercall`: an unknown one, by the vendor's instruction;
//! - `msr_read`, `msr_write`: TSC_ADJUST (the MTRR default type where that is missing);
//! - `port_write`: the index port of the RTC;
//! - `mmio_register`: a read of the I/O APIC's data window;
//! - `mmio_doorbell`: a write to the doorbell of a virtio device without a driver;
//! - `tsc_deadline`: from arming the timer in the past to the end of its handler with its EOI (in x2APIC mode where it
//!   is offered);
//! - `self_ipi`, `eoi`, `hlt_wake`: see `interrupt.rs`;
//! - `disk_*`, `packet_64`, `frame_64_kib`: see `disk.rs` and `net.rs`; only where `only=` names one;
//! - `nested_fault`: see `balloon.rs`; only with `only=nested_fault`;
//! - `first_instruction`: the counter at the guest's entry, where its time began with its start; only with `only=start`;
//! - `ipi_self`, `ipi_round_trip_*`, `vcpu_switch`: see `switch.rs`; with `only=switch` nothing else.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: the measured instructions stand in assembly loops.
#![allow(unsafe_code)]

mod balloon;
mod deadline;
mod disk;
mod interrupt;
mod net;
mod switch;

use selftest::cpu::{self, msr, rdtsc};
use selftest::platform::{self, Vendor};
use selftest::{Global, boot, catch, ioapic, pci, println, probe, runner};

/// Round trips in one round.
const TRIPS: u64 = 32;
/// Rounds, of which the median counts.
const ROUNDS: usize = 65;

type Round = fn();

/// Lines printed, and names skipped.
static COUNTS: Global<(u32, u32)> = Global::new((0, 0));

fn skip(name: &str, reason: &str) {
    COUNTS.with(|counts| counts.1 += 1);
    println!("skipped {name}: {reason}");
}

static SAMPLES: Global<[u64; ROUNDS]> = Global::new([0; ROUNDS]);

/// Ticks of each round, sorted.
fn sample(round: Round) -> [u64; ROUNDS] {
    round();
    SAMPLES.with(|samples| {
        for sample in samples.iter_mut() {
            let start = rdtsc();
            round();
            *sample = rdtsc() - start;
        }
        samples.sort_unstable();
        *samples
    })
}

/// Prints one line of the table: `round` minus `empty`, for one round trip.
fn report(name: &str, round: Round, empty: Round) {
    if boot::option("test").is_some_and(|only| only != name) {
        return;
    }
    let (with, without) = (sample(round), sample(empty));
    let per_trip = |index: usize| (with[index].saturating_sub(without[ROUNDS / 2]) + TRIPS / 2) / TRIPS;
    COUNTS.with(|counts| counts.0 += 1);
    println!("bench {name} {} ticks (least {})", per_trip(ROUNDS / 2), per_trip(0));
}

/// Prints a line of the table from so many samples, of `each` things each: what one of them takes.
fn report_samples(name: &str, each: u64, rounds: u64, mut sample: impl FnMut() -> u64) {
    let count = (rounds as usize).min(ROUNDS);
    if count == 0 {
        return;
    }
    let samples = SAMPLES.with(|samples| {
        samples[..count].fill_with(&mut sample);
        samples[..count].sort_unstable();
        *samples
    });
    COUNTS.with(|counts| counts.0 += 1);
    println!("bench {name} {} ticks (least {})", samples[count / 2] / each, samples[0] / each);
}

/// Prints a line of the table that was measured once.
fn tell_once(name: &str, ticks: u64) {
    COUNTS.with(|counts| counts.0 += 1);
    println!("bench {name} {ticks} ticks");
}

/// Says of how many requests the exits of this boot are.
fn tell_requests(name: &str, requests: u64) {
    if requests != 0 {
        println!("bench {name}_requests {requests} requests");
    }
}

/// A number on the command line.
fn number(name: &str, otherwise: u64) -> u64 {
    boot::option(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Two functions that loop [`TRIPS`] times over the same set-up, with and without the measured instruction. They may
/// use all of RAX, RCX, RDX, R8 to R11 and RDI.
macro_rules! rounds {
    ($with:ident, $without:ident: [$($setup:literal),*] $instruction:literal $(, $operand:tt = $value:expr)*) => {
        rounds!(@one $with: $($setup,)* $instruction; $($operand = $value),*);
        rounds!(@one $without: $($setup),*; $($operand = $value),*);
    };
    (@one $name:ident: $($line:literal),*; $($operand:tt = $value:expr),*) => {
        fn $name() {
            probe!(
                "mov r8, rbx", "mov r9d, {trips}", "2:", $($line,)* "dec r9d", "jnz 2b", "mov rbx, r8",
                trips = const TRIPS, out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _,
                out("r11") _, $(in($operand) $value,)*
            );
        }
    };
}

rounds!(cpuid, no_cpuid: ["xor eax, eax"] "cpuid");
rounds!(vmcall, no_vmcall: ["mov eax, 1000"] "vmcall");
rounds!(vmmcall, no_vmmcall: ["mov eax, 1000"] "vmmcall");
rounds!(read_tsc_adjust, no_read_tsc_adjust: ["mov ecx, 0x3b"] "rdmsr");
rounds!(write_tsc_adjust, no_write_tsc_adjust: ["mov ecx, 0x3b", "mov eax, esi", "mov edx, edi"] "wrmsr",
    "rsi" = cpu::rdmsr(msr::TSC_ADJUST), "rdi" = cpu::rdmsr(msr::TSC_ADJUST) >> 32);
rounds!(read_mtrr, no_read_mtrr: ["mov ecx, 0x2ff"] "rdmsr");
rounds!(write_mtrr, no_write_mtrr: ["mov ecx, 0x2ff", "mov eax, esi", "mov edx, edi"] "wrmsr",
    "rsi" = cpu::rdmsr(msr::MTRR_DEF_TYPE), "rdi" = cpu::rdmsr(msr::MTRR_DEF_TYPE) >> 32);
rounds!(port_write, no_port_write: ["mov al, 0x0f"] "out 0x70, al");
rounds!(mmio_read, no_mmio_read: [] "mov eax, [rdi]", "rdi" = ioapic::WINDOW);
rounds!(doorbell, no_doorbell: [] "mov [rdi], ax", "rdi" = DOORBELL.get());

/// Where the doorbell of the first virtio device is.
static DOORBELL: Global<u64> = Global::new(0);

/// Finds a virtio device, and lets it answer.
fn find_doorbell() -> Option<u64> {
    const VENDOR: u32 = 0x1af4;
    const COMMAND: u8 = 4;
    const MEMORY: u32 = 2;
    const BAR: u8 = 0x10;
    const PAGE: u64 = 0x3000;
    let device = (0..32).find(|device| pci::read(0, *device, 0, 0) & 0xffff == VENDOR)?;
    pci::write(0, device, 0, COMMAND, MEMORY);
    Some(u64::from(pci::read(0, device, 0, BAR) & !0xf) + PAGE)
}

/// What exits cost.
fn exits() {
    report("cpuid", cpuid, no_cpuid);
    match (platform::hypervisor(), platform::vendor()) {
        (true, Vendor::Intel) => report("hypercall", vmcall, no_vmcall),
        (true, Vendor::Amd) => report("hypercall", vmmcall, no_vmmcall),
        (false, _) => skip("hypercall", "no hypervisor"),
    }
    let adjust = catch(|| {
        cpu::rdmsr(msr::TSC_ADJUST);
    });
    if adjust.is_ok() {
        report("msr_read", read_tsc_adjust, no_read_tsc_adjust);
        report("msr_write", write_tsc_adjust, no_write_tsc_adjust);
    } else {
        println!("bench: no TSC_ADJUST, so the MTRR default type stands for it");
        report("msr_read", read_mtrr, no_read_mtrr);
        report("msr_write", write_mtrr, no_write_mtrr);
    }
    report("port_write", port_write, no_port_write);
    ioapic::read(ioapic::VERSION);
    report("mmio_register", mmio_read, no_mmio_read);
    match find_doorbell() {
        Some(at) => {
            DOORBELL.set(at);
            report("mmio_doorbell", doorbell, no_doorbell);
        }
        None => skip("mmio_doorbell", "no virtio device"),
    }
    deadline::measure();
    interrupt::measure();
}

fn main_program() {
    runner::announce("bench");
    runner::baseline();
    match boot::option("only") {
        None => {
            exits();
            switch::measure();
        }
        Some("switch") => switch::measure(),
        Some("nested_fault") => balloon::measure(),
        Some("start") => tell_once("first_instruction", boot::entry_tsc()),
        Some(_) => {
            disk::measure();
            net::measure();
        }
    }
    let (passed, skipped) = COUNTS.get();
    println!("selftest bench done: {passed} passed, 0 failed, {skipped} skipped");
}

selftest::program!(main_program());
