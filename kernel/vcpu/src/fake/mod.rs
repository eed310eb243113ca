//! A scripted backend and host for tests of the crates above: exits in, outcomes out.
//!
//! A guest is a [`Program`]: a closure that is called at each run, sees and changes the virtual CPU as guest
//! instructions would, and says why the guest leaves. Everything that the hypervisor does to the vCPU is kept
//! in a [`Journal`]. Time is a counter that only moves when something runs or waits, so tests are exact.
//!
//! What it allocates itself does not count where a test asserts that nothing is allocated (crate `assert_no_alloc`).
//!
//! It is no CPU: it executes nothing and checks nothing but what the contract says about call order
//! ([`crate::Vcpu`]: accessors only between `load` and `unload`).

mod apic;
mod cpu;
mod hardware;
mod host;
mod image;
mod pci;
mod random;
mod space;
mod vcpu;

use core::fmt;
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::vec::Vec;

use assert_no_alloc::permit_alloc;

use crate::{
    ApicAssists, Backend, CpuidResult, CreateError, Event, Exit, Gpa, GuestMemory, Hardware, SegmentName,
    SystemRegister, TscScaling, WithVcpu, rflags,
};

pub use apic::FakeApic;
pub use cpu::Cpu;
pub use hardware::FakeHardware;
pub use host::{Clock, FakeHost, TSC_START};
pub use image::FakeImage;
pub use pci::{FakeBar, FakeFunction};
pub use random::FakeRandom;
pub use space::{Bank, FakeSpace};
pub use vcpu::FakeVcpu;

/// What a guest does between two exits.
pub type Program = Box<dyn FnMut(&mut Guest<'_>) -> Exit>;

/// Everything the hypervisor did to a vCPU, in order; shared between the vCPU and the test.
pub type Journal = Rc<RefCell<Vec<Action>>>;

/// One thing that the hypervisor did to a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// [`Vcpu::load`].
    Load,
    /// [`Vcpu::unload`].
    Unload,
    /// [`Vcpu::reset`].
    Reset,
    /// [`Vcpu::advance`] to this address.
    Advance(u64),
    /// [`Vcpu::inject`].
    Inject(Event),
    /// [`Vcpu::request_interrupt_window`].
    InterruptWindow(bool),
    /// [`Vcpu::request_nmi_window`].
    NmiWindow(bool),
    /// [`Vcpu::write`].
    Write(SystemRegister, u64),
    /// [`Vcpu::set_tsc_offset`].
    TscOffset(u64),
    /// [`Vcpu::set_tsc_scale`].
    TscScale(u64),
    /// A flush of its translations was asked for.
    FlushTlb,
    /// [`Vcpu::set_pdptes`].
    Pdptes([u64; 4]),
}

/// A guest in the middle of its program.
#[derive(Debug)]
pub struct Guest<'a> {
    /// Its virtual CPU.
    pub cpu: &'a mut Cpu,
    /// Its memory.
    pub memory: &'a FakeSpace,
    /// How often the program was called before, since the last reset.
    pub step: usize,
    /// How often the vCPU was reset.
    pub resets: usize,
    /// The machine's clock.
    pub clock: &'a Clock,
}

impl Guest<'_> {
    /// Leaves by CPUID with this leaf and subleaf.
    pub fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Exit {
        self.cpu.registers.set_rax(leaf.into());
        self.cpu.registers.set_rcx(subleaf.into());
        Exit::Cpuid
    }

    /// Leaves by RDMSR.
    pub fn read_msr(&mut self, number: u32) -> Exit {
        self.cpu.registers.set_rcx(number.into());
        Exit::ReadMsr
    }

    /// Leaves by WRMSR.
    pub fn write_msr(&mut self, number: u32, value: u64) -> Exit {
        self.cpu.registers.set_rcx(number.into());
        self.cpu.registers.set_edx_eax(value);
        Exit::WriteMsr
    }

    /// Leaves by OUT.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) -> Exit {
        self.cpu.registers.set_rax(value.into());
        Exit::Io(crate::IoExit::new(port, size, false, false))
    }

    /// Leaves by IN.
    pub fn port_read(&mut self, port: u16, size: u8) -> Exit {
        Exit::Io(crate::IoExit::new(port, size, true, false))
    }

    /// Leaves by HLT with interrupts on.
    pub fn halt(&mut self) -> Exit {
        self.cpu.rflags |= rflags::IF;
        Exit::Halt
    }

    /// Puts code at RIP (a guest-physical address while paging is off and CS is flat) and gives its length
    /// only through memory, as a CPU without NRIP save does.
    pub fn place_code(&mut self, code: &[u8]) {
        let base = self.cpu.segments[SegmentName::Cs as usize].base;
        self.memory.write(Gpa(base.wrapping_add(self.cpu.rip)), code).expect("code lies in RAM");
        self.cpu.instruction_length = None;
    }
}

