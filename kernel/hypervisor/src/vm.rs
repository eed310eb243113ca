//! A virtual machine: made once, started and restarted, stopped.

use core::fmt;

use devices::acpi::{self, AcpiConfig, AcpiError};
use devices::fw_cfg::FileError;
use devices::{Chipset, ChipsetConfig, Environment, PortTaken};
use loader::{EntryState, LoadError, OutOfRange, Request, SegmentState};
use vcpu::{
    AddressSpace, Backend, CreateError, DescriptorTable, DescriptorTableName, Gpa, GuestMemory, Host,
    MemoryError, Nanos, NotRam, Segment, SegmentAccess, SegmentName, SystemRegister, Vcpu,
};

use crate::config::VmConfig;
use crate::firmware::add_devices;
use crate::guest::Board;
use crate::memory_map::{ACPI_TABLES, ACPI_TABLES_SIZE, MemoryMap, PCI_MEMORY, RamRange};
use crate::processor::{Activity, Attention, Processor};
use crate::ratelimit::RateLimits;
use crate::screen::{self, Screen};
use crate::stop::StopReason;

/// Why a VM could not be made or started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartError {
    /// No address space or vCPU.
    Create(CreateError),
    /// No memory for it.
    Memory(MemoryError),
    /// Its kernel or initrd.
    Load(LoadError),
    /// Its ACPI tables: our error.
    Tables(AcpiError),
    /// A port that its line gives away is another device's.
    Port(PortTaken),
    /// A file for its firmware cannot be given.
    File(FileError),
    /// Guest memory is not where the memory map says: our error.
    NotRam(NotRam),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Tables(error) => write!(f, "no ACPI tables: {error:?} (an error of Basalt)"),
            Self::Port(PortTaken { port }) => {
                write!(f, "debug-exit={port:#x}: another device has this port; choose one such as 0x501")
            }
            Self::File(FileError::Twice) => f.write_str(
                "two files for the firmware have the same name, or one has that of a file of Basalt's; rename it",
            ),
            Self::File(error) => write!(f, "a file for the firmware cannot be given: {error:?}"),
            Self::NotRam(error) => write!(f, "no RAM at {} (an error of Basalt)", error.gpa),
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident,)*) => { $(
        impl From<$error> for StartError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )* };
}

from! {
    CreateError => Create,
    MemoryError => Memory,
    LoadError => Load,
    AcpiError => Tables,
    NotRam => NotRam,
    PortTaken => Port,
    FileError => File,
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    /// Its memory is being cleared for a restart.
    Resetting(Scrub),
    /// Its vCPU runs or waits.
    Running,
    /// It has ended.
    Stopped(StopReason),
}

/// How far the clearing of a VM's memory has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scrub {
    range: usize,
    done: u64,
}

/// Bytes cleared in one step.
const SCRUB_STEP: u64 = 64 << 10;

impl Scrub {
    /// Clears the next bytes; true when all are done.
    fn step<M: GuestMemory>(&mut self, memory: &M, ram: &[RamRange]) -> Result<bool, NotRam> {
        let Some(range) = ram.get(self.range) else { return Ok(true) };
        let length = SCRUB_STEP.min(range.length - self.done);
        memory.zero(Gpa(range.start.0 + self.done), length)?;
        self.done += length;
        if self.done == range.length {
            *self = Self { range: self.range + 1, done: 0 };
        }
        Ok(self.range == ram.len())
    }
}

/// A virtual machine.
pub(crate) struct Vm<'m, B: Backend> {
    pub(crate) config: VmConfig<'m>,
    pub(crate) map: MemoryMap,
    /// Its one vCPU.
    pub(crate) cpu: Processor<B>,
    /// What its vCPUs share.
    pub(crate) board: Board<'m, B>,
    pub(crate) state: State,
}

impl<'m, B: Backend> Vm<'m, B> {
    /// Makes a VM and loads its kernel. Nothing is left behind on an error.
    pub(crate) fn new<H: Host>(backend: &B, host: &H, config: VmConfig<'m>) -> Result<Self, StartError> {
        let mut map = MemoryMap::new(config.memory);
        let screen = config.devices.vga_text.then(Screen::new);
        if screen.is_some() {
            map = map.with_text_memory();
        }
        let mut space = backend.create_space()?;
        for range in &map.ram {
            space.add_ram(range.start, range.length)?;
        }
        let mut cpu = Processor::new(backend, &space, host)?;
        let mut chipset = Chipset::new(&ChipsetConfig {
            memory: map.size,
            wall_clock: host.wall_clock_s(),
            now: host.now(),
        });
        add_devices(&mut chipset, &config, &map)?;
        cpu.vcpu.load();
        let board = Board {
            space,
            chipset,
            chipset_deadline: None,
            limits: RateLimits::default(),
            waits_for_console: false,
            screen,
        };
        let mut vm = Self { config, map, cpu, board, state: State::Running };
        let booted = vm.boot(host);
        vm.cpu.vcpu.unload();
        booted.map(|()| vm)
    }

