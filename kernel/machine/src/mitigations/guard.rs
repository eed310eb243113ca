//! What entries and exits do beside entering and leaving, as assembly for both vendors' entry code. Only vCPUs with something in
//! their [`Guard`] come here.
//!
//! Each piece stands behind a test that a guest may have taught the CPU to take wrongly. Nothing here depends on what is skipped until
//! the last LFENCE, behind which the kernel's first return comes; an entry is not executed before its tests are decided.

// UNSAFETY: fills the return stack and writes MSRs between the guest's registers and the kernel's.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;

use super::{ARCH_CAPABILITIES, Measures, Offer, SPEC_CTRL, kernel_control, measures};
use crate::{cpu, registers};

/// What the code needs of one vCPU, in a fixed layout.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Guard {
    /// The lowest eight of [`Measures`].
    measures: u32,
    /// IA32_SPEC_CTRL of the kernel.
    kernel_control: u32,
    /// IA32_SPEC_CTRL of the guest.
    guest_control: u64,
    /// For VERW, of which only the form with a memory operand clears buffers: the kernel's data selector.
    selector: u64,
}

/// The measures that entry code knows.
const AT_ENTRIES_AND_EXITS: u32 = 0xff;

impl Guard {
    /// For a vCPU of this machine.
    pub(crate) fn new() -> Self {
        let measures = measures();
        Self {
            measures: measures.bits() & AT_ENTRIES_AND_EXITS,
            kernel_control: kernel_control(measures),
            guest_control: 0,
            selector: cpu::tables().ss.into(),
        }
    }

    /// Whether there is anything to do.
    #[inline(always)]
    pub(crate) const fn is_needed(&self) -> bool {
        self.measures != 0
    }
}

/// The guest's own registers of speculation, of which there are those that it is offered.
impl Guard {
    /// RDMSR. `None` where there is none of that number.
    pub(crate) fn read(&self, offer: &Offer, msr: u32) -> Option<u64> {
        match msr {
            SPEC_CTRL => (offer.control != 0).then_some(self.guest_control),
            ARCH_CAPABILITIES => offer.capabilities,
            _ => None,
        }
    }

    /// WRMSR. `None` where there is none of that number, or it does not take the value; else whether IA32_SPEC_CTRL needs no exits
    /// from now on, because it is switched.
    pub(crate) fn write(&mut self, offer: &Offer, msr: u32, value: u64) -> Option<bool> {
        if msr != SPEC_CTRL || offer.control == 0 || value & !offer.control != 0 {
            return None;
        }
        self.guest_control = value;
        let begins = value != 0 && !self.switches();
        if begins {
            self.measures |= (Measures::SWITCH_CONTROL | Measures::SAVE_CONTROL).bits();
        }
        Some(begins)
    }

    /// Whether the guest reads and writes IA32_SPEC_CTRL itself.
    pub(crate) const fn switches(&self) -> bool {
        self.measures & Measures::SAVE_CONTROL.bits() != 0
    }

    /// After an entry that failed before there was a guest to leave: the kernel's IA32_SPEC_CTRL comes back.
    #[cold]
    pub(crate) fn take_back(&self) {
        if self.measures & Measures::SWITCH_CONTROL.bits() != 0 {
            // SAFETY: the CPU has the MSR, or nothing would be switched; the value is the one that the kernel runs with.
            unsafe { registers::write_msr(SPEC_CTRL, self.kernel_control.into()) };
        }
    }

    /// As after power-up.
    pub(crate) const fn reset(&mut self) {
        self.guest_control = 0;
    }
}

const _: () = assert!(offset_of!(Guard, measures) == 0 && offset_of!(Guard, kernel_control) == 4);
const _: () = assert!(offset_of!(Guard, guest_control) == 8 && offset_of!(Guard, selector) == 16);
const _: () = assert!(Measures::EXIT_IBPB.bits() == 1 && Measures::SWITCH_CONTROL.bits() == 2);
const _: () = assert!(Measures::SAVE_CONTROL.bits() == 4 && Measures::FILL_RETURNS.bits() == 8);
const _: () = assert!(Measures::ONE_RETURN.bits() == 16 && Measures::CLEAR_HISTORY.bits() == 32);
const _: () = assert!(Measures::VERW.bits() == 64);

/// Before an entry, with the [`Guard`] at RSI. What is loaded behind VERW are the guest's own registers. Changes RAX, RCX, RDX and flags.
macro_rules! guard_entry {
    () => {
        "test byte ptr [rsi], 2
         jz 71f
         mov ecx, 0x48
         mov eax, [rsi + 8]
         mov edx, [rsi + 12]
         wrmsr
         71:
         test byte ptr [rsi], 64
         jz 72f
         verw word ptr [rsi + 16]
         72:"
    };
}

/// After an exit, with the [`Guard`] at RSI and the guest's registers stored. Changes all registers but RDI, RBP and RSP, and leaves
/// nothing of the guest's in those that are not popped.
macro_rules! guard_exit {
    () => {
        "mov ebx, [rsi]
         test bl, 1
         jz 73f
         mov ecx, 0x49
         mov eax, 1
         xor edx, edx
         wrmsr
         73:
         test bl, 2
         jz 75f
         mov ecx, 0x48
         test bl, 4
         jz 74f
         rdmsr
         mov [rsi + 8], eax
         mov [rsi + 12], edx
         74:
         mov eax, [rsi + 4]
         xor edx, edx
         wrmsr
         75:
         test bl, 8
         jz 77f
         mov ecx, 16
         76:
         call 78f
         int3
         78:
         call 79f
         int3
         79:
         add rsp, 16
         dec ecx
         jnz 76b
         lfence
         77:
         test bl, 16
         jz 80f
         call 81f
         int3
         81:
         add rsp, 8
         lfence
         80:
         test bl, 32
         jz 82f
         call basalt_clear_history
         82:
         lfence
         xor eax, eax
         xor ecx, ecx
         xor edx, edx
         xor r8d, r8d
         xor r9d, r9d
         xor r10d, r10d
         xor r11d, r11d"
    };
}

pub(crate) use {guard_entry, guard_exit};

// Intel, "Branch History Injection and Intra-mode Branch Target Injection", software BHB-clearing sequence: as many taken branches
// as the history holds, of CPUs without BHI_DIS_S.
global_asm!(
    ".balign 64",
    ".global basalt_clear_history",
    "basalt_clear_history:",
    "mov ecx, 5",
    "call 2f",
    "ret",
    ".balign 64, 0xcc",
    "2:",
    "call 3f",
    "ret",
    ".balign 64, 0xcc",
    "3:",
    "mov eax, 5",
    "4:",
    "jmp 5f",
    "nop",
    "5:",
    "sub eax, 1",
    "jnz 4b",
    "sub ecx, 1",
    "jnz 2b",
    "ret",
);
