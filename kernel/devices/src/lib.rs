//! The PC a guest sees, as state machines without hardware, threads, clocks or callbacks.
//!
//! [`Chipset`] is everything a guest reaches through ports, the I/O APIC's page and the PCI configuration window: 8259
//! pair, I/O APIC, 8254, RTC and CMOS, 16550A, i8042, ACPI power management, reset registers and PCI configuration space.
//! A VM's line can add more ([`FwCfg`], [`DebugConsole`], [`Vga`], a debug-exit port). [`LocalApic`] is one processor's local APIC. [`acpi`] builds the tables that describe the machine.
//!
//! - **Time** comes with every call that needs it ([`vcpu::Nanos`], the host's monotonic clock). A timer says when it
//!   wants to be called again (`next_deadline`) and is brought up to date by `advance`; after `advance(now)` the next
//!   deadline is later than `now`. Lost ticks of periodic timers coalesce to one, on the grid.
//! - **Interrupts** are lines that are functions of a device's state; [`Chipset`] compares them after each access and
//!   drives the interrupt controllers. What leaves is an [`ApicMessage`], handed to the caller's [`ApicBus`].
//! - **Errors**: a device answers `Result<_, IoError>`; the bus chooses what the guest reads (all ones) and counts.
//!
//! Not its job: guest memory (a device that copies into it is given it, for one bounded step), virtual CPUs, virtio, policy.
//! No locks; the owner brings one. Nothing allocates but [`acpi::build`] and the making of an [`FwCfg`].
//!
//! Sources are named by each module.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod bus;
mod chipset;
mod clock;
mod debug_port;
pub mod fw_cfg;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod message;
mod outside;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod power;
pub mod rtc;
pub mod uart;
mod vga;

pub use bus::{BusCounters, Conflict, IntervalMap, IoError, MapError, Width, read_by_bytes, write_by_bytes};
pub use chipset::{COM1, Chipset, ChipsetConfig, Environment, PortTaken, TIMER_GSI, isa_line};
pub use debug_port::DebugConsole;
pub use fw_cfg::FwCfg;
pub use ioapic::IoApic;
pub use lapic::{
    APIC_TIMER_HZ, ApicEffect, ApicMode, Inbox, LocalApic, LocalApicConfig, LocalInterrupt, MsrError, Routing,
};
pub use message::{ApicBus, ApicMessage, BROADCAST, DeliveryMode, Shorthand, msi};
pub use outside::{Outside, PinSetting};
pub use pm::PowerManagement;
pub use power::{PowerEvent, ResetControl};
pub use rtc::MemorySize;
pub use uart::ConsoleSink;
pub use vga::Vga;
