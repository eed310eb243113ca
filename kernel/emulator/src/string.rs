//! String instructions and port instructions (SDM vol. 1, "String Operations", "I/O Instructions"; vol. 2,
//! "REP/REPE/REPZ/REPNE/REPNZ").

use iced_x86::OpKind;
use vcpu::{Gva, PAGE_SIZE};

use crate::alu::{self, DF, TF, ZF};
use crate::data::RAX;
use crate::execute::{Abort, Place, Progress, Run};
use crate::operand::{linear_address, segment_name};
use crate::{Access, Gpr, SegmentName, Width};

/// Iterations of a repeated string instruction per call. Few enough that a slow device keeps nobody waiting
/// long, enough that the exit around them does not count.
pub const REPEAT_BUDGET: u32 = 256;

const RCX: u8 = 1;
const RDX: u8 = 2;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// A string instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

impl Form {
    const fn uses_source(self) -> bool {
        matches!(self, Self::Movs | Self::Lods | Self::Cmps | Self::Outs)
    }

    const fn uses_destination(self) -> bool {
        matches!(self, Self::Movs | Self::Stos | Self::Cmps | Self::Scas | Self::Ins)
    }

    const fn compares(self) -> bool {
        matches!(self, Self::Cmps | Self::Scas)
    }
}

/// Where a string instruction stands between two iterations, kept out of the context until it stops.
struct Cursor {
    /// SI, DI and the count at the address width.
    source: Gpr,
    destination: Gpr,
    count: Gpr,
    source_offset: u64,
    destination_offset: u64,
    remaining: u64,
    rflags: u64,
    segment: SegmentName,
    /// The page that the last write was announced for.
    announced: Option<Gva>,
}

