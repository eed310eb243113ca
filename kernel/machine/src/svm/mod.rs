//! AMD-V: vCPUs on VMCBs with nested paging.
//!
//! Sources: AMD APM vol. 2, "Secure Virtual Machine". What each field is for stands in `docs/contract.md`. Of
//! the features that are not on every CPU, [`plan::Plan`] says which are used. The last-branch records and
//! DEBUGCTL are hidden from guests. Not its job: policy of any kind. Locks: each CPU's ASIDs, held for a few instructions
//! when a vCPU is loaded.

// UNSAFETY: switches SVM on and fills the maps that confine guests.
#![allow(unsafe_code)]

mod apic;
mod asid;
mod clean;
mod code;
mod emulated;
mod enter;
mod event;
mod intercept;
mod nmi;
mod plan;
mod setup;
mod shadow;
mod state;
mod vcpu;
mod vmcb;

use core::arch::asm;
use core::fmt;

use ::vcpu::{CpuidResult, CreateError, Hpa, PAGE_SIZE, TscScaling, efer};
use spin::{Mutex, Once};

use self::asid::{Asid, Asids};
pub(crate) use self::enter::ended_by_nmi;
use self::plan::{Leaves, Plan};
pub use self::vcpu::SvmVcpu;
use crate::extended::{self, Layout};
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::mitigations::{self, Offer};
use crate::nested::{GuestSpace, Level, NPT};
use crate::virtualization::{Refusal, features as cpuid_bits};
use crate::without::Without;
use crate::{cpu, registers};

/// VM_CR, with the lock and SVM-disable bits; VM_HSAVE_PA.
const VM_CR: u32 = 0xc001_0114;
const VM_CR_DISABLED: u64 = 1 << 4;
const VM_HSAVE_PA: u32 = 0xc001_0117;
const DEBUGCTL: u32 = 0x1d9;
/// CPUID leaves.
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
/// Who is below, where somebody is.
const LEAF_HYPERVISOR: u32 = 0x4000_0000;
const LEAF_SVM: u32 = 0x8000_000a;
/// Frames of the permission maps as allocator orders: 12 KiB for ports, 8 KiB for MSRs.
const IO_MAP_ORDER: u8 = 2;
const MSR_MAP_ORDER: u8 = 1;

/// MSRs that guests read and write without exits: they hold a guest's own state, have no side effect, and
/// are switched by VMLOAD, VMSAVE or VMRUN, or with the vCPU.
const PASSED_MSRS: [u32; 10] = [
    0xc000_0100, // FS.base
    0xc000_0101, // GS.base
    0xc000_0102, // KernelGSbase
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
];
const TSC_AUX: u32 = 0xc000_0103;

/// What vCPUs share; the CPU's part is that of the one that has the vCPU loaded.
#[derive(Clone, Copy, Debug)]
struct Shared {
    cpu: CpuPart,
    plan: Plan,
    layout: Layout,
    io_permissions: Hpa,
    msr_permissions: Hpa,
    /// The same with IA32_SPEC_CTRL, where the guest has written that.
    control_permissions: Hpa,
    offer: Offer,
}

/// What SVM keeps for each CPU.
#[derive(Debug)]
pub(crate) struct SvmCpu {
    /// The frame with the kernel's VMSAVE state.
    host_state: Hpa,
    asids: Mutex<Asids>,
}

impl SvmCpu {
    /// Drops all translations of guests before the next one is entered, which is not loaded yet.
    pub(crate) fn forget_guests(&self) {
        self.asids.lock().renew();
    }
}

/// The calling CPU's part, which a vCPU keeps while it is loaded.
#[derive(Clone, Copy, Debug)]
struct CpuPart {
    host_state: Hpa,
    asids: &'static Mutex<Asids>,
}

impl CpuPart {
    /// The calling CPU's. `None` where SVM is off.
    fn of_this_cpu() -> Option<Self> {
        let part = cpu::this().svm.get()?;
        Some(Self { host_state: part.host_state, asids: &part.asids })
    }

    /// See [`Asids::assign`].
    fn assign(self, old: Asid) -> (Asid, bool) {
        self.asids.lock().assign(old)
    }

