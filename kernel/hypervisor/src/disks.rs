//! Disks of a VM that the management domain serves: slots, orders and answers (`docs/disks.md`).
//!
//! The VM's devices take slots and tell orders ([`Server`]); the first CPU hands these to the domain and its answers back. Nobody waits: what the
//! domain says of slots is believed of those that were told it, once.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use spin::Mutex;
use vcpu::Gpa;
use virtio::VmSet;
use virtio::block::{Answer, Order, OrderVerb, SLOT_BYTES, SLOTS, Server};

use crate::config::MAX_DISKS;
use crate::heap;

/// Bytes of a window: the places of all slots.
pub(crate) const WINDOW_BYTES: u64 = SLOTS as u64 * SLOT_BYTES as u64;

/// An order that was told last in a slot.
const NO_ORDER: Order = Order { disk: 0, verb: OrderVerb::Flush, sector: 0, sectors: 0 };

/// VMs whose disks have something to tell, and how the one who tells it is called.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// VMs with orders.
    pub(crate) vms: Arc<VmSet>,
    /// VMs for whose devices something has come: the domain's number stands for the kernel, which hands orders to it.
    pub(crate) calls: Arc<VmSet>,
    /// The domain.
    pub(crate) domain: usize,
}

#[derive(Debug)]
struct State {
    /// A device of the domain's, and where the first slot's place is in its memory.
    window: Option<(usize, Gpa)>,
    orders: [Order; SLOTS],
    answers: [Answer; SLOTS],
    /// The number of each slot's order: they are handed on as they came.
    numbers: [u64; SLOTS],
    next: u64,
    /// A bit for each slot whose order was not handed to the domain,
    untold: u32,
    /// for each of which it has not said what has become,
    told: u32,
    /// and for each for which it has no room.
    held: u32,
}

/// The slots of one VM.
#[derive(Debug)]
pub(crate) struct Depot {
    vm: usize,
    news: News,
    state: Mutex<State>,
    /// A bit for each slot that is free.
    free: AtomicU32,
    /// For each disk, a bit for each slot that was answered.
    answered: [AtomicU32; MAX_DISKS],
    /// There is a window.
    is_served: AtomicBool,
}

/// What the domain says of a slot, with which nothing can be done: it was not told such an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotTold(pub(crate) u16);

impl Depot {
    /// That of a VM. `None` where there is no memory for it.
    pub(crate) fn new(vm: usize, news: &News) -> Option<Arc<Self>> {
        heap::arc(Self {
            vm,
            news: news.clone(),
            state: Mutex::new(State {
                window: None,
                orders: [NO_ORDER; SLOTS],
                answers: [Answer::Done; SLOTS],
                numbers: [0; SLOTS],
                next: 0,
                untold: 0,
                told: 0,
                held: 0,
            }),
            free: AtomicU32::new(u32::MAX),
            answered: [const { AtomicU32::new(0) }; MAX_DISKS],
            is_served: AtomicBool::new(false),
        })
    }

    /// The domain serves the disks, by a window of its memory. What it, or another one before, has not answered is told anew, from the devices on:
    /// what lay in the slots may be gone.
    pub(crate) fn serve(&self, owner: usize, window: Gpa) {
        let mut state = self.state.lock();
        state.window = Some((owner, window));
        let out = state.untold | state.told | state.held;
        (state.untold, state.told, state.held) = (0, 0, 0);
        for slot in (0..SLOTS).filter(|slot| out >> slot & 1 != 0) {
            self.answer(&mut state, slot, Answer::Again);
        }
        drop(state);
        self.is_served.store(true, SeqCst);
        self.news.calls.insert(self.vm);
    }

    /// Nobody serves them any more.
    pub(crate) fn leave(&self) {
        self.is_served.store(false, SeqCst);
        self.state.lock().window = None;
    }

    /// The next order for the domain: its slot, its number, and what it is.
    pub(crate) fn hand_over(&self) -> Option<(u16, u64, Order)> {
        let mut state = self.state.lock();
        let untold = (0..SLOTS).filter(|slot| state.untold >> slot & 1 != 0);
        let first = untold.min_by_key(|slot| state.numbers.get(*slot).copied())?;
        state.untold &= !(1 << first);
        state.told |= 1 << first;
        Some((first as u16, state.numbers.get(first).copied()?, state.orders.get(first).copied()?))
    }

