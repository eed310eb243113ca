//! Exceptions: expected ones are caught, others fail the test that raised them.
//!
//! [`catch`] runs a closure under a guard. An exception inside records itself and leaves the closure for good, as a
//! `longjmp` would: no destructor in it runs, so the closure owns nothing. A hook ([`on`]) may resume instead. All of it is
//! each processor's own.

use core::arch::naked_asm;
use core::fmt;

use crate::cpu::{self, flag};
use crate::descriptor::{KERNEL_CODE, KERNEL_DATA};
use crate::smp::MAX_CPUS;
use crate::{PerCpu, TestResult, Verdict, interrupt, println, verdict};

/// Exception vectors.
#[expect(missing_docs, reason = "the manuals' names")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
    /// Not a vector of the processor: a Rust panic inside a test.
    pub const PANIC: u8 = 255;
}

/// What an interrupt or exception pushed, below the registers that the stub saved.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "registers")]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// One exception, as its handler saw it. The registers are in [`last_frame`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Vector, or [`vector::PANIC`].
    pub vector: u8,
    /// Error code; 0 where the vector has none.
    pub error_code: u32,
    /// Saved instruction pointer.
    pub rip: u64,
    /// CR2 in the handler.
    pub cr2: u64,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {} error {:#x} rip {:#x}", self.vector, self.error_code, self.rip)?;
        if self.vector == vector::PF { write!(f, " cr2 {:#x}", self.cr2) } else { Ok(()) }
    }
}

type Hook = fn(&mut Frame);

static HOOKS: PerCpu<[Option<Hook>; 32]> = PerCpu::new([[None; 32]; MAX_CPUS]);
const NO_FRAME: Frame = Frame {
    r15: 0,
    r14: 0,
    r13: 0,
    r12: 0,
    r11: 0,
    r10: 0,
    r9: 0,
    r8: 0,
    rbp: 0,
    rdi: 0,
    rsi: 0,
    rdx: 0,
    rcx: 0,
    rbx: 0,
    rax: 0,
    vector: 0,
    error_code: 0,
    rip: 0,
    cs: 0,
    rflags: 0,
    rsp: 0,
    ss: 0,
};
static LAST: PerCpu<Frame> = PerCpu::new([NO_FRAME; MAX_CPUS]);
static CAUGHT: PerCpu<Option<Exception>> = PerCpu::new([None; MAX_CPUS]);
/// Stack pointer of the innermost guard, 0 without one.
static LANDING: PerCpu<u64> = PerCpu::new([0; MAX_CPUS]);

/// Sets a handler that resumes (as changed in the frame) instead of leaving to the guard.
pub fn on(vector: u8, hook: Hook) {
    HOOKS.with(|hooks| hooks[usize::from(vector)] = Some(hook));
}

/// Takes all handlers away.
pub fn clear_hooks() {
    HOOKS.with(|hooks| hooks.fill(None));
}

/// No handlers and no guard, as on a processor that has just started.
pub(crate) fn reset() {
    clear_hooks();
    CAUGHT.set(None);
    LANDING.set(0);
}

/// The registers at the exception that a guard caught last.
pub fn last_frame() -> Frame {
    LAST.get()
}

/// From the stubs: `frame` lies on the stack.
pub(crate) extern "C" fn dispatch(frame: &mut Frame) {
    let number = frame.vector as u8;
    if number >= 32 && number != crate::user::RETURN_VECTOR {
        interrupt::dispatch(frame);
        return;
    }
    if let Some(hook) = HOOKS.get().get(usize::from(number)).copied().flatten() {
        hook(frame);
        return;
    }
    let exception = Exception {
        vector: number,
        error_code: frame.error_code as u32,
        rip: frame.rip,
        cr2: cpu::read_cr2(),
    };
    LAST.set(*frame);
    let landing = LANDING.get();
    if landing == 0 {
        println!("selftest: {exception} outside any test");
        print_registers();
        crate::power::off();
    }
    CAUGHT.set(Some(exception));
    frame.rip = guard_landing as *const () as u64;
    frame.cs = u64::from(KERNEL_CODE);
    frame.rflags = flag::ONE;
    frame.rsp = landing;
    frame.ss = u64::from(KERNEL_DATA);
}

