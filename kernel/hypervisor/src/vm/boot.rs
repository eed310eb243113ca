//! From cleared memory to a kernel's entry: firmware's tables, the kernel, and the state of all vCPUs.

use devices::Vga;
use loader::{EntryState, LOW_AREA_SIZE, OutOfRange, Progress, Request, SegmentState, TextScreen};
use vcpu::{
    Backend, DescriptorTable, DescriptorTableName, Framebuffer, Gpa, GuestMemory, HostScreen, NotRam,
    Segment, SegmentAccess, SegmentName, SystemRegister, Vcpu, WithVcpu,
};

use super::slot::Slot;
use super::{StartError, Vm, rom};
use crate::memory_map::RamRange;
use crate::processor::{Processor, VirtualCpu};
use crate::screen;

/// How far the clearing of a VM's memory has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scrub {
    range: usize,
    done: u64,
}

/// Where the first vCPU begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Where a processor begins after power-up, in the firmware.
    PowerUp,
    /// At a kernel's entry.
    Entry(EntryState),
}

/// How far the loading has come.
pub(super) enum Loading {
    /// So many bytes.
    Until(u64),
    /// All is in place.
    Done(Start),
    /// What is ours is; the rest comes from outside.
    Held,
}

/// Bytes cleared or copied in one step.
const STEP_BYTES: u64 = 64 << 10;

impl Scrub {
    /// Clears the next bytes; true when all are done.
    pub(super) fn step<M: GuestMemory>(&mut self, memory: &M, ram: &[RamRange]) -> Result<bool, NotRam> {
        let Some(range) = ram.get(self.range) else { return Ok(true) };
        let length = STEP_BYTES.min(range.length - self.done);
        memory.zero(Gpa(range.start.0 + self.done), length)?;
        self.done += length;
        if self.done == range.length {
            *self = Self { range: self.range + 1, done: 0 };
        }
        Ok(self.range == ram.len())
    }
}

impl<B: Backend> Vm<'_, B> {
    /// Puts firmware, or tables and kernel, into cleared memory: a piece, after the first `done` bytes.
    pub(super) fn load(&self, space: &B::Space, done: u64) -> Result<Loading, StartError> {
        if self.config.held {
            // Firmware has them from its configuration device.
            if self.config.firmware.is_none() {
                space.write(self.tables.base, &self.tables.bytes)?;
            }
            return Ok(Loading::Held);
        }
        if self.config.firmware.is_some() {
            let placed = rom::place(space, self.config.kernel, done, STEP_BYTES)?;
            return Ok(placed.map_or(Loading::Done(Start::PowerUp), Loading::Until));
        }
        Ok(match self.load_kernel_file(space, done)? {
            Progress::Until(done) => Loading::Until(done),
            Progress::Done(loaded) => Loading::Done(Start::Entry(loaded.entry)),
        })
    }

    fn load_kernel_file(&self, space: &B::Space, done: u64) -> Result<Progress, StartError> {
        let tables = &self.tables;
        if done == 0 {
            space.write(tables.base, &tables.bytes)?;
        }
        let usual = Request::new(self.config.kernel, &self.map.e820);
        let (load_address, low_area) = match self.hardware {
            Some(_) => (self.map.kernel_place(), self.map.low_place(LOW_AREA_SIZE).unwrap_or(usual.low_area)),
            None => (usual.load_address, usual.low_area),
        };
        let (screen, framebuffer) = self.screen();
        let request = Request {
            framebuffer,
            load_address,
            low_area,
            protocol: self.config.protocol,
            initrd: self.config.initrd,
            modules: &self.config.modules,
            screen,
            command_line: self.config.command_line.as_bytes(),
            rsdp: Some(tables.rsdp()),
            ..usual
        };
        let progress = loader::load_some(&request, &mut Ram(space), done, STEP_BYTES)?;
        if let Progress::Done(loaded) = &progress {
            log::debug!("vm {}: {} kernel, entered by {}", self.name, loaded.format, loaded.protocol);
        }
        Ok(progress)
    }

    /// The screen that its kernel is told of: that of its VGA adapter, or the machine's.
    fn screen(&self) -> (Option<TextScreen>, Option<Framebuffer>) {
        let Some(hardware) = &self.hardware else {
            return (self.config.devices.vga_text.then_some(screen::DESCRIPTION), None);
        };
        match hardware.machine().screen() {
            HostScreen::None => (None, None),
            HostScreen::Text { columns, rows } => (Some(TextScreen { base: Vga::TEXT, columns, rows }), None),
            HostScreen::Pixels(framebuffer) => (None, Some(framebuffer)),
        }
    }

    /// Puts a vCPU in the state after power-up, and the first one at the kernel's entry. Its time began at `started`.
    pub(super) fn enter_at_power_up(
        &self,
        slot: &Slot<B>,
        VirtualCpu { vcpu, cpu }: &mut VirtualCpu<B>,
        start: &Start,
        started: u64,
    ) {
        slot.inbox.clear();
        if let Some(hardware) = &self.hardware {
            hardware.machine().lend_screen(true);
        }
        B::with_vcpu(vcpu, PowerUp { cpu, start, started });
        slot.inbox.publish(&cpu.apic);
        slot.publish(cpu);
    }
}

