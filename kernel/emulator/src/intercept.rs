//! Names the instruction behind an intercept, for a CPU that tells only that there was one (APM vol. 2,
//! "Instruction Intercepts", "Control Register Accesses Intercept").

use iced_x86::{Code, Instruction, OpKind, Register};

use crate::decode::decode;
use crate::{Gpr, MemoryOperand, Mode};

/// A register or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A general-purpose register.
    Register(Gpr),
    /// Memory; [`MemoryOperand::linear`] finds it.
    Memory(MemoryOperand),
}

/// An instruction that can be intercepted, with its explicit operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intercept {
    /// CPUID.
    Cpuid,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// HLT.
    Hlt,
    /// VMCALL.
    Vmcall,
    /// VMMCALL.
    Vmmcall,
    /// MOV r, CRn. The register is 64 bits wide in 64-bit mode, else 32.
    ReadCr {
        /// n, 0 to 15.
        cr: u8,
        /// The destination.
        gpr: Gpr,
    },
    /// MOV CRn, r.
    WriteCr {
        /// n, 0 to 15.
        cr: u8,
        /// The source.
        gpr: Gpr,
    },
    /// MOV r, DRn.
    ReadDr {
        /// n, 0 to 15.
        dr: u8,
        /// The destination.
        gpr: Gpr,
    },
    /// MOV DRn, r.
    WriteDr {
        /// n, 0 to 15.
        dr: u8,
        /// The source.
        gpr: Gpr,
    },
    /// CLTS.
    Clts,
    /// LMSW; the low 16 bits of the operand count.
    Lmsw(Operand),
    /// SMSW; memory gets 16 bits, a register as many as it is wide.
    Smsw(Operand),
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// RDPMC.
    Rdpmc,
    /// XSETBV.
    Xsetbv,
    /// PAUSE.
    Pause,
    /// MONITOR or MONITORX.
    Monitor,
    /// MWAIT or MWAITX.
    Mwait,
    /// INVLPG; the operand's offset in its segment is what is meant.
    Invlpg(MemoryOperand),
    /// INVPCID.
    Invpcid {
        /// Holds the type.
        kind: Gpr,
        /// The 16-byte descriptor.
        descriptor: MemoryOperand,
    },
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPRU.
    Rdpru,
    /// RSM.
    Rsm,
    /// An instruction of the SVM extension but VMMCALL: VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA.
    Svm,
    /// An instruction of the VMX or SMX extension but VMCALL.
    Vmx,
}

/// An intercepted instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Intercepted {
    /// Which, with its operands.
    pub intercept: Intercept,
    /// Its length in bytes, 1 to 15.
    pub length: u8,
}

/// Recognises the instruction at the start of `code`; `None` where it is incomplete or none of
/// [`Intercept`].
#[inline]
pub fn decode_intercept(code: &[u8], mode: Mode) -> Option<Intercepted> {
    unprefixed(code).or_else(|| decode_prefixed(code, mode))
}

/// The instructions that every guest uses, in their shortest form, which is the same in every mode: a few
/// comparisons instead of the whole decoder.
#[inline]
pub(crate) fn unprefixed(code: &[u8]) -> Option<Intercepted> {
    let known = |intercept, length| Some(Intercepted { intercept, length });
    match *code {
        [0xf4, ..] => known(Intercept::Hlt, 1),
        [0x0f, 0xa2, ..] => known(Intercept::Cpuid, 2),
        [0x0f, 0x30, ..] => known(Intercept::Wrmsr, 2),
        [0x0f, 0x31, ..] => known(Intercept::Rdtsc, 2),
        [0x0f, 0x32, ..] => known(Intercept::Rdmsr, 2),
        [0x0f, 0x01, 0xc1, ..] => known(Intercept::Vmcall, 3),
        [0x0f, 0x01, 0xd1, ..] => known(Intercept::Xsetbv, 3),
        [0x0f, 0x01, 0xd9, ..] => known(Intercept::Vmmcall, 3),
        [0x0f, 0x01, 0xf9, ..] => known(Intercept::Rdtscp, 3),
        _ => None,
    }
}

