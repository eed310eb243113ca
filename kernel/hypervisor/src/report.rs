//! What the log says of a VM: its end, its exits and time, and where it was when it crashed.

use core::fmt;

use trace::Kind;
use vcpu::{Backend, DescriptorTableName, Gpr, Host, SegmentName, SystemRegister, Vcpu};
use virtio::balloon::Balloon;

use crate::config::Size;
use crate::counters::{Counters, ExitReason};
use crate::guest::AnyGuest;
use crate::processor::VirtualCpu;
use crate::run::rates::Rate;
use crate::schedule::Shared;
use crate::stop::StopReason;
use crate::vm::Vm;
use crate::vm::life::{State, Task};
use crate::vm::slot::Place;

/// A vCPU's crash: why, and its registers. It is loaded.
#[cold]
#[inline(never)]
pub(crate) fn crashed<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    reason: StopReason,
    look: &mut dyn FnMut(&mut H),
) {
    guest.host.trace(Kind::Crashed, guest.subject(), reason.number(), guest.vcpu.rip());
    let name = guest.name();
    match guest.vm.slots.len() {
        1 => log::error!("vm {name}: stopped: {reason}"),
        _ => log::error!("vm {name}: stopped: {reason} (vCPU {})", guest.cpu.index),
    }
    dump(guest, look);
}

/// A vCPU's registers, as the user has asked. It is loaded.
#[cold]
#[inline(never)]
pub(crate) fn asked_for<B: Backend, H: Host>(
    guest: &mut AnyGuest<'_, '_, B, H>,
    look: &mut dyn FnMut(&mut H),
) {
    log::error!("vm {}: vCPU {}, {:?}:", guest.name(), guest.cpu.index, guest.cpu.activity);
    dump(guest, look);
}

/// What a VM that is at rest did: its vCPUs' sums.
/// Lines take long: `look` is called after some.
pub(crate) fn counters<B: Backend>(vm: &Vm<'_, B>, scheduled: &Shared, mut look: impl FnMut()) {
    let name = vm.name;
    let mut counters = Counters::default();
    for slot in &vm.slots {
        slot.with_processor(|processor| {
            if let Some(VirtualCpu { cpu, .. }) = processor {
                counters.add(&cpu.counters);
            }
        });
    }
    for &reason in ExitReason::ALL {
        let count = counters.exits(reason);
        if count > 0 {
            log::info!("vm {name}: exits {reason} {count}");
            look();
        }
    }
    let lost = vm.virtio.lost_frames();
    if lost > 0 {
        log::info!("vm {name}: frames lost by network devices {lost}");
    }
    let breakdowns = vm.virtio.breakdowns();
    if breakdowns > 0 {
        log::info!("vm {name}: devices broken by their drivers {breakdowns}");
    }
    let kept = vm.virtio.kept();
    if kept > 0 {
        log::info!("vm {name}: its disks keep {} KiB of what was written", kept >> 10);
    }
    if let Some(taken) = vm.virtio.balloon().map(Balloon::taken).filter(|taken| *taken > 0) {
        log::info!("vm {name}: its balloon has taken {} KiB", taken >> 10);
    }
    log::info!("vm {name}: {} exits in all", counters.total());
    let (ticks, times) = (counters.ticks, vm.times(scheduled));
    log::info!(
        "vm {name}: ticks guest {} root {} idle {} steal {} charged {} throttled {}",
        ticks.guest,
        ticks.root,
        ticks.idle,
        times.steal.0,
        times.charged.0,
        times.throttled.0
    );
    if let Some((took, memory)) = vm.birth.told() {
        log::info!("vm {name}: start took {took} ticks to its own time's begin, {memory} of them for memory");
    }
    let bus = vm.bus_counters();
    log::info!(
        "vm {name}: injected {} denied MSRs {} unclaimed memory {} unclaimed ports {} in {} out, refused {}",
        counters.injected,
        counters.denied_msrs,
        counters.unclaimed_memory,
        bus.unclaimed_reads,
        bus.unclaimed_writes,
        bus.refused
    );
}

