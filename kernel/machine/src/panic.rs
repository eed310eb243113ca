//! The epitaph: what a broken invariant of our own leaves behind on serial port and screen.
//!
//! Lines `backtrace: 0x… 0x…` hold return addresses from the chain of frame pointers; a tool with the kernel's
//! symbols turns them into names. All of it fits a screen of 25 lines with 80 columns, so that the reason is
//! still to be read when the kernel stands; lines `trace: …` with what CPUs did last are not for the screen.

// UNSAFETY: walks frame pointers and reads control registers.
#![allow(unsafe_code)]

use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use x86_64::registers::control::{Cr2, Cr3};

use crate::cpu::{self, InterruptFrame};
use crate::logger::survivor::{self, Ending};
use crate::logger::{self, LastWords};
use crate::smp::stop;
use crate::{events, fatal, heap, machine_check, power, stacks};

/// Most return addresses that are printed, and how many in a line.
const MAX_FRAMES: usize = 24;
const FRAMES_A_LINE: usize = 3;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Time for a person to read the screen before a restart, in seconds, where the options say nothing else.
pub const READING_TIME_S: u32 = 10;

const REPORT: &str = "this is an error of Basalt itself: report it with the lines above; with the option panic=reboot a panic restarts the machine";
const HEAP_ADVICE: &str = "the kernel's heap is full: start fewer VMs, and report this with the lines above";
const HARDWARE_ADVICE: &str = "the hardware reports an error of its own: power the machine off and on, test its memory and look after its cooling";

/// The vector of a machine check.
const MACHINE_CHECK: u64 = 18;

/// Panics so far, each inside the one before.
static DEPTH: AtomicU8 = AtomicU8::new(0);
/// Seconds until a panic restarts the machine; [`HALT`] where it does not.
static REBOOT_AFTER_S: AtomicU32 = AtomicU32::new(HALT);
const HALT: u32 = u32::MAX;

/// Says whether a panic restarts the machine, after that many seconds, or halts it.
pub fn set_reboot(after_s: Option<u32>) {
    REBOOT_AFTER_S.store(after_s.unwrap_or(HALT), Ordering::Relaxed);
}

/// Prints what a panic knows and stops the machine.
pub fn epitaph(info: &PanicInfo<'_>) -> ! {
    begin();
    let _ = write!(LastWords, "\nKERNEL PANIC: {}\n", info.message());
    if let Some(location) = info.location() {
        let _ = writeln!(LastWords, "at {}:{}", location.file(), location.line());
    }
    let frame_pointer: u64;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    control_registers();
    backtrace(frame_pointer);
    surroundings();
    end(if heap::was_exhausted() { HEAP_ADVICE } else { REPORT })
}

/// Prints where a CPU stands that has not looked for work for so long, and stops the machine.
pub(crate) fn stuck(frame: &InterruptFrame, number: usize, seconds: u32) -> ! {
    begin();
    let _ = writeln!(
        LastWords,
        "\nKERNEL PANIC: CPU {number} is stuck: it has not looked for work for {seconds} s, at {:#x}",
        frame.rip
    );
    frame_registers(frame);
    control_registers();
    // The place itself is the first of the callers.
    let _ = writeln!(LastWords, "backtrace: {:#x}", frame.rip);
    backtrace(frame.rbp);
    surroundings();
    end(REPORT)
}

/// Prints what an exception of the kernel's own knows and stops the machine.
pub(crate) fn exception(frame: &InterruptFrame, name: &str, note: &str) -> ! {
    begin();
    let _ = writeln!(
        LastWords,
        "\nKERNEL PANIC: {name} (vector {}, error code {:#x}) at {:#x}{note}",
        frame.vector, frame.error_code, frame.rip
    );
    if frame.vector == MACHINE_CHECK {
        machine_check::report(&mut LastWords);
    }
    frame_registers(frame);
    control_registers();
    backtrace(frame.rbp);
    surroundings();
    end(if frame.vector == MACHINE_CHECK { HARDWARE_ADVICE } else { REPORT })
}

/// Prints where the other CPUs stood, and what all of them did last.
fn surroundings() {
    stop::report();
    events::report(stop::own_number());
}

fn frame_registers(frame: &InterruptFrame) {
    let _ = writeln!(
        LastWords,
        "rip={:016x} rsp={:016x} rflags={:08x} cs={:04x} ss={:04x}",
        frame.rip, frame.rsp, frame.rflags, frame.cs, frame.ss
    );
    for row in frame.general_registers().chunks(3) {
        for (register, value) in row {
            let _ = write!(LastWords, "{register}={value:016x} ");
        }
        let _ = writeln!(LastWords);
    }
}

/// A panic inside a panic says so in one line and stops. One inside that says nothing, because saying it is
/// what fails.
fn begin() {
    stop::others();
    match DEPTH.fetch_add(1, Ordering::SeqCst) {
        0 => {
            logger::prepare_last_words();
            survivor::set_ending(Ending::Panicked);
            logger::flush_in_panic();
        }
        1 => {
            let _ = writeln!(LastWords, "\nKERNEL PANIC inside a panic");
            end(REPORT)
        }
        _ => cpu::halt_forever(),
    }
}

fn end(advice: &str) -> ! {
    fatal::advise(advice);
    let after_s = REBOOT_AFTER_S.load(Ordering::Relaxed);
    if after_s != HALT {
        let _ = writeln!(LastWords, "Restarting in {after_s} seconds.");
        power::wait(u64::from(after_s) * NANOS_PER_SECOND);
        power::restart();
    }
    cpu::halt_forever()
}

fn control_registers() {
    let cr2 = Cr2::read_raw();
    let (cr3, flags) = Cr3::read_raw();
    let _ =
        writeln!(LastWords, "cr2={cr2:016x} cr3={:016x}", cr3.start_address().as_u64() | u64::from(flags));
}

/// Prints the return addresses from `frame_pointer` on.
fn backtrace(frame_pointer: u64) {
    for (index, address) in Callers(frame_pointer).take(MAX_FRAMES).enumerate() {
        let start = match (index % FRAMES_A_LINE, index) {
            (0, 0) => "backtrace:",
            (0, _) => "\nbacktrace:",
            _ => "",
        };
        let _ = write!(LastWords, "{start} {address:#x}");
    }
    let _ = writeln!(LastWords);
}

/// Return addresses: follows the frame pointers while they go up inside one of our stacks.
struct Callers(u64);

impl Iterator for Callers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        const FRAME_BYTES: u64 = 16;
        let frame_pointer = self.0;
        let stack = stacks::containing(frame_pointer)?;
        if !frame_pointer.is_multiple_of(8) || stack.end - frame_pointer < FRAME_BYTES {
            return None;
        }
        let frame = frame_pointer as *const u64;
        // SAFETY: both words lie inside a stack of ours, which stays mapped.
        let (next, return_address) = unsafe { (frame.read(), frame.add(1).read()) };
        // Zero is in no stack: the end.
        self.0 = if next > frame_pointer { next } else { 0 };
        (return_address != 0).then_some(return_address)
    }
}
