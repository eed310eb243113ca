//! Decodes and executes the few instructions that touch device memory or string ports, and recognises the
//! instructions that a CPU intercepts without telling their details (AMD SVM without decode assists or
//! NRIP save).
//!
//! - [`execute`] runs one instruction against a [`Context`], the vCPU as the emulator sees it. It is given
//!   the instruction's bytes; who fetches them, moves RIP, ends the interrupt shadow and raises the trap of
//!   RFLAGS.TF is the caller.
//! - [`decode_intercept`] and [`length`] name an intercepted instruction, its operands and its length.
//! - [`walk`] walks a guest's own page tables.
//!
//! Not its job: which device answers, nested paging, permission to use a port (the CPU checks it before it
//! intercepts), floating point and vector instructions (VEX, EVEX, XOP and 3DNow! are not even decoded) and
//! alignment checks (#AC).
//!
//! The decoding is iced-x86's. Its tables are built once, with allocation, at the first use: call
//! [`prepare`] during bring-up, after which nothing here allocates. Nothing loops without bound: a repeated
//! string instruction stops after [`REPEAT_BUDGET`] iterations, as if an interrupt had come.
//!
//! Sources: Intel SDM vol. 1, "EFLAGS Register", "Operand Addressing"; vol. 2, "Instruction Format" and the
//! instruction reference; vol. 3, "Protection", "Paging"; AMD APM vol. 2, "Secure Virtual Machine",
//! "Intercept Operation". No locks.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod alu;
mod context;
mod data;
mod decode;
mod execute;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod intercept;
mod operand;
mod operation;
mod string;
#[cfg(test)]
mod tests;
pub mod walk;

pub use context::{
    Context, Exception, Fault, InstructionBytes, Mode, Segment, SegmentName, Stop, Width, vector,
};
pub use decode::{MAX_INSTRUCTION_LENGTH, length, prepare};
pub use execute::{Executed, execute};
pub use intercept::{Intercept, Intercepted, Operand, decode_intercept};
pub use operand::{Access, Gpr, MemoryOperand};
pub use string::REPEAT_BUDGET;
