//! One instruction: operands fetched, handler called, outcome told.

use iced_x86::{Instruction, OpKind};
use vcpu::Gva;

use crate::decode::{Undecodable, decode};
use crate::operation::{self, Operation};
use crate::{Access, Context, Exception, Fault, Gpr, InstructionBytes, MemoryOperand, Mode, Stop, Width};

/// An instruction that ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Where the guest goes on: the next instruction, or this one again where it is not finished.
    pub next_rip: u64,
    /// False where a repeated string instruction used up its budget (its registers show how far it came), or
    /// an atomic update lost a race: let the guest run it again, without a single-step trap.
    pub finished: bool,
}

/// Executes the instruction at the start of `code` (its up to 15 bytes, more do no harm).
///
/// Done are MOV, MOVZX, MOVSX, MOVSXD, MOVNTI, MOVBE, XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, ADD, ADC,
/// SUB, SBB, AND, OR, XOR, CMP, TEST, INC, DEC, NEG, NOT, BT, BTS, BTR, BTC, SETcc and CMOVcc with registers,
/// immediates and memory; MOVS, STOS, LODS, CMPS, SCAS, INS and OUTS with their prefixes; IN and OUT.
///
/// # Errors
/// See [`Stop`].
pub fn execute(code: &[u8], context: &mut dyn Context) -> Result<Executed, Stop> {
    let mode = context.mode();
    let instruction = match decode(code, mode) {
        Ok(instruction) => instruction,
        Err(Undecodable::Truncated) => return Err(Stop::Truncated),
        Err(Undecodable::TooLong) => return Err(Stop::Exception(Exception::GP0.in_mode(mode))),
        Err(Undecodable::Invalid) => return Err(Stop::Exception(Exception::UD)),
        Err(Undecodable::Foreign) => return Err(Stop::Unsupported(InstructionBytes::new(code))),
    };
    let rip = context.rip();
    let own_bytes = || InstructionBytes::new(code.get(..instruction.len()).unwrap_or(code));
    let Some((operation, memory_width)) = operation::find(instruction.code()) else {
        return Err(Stop::Unsupported(own_bytes()));
    };
    match (Run { context, instruction: &instruction, operation, memory_width }).dispatch() {
        Ok(Progress::Done) => {
            let next = rip.wrapping_add(instruction.len() as u64);
            let mask = if mode == Mode::Long64 { u64::MAX } else { Width::Dword.mask() };
            Ok(Executed { next_rip: next & mask, finished: true })
        }
        Ok(Progress::Again) => Ok(Executed { next_rip: rip, finished: false }),
        Err(Abort::Fault(Fault::Exception(exception))) => Err(Stop::Exception(exception.in_mode(mode))),
        Err(Abort::Fault(Fault::Retry)) => Err(Stop::Retry),
        Err(Abort::Fault(Fault::Refused)) => Err(Stop::Refused(own_bytes())),
        Err(Abort::Unsupported) => Err(Stop::Unsupported(own_bytes())),
    }
}

/// Whether the instruction is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Done,
    Again,
}

/// Why a handler gave up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Abort {
    Fault(Fault),
    Unsupported,
}

impl From<Fault> for Abort {
    #[inline]
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Exception> for Abort {
    #[inline]
    fn from(exception: Exception) -> Self {
        Self::Fault(Fault::Exception(exception))
    }
}

/// An operand, found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Register(Gpr),
    Memory(Gva),
    Immediate(u64),
}

/// One instruction on its context.
pub(crate) struct Run<'a> {
    pub(crate) context: &'a mut dyn Context,
    pub(crate) instruction: &'a Instruction,
    operation: Operation,
    /// Of its operand in memory, where it has one.
    memory_width: Width,
}