    /// See [`Asids::owe_flush`].
    fn owe_flush(self) {
        self.asids.lock().owe_flush();
    }

    /// See [`Asids::next`].
    fn next_asid(self) -> (Asid, bool) {
        self.asids.lock().next()
    }
}

/// What [`Svm::enable`] has found, which other CPUs must have.
static FOUND: Once<(Plan, Layout, Without)> = Once::new();

/// SVM, switched on.
#[derive(Debug)]
pub struct Svm {
    shared: Shared,
}

impl Svm {
    /// Whether CPUID says that the CPU has SVM.
    pub(crate) fn present() -> bool {
        registers::cpuid(0x8000_0000, 0).eax >= LEAF_SVM
            && registers::cpuid(LEAF_EXTENDED_FEATURES, 0).ecx & cpuid_bits::EXTENDED_ECX_SVM != 0
    }

    /// Switches SVM on, or says what is missing. The abilities `without` are not used.
    pub fn enable(without: Without) -> Result<Self, Refusal> {
        if !Self::present() {
            return Err(Refusal::NoExtensions);
        }
        permit()?;
        let plan = plan_of_this_cpu(without)?;
        let frames = |order| Block::zeroed(order, FrameKind::Control).map_err(|_| Refusal::NoMemory);
        let (io_permissions, msr_permissions) = (frames(IO_MAP_ORDER)?, frames(MSR_MAP_ORDER)?);
        let offer = mitigations::offer();
        // A CPU that switches the register has it passed from the start.
        let by_software = offer.control != 0 && !plan.speculation_control;
        let control_permissions = if by_software { Some(frames(MSR_MAP_ORDER)?) } else { None };
        let layout = Layout::detect(true);
        let cpu = switch_on(layout, plan.asids)?;
        let (io_permissions, msr_permissions) = (io_permissions.keep(), msr_permissions.keep());
        let control_permissions = control_permissions.map_or(msr_permissions, Block::keep);
        fill_port_permissions(io_permissions);
        let hardware = offer.control != 0 && plan.speculation_control;
        fill_msr_permissions(msr_permissions, plan.rdtscp, hardware, offer);
        if by_software {
            fill_msr_permissions(control_permissions, plan.rdtscp, true, offer);
        }
        FOUND.call_once(|| (plan, layout, without));
        let shared =
            Shared { cpu, plan, layout, io_permissions, msr_permissions, control_permissions, offer };
        Ok(Self { shared })
    }

    /// Switches SVM on on another CPU, which must be able to run the boot CPU's vCPUs. To be called once on each.
    pub fn join() -> Result<(), Refusal> {
        let (plan, layout, without) = FOUND.get().ok_or(Refusal::Failed { what: "SVM on the boot CPU" })?;
        if !Self::present() {
            return Err(Refusal::NoExtensions);
        }
        permit()?;
        let own = plan_of_this_cpu(*without)?;
        // Each CPU gives its own identifiers.
        let comparable = Plan { asids: plan.asids, ..own };
        if comparable != *plan || Layout::detect(true) != *layout {
            return Err(Refusal::Missing { what: "what the boot CPU's has" });
        }
        switch_on(*layout, own.asids).map(drop)
    }
}

fn plan_of_this_cpu(without: Without) -> Result<Plan, Refusal> {
    let leaves = Leaves {
        basic: registers::cpuid(1, 0),
        extended: registers::cpuid(LEAF_EXTENDED_FEATURES, 0),
        svm: registers::cpuid(LEAF_SVM, 0),
        hypervisor: if crate::cpu::features().hypervisor {
            registers::cpuid(LEAF_HYPERVISOR, 0)
        } else {
            CpuidResult::default()
        },
    };
    Plan::choose(&leaves, without).map_err(|what| Refusal::Missing { what })
}

/// Sees that firmware allows SVM on the calling CPU, which has it.
fn permit() -> Result<(), Refusal> {
    // SAFETY: the CPU has SVM, hence this MSR.
    if unsafe { registers::read_msr(VM_CR) } & VM_CR_DISABLED != 0 {
        return Err(Refusal::LockedByFirmware);
    }
    Ok(())
}