    /// Begins a restart. Its vCPU is loaded.
    pub(crate) fn reset(&mut self) {
        self.state = State::Resetting(Scrub::default());
    }

    /// Goes on with a restart; true when the guest is about to run. Its vCPU is loaded.
    pub(crate) fn reset_step<H: Host>(&mut self, scrub: &mut Scrub, host: &H) -> Result<bool, StartError> {
        if !scrub.step(&self.board.space, &self.map.ram)? {
            return Ok(false);
        }
        self.board.chipset.reset(host.now());
        self.board.waits_for_console = false;
        self.boot(host)?;
        self.state = State::Running;
        Ok(true)
    }

    /// Puts tables and kernel into cleared memory and the vCPU at the kernel's entry. Its vCPU is loaded.
    fn boot<H: Host>(&mut self, host: &H) -> Result<(), StartError> {
        let apic_ids = [self.cpu.apic.apic_id()];
        let config = AcpiConfig { apic_ids: &apic_ids, pci_memory: PCI_MEMORY, pci_memory_64: None };
        let tables = acpi::build(&config, ACPI_TABLES)?;
        if tables.bytes.len() as u64 > ACPI_TABLES_SIZE {
            return Err(AcpiError::Base(tables.base).into());
        }
        self.board.space.write(tables.base, &tables.bytes)?;
        let request = Request {
            protocol: self.config.protocol,
            initrd: self.config.initrd,
            modules: &self.config.modules,
            screen: self.config.devices.vga_text.then_some(screen::DESCRIPTION),
            command_line: self.config.command_line.as_bytes(),
            rsdp: Some(tables.rsdp()),
            ..Request::new(self.config.kernel, &self.map.e820)
        };
        let loaded = loader::load(&request, &mut Ram(&self.board.space))?;
        log::debug!("vm {}: {} kernel, entered by {}", self.config.name, loaded.format, loaded.protocol);
        self.cpu.reset(host);
        enter(&mut self.cpu, &loaded.entry);
        Ok(())
    }

    /// True where its vCPU could run, or there is work for it.
    pub(crate) fn is_runnable(&self) -> bool {
        match self.state {
            State::Resetting(_) => true,
            State::Running => self.cpu.activity == Activity::Running && !self.board.waits_for_console,
            State::Stopped(_) => false,
        }
    }

    /// True until it has ended.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, State::Stopped(_))
    }

    /// When its timers next need the CPU.
    pub(crate) fn deadline(&self) -> Nanos {
        if !self.is_alive() {
            return Nanos::NEVER;
        }
        self.cpu.deadline().min(self.board.chipset.next_deadline().unwrap_or(Nanos::NEVER))
    }

    /// Wakes its vCPU where an interrupt waits for it.
    pub(crate) fn wake(&mut self) {
        let apic = &self.cpu.apic;
        let not_maskable = apic.nmi_pending() || apic.init_or_startup_pending();
        let maskable =
            || apic.pending_vector().is_some() || apic.accepts_pic() && self.board.chipset.pic_interrupt();
        let wakes = match self.cpu.activity {
            Activity::Running => false,
            Activity::Halted => not_maskable || maskable(),
            Activity::HaltedMasked => not_maskable,
        };
        if wakes {
            self.cpu.activity = Activity::Running;
            self.cpu.attention |= Attention::INTERRUPTS;
        }
    }
}

/// Lets timers that are due catch up with `now`.
#[inline]
pub(crate) fn advance_timers(
    chipset: &mut Chipset<'_>,
    chipset_deadline: Option<Nanos>,
    now: Nanos,
    environment: &mut impl Environment,
) -> Option<Nanos> {
    if chipset_deadline.is_some_and(|deadline| deadline <= now) {
        chipset.advance(now, environment);
        return chipset.next_deadline();
    }
    chipset_deadline
}

/// Puts a vCPU that was reset into the state in which a kernel is entered.
fn enter<B: Backend>(cpu: &mut Processor<B>, entry: &EntryState) {
    let segment = |state: &SegmentState| Segment {
        selector: state.selector,
        base: state.base,
        limit: state.limit,
        access: SegmentAccess::from_bits_retain(state.attributes),
    };
    let vcpu = &mut cpu.vcpu;
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
    cpu.write_cr4(entry.cr4);
    cpu.vcpu.write(SystemRegister::Cr0, entry.cr0);
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