impl Run<'_> {
    fn dispatch(&mut self) -> Result<Progress, Abort> {
        match self.operation {
            Operation::Move => self.mov(),
            Operation::MoveExtending { signed } => self.mov_extending(signed),
            Operation::MoveSwapping => self.mov_swapping(),
            Operation::Binary(binary) => self.binary(binary),
            Operation::Compare => self.compare(),
            Operation::Test => self.test(),
            Operation::Unary(unary) => self.unary(unary),
            Operation::BitTest(change) => self.bit_test(change),
            Operation::Exchange => self.exchange(),
            Operation::ExchangeAdd => self.exchange_add(),
            Operation::CompareExchange => self.compare_exchange(),
            Operation::CompareExchange8 => self.compare_exchange_8b(),
            Operation::CompareExchange16 => self.compare_exchange_16b(),
            Operation::In => self.port_in(),
            Operation::Out => self.port_out(),
            Operation::String(form) => self.string(form, self.memory_width),
            Operation::SetOn(condition) => self.set_on_condition(condition),
            Operation::MoveOn(condition) => self.move_on_condition(condition),
        }
    }

    /// Width of operand `index` where it is a register or memory.
    #[inline]
    pub(crate) fn width(&self, index: u32) -> Result<Width, Abort> {
        let width = match self.instruction.op_kind(index) {
            OpKind::Register => Gpr::from_register(self.instruction.op_register(index)).map(|gpr| gpr.width),
            OpKind::Memory => Some(self.memory_width),
            _ => None,
        };
        width.ok_or(Abort::Unsupported)
    }

    /// Finds operand `index`; memory is checked for an access of `width`.
    #[inline]
    pub(crate) fn place(&self, index: u32, width: Width, access: Access) -> Result<Place, Abort> {
        match self.instruction.op_kind(index) {
            OpKind::Register => Gpr::from_register(self.instruction.op_register(index))
                .map(Place::Register)
                .ok_or(Abort::Unsupported),
            OpKind::Memory => {
                let operand = MemoryOperand::of(self.instruction);
                Ok(Place::Memory(operand.linear(self.context, width.bytes(), access)?))
            }
            _ => self
                .instruction
                .try_immediate(index)
                .map(|value| Place::Immediate(value & width.mask()))
                .map_err(|_| Abort::Unsupported),
        }
    }

    /// The value at a place, zero-extended.
    #[inline]
    pub(crate) fn load(&mut self, place: Place, width: Width, access: Access) -> Result<u64, Abort> {
        match place {
            Place::Register(gpr) => Ok(gpr.get(self.context)),
            Place::Immediate(value) => Ok(value),
            Place::Memory(linear) => Ok(match width {
                Width::Byte => u64::from(u8::from_le_bytes(self.load_bytes(linear, access)?)),
                Width::Word => u64::from(u16::from_le_bytes(self.load_bytes(linear, access)?)),
                Width::Dword => u64::from(u32::from_le_bytes(self.load_bytes(linear, access)?)),
                Width::Qword => u64::from_le_bytes(self.load_bytes(linear, access)?),
            }),
        }
    }

    #[inline]
    pub(crate) fn load_bytes<const N: usize>(
        &mut self,
        linear: Gva,
        access: Access,
    ) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        match access {
            Access::Update => self.context.read_for_update(linear, &mut bytes)?,
            _ => self.context.read(linear, &mut bytes)?,
        }
        Ok(bytes)
    }

    /// Finds and loads operand `index`, which is only read.
    #[inline]
    pub(crate) fn value(&mut self, index: u32, width: Width) -> Result<u64, Abort> {
        let place = self.place(index, width, Access::Read)?;
        self.load(place, width, Access::Read)
    }

    /// Writes a place that nothing was read from.
    #[inline]
    pub(crate) fn store(&mut self, place: Place, width: Width, value: u64) -> Result<Progress, Abort> {
        match place {
            Place::Register(gpr) => gpr.set(self.context, value),
            Place::Immediate(_) => return Err(Abort::Unsupported),
            Place::Memory(linear) => {
                let bytes = value.to_le_bytes();
                let bytes = bytes.get(..width.bytes()).unwrap_or(&bytes);
                self.context.write(linear, bytes)?;
            }
        }
        Ok(Progress::Done)
    }

    /// Writes a place whose value was `old`, atomically where the instruction is.
    #[inline]
    pub(crate) fn replace(
        &mut self,
        place: Place,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<Progress, Abort> {
        let Place::Memory(linear) = place else { return self.store(place, width, new) };
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        match (old.get(..width.bytes()), new.get(..width.bytes())) {
            (Some(old), Some(new)) => self.replace_bytes(linear, old, new),
            _ => Err(Abort::Unsupported),
        }
    }

    pub(crate) fn replace_bytes(&mut self, linear: Gva, old: &[u8], new: &[u8]) -> Result<Progress, Abort> {
        let atomic = self.instruction.has_lock_prefix() || self.operation == Operation::Exchange;
        if !atomic {
            self.context.write(linear, new)?;
            return Ok(Progress::Done);
        }
        Ok(if self.context.update(linear, old, new)? { Progress::Done } else { Progress::Again })
    }
}
