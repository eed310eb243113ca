//! Intel VT-x: VMX operation, and vCPUs on VMCSs with EPT, VPID and unrestricted guests.
//!
//! Sources: Intel SDM vol. 3, "Virtual Machine Control Structures", "VMX Non-Root Operation", "VM Entries",
//! "VM Exits", "VMX Support for Address Translation". What each field is for stands in `docs/contract.md`.
//! Not its job: policy of any kind. A VMCS is cleared by the CPU that ran it before another may load it.
//! VPIDs are the machine's, for all CPUs. Locks: the VPID pool's.

// UNSAFETY: switches the CPU into VMX operation and fills the bitmaps that confine guests.
#![allow(unsafe_code)]

mod apic;
mod capability;
mod check;
mod cpuid;
mod enter;
mod event;
mod field;
mod instruction;
mod reason;
mod setup;
mod speculation;
mod state;
mod vcpu;
mod vpid;

use core::fmt;

use ::vcpu::{APIC_PAGE, AddressSpace, CpuidResult, CreateError, Hpa, PAGE_SIZE, TscScaling};

use spin::Once;

use self::apic::{ApicAbilities, VirtualApic};
use self::capability::{BASIC_TRUE_CONTROLS, CapabilityMsrs, Controls};
use self::instruction::{InvEpt, invept};
pub use self::vcpu::VmxVcpu;
use self::vpid::Vpid;
use crate::extended::{self, Layout};
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::mitigations::{self, Offer};
use crate::nested::{EPT, GuestSpace, Level};
use crate::virtualization::{self, Refusal};
use crate::without::Without;
use crate::{cpu, registers};

/// IA32_FEATURE_CONTROL: locked; VMXON allowed outside SMX.
const FEATURE_CONTROL: u32 = 0x3a;
const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
const FEATURE_CONTROL_VMXON: u64 = 1 << 2;
/// Capability MSRs.
const VMX_BASIC: u32 = 0x480;
const VMX_PROCESSOR_CONTROLS: u32 = 0x482;
const VMX_MISC: u32 = 0x485;
const VMX_CR0_FIXED0: u32 = 0x486;
const VMX_CR0_FIXED1: u32 = 0x487;
const VMX_CR4_FIXED0: u32 = 0x488;
const VMX_CR4_FIXED1: u32 = 0x489;
const VMX_SECONDARY_CONTROLS: u32 = 0x48b;
const VMX_EPT_VPID: u32 = 0x48c;
/// First of the four control MSRs (pin, processor, exit, entry) without and with TRUE.
const VMX_CONTROLS: u32 = 0x481;
const VMX_TRUE_CONTROLS: u32 = 0x48d;
/// CPUID leaf 1 ECX.
const CPUID_VMX: u32 = 1 << 5;
/// EPT pointer: write-back, four levels, accessed and dirty flags.
const EPTP_WRITE_BACK: u64 = 6;
const EPTP_FOUR_LEVELS: u64 = 3 << 3;
const EPTP_ACCESSED_DIRTY: u64 = 1 << 6;

/// MSRs that guests read and write without exits: they hold a guest's own state, have no side effect, and
/// are switched with the vCPU. Reads of the TSC pass too: the CPU applies the offset.
const PASSED_MSRS: [u32; 10] = [
    0xc000_0100, // IA32_FS_BASE
    0xc000_0101, // IA32_GS_BASE
    0xc000_0102, // IA32_KERNEL_GS_BASE
    0xc000_0081, // IA32_STAR
    0xc000_0082, // IA32_LSTAR
    0xc000_0083, // IA32_CSTAR
    0xc000_0084, // IA32_FMASK
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
];
const TSC: u32 = 0x10;
const TSC_AUX: u32 = 0xc000_0103;

/// What vCPUs share on all CPUs: chosen controls and the frames of the bitmaps.
#[derive(Clone, Copy, Debug)]
struct Shared {
    controls: Controls,
    layout: Layout,
    revision: u32,
    /// Two frames, all ones: every port exits.
    io_bitmaps: Hpa,
    /// The first of the MSR bitmaps: see [`Shared::msr_bitmap`].
    msr_bitmaps: Hpa,
    offer: Offer,
    without: Without,
}

