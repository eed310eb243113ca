//! A VM's virtio devices: which there are, where they are on the PCI bus, and their wires to the rest of the VM.
//!
//! A device has no lock of the VM's: an access to its registers finds it by the address of its BAR, and a doorbell is a bit that is
//! set. What it says to the VM goes to the local APICs as a message, or through the chipset as a line.

mod make;

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use arrayvec::ArrayVec;
use devices::pci::FunctionAddress;
use devices::{ApicBus, Chipset, msi};
use passthrough::pci::MAX_SLOTS;
use vcpu::{Backend, Gpa, Host, Image, Nanos};
use virtio::balloon::Balloon;
use virtio::block::Block;
use virtio::pci::{BAR_BYTES, Configured, place, without_line};
use virtio::{Function, Signals, VmSet, Wires};

use crate::memory_map::PCI_MEMORY;
use crate::run::places::Places;
use crate::schedule::VmId;
use crate::wiring::Wiring;

/// The device on bus 0 that is the first of them; the host bridge is before it.
const FIRST_DEVICE: usize = 1;

/// The devices.
pub(crate) struct VirtioBus<I> {
    functions: Vec<Function<I>>,
    /// Where they are among the machine's own: a device number of bus 0 each.
    slots: Option<ArrayVec<u8, MAX_SLOTS>>,
    /// Which has the next turn, so that none is passed over for long.
    turn: AtomicUsize,
    /// When one of them wants [`Self::advance`].
    deadline: AtomicU64,
}

impl<I: Image> VirtioBus<I> {
    /// The same among the machine's own devices, in the places that these leave free. What finds none is not there.
    pub(crate) fn among(mut self, slots: impl FnOnce(usize) -> ArrayVec<u8, MAX_SLOTS>) -> Self {
        let slots = slots(self.functions.len());
        self.functions.truncate(slots.len());
        self.slots = Some(slots);
        self
    }

    /// Where a device is on the bus.
    #[inline]
    pub(crate) fn address(&self, index: usize) -> FunctionAddress {
        let device = match &self.slots {
            Some(slots) => slots.get(index).copied().unwrap_or_default(),
            None => (FIRST_DEVICE + index) as u8,
        };
        FunctionAddress::new(0, device, 0)
    }

    /// The device at that place on the bus, where there is one.
    pub(crate) fn index_of(&self, at: FunctionAddress) -> Option<usize> {
        if at.bus() != 0 || at.function() != 0 {
            return None;
        }
        let index = match &self.slots {
            Some(slots) => slots.iter().position(|slot| *slot == at.device())?,
            None => usize::from(at.device()).checked_sub(FIRST_DEVICE)?,
        };
        (index < self.functions.len()).then_some(index)
    }

