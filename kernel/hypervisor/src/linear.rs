//! A guest's linear memory: its own page tables walked, RAM copied, devices called. Also the vCPU as the emulator sees it.

use emulator::walk::{AccessKind, Controls, PagingMode, Path, PhysicalMemory, WalkError};
use emulator::{Context, Exception, Fault, Mode, Segment, SegmentName, Width};
use vcpu::{Backend, Gpa, GuestMemory, Gva, Host, PAGE_SIZE, SystemRegister, Vcpu, WordSize, cr4};

use crate::guest::Guest;

/// Guest RAM as a page-table walk reads it.
struct Tables<'a, S>(&'a S);

impl<S: GuestMemory> PhysicalMemory for Tables<'_, S> {
    #[inline]
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        self.0.load_u32(gpa).ok()
    }

    #[inline]
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        self.0.load_u64(gpa).ok()
    }

    fn compare_exchange_u32(&self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        let exchanged = self.0.compare_exchange(gpa, WordSize::Four, old.into(), new.into()).ok()?;
        Some(exchanged.is_ok())
    }

    fn compare_exchange_u64(&self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        Some(self.0.compare_exchange(gpa, WordSize::Eight, old, new).ok()?.is_ok())
    }
}

/// Bytes from `linear` to the end of its page, at most `length`.
#[inline]
fn in_page(linear: Gva, length: usize) -> usize {
    length.min((PAGE_SIZE - linear.page_offset()) as usize)
}