fn decode_prefixed(code: &[u8], mode: Mode) -> Option<Intercepted> {
    let instruction = decode(code, mode).ok()?;
    let code = instruction.code();
    let intercept = match code {
        Code::Lmsw_rm16 | Code::Lmsw_r32m16 | Code::Lmsw_r64m16 => Intercept::Lmsw(operand(&instruction)?),
        Code::Smsw_rm16 | Code::Smsw_r32m16 | Code::Smsw_r64m16 => Intercept::Smsw(operand(&instruction)?),
        Code::Invlpg_m => Intercept::Invlpg(MemoryOperand::of(&instruction)),
        Code::Invpcid_r32_m128 | Code::Invpcid_r64_m128 => Intercept::Invpcid {
            kind: Gpr::from_register(instruction.op0_register())?,
            descriptor: MemoryOperand::of(&instruction),
        },
        code => without_operands(code).or_else(|| system_move(&instruction))?,
    };
    Some(Intercepted { intercept, length: instruction.len() as u8 })
}

fn without_operands(code: Code) -> Option<Intercept> {
    Some(match code {
        Code::Cpuid => Intercept::Cpuid,
        Code::Rdmsr => Intercept::Rdmsr,
        Code::Wrmsr => Intercept::Wrmsr,
        Code::Hlt => Intercept::Hlt,
        Code::Vmcall => Intercept::Vmcall,
        Code::Vmmcall => Intercept::Vmmcall,
        Code::Clts => Intercept::Clts,
        Code::Invd => Intercept::Invd,
        Code::Wbinvd | Code::Wbnoinvd => Intercept::Wbinvd,
        Code::Rdpmc => Intercept::Rdpmc,
        Code::Xsetbv => Intercept::Xsetbv,
        Code::Pause => Intercept::Pause,
        Code::Monitorw | Code::Monitord | Code::Monitorq => Intercept::Monitor,
        Code::Monitorxw | Code::Monitorxd | Code::Monitorxq => Intercept::Monitor,
        Code::Mwait | Code::Mwaitx => Intercept::Mwait,
        Code::Rdtsc => Intercept::Rdtsc,
        Code::Rdtscp => Intercept::Rdtscp,
        Code::Rdpru => Intercept::Rdpru,
        Code::Rsm => Intercept::Rsm,
        Code::Vmrunw | Code::Vmrund | Code::Vmrunq => Intercept::Svm,
        Code::Vmloadw | Code::Vmloadd | Code::Vmloadq => Intercept::Svm,
        Code::Vmsavew | Code::Vmsaved | Code::Vmsaveq => Intercept::Svm,
        Code::Invlpgaw | Code::Invlpgad | Code::Invlpgaq => Intercept::Svm,
        Code::Stgi | Code::Clgi | Code::Skinit => Intercept::Svm,
        Code::Vmxon_m64 | Code::Vmxoff | Code::Vmclear_m64 | Code::Vmptrld_m64 | Code::Vmptrst_m64 => {
            Intercept::Vmx
        }
        Code::Vmread_rm32_r32 | Code::Vmread_rm64_r64 => Intercept::Vmx,
        Code::Vmwrite_r32_rm32 | Code::Vmwrite_r64_rm64 => Intercept::Vmx,
        Code::Vmlaunch | Code::Vmresume | Code::Vmfunc | Code::Getsecd => Intercept::Vmx,
        Code::Invept_r32_m128 | Code::Invept_r64_m128 => Intercept::Vmx,
        Code::Invvpid_r32_m128 | Code::Invvpid_r64_m128 => Intercept::Vmx,
        _ => return None,
    })
}

/// MOV with a control or debug register.
fn system_move(instruction: &Instruction) -> Option<Intercept> {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let number = |register: Register, first: Register| (register as u8).wrapping_sub(first as u8);
    Some(match instruction.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => {
            Intercept::ReadCr { cr: number(from, Register::CR0), gpr: Gpr::from_register(to)? }
        }
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => {
            Intercept::WriteCr { cr: number(to, Register::CR0), gpr: Gpr::from_register(from)? }
        }
        Code::Mov_r32_dr | Code::Mov_r64_dr => {
            Intercept::ReadDr { dr: number(from, Register::DR0), gpr: Gpr::from_register(to)? }
        }
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => {
            Intercept::WriteDr { dr: number(to, Register::DR0), gpr: Gpr::from_register(from)? }
        }
        _ => return None,
    })
}

fn operand(instruction: &Instruction) -> Option<Operand> {
    match instruction.op0_kind() {
        OpKind::Register => Gpr::from_register(instruction.op0_register()).map(Operand::Register),
        OpKind::Memory => Some(Operand::Memory(MemoryOperand::of(instruction))),
        _ => None,
    }
}
