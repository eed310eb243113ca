//! The epitaph: what a broken invariant of our own leaves behind on serial port and screen.
//!
//! Lines `backtrace: 0x…` hold return addresses from the chain of frame pointers; a tool with the kernel's
//! symbols turns them into names.

// UNSAFETY: walks frame pointers and reads control registers.
#![allow(unsafe_code)]

use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use x86_64::registers::control::{Cr2, Cr3};

use crate::cpu::{self, InterruptFrame};
use crate::logger::{self, LastWords};
use crate::{power, stacks};

/// Most return addresses that are printed.
const MAX_FRAMES: usize = 32;

/// Time for a person to read the screen before a restart, in ns.
const READING_TIME_NS: u64 = 10_000_000_000;

/// Panics so far, each inside the one before.
static DEPTH: AtomicU8 = AtomicU8::new(0);
static REBOOT: AtomicBool = AtomicBool::new(false);

/// Says whether a panic restarts the machine, after a while, or halts it.
pub fn set_reboot(reboot: bool) {
    REBOOT.store(reboot, Ordering::Relaxed);
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
    end()
}

/// Prints what an exception of the kernel's own knows and stops the machine.
pub(crate) fn exception(frame: &InterruptFrame, name: &str, note: &str) -> ! {
    begin();
    let _ = writeln!(
        LastWords,
        "\nKERNEL PANIC: {name} (vector {}, error code {:#x}) at {:#x}{note}",
        frame.vector, frame.error_code, frame.rip
    );
    let _ = writeln!(
        LastWords,
        "rip={:016x} rsp={:016x} rflags={:08x} cs={:04x} ss={:04x}",
        frame.rip, frame.rsp, frame.rflags, frame.cs, frame.ss
    );
    for row in frame.general_registers().chunks(4) {
        for (register, value) in row {
            let _ = write!(LastWords, "{register}={value:016x} ");
        }
        let _ = writeln!(LastWords);
    }
    control_registers();
    let _ = writeln!(LastWords, "backtrace: {:#x}", frame.rip);
    backtrace(frame.rbp);
    end()
}

/// A panic inside a panic says so in one line and stops. One inside that says nothing, because saying it is
/// what fails.
fn begin() {
    match DEPTH.fetch_add(1, Ordering::SeqCst) {
        0 => logger::flush_in_panic(),
        1 => {
            let _ = writeln!(LastWords, "\nKERNEL PANIC inside a panic");
            end()
        }
        _ => cpu::halt_forever(),
    }
}

fn end() -> ! {
    if REBOOT.load(Ordering::Relaxed) {
        let _ = writeln!(LastWords, "restarting in {} seconds", READING_TIME_NS / 1_000_000_000);
        power::wait(READING_TIME_NS);
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

/// Follows the frame pointers while they go up inside one of our stacks.
fn backtrace(mut frame_pointer: u64) {
    const FRAME_BYTES: u64 = 16;
    for _ in 0..MAX_FRAMES {
        let Some(stack) = stacks::containing(frame_pointer) else { return };
        if !frame_pointer.is_multiple_of(8) || stack.end - frame_pointer < FRAME_BYTES {
            return;
        }
        let frame = frame_pointer as *const u64;
        // SAFETY: both words lie inside a stack of ours, which stays mapped.
        let (next, return_address) = unsafe { (frame.read(), frame.add(1).read()) };
        if return_address == 0 {
            return;
        }
        let _ = writeln!(LastWords, "backtrace: {return_address:#x}");
        if next <= frame_pointer {
            return;
        }
        frame_pointer = next;
    }
}