    /// The domain has answered an order; `None` where it has no room for what is written. Whether that was so of an order before.
    pub(crate) fn answered_by_domain(&self, slot: u16, answer: Option<Answer>) -> Result<(), NotTold> {
        let mut state = self.state.lock();
        let bit = 1_u32.checked_shl(slot.into()).unwrap_or(0);
        if state.told & bit == 0 {
            return Err(NotTold(slot));
        }
        state.told &= !bit;
        match answer {
            Some(answer) => {
                self.answer(&mut state, slot.into(), answer);
                drop(state);
                self.news.calls.insert(self.vm);
            }
            None => state.held |= bit,
        }
        Ok(())
    }

    /// The domain may have room now: orders for which it had none are handed to it again.
    pub(crate) fn retry(&self) {
        let mut state = self.state.lock();
        state.untold |= core::mem::take(&mut state.held);
        let has_some = state.untold != 0;
        drop(state);
        if has_some {
            self.call_kernel();
        }
    }

    fn answer(&self, state: &mut State, slot: usize, answer: Answer) {
        if let Some(place) = state.answers.get_mut(slot) {
            *place = answer;
        }
        let disk = state.orders.get(slot).map_or(0, |order| usize::from(order.disk));
        if let Some(answered) = self.answered.get(disk) {
            answered.fetch_or(1 << slot, SeqCst);
        }
    }

    fn call_kernel(&self) {
        self.news.vms.insert(self.vm);
        self.news.calls.insert(self.news.domain);
    }
}

impl Server for Depot {
    fn take(&self) -> Option<u16> {
        if !self.is_served.load(SeqCst) {
            return None;
        }
        let take = |free: u32| (free != 0).then_some(free & free.wrapping_sub(1));
        let before = self.free.fetch_update(SeqCst, SeqCst, take).ok()?;
        Some(before.trailing_zeros() as u16)
    }

    fn has_room(&self) -> bool {
        self.is_served.load(SeqCst) && self.free.load(SeqCst) != 0
    }

    fn place(&self, slot: u16) -> Option<(usize, Gpa)> {
        let (owner, Gpa(first)) = self.state.lock().window?;
        Some((owner, Gpa(first + u64::from(slot) * u64::from(SLOT_BYTES))))
    }

    fn tell(&self, slot: u16, order: Order) {
        let (at, bit) = (usize::from(slot), 1_u32 << (slot % SLOTS as u16));
        let mut state = self.state.lock();
        if let Some(answered) = self.answered.get(usize::from(order.disk)) {
            answered.fetch_and(!bit, SeqCst);
        }
        let number = state.next;
        state.next += 1;
        if let (Some(place), true) = (state.orders.get_mut(at), at < SLOTS) {
            *place = order;
        }
        if let Some(place) = state.numbers.get_mut(at) {
            *place = number;
        }
        state.untold |= bit;
        drop(state);
        self.call_kernel();
    }

    fn answered(&self, disk: u16) -> Option<(u16, Answer)> {
        let answered = self.answered.get(usize::from(disk))?.load(SeqCst);
        let slot = answered.trailing_zeros() as usize;
        let answer = self.state.lock().answers.get(slot).copied()?;
        Some((slot as u16, answer))
    }

    fn has_answers(&self, disk: u16) -> bool {
        self.answered.get(usize::from(disk)).is_some_and(|answered| answered.load(SeqCst) != 0)
    }

