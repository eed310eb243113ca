//! Code at CPL 3.

use crate::descriptor::{USER_CODE, USER_DATA};
use crate::exception::{self, Exception, Frame};
use crate::memory::{self, PAGE};
use crate::paging::{self, P, U, W};
use crate::{Global, catch, probe};

/// `int 0x90` brings user code back to its test.
pub const RETURN_VECTOR: u8 = 0x90;

/// Where user code lies.
pub const CODE: u64 = 0x100_0000_0000;
/// A page of user data.
pub const DATA: u64 = CODE + 0x10_0000;
/// The user stack's end.
pub const STACK: u64 = CODE + 0x20_0000 + PAGE;

/// What user code starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Code selector.
    pub code: u16,
    /// Stack pointer.
    pub stack: u64,
}

impl Default for Start {
    fn default() -> Self {
        Self { rdi: DATA, rsi: 0, rflags: 2, code: USER_CODE, stack: STACK }
    }
}

static START: Global<Start> = Global::new(Start { rdi: 0, rsi: 0, rflags: 0, code: 0, stack: 0 });

/// Maps a code page with these bytes, a data page and a stack page for CPL 3.
pub fn prepare(code: &[u8]) {
    for (address, flags) in [(CODE, P | U), (DATA, P | U | W), (STACK - PAGE, P | U | W)] {
        paging::map(address, memory::page(), flags);
    }
    memory::store(paging::get(CODE, paging::Level::Page) & paging::ADDRESS, code);
}

/// Enters CPL 3 at [`CODE`] and returns what ended it.
pub fn enter(start: Start) -> Exception {
    START.set(start);
    let ended = catch(|| {
        let start = START.get();
        probe!(
            "push {ss}", "push {rsp_}", "push {flags}", "push {cs}", "push {rip_}", "xor eax, eax", "xor ecx, ecx",
            "xor edx, edx", "iretq",
            ss = in(reg) u64::from(USER_DATA), rsp_ = in(reg) start.stack, flags = in(reg) start.rflags,
            cs = in(reg) u64::from(start.code), rip_ = in(reg) CODE, in("rdi") start.rdi, in("rsi") start.rsi,
            out("eax") _, out("ecx") _, out("edx") _,
        );
    });
    ended.err().unwrap_or(Exception { vector: exception::vector::PANIC, error_code: 0, rip: 0, cr2: 0 })
}

/// Runs code at CPL 3 with the usual start and returns what ended it and its registers.
pub fn run(code: &[u8]) -> (Exception, Frame) {
    prepare(code);
    let ended = enter(Start::default());
    (ended, exception::last_frame())
}
