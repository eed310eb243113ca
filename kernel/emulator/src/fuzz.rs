//! The entry of a fuzzer: any bytes are an instruction, a mode and a machine.

use vcpu::{Gpa, Gva};

use crate::walk::{AccessKind, Controls, PagingMode, PhysicalMemory};
use crate::{Context, Exception, Fault, Mode, Segment, SegmentName, Stop, Width};
use crate::{decode_intercept, execute, length};

/// Takes bytes from the front, zeros past the end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|_| self.byte()))
    }
}

/// A machine made of the fuzzer's bytes: memory that gives and swallows them, faults included.
struct Machine<'a> {
    source: Source<'a>,
    mode: Mode,
    registers: [u64; 16],
    rip: u64,
    rflags: u64,
    attributes: u32,
    accesses: u32,
}

impl Machine<'_> {
    fn outcome(&mut self) -> Result<(), Fault> {
        self.accesses += 1;
        match self.source.byte() {
            0xff => Err(Fault::Exception(Exception::page_fault(0, Gva(0)))),
            0xfe => Err(Fault::Retry),
            0xfd => Err(Fault::Refused),
            _ => Ok(()),
        }
    }
}

impl Context for Machine<'_> {
    fn mode(&self) -> Mode {
        self.mode
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        assert_eq!((rflags ^ self.rflags) & !crate::alu::STATUS, 0, "only status flags change");
        self.rflags = rflags;
    }
    fn gpr(&self, number: u8) -> u64 {
        self.registers[usize::from(number)]
    }
    fn set_gpr(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number)] = value;
    }
    fn segment(&self, name: SegmentName) -> Segment {
        let base = self.rip.rotate_left(name as u32 * 8);
        Segment { base, limit: self.rip as u32, attributes: self.attributes >> (name as u32) }
    }
    fn read(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault> {
        assert!(linear.checked_add(buffer.len() as u64 - 1).is_some());
        self.outcome()?;
        buffer.fill_with(|| self.source.byte());
        Ok(())
    }
    fn write(&mut self, linear: Gva, bytes: &[u8]) -> Result<(), Fault> {
        assert!(linear.checked_add(bytes.len() as u64 - 1).is_some());
        self.outcome()
    }
    fn update(&mut self, linear: Gva, old: &[u8], new: &[u8]) -> Result<bool, Fault> {
        assert_eq!(old.len(), new.len());
        self.write(linear, new)?;
        Ok(self.source.byte() & 1 == 0)
    }
    fn port_read(&mut self, _: u16, width: Width) -> Result<u32, Fault> {
        assert_ne!(width, Width::Qword);
        self.outcome()?;
        Ok(self.source.word() as u32)
    }
    fn port_write(&mut self, _: u16, width: Width, value: u32) -> Result<(), Fault> {
        assert_eq!(u64::from(value) & !width.mask(), 0);
        self.outcome()
    }
}

/// Page tables whose every entry is a hash of its address.
struct HashedTables(u64);

impl PhysicalMemory for HashedTables {
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        self.read_u64(gpa).map(|value| value as u32)
    }
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        assert_eq!(gpa.0 % 4, 0);
        let value = (gpa.0 ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (value & 0xf000 != 0).then_some(value & 0x800f_ffff_ffff_ffff | 1)
    }
    fn compare_exchange_u32(&self, gpa: Gpa, _: u32, _: u32) -> Option<bool> {
        Some(gpa.0 & 8 == 0)
    }
    fn compare_exchange_u64(&self, gpa: Gpa, _: u64, _: u64) -> Option<bool> {
        Some(gpa.0 & 8 == 0)
    }
}

const MODES: [Mode; 7] = [
    Mode::Long64,
    Mode::Real,
    Mode::Virtual8086,
    Mode::Protected16,
    Mode::Protected32,
    Mode::Compatibility16,
    Mode::Compatibility32,
];

/// Bytes of the instruction in a fuzzer's input; the mode and the machine follow.
const CODE_BYTES: usize = 15;

/// Runs whatever `data` says. It must return, whatever that is.
pub fn fuzz_one(data: &[u8]) {
    let (code, rest) = data.split_at_checked(CODE_BYTES).unwrap_or((data, &[]));
    let mut source = Source(rest);
    let mode = MODES[usize::from(source.byte()) % MODES.len()];
    let registers = core::array::from_fn(|_| source.word());
    let (rip, rflags) = (source.word(), source.word());
    let attributes = source.word() as u32;
    if let Some(intercepted) = decode_intercept(code, mode) {
        assert_eq!(length(code, mode), Some(intercepted.length));
    }
    let mut machine = Machine { source, mode, registers, rip, rflags, attributes, accesses: 0 };
    let result = execute(code, &mut machine);
    assert!(machine.accesses <= 3 * crate::REPEAT_BUDGET + 2);
    match result {
        Ok(executed) if executed.finished => assert!(length(code, mode).is_some()),
        Ok(executed) => assert_eq!(executed.next_rip, rip),
        Err(Stop::Truncated) => assert!(code.len() < CODE_BYTES),
        Err(_) => {}
    }
    let controls = Controls {
        cr0: registers[0],
        cr3: registers[1],
        cr4: registers[2],
        efer: registers[3],
        rflags,
        cpl: registers[4] as u8 & 3,
        physical_address_bits: registers[5] as u8,
    };
    for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
        let _ = PagingMode::from(controls).translate(&HashedTables(registers[6]), Gva(rip), kind);
    }
}
