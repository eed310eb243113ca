//! The vCPU as the emulator sees it.

use core::fmt;

use vcpu::Gva;

use crate::MAX_INSTRUCTION_LENGTH;

/// Exception vectors that the emulator raises (SDM vol. 3, "Exception and Interrupt Reference").
pub mod vector {
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Stack-segment fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
}

/// The operating mode: what the code segment and the control registers make of an instruction's bytes
/// (SDM vol. 3, "Modes of Operation").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// CR0.PE clear.
    Real,
    /// RFLAGS.VM set.
    Virtual8086,
    /// Protected mode, CS.D clear.
    Protected16,
    /// Protected mode, CS.D set.
    Protected32,
    /// EFER.LMA set, CS.L and CS.D clear.
    Compatibility16,
    /// EFER.LMA set, CS.L clear, CS.D set.
    Compatibility32,
    /// EFER.LMA and CS.L set.
    Long64,
}

impl Mode {
    /// Default operand and address size in bits as the decoder counts it: 16, 32 or 64.
    #[inline]
    pub const fn bitness(self) -> u32 {
        match self {
            Self::Real | Self::Virtual8086 | Self::Protected16 | Self::Compatibility16 => 16,
            Self::Protected32 | Self::Compatibility32 => 32,
            Self::Long64 => 64,
        }
    }

    /// True where segment types are not checked: a segment is a base and a limit only.
    #[inline]
    pub const fn has_plain_segments(self) -> bool {
        matches!(self, Self::Real | Self::Virtual8086)
    }
}

/// A segment register that can be part of an address, numbered as ModRM numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentName {
    /// Extra.
    Es,
    /// Code.
    Cs,
    /// Stack.
    Ss,
    /// Data.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// The hidden part of a segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Base, a linear address. In 64-bit mode used for FS and GS only.
    pub base: u64,
    /// The last valid offset, in bytes. Not used in 64-bit mode.
    pub limit: u32,
    /// Attributes in the layout of the VMCS access-rights field (SDM vol. 3, "Guest Register State"):
    /// descriptor bits 8 to 15 and 20 to 23, and bit 16 for "unusable".
    pub attributes: u32,
}

/// The size of a general-purpose or port operand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Width {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Word = 2,
    /// 4 bytes.
    Dword = 4,
    /// 8 bytes.
    Qword = 8,
}

impl Width {
    /// Bytes: 1, 2, 4 or 8.
    #[inline]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// Bits: 8, 16, 32 or 64.
    #[inline]
    pub const fn bits(self) -> u32 {
        self as u32 * 8
    }

    /// All bits of an operand of this width.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The most significant bit.
    #[inline]
    pub const fn sign_bit(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// The value's low bits, sign-extended to 64.
    #[inline]
    pub const fn sign_extend(self, value: u64) -> u64 {
        let shift = 64 - self.bits();
        (((value << shift) as i64) >> shift) as u64
    }
}

/// An exception for the guest (SDM vol. 3, "Exception and Interrupt Reference").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// The faulting linear address, for #PF.
    pub cr2: Option<Gva>,
}

impl Exception {
    /// #UD.
    pub const UD: Self = Self { vector: vector::UD, error_code: None, cr2: None };
    /// #GP(0).
    pub const GP0: Self = Self { vector: vector::GP, error_code: Some(0), cr2: None };
    /// #SS(0).
    pub const SS0: Self = Self { vector: vector::SS, error_code: Some(0), cr2: None };

    /// #PF with its error code and linear address.
    #[inline]
    pub const fn page_fault(error_code: u32, address: Gva) -> Self {
        Self { vector: vector::PF, error_code: Some(error_code), cr2: Some(address) }
    }

    /// The same as `mode` delivers it: real mode has no error codes.
    #[inline]
    pub(crate) const fn in_mode(self, mode: Mode) -> Self {
        if matches!(mode, Mode::Real) { Self { error_code: None, ..self } } else { self }
    }
}