    fn give_back(&self, slot: u16) {
        let bit = 1_u32 << (slot % SLOTS as u16);
        for answered in &self.answered {
            answered.fetch_and(!bit, SeqCst);
        }
        if self.free.fetch_or(bit, SeqCst) == 0 {
            // Another disk of the VM's may wait for one.
            self.news.calls.insert(self.vm);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const OWNER: usize = 9;
    const WINDOW: Gpa = Gpa(0x20_0000);

    fn depot() -> Arc<Depot> {
        let news = News { vms: Arc::default(), calls: Arc::default(), domain: 0 };
        Depot::new(5, &news).expect("memory")
    }

    fn write(sector: u64) -> Order {
        Order { disk: 1, verb: OrderVerb::Write, sector, sectors: 8 }
    }

    fn taken(set: &VmSet) -> Vec<usize> {
        let mut taken = Vec::new();
        set.take(|vm| taken.push(vm));
        taken
    }

    #[test]
    fn an_order_goes_there_and_back() {
        let depot = depot();
        assert_eq!((depot.take(), depot.has_room()), (None, false), "nobody serves");
        depot.serve(OWNER, WINDOW);
        assert_eq!(taken(&depot.news.calls), [5], "who waits for a server hears of it");
        let (first, second) = (depot.take().expect("free"), depot.take().expect("free"));
        assert_eq!(depot.place(second), Some((OWNER, Gpa(WINDOW.0 + u64::from(SLOT_BYTES)))));
        depot.tell(second, write(8));
        depot.tell(first, write(0));
        assert_eq!((taken(&depot.news.vms), taken(&depot.news.calls)), (std::vec![5], std::vec![0]));
        assert_eq!(depot.hand_over(), Some((second, 0, write(8))), "in the order in which they came");
        assert_eq!(depot.answered_by_domain(first, Some(Answer::Done)), Err(NotTold(first)));
        assert_eq!(depot.hand_over(), Some((first, 1, write(0))));
        assert_eq!(depot.hand_over(), None);
        assert_eq!(depot.answered_by_domain(second, Some(Answer::Failed)), Ok(()));
        assert_eq!(depot.answered_by_domain(second, Some(Answer::Done)), Err(NotTold(second)), "once");
        assert_eq!(depot.answered_by_domain(99, Some(Answer::Done)), Err(NotTold(99)));
        assert!(depot.has_answers(1) && !depot.has_answers(0));
        assert_eq!(depot.answered(1), Some((second, Answer::Failed)));
        depot.give_back(second);
        assert!(!depot.has_answers(1));
        assert_eq!(depot.take(), Some(second));
    }

    #[test]
    fn there_are_so_many_slots() {
        let depot = depot();
        depot.serve(OWNER, WINDOW);
        let slots: Vec<_> = (0..SLOTS).filter_map(|_| depot.take()).collect();
        assert_eq!((slots.len(), depot.take(), depot.has_room()), (SLOTS, None, false));
        depot.give_back(7);
        assert_eq!(depot.take(), Some(7));
    }

    #[test]
    fn what_has_no_room_is_handed_over_again() {
        let depot = depot();
        depot.serve(OWNER, WINDOW);
        let slot = depot.take().expect("free");
        depot.tell(slot, write(0));
        assert!(depot.hand_over().is_some());
        assert_eq!(depot.answered_by_domain(slot, None), Ok(()));
        assert_eq!((depot.hand_over(), depot.has_answers(1)), (None, false), "nobody hears of it");
        depot.retry();
        assert_eq!(depot.hand_over(), Some((slot, 0, write(0))));
        assert_eq!(depot.answered_by_domain(slot, Some(Answer::Done)), Ok(()));
    }

    #[test]
    fn another_server_is_told_all_that_was_not_answered() {
        let depot = depot();
        depot.serve(OWNER, WINDOW);
        let slots = [(); 4].map(|()| depot.take().expect("free"));
        slots[..3].iter().for_each(|slot| depot.tell(*slot, write(u64::from(*slot))));
        let told = [depot.hand_over(), depot.hand_over()].map(|order| order.expect("told").0);
        assert_eq!(depot.answered_by_domain(told[0], None), Ok(()));
        depot.leave();
        assert_eq!((depot.take(), depot.place(slots[0])), (None, None));
        depot.serve(OWNER, Gpa(0x40_0000));
        for _ in 0..3 {
            let (slot, answer) = depot.answered(1).expect("one more");
            assert_eq!(answer, Answer::Again);
            depot.tell(slot, write(u64::from(slot)));
        }
        assert_eq!(depot.answered(1), None, "the one that was only taken is its device's");
        assert_eq!((0..3).filter_map(|_| depot.hand_over()).count(), 3);
        assert_eq!(depot.answered_by_domain(slots[3], Some(Answer::Done)), Err(NotTold(slots[3])));
    }
}