    /// Whether a range has registers of one of them.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.functions.iter().any(|it| it.overlaps(range))
    }

    /// Which device's registers are there, and the offset into them.
    #[inline]
    pub(crate) fn find(&self, gpa: Gpa) -> Option<(usize, u64)> {
        self.functions.iter().enumerate().find_map(|(index, it)| Some((index, it.offset(gpa.0)?)))
    }

    /// Which device's doorbell is there, and for which of its queues.
    #[inline(always)]
    pub(crate) fn doorbell(&self, gpa: Gpa) -> Option<(&Function<I>, usize)> {
        let (function, offset) = self.functions.iter().find_map(|it| Some((it, it.offset(gpa.0)?)))?;
        Some((function, virtio::pci::doorbell(offset)?))
    }

    /// Takes note of what was answered for disks that the management domain serves.
    pub(crate) fn note_answers(&self) {
        self.functions.iter().for_each(Function::note_answers);
    }

    /// Whether a driver has told of something that nobody has looked at.
    #[inline]
    pub(crate) fn is_rung(&self) -> bool {
        self.functions.iter().any(Function::is_rung)
    }

    /// How many devices there are.
    pub(crate) const fn len(&self) -> usize {
        self.functions.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Function<I>> {
        self.functions.get(index)
    }

    /// A device with something to do: they take turns.
    pub(crate) fn rung(&self) -> Option<(usize, &Function<I>)> {
        let (count, turn) = (self.functions.len(), self.turn.fetch_add(1, SeqCst));
        (0..count)
            .map(|step| turn.wrapping_add(step) % count)
            .find_map(|index| Some((index, self.functions.get(index).filter(|it| it.is_rung())?)))
    }

    /// When a device that waits for a time wants to go on.
    #[inline]
    pub(crate) fn deadline(&self) -> Nanos {
        Nanos(self.deadline.load(SeqCst))
    }

    /// A device wants to go on at this time. True where that is earlier than all others.
    fn wake_at(&self, at: Nanos) -> bool {
        self.deadline.fetch_min(at.0, SeqCst) > at.0
    }

    /// Has devices go on whose time may have come. True where there is one.
    pub(crate) fn advance(&self, now: Nanos) -> bool {
        if self.deadline() > now {
            return false;
        }
        self.deadline.store(Nanos::NEVER.0, SeqCst);
        // Those for whom it is too early say so again.
        self.functions.iter().for_each(Function::advance);
        true
    }

    /// Has all devices go on that wait for a time, whatever it is: what they wait for has changed.
    pub(crate) fn go_on(&self) {
        self.functions.iter().for_each(Function::advance);
    }

    /// The VM's console has a window of that size.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        self.functions.iter().for_each(|function| function.resize(columns, rows));
    }

    /// A disk of the VM's, by its number.
    pub(crate) fn disk(&self, number: usize) -> Option<&Block<I>> {
        // They come first.
        self.functions.get(number)?.as_block()
    }

    /// The VM's balloon, where it has one.
    pub(crate) fn balloon(&self) -> Option<&Balloon> {
        self.functions.iter().find_map(Function::as_balloon)
    }

    /// Bytes of host memory that what was written to its disks takes.
    pub(crate) fn kept(&self) -> u64 {
        self.functions.iter().map(Function::kept).sum()
    }

    /// Frames that network devices have lost.
    pub(crate) fn lost_frames(&self) -> u64 {
        self.functions.iter().map(Function::lost_frames).sum()
    }

    /// What its network devices have carried: bytes received, bytes sent, frames lost.
    pub(crate) fn traffic(&self) -> [u64; 3] {
        let ports = self.functions.iter().filter_map(|function| function.as_net()?.plug().port());
        ports.fold([0; 3], |[received, sent, lost], port| {
            let counters = &port.counters;
            [
                received + counters.received.read().1,
                sent + counters.sent.read().1,
                lost + counters.lost_in_all(),
            ]
        })
    }

    /// How often drivers have broken their devices by rings that made no sense.
    pub(crate) fn breakdowns(&self) -> u32 {
        self.functions.iter().map(Function::breakdowns).sum()
    }

    /// All devices as after power-up.
    pub(crate) fn power_up(&self) {
        self.functions.iter().for_each(|function| function.power_up(&mut Unplugged));
    }

    /// The device of that number as after power-up. False where there is none.
    pub(crate) fn power_up_one(&self, index: usize) -> bool {
        let function = self.functions.get(index);
        function.map(|function| function.power_up(&mut Unplugged)).is_some()
    }

    /// Puts all devices on the bus of a chipset that was reset, with their registers where firmware would put them.
    pub(crate) fn plug(&self, chipset: &mut Chipset<'_>) {
        for (index, function) in self.functions.iter().enumerate() {
            let mut space = function.config_space();
            let at = self.address(index);
            if self.slots.is_some() {
                // The machine's firmware knows nothing of it: Linux finds it a place, and there is no line.
                without_line(&mut space);
            } else {
                let base = PCI_MEMORY.first as u32 + index as u32 * BAR_BYTES;
                place(&mut space, base, Chipset::pci_irq(at));
            }
            // There are fewer devices than the bus holds, and their places are free.
            let _ = chipset.add_pci_function(at, space);
        }
    }

    /// The guest has configured a function of the bus.
    pub(crate) fn configure(&self, at: FunctionAddress, configured: &Configured, signals: &mut impl Signals) {
        if let Some(function) = self.index_of(at).and_then(|index| self.functions.get(index)) {
            function.configure(configured, signals);
        }
    }
}

/// The console device of a VM, with its ports.
/// A device's wires, for who does not hold the chipset.
pub(crate) struct Socket<'a, 'w, 'm, B: Backend, H: Host> {
    pub(crate) at: FunctionAddress,
    pub(crate) wiring: &'a mut Wiring<'w, 'm, B, H>,
}

impl<B: Backend, H: Host> Signals for Socket<'_, '_, '_, B, H> {
    fn message(&mut self, address: u64, data: u32) {
        send(self.wiring, address, data);
    }

    fn line(&mut self, high: bool) {
        let (vm, at) = (self.wiring.vm, self.at);
        vm.with_chipset(self.wiring, |chipset, wiring| chipset.drive_pci(at, high, wiring));
    }
}

