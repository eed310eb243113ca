//! What belongs to one virtual CPU, beside what the backend keeps: its local APIC, time, MSRs and CPUID.

use bitflags::bitflags;
use devices::{APIC_TIMER_HZ, Inbox, LocalApic, LocalApicConfig};
use vcpu::{
    ApicAssists, Backend, Event, Gpa, GuestMemory, Host, Nanos, Segment, SegmentName, SystemRegister, Vcpu,
    WithVcpu,
};

use crate::clock::{GuestClock, TscScale};
use crate::config::VmConfig;
use crate::control::{GUEST_OWNED_CR0, guest_owned_cr4};
use crate::counters::Counters;
use crate::cpuid::{CpuidTable, Machine, Permissions};
use crate::dispatch::doorbell::Trust;
use crate::dispatch::familiar::FamiliarMoves;
use crate::msr::Msrs;
use crate::paravirtual::{Features, Paravirtual};
use crate::run::poll::Patience;
use crate::vm::StartError;

bitflags! {
    /// Work that waits before the next entry. The hot path tests this one word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Attention: u8 {
        /// An interrupt may have become deliverable.
        const INTERRUPTS = 1 << 0;
        /// The local APIC's deadline may have changed or passed.
        const TIME = 1 << 1;
        /// The chipset's deadline or the 8259s' output has changed.
        const DEVICES = 1 << 2;
        /// The inbox has something that came while the CPU had the local APIC's state.
        const INBOX = 1 << 4;
        /// The host had an interrupt: the slice may be over, the inbox may have something, the VM may come to a halt.
        const HOST = 1 << 3;
    }
}

/// What a vCPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    /// Executing instructions.
    Running,
    /// In HLT until an interrupt comes.
    Halted,
    /// After an INIT: only a start-up message can wake it.
    WaitForStartup,
    /// In HLT with interrupts off: only an NMI or an INIT can wake it.
    HaltedMasked,
}

/// A virtual CPU: what the backend keeps of it, and the rest.
pub(crate) struct VirtualCpu<B: Backend> {
    pub(crate) vcpu: B::Vcpu,
    pub(crate) cpu: Processor,
}

/// What of a virtual CPU the backend does not keep.
pub(crate) struct Processor {
    /// Its number in the VM, and its APIC id.
    pub(crate) index: usize,
    pub(crate) apic: LocalApic,
    /// What the CPU does of it, and whether it has the state of its interrupts now.
    pub(crate) apic_assists: ApicAssists,
    pub(crate) apic_given: bool,
    /// How often the guest has written its task priority by exits, up to where that no longer matters.
    pub(crate) task_priority_writes: u8,
    pub(crate) cpuid: CpuidTable,
    pub(crate) permissions: Permissions,
    pub(crate) clock: GuestClock,
    pub(crate) msrs: Msrs,
    pub(crate) paravirtual: Paravirtual,
    /// The host's TSC at the start of the guest's time.
    pub(crate) started: u64,
    pub(crate) counters: Counters,
    pub(crate) attention: Attention,
    pub(crate) activity: Activity,
    /// The host's TSC when it last stopped running.
    pub(crate) waiting_since: u64,
    /// How long a CPU waits for it when it halts.
    pub(crate) patience: Patience,
    /// Memory that comes again, where its turn ended meanwhile: it goes on here.
    pub(crate) comes: Option<Gpa>,
    /// How far the lengths of instructions are believed that the CPU tells with nested faults.
    pub(crate) trust: Trust,
    /// Accesses to devices that were decoded before.
    pub(crate) familiar: FamiliarMoves,
    /// Exits in a row whose instruction was not the expected one.
    pub(crate) mismatches: u8,
    interrupt_window: bool,
    nmi_window: bool,
}

impl<B: Backend> VirtualCpu<B> {
    /// See [`Processor::new`]. Not loaded.
    pub(crate) fn new<H: Host>(
        backend: &B,
        space: &B::Space,
        host: &H,
        index: usize,
        count: usize,
        config: &VmConfig<'_>,
    ) -> Result<Self, StartError> {
        let cpu = Processor::new(backend, host, index, count, config)?;
        Ok(Self { vcpu: backend.create_vcpu(space)?, cpu })
    }

    /// See [`Vcpu::load`].
    pub(crate) fn load(&mut self) {
        struct Load;
        impl WithVcpu for Load {
            type Output = ();
            fn call<V: Vcpu>(self, vcpu: &mut V) {
                vcpu.load();
            }
        }
        B::with_vcpu(&mut self.vcpu, Load);
    }

    /// See [`Vcpu::unload`].
    pub(crate) fn unload(&mut self) {
        struct Unload;
        impl WithVcpu for Unload {
            type Output = ();
            fn call<V: Vcpu>(self, vcpu: &mut V) {
                vcpu.unload();
            }
        }
        B::with_vcpu(&mut self.vcpu, Unload);
    }
}