/// What a page leaves of an access that crosses its end may be of any length; devices have it in aligned pieces, as on a bus.
#[cold]
fn in_pieces(
    gpa: Gpa,
    length: usize,
    mut piece: impl FnMut(Gpa, core::ops::Range<usize>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if length >= LARGEST_PIECE {
        return Err(Fault::Refused);
    }
    let mut done = 0;
    while done < length {
        let at = gpa.0.wrapping_add(done as u64);
        let fits =
            [4, 2, 1].into_iter().find(|size| at.is_multiple_of(*size as u64) && done + size <= length);
        let size = fits.unwrap_or(1);
        piece(Gpa(at), done..done + size)?;
        done += size;
    }
    Ok(())
}

/// Bytes that a device has at once.
const LARGEST_PIECE: usize = 8;

impl<B: Backend, V: Vcpu + ?Sized, H: Host> Guest<'_, '_, B, V, H> {
    /// How linear addresses are translated now.
    #[inline(always)]
    pub(crate) fn paging(&self) -> PagingMode {
        let vcpu = &self.vcpu;
        PagingMode::from(Controls {
            cr0: vcpu.read(SystemRegister::Cr0),
            cr3: vcpu.read(SystemRegister::Cr3),
            cr4: vcpu.read(SystemRegister::Cr4),
            efer: vcpu.read(SystemRegister::Efer),
            rflags: vcpu.rflags(),
            cpl: vcpu.cpl(),
            physical_address_bits: self.cpu.permissions.physical_bits,
        })
    }

    /// The guest-physical address behind a linear one.
    #[inline(always)]
    pub(crate) fn translate(
        &self,
        paging: &PagingMode,
        linear: Gva,
        kind: AccessKind,
    ) -> Result<Gpa, WalkError> {
        paging.translate(&Tables(self.space), linear, kind).map(|found| found.gpa)
    }

    /// The entries by which code at a linear address is found, and where it is: see [`PagingMode::path`].
    pub(crate) fn path(&self, paging: &PagingMode, linear: Gva) -> Option<(Path, Gpa)> {
        paging.path(&Tables(self.space), linear, AccessKind::Execute)
    }

    /// Copies the code at a linear address, as much of it as is RAM that can be fetched.
    pub(crate) fn read_code(&self, linear: Gva, buffer: &mut [u8]) -> Result<usize, WalkError> {
        let paging = self.paging();
        if in_page(linear, buffer.len()) == buffer.len() {
            let gpa = self.translate(&paging, linear, AccessKind::Execute)?;
            let read = self.space.read(gpa, buffer);
            return read.map(|()| buffer.len()).map_err(|missing| WalkError::NoTable { gpa: missing.gpa });
        }
        self.read_code_across_pages(&paging, linear, buffer)
    }

    #[cold]
    fn read_code_across_pages(
        &self,
        paging: &PagingMode,
        linear: Gva,
        buffer: &mut [u8],
    ) -> Result<usize, WalkError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = Gva(linear.0.wrapping_add(done as u64));
            let piece = in_page(at, rest.len());
            let gpa = match self.translate(paging, at, AccessKind::Execute) {
                Ok(gpa) => gpa,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            let Some(target) = rest.get_mut(..piece) else { break };
            if let Err(missing) = self.space.read(gpa, target) {
                if done == 0 {
                    return Err(WalkError::NoTable { gpa: missing.gpa });
                }
                break;
            }
            done += piece;
        }
        Ok(done)
    }

    /// Calls `piece` with each part of an access that lies in one page: where it is and which bytes of the access they
    /// are. All parts are translated before the first is touched.
    fn access(
        &mut self,
        linear: Gva,
        length: usize,
        kind: AccessKind,
        mut piece: impl FnMut(&mut Self, Gpa, core::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let paging = self.paging();
        let first = in_page(linear, length);
        let translate = |this: &Self, linear| {
            this.translate(&paging, linear, kind).map_err(|error| fault_of(error, linear))
        };
        let gpa = translate(self, linear)?;
        if first == length {
            return piece(self, gpa, 0..length);
        }
        let second = translate(self, Gva(linear.0.wrapping_add(first as u64)))?;
        piece(self, gpa, 0..first)?;
        piece(self, second, first..length)
    }

    fn read_physical(&mut self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), Fault> {
        if self.space.read(gpa, buffer).is_ok() {
            return Ok(());
        }
        let Some(width) = devices::Width::from_bytes(buffer.len()) else {
            return in_pieces(gpa, buffer.len(), |gpa, range| {
                self.read_physical(gpa, buffer.get_mut(range).ok_or(Fault::Refused)?)
            });
        };
        if self.space.is_ram(gpa) {
            return Err(Fault::Refused);
        }
        let value = self.mmio_read(gpa, width).to_le_bytes();
        buffer.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        Ok(())
    }

    fn write_physical(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), Fault> {
        if self.space.is_ram(gpa) {
            return self.space.write(gpa, bytes).map_err(|_| Fault::Refused);
        }
        let Some(width) = devices::Width::from_bytes(bytes.len()) else {
            return in_pieces(gpa, bytes.len(), |gpa, range| {
                self.write_physical(gpa, bytes.get(range).ok_or(Fault::Refused)?)
            });
        };
        let mut value = [0; 8];
        value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.mmio_write(gpa, width, u64::from_le_bytes(value));
        Ok(())
    }

    fn update_physical(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, Fault> {
        let size = match old.len() {
            4 => Some(WordSize::Four),
            8 => Some(WordSize::Eight),
            _ => None,
        };
        let aligned = gpa.0.is_multiple_of(old.len() as u64);
        match size {
            Some(size) if aligned && self.space.is_ram(gpa) => {
                let exchanged =
                    self.space.compare_exchange(gpa, size, little_endian(old), little_endian(new));
                exchanged.map(|result| result.is_ok()).map_err(|_| Fault::Refused)
            }
            // Of other sizes and alignments the guest's only vCPU is here, not writing.
            _ => self.write_physical(gpa, new).map(|()| true),
        }
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn fault_of(error: WalkError, linear: Gva) -> Fault {
    match error {
        WalkError::PageFault { error_code } => Fault::Exception(Exception::page_fault(error_code, linear)),
        WalkError::NoTable { .. } => Fault::Refused,
        WalkError::Contended => Fault::Retry,
    }
}

impl<B: Backend, V: Vcpu + ?Sized, H: Host> Context for Guest<'_, '_, B, V, H> {
    fn mode(&self) -> Mode {
        self.operating_mode()
    }

    fn rip(&self) -> u64 {
        self.vcpu.rip()
    }

    fn rflags(&self) -> u64 {
        self.vcpu.rflags()
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.vcpu.set_rflags(rflags);
    }

    fn gpr(&self, number: u8) -> u64 {
        self.vcpu.gpr(vcpu::Gpr::from_number(number))
    }

    fn set_gpr(&mut self, number: u8, value: u64) {
        self.vcpu.set_gpr(vcpu::Gpr::from_number(number), value);
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let name = match name {
            SegmentName::Es => vcpu::SegmentName::Es,
            SegmentName::Cs => vcpu::SegmentName::Cs,
            SegmentName::Ss => vcpu::SegmentName::Ss,
            SegmentName::Ds => vcpu::SegmentName::Ds,
            SegmentName::Fs => vcpu::SegmentName::Fs,
            SegmentName::Gs => vcpu::SegmentName::Gs,
        };
        let segment = self.vcpu.segment(name);
        Segment { base: segment.base, limit: segment.limit, attributes: segment.access.bits() }
    }

    fn linear_address_bits(&self) -> u32 {
        if self.vcpu.read(SystemRegister::Cr4) & cr4::LA57 == 0 { 48 } else { 57 }
    }

    fn read(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault> {
        self.access(linear, buffer.len(), AccessKind::Read, |guest, gpa, range| {
            guest.read_physical(gpa, buffer.get_mut(range).ok_or(Fault::Refused)?)
        })
    }

    fn write(&mut self, linear: Gva, bytes: &[u8]) -> Result<(), Fault> {
        self.access(linear, bytes.len(), AccessKind::Write, |guest, gpa, range| {
            guest.write_physical(gpa, bytes.get(range).ok_or(Fault::Refused)?)
        })
    }

    fn read_for_update(&mut self, linear: Gva, buffer: &mut [u8]) -> Result<(), Fault> {
        self.access(linear, buffer.len(), AccessKind::Write, |guest, gpa, range| {
            guest.read_physical(gpa, buffer.get_mut(range).ok_or(Fault::Refused)?)
        })
    }

    fn update(&mut self, linear: Gva, old: &[u8], new: &[u8]) -> Result<bool, Fault> {
        if in_page(linear, new.len()) != new.len() {
            return self.write(linear, new).map(|()| true);
        }
        let mut exchanged = true;
        self.access(linear, new.len(), AccessKind::Write, |guest, gpa, _| {
            exchanged = guest.update_physical(gpa, old, new)?;
            Ok(())
        })?;
        Ok(exchanged)
    }

    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Fault> {
        let width = devices::Width::from_bytes(width.bytes()).ok_or(Fault::Refused)?;
        Ok(Self::port_read(self, port, width))
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault> {
        let width = devices::Width::from_bytes(width.bytes()).ok_or(Fault::Refused)?;
        Self::port_write(self, port, width, value);
        Ok(())
    }
}