/// Numbers of MSR bitmaps: the guest is in x2APIC mode, it has IA32_SPEC_CTRL to itself.
const X2APIC_BITMAP: u64 = 1 << 0;
const CONTROL_BITMAP: u64 = 1 << 1;

impl Shared {
    /// One of the MSR bitmaps. Those with [`CONTROL_BITMAP`] are there where IA32_SPEC_CTRL is.
    const fn msr_bitmap(&self, number: u64) -> Hpa {
        Hpa(self.msr_bitmaps.0 + number * PAGE_SIZE)
    }
}

/// What [`Vmx::enable`] has chosen, which other CPUs follow.
static SHARED: Once<Shared> = Once::new();

/// VMX operation on the boot CPU, and on those that have joined it.
#[derive(Debug)]
pub struct Vmx {
    shared: Shared,
}

impl Vmx {
    /// Whether CPUID says that the CPU has VMX.
    pub(crate) fn present() -> bool {
        registers::cpuid(1, 0).ecx & CPUID_VMX != 0
    }

    /// Enters VMX operation on the boot CPU, or says what is missing.
    /// The abilities `without` are not used.
    pub fn enable(without: Without) -> Result<Self, Refusal> {
        if !Self::present() {
            return Err(Refusal::NoExtensions);
        }
        permit()?;
        // SAFETY: the CPU has VMX, so it has these MSRs.
        let msrs = unsafe { capabilities() };
        let controls =
            Controls::choose(&msrs, without).map_err(|missing| Refusal::Missing { what: missing.0 })?;
        let frames = |order| Block::zeroed(order, FrameKind::Control).map_err(|_| Refusal::NoMemory);
        let offer = mitigations::offer();
        let order = if offer.control != 0 { 2 } else { 1 };
        let (io_bitmaps, msr_bitmaps) = (frames(1)?, frames(order)?);
        let layout = Layout::detect(false);
        enter_operation(&msrs, &controls, layout)?;
        // vCPUs use them from here on.
        let (io_bitmaps, msr_bitmaps) = (io_bitmaps.keep(), msr_bitmaps.keep());
        fill_io_bitmaps(io_bitmaps);
        let revision = revision(&msrs);
        let shared = Shared { controls, layout, revision, io_bitmaps, msr_bitmaps, offer, without };
        (0..1 << order).for_each(|number| fill_msr_bitmap(&shared, number));
        SHARED.call_once(|| shared);
        Ok(Self { shared })
    }

    /// Enters VMX operation on another CPU, which must be able to run the boot CPU's vCPUs. To be called once on each.
    pub fn join() -> Result<(), Refusal> {
        const DIFFERS: Refusal = Refusal::Missing { what: "what the boot CPU's has" };
        let shared = SHARED.get().ok_or(Refusal::Failed { what: "VMX on the boot CPU" })?;
        if !Self::present() {
            return Err(Refusal::NoExtensions);
        }
        permit()?;
        // SAFETY: the CPU has VMX, so it has these MSRs.
        let msrs = unsafe { capabilities() };
        let controls = Controls::choose(&msrs, shared.without)
            .map_err(|missing| Refusal::Missing { what: missing.0 })?;
        let layout = Layout::detect(false);
        if controls != shared.controls || layout != shared.layout || revision(&msrs) != shared.revision {
            return Err(DIFFERS);
        }
        enter_operation(&msrs, &controls, layout)
    }

    const fn eptp(&self, root: Hpa) -> u64 {
        let flags = if self.shared.controls.accessed_dirty { EPTP_ACCESSED_DIRTY } else { 0 };
        root.0 | EPTP_WRITE_BACK | EPTP_FOUR_LEVELS | flags
    }
}

/// The revision identifier of VMXON regions and VMCSs.
const fn revision(msrs: &CapabilityMsrs) -> u32 {
    msrs.basic as u32 & 0x7fff_ffff
}