impl Run<'_> {
    pub(crate) fn string(&mut self, form: Form, width: Width) -> Result<Progress, Abort> {
        let mut cursor = self.cursor();
        let repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        if !repeated {
            self.string_element(form, width, &mut cursor)?;
            self.commit(form, &cursor);
            return Ok(Progress::Done);
        }
        let mut result = Ok(Progress::Done);
        // Single-stepping traps after each element.
        let mut budget = if cursor.rflags & TF != 0 { 1 } else { REPEAT_BUDGET };
        while cursor.remaining != 0 {
            if budget == 0 {
                result = Ok(Progress::Again);
                break;
            }
            budget -= 1;
            if let Err(abort) = self.string_element(form, width, &mut cursor) {
                result = Err(abort);
                break;
            }
            cursor.remaining -= 1;
            let equal = cursor.rflags & ZF != 0;
            if form.compares() && equal == self.instruction.has_repne_prefix() {
                break;
            }
        }
        cursor.count.set(self.context, cursor.remaining);
        self.commit(form, &cursor);
        result
    }

    fn cursor(&self) -> Cursor {
        let width = [self.instruction.op0_kind(), self.instruction.op1_kind()]
            .into_iter()
            .find_map(string_address_width)
            .unwrap_or(Width::Qword);
        let (source, destination, count) = (Gpr::new(RSI, width), Gpr::new(RDI, width), Gpr::new(RCX, width));
        Cursor {
            source,
            destination,
            count,
            source_offset: source.get(self.context),
            destination_offset: destination.get(self.context),
            remaining: count.get(self.context),
            rflags: self.context.rflags(),
            segment: segment_name(self.instruction.memory_segment()),
            announced: None,
        }
    }

    fn commit(&mut self, form: Form, cursor: &Cursor) {
        if form.uses_source() {
            cursor.source.set(self.context, cursor.source_offset);
        }
        if form.uses_destination() {
            cursor.destination.set(self.context, cursor.destination_offset);
        }
        if form.compares() {
            self.context.set_rflags(cursor.rflags);
        }
    }

    /// One iteration; on an error nothing of it has happened.
    fn string_element(&mut self, form: Form, width: Width, cursor: &mut Cursor) -> Result<(), Abort> {
        match form {
            Form::Movs => {
                let to = self.string_target(width, cursor)?;
                let value = self.string_source(width, cursor)?;
                self.store(to, width, value)?;
            }
            Form::Stos => {
                let to = self.string_place(width, cursor, Access::Write)?;
                let value = Gpr::new(RAX, width).get(self.context);
                self.store(to, width, value)?;
            }
            Form::Lods => {
                let value = self.string_source(width, cursor)?;
                Gpr::new(RAX, width).set(self.context, value);
            }
            Form::Cmps | Form::Scas => {
                let a = match form {
                    Form::Cmps => self.string_source(width, cursor)?,
                    _ => Gpr::new(RAX, width).get(self.context),
                };
                let place = self.string_place(width, cursor, Access::Read)?;
                let b = self.load(place, width, Access::Read)?;
                cursor.rflags = alu::compare(width, a, b).apply(cursor.rflags);
            }
            Form::Ins => {
                let to = self.string_target(width, cursor)?;
                let value = self.context.port_read(self.port(), width)?;
                self.store(to, width, u64::from(value))?;
            }
            Form::Outs => {
                let value = self.string_source(width, cursor)?;
                self.context.port_write(self.port(), width, value as u32)?;
            }
        }
        let bytes = width.bytes() as u64;
        let step = if cursor.rflags & DF == 0 { bytes } else { bytes.wrapping_neg() };
        let mask = cursor.source.width.mask();
        if form.uses_source() {
            cursor.source_offset = cursor.source_offset.wrapping_add(step) & mask;
        }
        if form.uses_destination() {
            cursor.destination_offset = cursor.destination_offset.wrapping_add(step) & mask;
        }
        Ok(())
    }

    fn string_source(&mut self, width: Width, cursor: &Cursor) -> Result<u64, Abort> {
        let offset = cursor.source_offset;
        let linear = linear_address(self.context, cursor.segment, offset, width.bytes(), Access::Read)?;
        self.load(Place::Memory(linear), width, Access::Read)
    }

    /// ES:DI.
    fn string_place(&mut self, width: Width, cursor: &Cursor, access: Access) -> Result<Place, Abort> {
        let offset = cursor.destination_offset;
        let linear = linear_address(self.context, SegmentName::Es, offset, width.bytes(), access)?;
        Ok(Place::Memory(linear))
    }

    /// ES:DI for a write whose value comes from a place that may lose it by being read: the write's fault has
    /// to come first.
    fn string_target(&mut self, width: Width, cursor: &mut Cursor) -> Result<Place, Abort> {
        let place = self.string_place(width, cursor, Access::Write)?;
        if let Place::Memory(linear) = place {
            let crosses = linear.page_offset() + width.bytes() as u64 > PAGE_SIZE;
            if crosses || cursor.announced != Some(linear.page()) {
                self.context.announce_write(linear, width.bytes())?;
                cursor.announced = Some(linear.page());
            }
        }
        Ok(place)
    }

    fn port(&self) -> u16 {
        self.context.gpr(RDX) as u16
    }

    pub(crate) fn port_in(&mut self) -> Result<Progress, Abort> {
        let width = self.width(0)?;
        let port = self.value(1, Width::Word)? as u16;
        let value = self.context.port_read(port, width)?;
        Gpr::new(RAX, width).set(self.context, u64::from(value));
        Ok(Progress::Done)
    }

    pub(crate) fn port_out(&mut self) -> Result<Progress, Abort> {
        let width = self.width(1)?;
        let port = self.value(0, Width::Word)? as u16;
        let value = self.value(1, width)? as u32;
        self.context.port_write(port, width, value)?;
        Ok(Progress::Done)
    }
}

/// The address width that a string operand names.
fn string_address_width(kind: OpKind) -> Option<Width> {
    match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(Width::Word),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(Width::Dword),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(Width::Qword),
        _ => None,
    }
}