impl Processor {
    /// Processor number `index` of `count`, in the state after power-up; its APIC id is its number. The first one is the
    /// bootstrap processor.
    #[inline(never)]
    fn new<B: Backend, H: Host>(
        backend: &B,
        host: &H,
        index: usize,
        count: usize,
        config: &VmConfig<'_>,
    ) -> Result<Self, StartError> {
        let apic_id = index as u32;
        let scale = tsc_scale(backend, host, config.tsc_khz)?;
        let tsc_hz = config.tsc_khz.map_or(host.tsc_hz(), |khz| u64::from(khz) * 1000);
        let mut features = config.paravirtual;
        if !host.tsc_is_steady() {
            // The clock page goes by the TSC.
            features.remove(Features::CLOCK);
        }
        let machine = Machine {
            tsc_hz,
            tsc_is_steady: host.tsc_is_steady(),
            apic_timer_hz: APIC_TIMER_HZ,
            apic_id,
            vcpus: count as u32,
            paravirtual: features,
        };
        let cpuid = CpuidTable::new(|leaf, subleaf| backend.cpuid(leaf, subleaf), &machine);
        let permissions = cpuid.permissions();
        let apic = LocalApic::new(apic_config(apic_id, &permissions));
        Ok(Self {
            index,
            apic,
            apic_assists: ApicAssists::empty(),
            apic_given: false,
            task_priority_writes: 0,
            msrs: Msrs::new(&permissions),
            cpuid,
            permissions,
            clock: GuestClock::starting_at(host.tsc(), scale),
            paravirtual: Paravirtual::new(features, tsc_hz),
            started: host.tsc(),
            counters: Counters::default(),
            attention: Attention::all(),
            activity: Activity::Running,
            waiting_since: host.tsc(),
            patience: Patience::default(),
            comes: None,
            trust: Trust::default(),
            familiar: FamiliarMoves::default(),
            mismatches: 0,
            interrupt_window: false,
            nmi_window: false,
        })
    }

    /// Whether this is the one that starts the others.
    #[inline]
    pub(crate) const fn is_bootstrap(&self) -> bool {
        self.index == 0
    }

    /// Back to the state after power-up, as firmware leaves it for an operating system; its time starts at the host's
    /// TSC value `started`. The vCPU is loaded.
    pub(crate) fn reset(&mut self, vcpu: &mut (impl Vcpu + ?Sized), started: u64) {
        self.take_apic(vcpu);
        self.apic = LocalApic::new(apic_config(self.apic.apic_id(), &self.permissions));
        if self.is_bootstrap() {
            self.apic.enter_virtual_wire();
        }
        self.msrs = Msrs::new(&self.permissions);
        self.cpuid.set_apic(true);
        self.task_priority_writes = 0;
        self.started = started;
        self.paravirtual.reset();
        self.clock = GuestClock::starting_at(self.started, self.clock.scale());
        self.restart(vcpu);
    }

    /// An INIT: registers as after power-up, but time, MSRs and the APIC's base go on (SDM vol. 3, "Processor State
    /// After INIT"). The vCPU is loaded.
    pub(crate) fn init(&mut self, vcpu: &mut (impl Vcpu + ?Sized)) {
        self.take_apic(vcpu);
        self.apic.init();
        self.restart(vcpu);
    }

    fn restart(&mut self, vcpu: &mut (impl Vcpu + ?Sized)) {
        vcpu.reset();
        self.cpuid.set_cr4(0);
        self.cpuid.set_xcr0(vcpu.read(SystemRegister::Xcr0));
        vcpu.set_tsc_offset(self.clock.offset());
        if let Some(scale) = self.clock.scale() {
            vcpu.set_tsc_scale(scale.multiplier());
        }
        vcpu.set_guest_owned(GUEST_OWNED_CR0, guest_owned_cr4(&self.permissions));
        self.activity = if self.is_bootstrap() { Activity::Running } else { Activity::WaitForStartup };
        self.update_apic_view(vcpu);
        self.attention = Attention::all();
        self.mismatches = 0;
        // A reset vCPU may have kept its windows.
        (self.interrupt_window, self.nmi_window) = (true, true);
        self.set_interrupt_window(vcpu, false);
        self.set_nmi_window(vcpu, false);
    }

    /// A start-up message: in real mode at the beginning of that page (SDM vol. 3, "MP Initialization Protocol").
    pub(crate) fn start_at(&mut self, vcpu: &mut (impl Vcpu + ?Sized), page: u8) {
        let code = Segment {
            selector: u16::from(page) << 8,
            base: u64::from(page) << 12,
            ..vcpu.segment(SegmentName::Cs)
        };
        vcpu.set_segment(SegmentName::Cs, code);
        vcpu.set_rip(0);
        self.activity = Activity::Running;
        self.attention = Attention::all();
    }

    /// Writes CR0, with what goes with it.
    pub(crate) fn write_cr4(&mut self, vcpu: &mut (impl Vcpu + ?Sized), value: u64) {
        vcpu.write(SystemRegister::Cr4, value);
        self.cpuid.set_cr4(value);
    }