/// Enters VMX operation on the calling CPU, which [`permit`] has let through, with its own capabilities and what was
/// chosen from them.
fn enter_operation(msrs: &CapabilityMsrs, controls: &Controls, layout: Layout) -> Result<(), Refusal> {
    let region = Block::zeroed(0, FrameKind::Control).map_err(|_| Refusal::NoMemory)?;
    if !cpu::virtualize() {
        return Err(Refusal::Failed { what: "a second start of VMX" });
    }
    extended::enable(layout);
    // SAFETY: the region is ours and has its revision identifier; CR0 and CR4 get the bits that VMX
    // operation demands, which change nothing else the kernel relies on; `permit` saw that
    // IA32_FEATURE_CONTROL allows VMXON.
    unsafe {
        memory::direct_map(region.start()).cast::<u32>().write(revision(msrs));
        registers::set_vmx_fixed_bits(msrs.cr0_fixed, msrs.cr4_fixed);
        instruction::vmxon(region.start()).map_err(|_| Refusal::Failed { what: "VMXON" })?;
    }
    // The CPU uses it from here on.
    region.keep();
    if controls.invept_all {
        invept(InvEpt::All);
    }
    Ok(())
}

/// Sees that firmware allows VMX, and allows it itself where firmware left the choice open.
fn permit() -> Result<(), Refusal> {
    // SAFETY: the CPU has VMX, so it has this MSR; it is written only where it is not locked.
    unsafe {
        let control = registers::read_msr(FEATURE_CONTROL);
        if control & FEATURE_CONTROL_LOCK == 0 {
            registers::write_msr(FEATURE_CONTROL, control | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON);
        } else if control & FEATURE_CONTROL_VMXON == 0 {
            return Err(Refusal::LockedByFirmware);
        }
    }
    Ok(())
}

/// # Safety
/// The CPU has VMX.
unsafe fn capabilities() -> CapabilityMsrs {
    // SAFETY: by the caller; the secondary controls and EPT capabilities are read only where the primary
    // controls say they are there.
    unsafe {
        let basic = registers::read_msr(VMX_BASIC);
        let first = if basic & BASIC_TRUE_CONTROLS != 0 { VMX_TRUE_CONTROLS } else { VMX_CONTROLS };
        let has_secondary = registers::read_msr(VMX_PROCESSOR_CONTROLS) >> 63 != 0;
        let secondary = if has_secondary { registers::read_msr(VMX_SECONDARY_CONTROLS) } else { 0 };
        let allowed = (secondary >> 32) as u32;
        let either = capability::secondary::ENABLE_EPT | capability::secondary::ENABLE_VPID;
        CapabilityMsrs {
            basic,
            pin: registers::read_msr(first),
            processor: registers::read_msr(first + 1),
            secondary,
            exit: registers::read_msr(first + 2),
            entry: registers::read_msr(first + 3),
            ept_vpid: if allowed & either != 0 { registers::read_msr(VMX_EPT_VPID) } else { 0 },
            misc: registers::read_msr(VMX_MISC),
            cr0_fixed: (registers::read_msr(VMX_CR0_FIXED0), registers::read_msr(VMX_CR0_FIXED1)),
            cr4_fixed: (registers::read_msr(VMX_CR4_FIXED0), registers::read_msr(VMX_CR4_FIXED1)),
        }
    }
}

/// Every port exits.
fn fill_io_bitmaps(io: Hpa) {
    // SAFETY: the two frames are this module's own.
    let io = unsafe { core::slice::from_raw_parts_mut(memory::direct_map(io), 2 * PAGE_SIZE as usize) };
    io.fill(0xff);
}