/// Registers, code and what the vendor has to say. Lines take long: `look` is called after some.
#[inline(never)]
fn dump<B: Backend, H: Host>(guest: &mut AnyGuest<'_, '_, B, H>, look: &mut dyn FnMut(&mut H)) {
    let name = guest.name();
    let code = guest.code();
    let vcpu = &*guest.vcpu;
    let gpr = |register| vcpu.gpr(register);
    for row in Gpr::ALL.chunks_exact(4) {
        let &[a, b, c, d] = row else { continue };
        look(guest.host);
        log::error!(
            "vm {name}: {a:?}={:016x} {b:?}={:016x} {c:?}={:016x} {d:?}={:016x}",
            gpr(a),
            gpr(b),
            gpr(c),
            gpr(d)
        );
    }
    look(guest.host);
    let system = |register| vcpu.read(register);
    log::error!("vm {name}: RIP={:016x} RFLAGS={:08x} CPL={}", vcpu.rip(), vcpu.rflags(), vcpu.cpl());
    look(guest.host);
    log::error!(
        "vm {name}: CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} CR8={:x} EFER={:04x} XCR0={:x}",
        system(SystemRegister::Cr0),
        system(SystemRegister::Cr2),
        system(SystemRegister::Cr3),
        system(SystemRegister::Cr4),
        guest.cpu.apic.cr8(),
        system(SystemRegister::Efer),
        system(SystemRegister::Xcr0)
    );
    for segment in SegmentName::ALL {
        look(guest.host);
        let hidden = vcpu.segment(segment);
        log::error!(
            "vm {name}: {segment:?}={:04x} base={:016x} limit={:08x} access={:05x}",
            hidden.selector,
            hidden.base,
            hidden.limit,
            hidden.access.bits()
        );
    }
    let [gdt, idt] = [DescriptorTableName::Gdtr, DescriptorTableName::Idtr].map(|table| vcpu.table(table));
    log::error!(
        "vm {name}: GDTR={:016x}+{:04x} IDTR={:016x}+{:04x}",
        gdt.base,
        gdt.limit,
        idt.base,
        idt.limit
    );
    look(guest.host);
    if code.as_slice().is_empty() {
        log::error!("vm {name}: code at RIP: cannot be read");
    } else {
        log::error!("vm {name}: code at RIP: {}", emulator::InstructionBytes::new(code.as_slice()));
    }
    log::error!("vm {name}: {}", Vendor(vcpu));
}

/// The backend's own lines.
struct Vendor<'a>(&'a dyn Vcpu);

impl fmt::Display for Vendor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.dump(f)
    }
}

/// The head of the list of VMs.
pub(crate) const HEAD: &str = "#   name             state        vCPUs memory  exits/s   CPU %  steal %\n";

/// One line of the list of VMs, without its end.
pub(crate) struct Line<'a, 'm, B: Backend> {
    pub(crate) vm: &'a Vm<'m, B>,
    pub(crate) rate: Rate,
}

impl<B: Backend> fmt::Display for Line<'_, '_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vm, rate) = (self.vm, self.rate);
        let state = vm.life.state();
        let word = match state {
            State::Halting(_) => "halting",
            State::Working(Task::Start | Task::Enter) => "starting",
            State::Working(Task::Reset) => "restarting",
            State::Working(Task::End(_)) => "ending",
            State::Running if vm.slots.iter().all(|slot| slot.place() == Place::Blocked) => "waiting",
            State::Running => "running",
            State::Paused => "paused",
            State::Held => "held",
            State::Stopped(_) => "stopped",
        };
        let tenths = |value: u64| (value / 10, value % 10);
        let ((busy, busy_tenths), (steal, steal_tenths)) = (tenths(rate.busy), tenths(rate.steal));
        write!(
            f,
            "{:<3} {:<16} {word:<12} {:>5} {:>6} {:>8} {busy:>5}.{busy_tenths} {steal:>6}.{steal_tenths}",
            vm.number + 1,
            vm.name,
            vm.slots.len(),
            Size(vm.config.memory),
            rate.exits
        )?;
        match state {
            State::Stopped(reason) => write!(f, "  {reason}"),
            _ => Ok(()),
        }
    }
}