/// A backend whose vCPUs run programs, one after the other in the order of creation.
pub struct FakeBackend {
    programs: Programs,
    cpuid: BTreeMap<(u32, u32), CpuidResult>,
    clock: Rc<Clock>,
    /// The memory behind its guests.
    pub bank: Rc<Bank>,
    /// What its CPUs do of local APICs.
    pub apic_assists: ApicAssists,
    /// The machine's own devices, where a VM may have them.
    pub hardware: Option<&'static dyn Hardware>,
}

/// What vCPUs that will be made are to run; what one ran that has ended comes first.
type Programs = Rc<RefCell<VecDeque<(Program, Journal)>>>;

impl FakeBackend {
    /// A backend on this clock, without programs and with an empty CPUID, and `memory` bytes of host memory.
    pub fn new(clock: &Rc<Clock>, memory: u64) -> Self {
        Self {
            programs: Programs::default(),
            cpuid: BTreeMap::new(),
            clock: Rc::clone(clock),
            bank: Bank::new(memory),
            apic_assists: ApicAssists::empty(),
            hardware: None,
        }
    }

    /// Gives the next vCPU its program and returns its journal.
    pub fn add_program(&self, program: impl FnMut(&mut Guest<'_>) -> Exit + 'static) -> Journal {
        let journal = Journal::default();
        self.programs.borrow_mut().push_back((Box::new(program), Rc::clone(&journal)));
        journal
    }

    /// Sets what [`Backend::cpuid`] answers.
    pub fn set_cpuid(&mut self, leaf: u32, subleaf: u32, result: CpuidResult) {
        self.cpuid.insert((leaf, subleaf), result);
    }
}

impl fmt::Debug for FakeBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeBackend").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Backend for FakeBackend {
    type Vcpu = FakeVcpu;
    type Space = FakeSpace;
    type Image<'m> = FakeImage;

    fn with_vcpu<W: WithVcpu>(vcpu: &mut FakeVcpu, work: W) -> W::Output {
        work.call(vcpu)
    }

    fn create_image(&self, module: &[u8], bytes: u64) -> Result<FakeImage, CreateError> {
        let mut content = module.to_vec();
        content.resize(bytes as usize, 0);
        Ok(FakeImage::new(&content))
    }

    type Random = FakeRandom;

    fn create_random(&self) -> Option<FakeRandom> {
        Some(FakeRandom::default())
    }

    fn free_memory(&self) -> u64 {
        self.bank.free()
    }

    fn tsc_scaling(&self) -> Option<TscScaling> {
        Some(TscScaling { fraction_bits: 48, most: u64::MAX })
    }

    fn hardware(&self) -> Option<&'static dyn Hardware> {
        self.hardware
    }

    fn wants_apic_page(&self) -> bool {
        self.apic_assists.contains(ApicAssists::REGISTERS)
    }

    fn create_space(&self) -> Result<FakeSpace, CreateError> {
        permit_alloc(|| Ok(FakeSpace::of(&self.bank)?))
    }

    fn create_vcpu(&self, space: &FakeSpace) -> Result<FakeVcpu, CreateError> {
        permit_alloc(|| self.make_vcpu(space))
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        self.cpuid.get(&(leaf, subleaf)).copied().unwrap_or_default()
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fake")
    }
}

impl FakeBackend {
    fn make_vcpu(&self, space: &FakeSpace) -> Result<FakeVcpu, CreateError> {
        self.bank.take(space::CONTROL_BYTES)?;
        let Some(program) = self.programs.borrow_mut().pop_front() else {
            self.bank.give(space::CONTROL_BYTES);
            return Err(CreateError::Exhausted { what: "program" });
        };
        let (programs, bank) = (Rc::clone(&self.programs), Rc::clone(&self.bank));
        let lender = vcpu::Lender { programs, bank };
        Ok(FakeVcpu::new(program, Rc::clone(&self.clock), space.clone(), lender, self.apic_assists))
    }
}