    /// Injects an event and counts it.
    #[inline]
    pub(crate) fn inject(&mut self, vcpu: &mut (impl Vcpu + ?Sized), event: Event) {
        self.counters.injected += 1;
        vcpu.inject(event);
    }

    /// Where nobody needs to hear of the end of the interrupt that the guest serves, says so in its memory.
    #[inline(always)]
    pub(crate) fn offer_private_end(&mut self, space: &impl GuestMemory) {
        if self.paravirtual.eoi.is_enabled() {
            self.say_whether_end_is_private(space);
        }
    }

    fn say_whether_end_is_private(&mut self, space: &impl GuestMemory) {
        let exits = !self.apic_assists.contains(ApicAssists::DELIVERY);
        if exits && self.apic.end_is_private() {
            self.paravirtual.eoi.arm(space);
        }
    }

    /// After an exit: whether the guest has ended the interrupt without telling.
    pub(crate) fn take_private_end(&mut self, vcpu: &mut (impl Vcpu + ?Sized), space: &impl GuestMemory) {
        if self.paravirtual.eoi.disarm(space) {
            // It was edge-triggered: the I/O APIC need not hear of it.
            self.take_apic(vcpu);
            self.apic.end_of_interrupt();
        }
        self.attention |= Attention::INTERRUPTS;
    }

    /// Takes in what others have sent.
    pub(crate) fn take_in(&mut self, vcpu: &mut (impl Vcpu + ?Sized), inbox: &Inbox) {
        if !inbox.is_empty() {
            self.take_apic(vcpu);
            let drained = inbox.drain(&mut self.apic);
            self.paravirtual.unhalted |= drained.unhalt;
            if drained.nudged {
                self.attention |= Attention::DEVICES;
            }
        }
    }

    /// Whether there are others than vectors to deliver, or the guest is watched for one.
    #[inline(always)]
    pub(crate) fn has_other_events(&self) -> bool {
        self.apic.nmi_pending() || self.apic.init_or_startup_pending() || self.nmi_window
    }

    /// Another vCPU may have ended this one's HLT, whether interrupts are on or not.
    #[inline]
    pub(crate) fn end_halt_if_told(&mut self) {
        if self.paravirtual.unhalted && matches!(self.activity, Activity::Halted | Activity::HaltedMasked) {
            self.paravirtual.unhalted = false;
            self.activity = Activity::Running;
        }
    }

    /// The window is asked for or called off only when that changes something.
    #[inline(always)]
    pub(crate) fn set_interrupt_window(&mut self, vcpu: &mut (impl Vcpu + ?Sized), wanted: bool) {
        if self.interrupt_window != wanted {
            self.interrupt_window = wanted;
            vcpu.request_interrupt_window(wanted);
        }
    }

    #[inline(always)]
    pub(crate) fn set_nmi_window(&mut self, vcpu: &mut (impl Vcpu + ?Sized), wanted: bool) {
        if self.nmi_window != wanted {
            self.nmi_window = wanted;
            vcpu.request_nmi_window(wanted);
        }
    }

    /// Tells the local APIC a TSC deadline in host time.
    pub(crate) fn write_tsc_deadline<H: Host>(&mut self, value: u64, host: &H) {
        let at = self.clock.host_deadline(value, host.tsc()).map(|tsc| host.time_of(tsc));
        // Outside TSC-deadline mode the register ignores writes.
        let _ = self.apic.write_tsc_deadline(value, at);
        self.attention |= Attention::TIME;
    }

    /// The guest's TSC has taken a step: an armed deadline comes at another moment.
    pub(crate) fn clock_changed<H: Host>(
        &mut self,
        vcpu: &mut (impl Vcpu + ?Sized),
        host: &H,
        space: &impl GuestMemory,
    ) {
        vcpu.set_tsc_offset(self.clock.offset());
        self.paravirtual.clock.update(self.clock.guest_tsc(self.started), space);
        let deadline = self.apic.tsc_deadline();
        if deadline != 0 {
            self.write_tsc_deadline(deadline, host);
        }
    }

    /// When the local APIC's timer next needs the CPU.
    #[inline]
    pub(crate) fn deadline(&self) -> Nanos {
        self.apic.next_deadline().unwrap_or(Nanos::NEVER)
    }
}

/// How the CPU makes a TSC of this rate; `None` where it is to be the host's own.
fn tsc_scale<B: Backend, H: Host>(
    backend: &B,
    host: &H,
    khz: Option<u32>,
) -> Result<Option<TscScale>, StartError> {
    let Some(khz) = khz else { return Ok(None) };
    let scaling = backend.tsc_scaling().ok_or(StartError::NoTscScaling { khz, host_hz: host.tsc_hz() })?;
    let scale = TscScale::new(u64::from(khz) * 1000, host.tsc_hz(), scaling);
    scale.map(Some).ok_or(StartError::NoTscScaling { khz, host_hz: host.tsc_hz() })
}

fn apic_config(apic_id: u32, permissions: &Permissions) -> LocalApicConfig {
    LocalApicConfig { apic_id, bootstrap: apic_id == 0, physical_address_bits: permissions.physical_bits }
}