/// Why a [`Context`] did not do a memory or port access. The instruction then has no effect (of a repeated
/// string instruction: the iterations before stay done).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The guest gets this exception.
    Exception(Exception),
    /// Not now: run the instruction again later. A read that it did before is then done again.
    Retry,
    /// Not at all: the implementor cannot or will not do this access.
    Refused,
}

/// Why [`crate::execute`] did not finish. RIP, flags and registers are as before the instruction or, for a
/// repeated string instruction, after its last whole iteration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Inject this exception.
    Exception(Exception),
    /// The context asked for a later repetition.
    Retry,
    /// The context refused an access of this instruction.
    Refused(InstructionBytes),
    /// A valid instruction that this emulator does not execute.
    Unsupported(InstructionBytes),
    /// The given bytes end before the instruction does; the guest's next page could not be fetched.
    Truncated,
}

/// The bytes of one instruction, for messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; MAX_INSTRUCTION_LENGTH],
    length: u8,
}

impl InstructionBytes {
    /// At most the first 15 of these bytes.
    pub fn new(code: &[u8]) -> Self {
        let mut bytes = [0; MAX_INSTRUCTION_LENGTH];
        let mut length = 0;
        for (to, from) in bytes.iter_mut().zip(code) {
            *to = *from;
            length += 1;
        }
        Self { bytes, length }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

impl fmt::Display for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.as_slice().iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// The vCPU that an instruction runs on. Linear addresses are translated, with the guest's permissions, by
/// the implementor ([`crate::walk`] helps); segmentation and canonical checks are done by the emulator.
///
/// Every access is at most 16 bytes and may cross a page.
pub trait Context {
    /// The operating mode.
    fn mode(&self) -> Mode;

    /// Address of the instruction, an offset in CS.
    fn rip(&self) -> u64;

    /// RFLAGS.
    fn rflags(&self) -> u64;

    /// Sets RFLAGS. Only the six status flags ever differ from what [`Self::rflags`] returned.
    fn set_rflags(&mut self, rflags: u64);

    /// All 64 bits of general-purpose register `number` (0 to 15 as ModRM and REX number them).
    fn gpr(&self, number: u8) -> u64;

    /// Writes all 64 bits of a general-purpose register; the emulator has merged partial writes.
    fn set_gpr(&mut self, number: u8, value: u64);

    /// The hidden part of a segment register.
    fn segment(&self, name: SegmentName) -> Segment;

    /// Width of a canonical linear address: 48 bits, 57 where CR4.LA57 is set. Asked in 64-bit mode only.
    #[inline]
    fn linear_address_bits(&self) -> u32 {
        48
    }

    /// Fills `buffer` from guest memory or a device. On an error nothing may have been read from a device.
    fn read(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault>;

    /// Writes `bytes`. On an error nothing may have been written.
    fn write(&mut self, linear: Gva, bytes: &[u8]) -> Result<(), Fault>;

    /// As [`Self::read`], for a read whose write follows: a page fault is that of a write.
    #[inline]
    fn read_for_update(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault> {
        self.read(linear, buffer)
    }

    /// Writes `new` where [`Self::read_for_update`] just gave `old` (of the same length), for an instruction
    /// that is atomic (LOCK, or XCHG). `Ok(false)`: memory holds something else meanwhile, nothing was written, and
    /// the instruction is to run again. The default suits device memory and RAM that nobody else writes;
    /// with RAM that other vCPUs use this must be a compare-and-exchange.
    #[inline]
    fn update(&mut self, linear: Gva, old: &[u8], new: &[u8]) -> Result<bool, Fault> {
        let _ = old;
        self.write(linear, new).map(|()| true)
    }

    /// Tells the page fault, if any, that a write of `length` bytes would raise. Asked before a string
    /// instruction reads a value (MOVS, INS) that a device may give only once; the default says there is
    /// none, and the value is lost where the write then faults.
    #[inline]
    fn announce_write(&mut self, linear: Gva, length: usize) -> Result<(), Fault> {
        let _ = (linear, length);
        Ok(())
    }

    /// Reads a port; `width` is at most a doubleword. Bits above the width are ignored.
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Fault>;

    /// Writes a port; `width` is at most a doubleword, bits above it are clear.
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault>;
}