/// Switches SVM on on the calling CPU, which [`permit`] has let through.
fn switch_on(layout: Layout, asids: u32) -> Result<CpuPart, Refusal> {
    let frames = || Block::zeroed(0, FrameKind::Control).map_err(|_| Refusal::NoMemory);
    let (save_area, host_state) = (frames()?, frames()?);
    const TWICE: Refusal = Refusal::Failed { what: "a second start of SVM" };
    if !cpu::virtualize() {
        return Err(TWICE);
    }
    let (save_area, host_state) = (save_area.keep(), host_state.keep());
    extended::enable(layout);
    // SAFETY: the CPU has SVM and firmware allows it; both frames are ours and stay. VMSAVE stores this
    // CPU's FS, GS, TR, LDTR and system-call MSRs, which the kernel does not change afterwards:
    // `cpu::virtualize` saw that its tables are loaded. Every CPU with SVM has DEBUGCTL; VMRUN does not
    // switch it, so what firmware may have left there would act on guests.
    unsafe {
        if registers::read_msr(DEBUGCTL) != 0 {
            registers::write_msr(DEBUGCTL, 0);
        }
        registers::set_efer(efer::SVME);
        registers::write_msr(VM_HSAVE_PA, save_area.0);
        asm!("vmsave rax", in("rax") host_state.0, options(nostack));
    }
    let asids = Mutex::new(Asids::new(asids, cpu::current()));
    cpu::this().svm.call_once(|| SvmCpu { host_state, asids });
    CpuPart::of_this_cpu().ok_or(TWICE)
}

/// Every port exits.
fn fill_port_permissions(io: Hpa) {
    let bytes = (PAGE_SIZE as usize) << IO_MAP_ORDER;
    // SAFETY: the frames are this module's own, of this order.
    unsafe { core::slice::from_raw_parts_mut(memory::direct_map(io), bytes) }.fill(0xff);
}

/// Every MSR exits but those that are passed.
fn fill_msr_permissions(msr: Hpa, rdtscp: bool, control: bool, offer: Offer) {
    const WRITE: u8 = 0b10;
    const BOTH: u8 = 0b11;
    let bytes = (PAGE_SIZE as usize) << MSR_MAP_ORDER;
    // SAFETY: the frames are this module's own, of this order.
    let msr = unsafe { core::slice::from_raw_parts_mut(memory::direct_map(msr), bytes) };
    msr.fill(0xff);
    let mut pass = |number: u32, how: u8| {
        // Two bits an MSR; low MSRs at 0, those from C000_0000H at 800H (APM vol. 2, "MSR Intercepts").
        let base = if number >= 0xc000_0000 { 0x800 } else { 0 };
        let index = (number & 0x1fff) as usize;
        msr[base + index / 4] &= !(how << (index % 4 * 2));
    };
    let others = rdtscp.then_some(TSC_AUX).into_iter().chain(control.then_some(mitigations::SPEC_CTRL));
    PASSED_MSRS.into_iter().chain(others).for_each(|number| pass(number, BOTH));
    offer.commands().for_each(|number| pass(number, WRITE));
}

/// What [`crate::extensions`] asks of it. See [`vcpu::Backend`].
impl Svm {
    pub(crate) fn tsc_scaling(&self) -> Option<TscScaling> {
        self.shared.plan.tsc_ratio.then_some(TscScaling { fraction_bits: 32, most: 0xff_ffff_ffff })
    }

    pub(crate) fn create_space(&self) -> Result<GuestSpace, CreateError> {
        Ok(GuestSpace::new(NPT, if self.shared.plan.page_1g { Level::Page1G } else { Level::Page2M })?)
    }

    pub(crate) fn create_vcpu(&self, space: &GuestSpace) -> Result<SvmVcpu, CreateError> {
        let (root, walker) = space.enter().ok_or(CreateError::Exhausted { what: "address space" })?;
        Ok(SvmVcpu::new(self.shared, root, walker)?)
    }

    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.shared.plan;
        let largest = if plan.page_1g { "1 GiB" } else { "2 MiB" };
        write!(f, "SVM (NPT with {largest} pages, {} ASIDs", plan.asids)?;
        for name in plan.names() {
            write!(f, ", {name}")?;
        }
        write!(f, ")")
    }
}
