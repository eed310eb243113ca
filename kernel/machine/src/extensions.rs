//! The virtualization extensions of this machine, whichever vendor's: the one place where they are told apart.

use core::fmt;

use vcpu::{Backend, CpuidResult, CreateError, Hardware, TscScaling, WithVcpu};

use crate::hardware;
use crate::image::ModuleImage;
use crate::mitigations;
use crate::nested::GuestSpace;
use crate::random::Generator;
use crate::svm::{Svm, SvmVcpu};
use crate::virtualization::{self, Refusal, Vendor};
use crate::vmx::{Vmx, VmxVcpu};
use crate::without::Without;

/// The extensions, switched on.
#[derive(Debug)]
pub enum Extensions {
    /// Intel's.
    Vmx(Vmx),
    /// AMD's.
    Svm(Svm),
}

/// A virtual CPU.
#[derive(Debug)]
pub enum AnyVcpu {
    /// On VMX.
    Vmx(VmxVcpu),
    /// On SVM.
    Svm(SvmVcpu),
}

impl Extensions {
    /// Switches on what this machine has, on the boot CPU, or says what is missing. The abilities `without` are not used.
    pub fn enable(without: Without) -> Result<Self, Refusal> {
        Ok(match virtualization::vendor()? {
            Vendor::Vmx => Self::Vmx(Vmx::enable(without)?),
            Vendor::Svm => Self::Svm(Svm::enable(without)?),
        })
    }

    /// Switches them on on another CPU, which must be able to run the boot CPU's vCPUs. To be called once on each.
    pub fn join() -> Result<(), Refusal> {
        mitigations::join()?;
        match virtualization::vendor()? {
            Vendor::Vmx => Vmx::join(),
            Vendor::Svm => Svm::join(),
        }
    }
}

impl Backend for Extensions {
    type Vcpu = AnyVcpu;
    type Space = GuestSpace;
    type Image<'m> = ModuleImage<'m>;
    type Random = Generator;

    fn with_vcpu<W: WithVcpu>(vcpu: &mut AnyVcpu, work: W) -> W::Output {
        match vcpu {
            AnyVcpu::Vmx(vcpu) => work.call(vcpu),
            AnyVcpu::Svm(vcpu) => work.call(vcpu),
        }
    }

    fn create_image<'m>(&self, module: &'m [u8], bytes: u64) -> Result<ModuleImage<'m>, CreateError> {
        Ok(ModuleImage::new(module, bytes)?)
    }

    fn create_random(&self) -> Option<Generator> {
        Generator::new()
    }

    fn hardware(&self) -> Option<&'static dyn Hardware> {
        hardware::hardware()
    }

    fn free_memory(&self) -> u64 {
        crate::memory::frames::free_bytes()
    }

    fn tsc_scaling(&self) -> Option<TscScaling> {
        match self {
            Self::Vmx(vmx) => vmx.tsc_scaling(),
            Self::Svm(svm) => svm.tsc_scaling(),
        }
    }

    fn wants_apic_page(&self) -> bool {
        match self {
            Self::Vmx(vmx) => vmx.wants_apic_page(),
            Self::Svm(_) => false,
        }
    }

    fn create_space(&self) -> Result<GuestSpace, CreateError> {
        match self {
            Self::Vmx(vmx) => vmx.create_space(),
            Self::Svm(svm) => svm.create_space(),
        }
    }

    fn create_vcpu(&self, space: &GuestSpace) -> Result<AnyVcpu, CreateError> {
        Ok(match self {
            Self::Vmx(vmx) => AnyVcpu::Vmx(vmx.create_vcpu(space)?),
            Self::Svm(svm) => AnyVcpu::Svm(svm.create_vcpu(space)?),
        })
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        match self {
            Self::Vmx(vmx) => vmx.cpuid(leaf, subleaf),
            Self::Svm(_) => virtualization::guest_cpuid(leaf, subleaf),
        }
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmx(vmx) => vmx.describe(f),
            Self::Svm(svm) => svm.describe(f),
        }
    }
}