/// Prints the registers of [`last_frame`].
pub fn print_registers() {
    let f = LAST.get();
    println!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", f.rax, f.rbx, f.rcx, f.rdx);
    println!("  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", f.rsi, f.rdi, f.rbp, f.rsp);
    println!("  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", f.r8, f.r9, f.r10, f.r11);
    println!("  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", f.r12, f.r13, f.r14, f.r15);
    println!("  rip {:04x}:{:016x} ss {:04x} rflags {:016x}", f.cs, f.rip, f.ss, f.rflags);
}

/// Runs `f` and says which exception ended it early.
///
/// # Errors
/// The exception.
pub fn catch(mut f: impl FnMut()) -> Result<(), Exception> {
    extern "C" fn call<F: FnMut()>(f: *mut F) {
        // SAFETY: `catch` passes its own closure, which outlives the call.
        unsafe { (*f)() }
    }
    fn thunk<F: FnMut()>(_: &F) -> extern "C" fn(*mut F) {
        call::<F>
    }
    let outer = LANDING.get();
    let entry = thunk(&f);
    // SAFETY: `guarded` calls `entry(&mut f)`; whatever happens inside, it comes back here once with the preserved
    // registers as they were.
    let escaped = unsafe { guarded(entry as *const (), (&raw mut f).cast(), LANDING.own()) };
    LANDING.set(outer);
    match CAUGHT.get() {
        Some(exception) if escaped != 0 => Err(exception),
        _ => Ok(()),
    }
}

/// Runs `f` under a guard and hands its value out.
///
/// # Errors
/// The exception that ended it.
pub fn catch_value<T>(mut f: impl FnMut() -> T) -> Result<T, Exception> {
    let mut value = None;
    catch(|| value = Some(f()))?;
    value.ok_or(Exception { vector: vector::PANIC, error_code: 0, rip: 0, cr2: 0 })
}

/// Checks that `f` ends with that exception.
///
/// # Errors
/// It did not, or with another one.
pub fn expect_exception(what: &str, vector: u8, error_code: u32, f: impl FnMut()) -> TestResult {
    expect_exception_at(what, vector, error_code, f).map(|_| ())
}

/// Checks that `f` ends with that exception, and returns it.
///
/// # Errors
/// It did not, or with another one.
pub fn expect_exception_at(
    what: &str,
    vector: u8,
    error_code: u32,
    f: impl FnMut(),
) -> Result<Exception, Verdict> {
    match catch(f) {
        Err(exception) if (exception.vector, exception.error_code) == (vector, error_code) => Ok(exception),
        Err(exception) => {
            Err(verdict::fail(format_args!("{what}: {exception} instead of {vector} error {error_code:#x}")))
        }
        Ok(()) => Err(verdict::fail(format_args!("{what}: no exception instead of {vector}"))),
    }
}

/// Calls `entry(argument)` with its own stack pointer noted in `*landing`. Returns 0, or 1 from the landing.
///
/// # Safety
/// `entry` takes that argument and keeps the C calling convention if it returns.
#[unsafe(naked)]
unsafe extern "C" fn guarded(entry: *const (), argument: *mut (), landing: *mut u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdx], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "sub rsp, 8",
        "call rax",
        "add rsp, 8",
        "xor eax, eax",
        "jmp 2f",
        ".global guard_landing",
        "guard_landing:",
        "mov eax, 1",
        "2:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

unsafe extern "C" {
    fn guard_landing();
}

/// A panic inside a test ends that test only.
#[cfg(target_os = "none")]
pub(crate) fn escape_from_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    cpu::cli();
    println!("  {info}");
    let landing = LANDING.get();
    if landing == 0 {
        crate::power::off();
    }
    CAUGHT.set(Some(Exception { vector: vector::PANIC, error_code: 0, rip: 0, cr2: 0 }));
    // SAFETY: the guard's frame is still on the stack below everything that is left now.
    unsafe {
        core::arch::asm!("mov rsp, {}", "jmp {}", in(reg) landing, sym guard_landing, options(noreturn));
    }
}
