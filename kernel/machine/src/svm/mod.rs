//! AMD-V: vCPUs on VMCBs with nested paging.
//!
//! Sources: AMD APM vol. 2, "Secure Virtual Machine". What each field is for stands in
//! `docs/exit-path.md`. Works without next-RIP save, decode assists and flush-by-ASID, and uses them where
//! CPUID offers them. Not its job: policy of any kind. Locks: this CPU's ASIDs, held for a few instructions
//! when a vCPU is loaded.

// UNSAFETY: switches SVM on and fills the maps that confine guests.
#![allow(unsafe_code)]

mod asid;
mod code;
mod enter;
mod features;
mod setup;
mod state;
mod vcpu;
mod vmcb;

use core::arch::asm;
use core::fmt;

use ::vcpu::{Backend, CpuidResult, CreateError, Hpa, PAGE_SIZE, efer};
use spin::Mutex;

use self::asid::{Asid, Asids};
use self::features::Features;
pub use self::vcpu::SvmVcpu;
use crate::extended::{self, Layout};
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::nested::{GuestSpace, Level, Npt};
use crate::virtualization::{self, Refusal, features as cpuid_bits};
use crate::{cpu, registers};

/// VM_CR, with the lock and SVM-disable bits; VM_HSAVE_PA.
const VM_CR: u32 = 0xc001_0114;
const VM_CR_DISABLED: u64 = 1 << 4;
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// CPUID leaves.
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
const LEAF_SVM: u32 = 0x8000_000a;
/// CPUID leaf 8000_0001 EDX: 1 GiB pages.
const EXTENDED_EDX_PAGE_1G: u32 = 1 << 26;
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

/// What vCPUs share.
#[derive(Clone, Copy, Debug)]
struct Shared {
    cpu: CpuPart,
    features: Features,
    layout: Layout,
    rdtscp: bool,
    io_permissions: Hpa,
    msr_permissions: Hpa,
}

/// The boot CPU's identifiers.
static BOOT_CPU_ASIDS: Mutex<Asids> = Mutex::new(Asids::new(2));

/// A CPU's part: the frame with the kernel's VMSAVE state.
#[derive(Clone, Copy, Debug)]
struct CpuPart {
    host_state: Hpa,
}

impl CpuPart {
    /// See [`Asids::assign`].
    fn assign(self, old: Asid) -> (Asid, bool) {
        BOOT_CPU_ASIDS.lock().assign(old)
    }
}

/// SVM, switched on.
#[derive(Debug)]
pub struct Svm {
    shared: Shared,
    page_1g: bool,
}

impl Svm {
    /// Whether CPUID says that the CPU has SVM.
    pub(crate) fn present() -> bool {
        registers::cpuid(0x8000_0000, 0).eax >= LEAF_SVM
            && registers::cpuid(LEAF_EXTENDED_FEATURES, 0).ecx & cpuid_bits::EXTENDED_ECX_SVM != 0
    }

    /// Switches SVM on, or says what is missing.
    pub fn enable() -> Result<Self, Refusal> {
        if !Self::present() {
            return Err(Refusal::NoExtensions);
        }
        let features = Features::from_leaf(registers::cpuid(LEAF_SVM, 0));
        // SAFETY: the CPU has SVM, hence this MSR.
        if unsafe { registers::read_msr(VM_CR) } & VM_CR_DISABLED != 0 {
            return Err(Refusal::LockedByFirmware);
        }
        if !features.nested_paging {
            return Err(Refusal::Missing { what: "nested paging (NPT)" });
        }
        let frames = |order| Block::zeroed(order, FrameKind::Control).map_err(|_| Refusal::NoMemory);
        let (save_area, host_state) = (frames(0)?, frames(0)?);
        let (io_permissions, msr_permissions) = (frames(IO_MAP_ORDER)?, frames(MSR_MAP_ORDER)?);
        if !cpu::virtualize() {
            return Err(Refusal::Failed { what: "a second start of SVM" });
        }
        let (save_area, host_state) = (save_area.keep(), host_state.keep());
        let (io_permissions, msr_permissions) = (io_permissions.keep(), msr_permissions.keep());
        let extended_edx = registers::cpuid(LEAF_EXTENDED_FEATURES, 0).edx;
        let layout = Layout::detect(true);
        extended::enable(layout);
        // SAFETY: the CPU has SVM and firmware allows it; both frames are ours and stay. VMSAVE stores this
        // CPU's FS, GS, TR, LDTR and system-call MSRs, which the kernel does not change afterwards:
        // `cpu::virtualize` saw that its tables are loaded.
        unsafe {
            registers::set_efer(efer::SVME);
            registers::write_msr(VM_HSAVE_PA, save_area.0);
            asm!("vmsave rax", in("rax") host_state.0, options(nostack));
        }
        *BOOT_CPU_ASIDS.lock() = Asids::new(features.asids);
        let rdtscp = extended_edx & cpuid_bits::EXTENDED_EDX_RDTSCP != 0;
        fill_permission_maps(io_permissions, msr_permissions, rdtscp);
        let cpu = CpuPart { host_state };
        let shared = Shared { cpu, features, layout, rdtscp, io_permissions, msr_permissions };
        Ok(Self { shared, page_1g: extended_edx & EXTENDED_EDX_PAGE_1G != 0 })
    }
}

/// Every port exits; every MSR exits but those that are passed.
fn fill_permission_maps(io: Hpa, msr: Hpa, rdtscp: bool) {
    // SAFETY: the frames are this module's own, of these orders.
    let (io, msr) = unsafe {
        (
            core::slice::from_raw_parts_mut(memory::direct_map(io), (PAGE_SIZE as usize) << IO_MAP_ORDER),
            core::slice::from_raw_parts_mut(memory::direct_map(msr), (PAGE_SIZE as usize) << MSR_MAP_ORDER),
        )
    };
    io.fill(0xff);
    msr.fill(0xff);
    for number in PASSED_MSRS.into_iter().chain(rdtscp.then_some(TSC_AUX)) {
        // Two bits an MSR; low MSRs at 0, those from C000_0000H at 800H (APM vol. 2, "MSR Intercepts").
        let base = if number >= 0xc000_0000 { 0x800 } else { 0 };
        let index = (number & 0x1fff) as usize;
        msr[base + index / 4] &= !(0b11 << (index % 4 * 2));
    }
}

impl Backend for Svm {
    type Vcpu = SvmVcpu;
    type Space = GuestSpace<Npt>;

    fn create_space(&self) -> Result<Self::Space, CreateError> {
        Ok(GuestSpace::new(if self.page_1g { Level::Page1G } else { Level::Page2M })?)
    }

    fn create_vcpu(&self, space: &Self::Space) -> Result<SvmVcpu, CreateError> {
        let (root, walker) = space.enter().ok_or(CreateError::Exhausted { what: "address space" })?;
        Ok(SvmVcpu::new(self.shared, root, walker)?)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        virtualization::guest_cpuid(leaf, subleaf)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let features = &self.shared.features;
        let largest = if self.page_1g { "1 GiB" } else { "2 MiB" };
        write!(f, "SVM (NPT with {largest} pages, {} ASIDs", features.asids)?;
        for (has, name) in [
            (features.next_rip, "next-RIP save"),
            (features.decode_assists, "decode assists"),
            (features.flush_by_asid, "flush by ASID"),
        ] {
            if has {
                write!(f, ", {name}")?;
            }
        }
        write!(f, ")")
    }
}