/// Every MSR exits but those that are passed, and in x2APIC mode the registers that the CPU virtualizes.
fn fill_msr_bitmap(shared: &Shared, number: u64) {
    /// Offset of the write bits in the MSR bitmap.
    const WRITES: usize = 2048;
    let controls = &shared.controls;
    let msr = memory::direct_map(shared.msr_bitmap(number));
    // SAFETY: the frame is this module's own.
    let msr = unsafe { core::slice::from_raw_parts_mut(msr, PAGE_SIZE as usize) };
    msr.fill(0xff);
    let mut pass = |number: u32, write: bool| {
        // Low MSRs at 0, those from C000_0000H at 1024 (SDM vol. 3, "MSR-Bitmap Address").
        let half = if number >= 0xc000_0000 { 1024 } else { 0 };
        let index = (number & 0x1fff) as usize;
        let byte = half + index / 8 + if write { WRITES } else { 0 };
        msr[byte] &= !(1 << (index % 8));
    };
    let control = (number & CONTROL_BITMAP != 0).then_some(mitigations::SPEC_CTRL);
    for number in PASSED_MSRS.into_iter().chain(controls.rdtscp.then_some(TSC_AUX)).chain(control) {
        pass(number, false);
        pass(number, true);
    }
    pass(TSC, false);
    shared.offer.commands().for_each(|number| pass(number, true));
    if number & X2APIC_BITMAP == 0 || !controls.apic.contains(ApicAbilities::X2APIC) {
        return;
    }
    // Only what is virtualized may pass: any other access would reach the machine's own local APIC.
    pass(apic::TASK_PRIORITY_MSR, false);
    pass(apic::TASK_PRIORITY_MSR, true);
    if controls.apic.contains(ApicAbilities::REGISTERS) {
        for (first, last) in apic::READABLE_MSRS {
            (first..=last).for_each(|number| pass(number, false));
        }
    }
    if controls.apic.contains(ApicAbilities::DELIVERY) {
        pass(apic::EOI_MSR, true);
        pass(apic::SELF_IPI_MSR, true);
        if controls.apic.contains(ApicAbilities::REGISTERS) {
            pass(apic::PROCESSOR_PRIORITY_MSR, false);
        }
    }
}

/// What [`crate::extensions`] asks of it. See [`vcpu::Backend`].
impl Vmx {
    pub(crate) fn tsc_scaling(&self) -> Option<TscScaling> {
        self.shared.controls.tsc_scaling.then_some(TscScaling { fraction_bits: 48, most: u64::MAX })
    }

    pub(crate) fn wants_apic_page(&self) -> bool {
        self.shared.controls.apic.contains(ApicAbilities::ACCESSES)
    }

    pub(crate) fn create_space(&self) -> Result<GuestSpace, CreateError> {
        let controls = &self.shared.controls;
        let largest = match (controls.page_1g, controls.page_2m) {
            (true, _) => Level::Page1G,
            (_, true) => Level::Page2M,
            _ => Level::Page4K,
        };
        Ok(GuestSpace::new(EPT, largest)?)
    }

    pub(crate) fn create_vcpu(&self, space: &GuestSpace) -> Result<VmxVcpu, CreateError> {
        let controls = &self.shared.controls;
        let vpid = if controls.vpid {
            Vpid::take().ok_or(CreateError::Exhausted { what: "VPIDs" })?
        } else {
            Vpid::NONE
        };
        let (root, walker) = space.enter().ok_or(CreateError::Exhausted { what: "address space" })?;
        let eptp = self.eptp(root);
        let apic = VirtualApic::new(controls.apic, space.translate(APIC_PAGE))?;
        // An earlier address space may have had the same root frame.
        invept(controls.invept(eptp));
        Ok(VmxVcpu::new(self.shared, eptp, walker, vpid, apic)?)
    }

    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let nested = cpu::features().hypervisor;
        let passed = virtualization::guest_cpuid(leaf, subleaf);
        cpuid::offered(&self.shared.controls, nested, leaf, subleaf, passed)
    }

    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let controls = &self.shared.controls;
        let largest = match (controls.page_1g, controls.page_2m) {
            (true, _) => "1 GiB",
            (_, true) => "2 MiB",
            _ => "4 KiB",
        };
        write!(f, "VMX (EPT with {largest} pages, unrestricted guest")?;
        for name in controls.apic.names() {
            write!(f, ", {name}")?;
        }
        for (has, name) in [
            (controls.vpid, "VPID"),
            (controls.accessed_dirty, "EPT A/D"),
            (controls.rdtscp, "RDTSCP"),
            (controls.preemption_shift.is_some(), "preemption timer"),
            (controls.pause_loop, "PAUSE-loop exiting"),
            (controls.tsc_scaling, "TSC scaling"),
        ] {
            if has {
                write!(f, ", {name}")?;
            }
        }
        write!(f, ")")
    }
}
