//! The contract with the hardware: what a virtual CPU is, why it leaves, what can be delivered to it, and
//! the traits through which `hypervisor` uses a vendor's virtualization extensions ([`Backend`], [`Vcpu`]),
//! guest memory ([`GuestMemory`], [`AddressSpace`]) and the machine ([`Host`]).
//!
//! It is vendor-neutral: nothing here names a VMCS or VMCB field. It holds no policy and no device. The
//! `fake` feature adds a scripted backend, which plays exits and records what the hypervisor did with them.
//!
//! Sources: Intel SDM vol. 3, "Introduction to Virtual Machine Extensions" to "VM Entries"; AMD APM vol. 2,
//! "Secure Virtual Machine". No locks.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]
#![forbid(unsafe_code)]

mod address;
mod apic;
mod backend;
mod event;
mod exit;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod hardware;
mod host;
mod image;
mod memory;
pub mod power_up;
mod random;
mod registers;
mod time;
mod vector_set;

pub use address::{APIC_PAGE, Gpa, Gva, Hpa, PAGE_SIZE};
pub use apic::{ApicAssists, ApicState, ApicView};
pub use backend::{Backend, CpuidResult, CreateError, TscScaling, Vcpu, WithVcpu};
pub use event::{Event, PendingEvents, SoftwareKind, vector};
pub use exit::{Access, ControlRegisterAccess, EntryFailure, Exit, IoExit, NestedFault};
pub use hardware::{
    Framebuffer, Hardware, HostMemory, HostRange, HostScreen, Message, PciFunction, PinMode, PowerPorts,
    SourceId,
};
pub use host::{BringUp, Host, LogPlace, LogRead};
pub use image::{Image, ImageError};
pub use memory::{AddressSpace, CopyError, GuestMemory, Hole, MemoryError, NotRam, Shrink, Taken, WordSize};
pub use random::Random;
pub use registers::{
    DescriptorTable, DescriptorTableName, Gpr, Registers, Segment, SegmentAccess, SegmentName,
    SystemRegister, cr0, cr4, efer, rflags,
};
pub use time::Nanos;
pub use vector_set::VectorSet;