/// A vCPU's way to the state after power-up, or to a kernel's entry.
struct PowerUp<'a> {
    cpu: &'a mut Processor,
    start: &'a Start,
    started: u64,
}

impl WithVcpu for PowerUp<'_> {
    type Output = ();

    fn call<V: Vcpu>(self, vcpu: &mut V) {
        vcpu.load();
        self.cpu.reset(vcpu, self.started);
        if let Start::Entry(entry) = self.start
            && self.cpu.is_bootstrap()
        {
            enter(vcpu, self.cpu, entry);
        }
        vcpu.unload();
    }
}

/// Puts a vCPU that was reset into the state in which a kernel is entered.
fn enter(vcpu: &mut (impl Vcpu + ?Sized), cpu: &mut Processor, entry: &EntryState) {
    let segment = |state: &SegmentState| Segment {
        selector: state.selector,
        base: state.base,
        limit: state.limit,
        access: SegmentAccess::from_bits_retain(state.attributes),
    };
    let registers = vcpu.registers_mut();
    registers.set_rax(entry.rax);
    registers.set_rbx(entry.rbx);
    registers.set_rsi(entry.rsi);
    vcpu.set_rip(entry.rip);
    vcpu.set_rsp(entry.rsp);
    vcpu.set_rflags(entry.rflags);
    vcpu.set_segment(SegmentName::Cs, segment(&entry.code));
    for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss, SegmentName::Fs, SegmentName::Gs] {
        vcpu.set_segment(name, segment(&entry.data));
    }
    let task = Segment { selector: 0, base: 0, limit: 0xffff, access: SegmentAccess::BUSY_TSS };
    vcpu.set_segment(SegmentName::Tr, task);
    vcpu.set_table(
        DescriptorTableName::Gdtr,
        DescriptorTable { base: entry.gdt_base, limit: entry.gdt_limit },
    );
    vcpu.write(SystemRegister::Cr3, entry.cr3);
    vcpu.write(SystemRegister::Efer, entry.efer);
    cpu.write_cr4(vcpu, entry.cr4);
    vcpu.write(SystemRegister::Cr0, entry.cr0);
}

/// Guest memory as the loader writes it.
struct Ram<'a, S>(&'a S);

impl<S: GuestMemory> loader::GuestMemory for Ram<'_, S> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.0.write(gpa, bytes).map_err(|missing| OutOfRange { gpa: missing.gpa })
    }

    fn zero(&mut self, gpa: Gpa, length: u64) -> Result<(), OutOfRange> {
        self.0.zero(gpa, length).map_err(|missing| OutOfRange { gpa: missing.gpa })
    }
}