/// What a step of a device needs: its wires, and the other VMs.
pub(crate) struct Exchange<'a, 'w, 'm, B: Backend, H: Host> {
    pub(crate) at: FunctionAddress,
    pub(crate) wiring: &'a mut Wiring<'w, 'm, B, H>,
    pub(crate) others: &'a Others<'a, 'm, B>,
}

/// The VMs, and the calls for them.
pub(crate) struct Others<'a, 'm, B: Backend> {
    pub(crate) places: &'a Places<'m, B>,
    pub(crate) calls: &'a VmSet,
}

impl<B: Backend, H: Host> Signals for Exchange<'_, '_, '_, B, H> {
    fn message(&mut self, address: u64, data: u32) {
        send(self.wiring, address, data);
    }

    fn line(&mut self, high: bool) {
        Socket { at: self.at, wiring: self.wiring }.line(high);
    }
}

impl<'m, B: Backend, H: Host> Wires<B::Image<'m>, B::Space> for Exchange<'_, '_, 'm, B, H> {
    fn now(&mut self) -> vswitch::Nanos {
        self.wiring.host.now().0
    }

    fn reach<R>(
        &mut self,
        owner: usize,
        with: impl FnOnce(&Function<B::Image<'m>>, &B::Space, &mut dyn Signals) -> R,
    ) -> Option<R> {
        let Owner { place, generation, index } = Owner::of(owner);
        let reached = self.others.places.with(place, |vm| {
            // Another VM may be there now.
            if vm.id.generation() != generation || vm.life.is_closed() {
                return None;
            }
            let (function, at) = (vm.virtio.get(index)?, vm.virtio.address(index));
            vm.with_space(|space| {
                if core::ptr::eq(vm, self.wiring.vm) {
                    return with(function, space, &mut Socket { at, wiring: self.wiring });
                }
                let Wiring { mailboxes, host, .. } = &mut *self.wiring;
                let mut wiring = Wiring { vm, own: None, mailboxes, host: &mut **host };
                with(function, space, &mut Socket { at, wiring: &mut wiring })
            })
        });
        reached.flatten()
    }

    fn call(&mut self, owner: usize) {
        // Should another VM be there now, it finds that there is nothing for it.
        self.others.calls.insert(Owner::of(owner).place);
    }

    fn wake_at(&mut self, at: vswitch::Nanos) {
        let vm = self.wiring.vm;
        if vm.virtio.wake_at(Nanos(at)) {
            let home = vm.home();
            self.wiring.mailboxes.be_due(home, Nanos(at));
            if home != self.wiring.host.cpu() {
                self.wiring.host.kick(home);
            }
        }
    }
}

/// A device of a VM, behind the number by which a switch knows it.
pub(crate) struct Owner {
    place: usize,
    /// Tells the VM from another one in its place.
    generation: u32,
    /// Which of its devices.
    index: usize,
}

impl Owner {
    /// The number.
    pub(crate) const fn number(vm: VmId, index: usize) -> usize {
        (vm.generation() as usize) << 32 | vm.index() << 8 | index
    }

    /// What such a number says.
    const fn of(number: usize) -> Self {
        Self { place: number >> 8 & 0xff_ffff, generation: (number >> 32) as u32, index: number & 0xff }
    }
}

/// The same for who holds it.
pub(crate) struct OnBoard<'a, 'w, 'm, B: Backend, H: Host> {
    pub(crate) at: FunctionAddress,
    pub(crate) chipset: &'a mut Chipset<'m>,
    pub(crate) wiring: &'a mut Wiring<'w, 'm, B, H>,
}

impl<B: Backend, H: Host> Signals for OnBoard<'_, '_, '_, B, H> {
    fn message(&mut self, address: u64, data: u32) {
        send(self.wiring, address, data);
    }

    fn line(&mut self, high: bool) {
        self.chipset.drive_pci(self.at, high, self.wiring);
    }
}

/// A message to an address that is no local APIC's goes nowhere.
fn send<B: Backend, H: Host>(wiring: &mut Wiring<'_, '_, B, H>, address: u64, data: u32) {
    if let Some(message) = msi(address, data) {
        wiring.deliver(message);
    }
}

/// No wires: the machine is being reset, and its lines are.
struct Unplugged;

impl Signals for Unplugged {
    fn message(&mut self, _address: u64, _data: u32) {}

    fn line(&mut self, _high: bool) {}
}
