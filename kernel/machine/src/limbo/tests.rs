//! A model: CPUs that run, leave and pass at random, with translations that they cache from a table that changes under
//! them, and frames that are unmapped, rest and are used again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const CPUS: usize = 4;
const FRAMES: usize = 12;
const ROOM: usize = 5;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A guest on a CPU uses a mapping, which the CPU keeps.
    Use { cpu: usize, frame: usize },
    /// A CPU enters a guest, and drops its translations before where it has to.
    Enter { cpu: usize },
    /// A CPU leaves its guest.
    Exit { cpu: usize },
    /// A CPU runs no guests for a while.
    Leave { cpu: usize },
    /// A frame is taken from the guest.
    Unmap { frame: usize },
    /// What has rested long enough is freed.
    Collect,
    /// A free frame is used anew.
    Map { frame: usize },
}

fn steps() -> impl Strategy<Value = Step> {
    let (cpu, frame) = (0..CPUS, 0..FRAMES);
    prop_oneof![
        4 => (cpu.clone(), frame.clone()).prop_map(|(cpu, frame)| Step::Use { cpu, frame }),
        3 => cpu.clone().prop_map(|cpu| Step::Enter { cpu }),
        2 => cpu.clone().prop_map(|cpu| Step::Exit { cpu }),
        1 => cpu.prop_map(|cpu| Step::Leave { cpu }),
        2 => frame.clone().prop_map(|frame| Step::Unmap { frame }),
        2 => Just(Step::Collect),
        2 => frame.prop_map(|frame| Step::Map { frame }),
    ]
}

#[derive(Default)]
struct Cpu {
    in_guest: bool,
    away: Option<Away>,
    translations: HashSet<usize>,
}

struct Model {
    epochs: Epochs<CPUS>,
    limbo: Limbo<usize, ROOM>,
    cpus: [Cpu; CPUS],
    mapped: HashSet<usize>,
    free: HashSet<usize>,
}

impl Model {
    fn new() -> Self {
        Self {
            epochs: Epochs::new(),
            limbo: Limbo::new(),
            cpus: Default::default(),
            mapped: HashSet::new(),
            free: (0..FRAMES).collect(),
        }
    }

    fn enter(&mut self, number: usize) {
        let Cpu { in_guest, away, translations } = &mut self.cpus[number];
        if let Some(away) = away.take() {
            self.epochs.come_back(number, away);
        }
        if !*in_guest && self.epochs.is_behind(number) {
            self.epochs.pass(number, || translations.clear());
        }
        *in_guest = true;
    }

    fn leave(&mut self, number: usize) {
        let cpu = &mut self.cpus[number];
        if cpu.away.is_none() {
            cpu.in_guest = false;
            cpu.away = Some(self.epochs.leave(number));
        }
    }

    fn unmap(&mut self, frame: usize) {
        if self.limbo.len() < ROOM && self.mapped.remove(&frame) {
            let epoch = self.epochs.begin();
            assert_eq!(self.limbo.rest(epoch, frame), Ok(()));
            for (number, cpu) in self.cpus.iter().enumerate() {
                assert!(self.epochs.holds(number, epoch) || !cpu.in_guest);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Use { cpu, frame } => {
                if self.cpus[cpu].in_guest && self.mapped.contains(&frame) {
                    self.cpus[cpu].translations.insert(frame);
                }
            }
            Step::Enter { cpu } => self.enter(cpu),
            Step::Exit { cpu } => self.cpus[cpu].in_guest = false,
            Step::Leave { cpu } => self.leave(cpu),
            Step::Unmap { frame } => self.unmap(frame),
            Step::Collect => {
                while let Some(frame) = self.limbo.take(&self.epochs) {
                    assert!(self.free.insert(frame));
                }
            }
            Step::Map { frame } => {
                if self.free.remove(&frame) {
                    self.mapped.insert(frame);
                }
            }
        }
    }

    /// No guest reaches a free frame through what its CPU holds.
    fn check(&self) {
        for cpu in self.cpus.iter().filter(|cpu| cpu.in_guest) {
            assert!(cpu.translations.is_disjoint(&self.free));
        }
        assert_eq!(self.mapped.len() + self.free.len() + self.limbo.len(), FRAMES);
    }
}

proptest! {
    #[test]
    fn a_frame_is_never_free_while_a_cpu_can_reach_it(steps in proptest::collection::vec(steps(), 0..400)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check();
        }
        // Everything becomes free in the end, once each CPU has entered a guest again or has left.
        for frame in (0..FRAMES).flat_map(|frame| [None, Some(frame)]) {
            frame.into_iter().for_each(|frame| model.unmap(frame));
            for cpu in 0..CPUS {
                model.step(Step::Exit { cpu });
                if cpu % 2 == 0 { model.enter(cpu) } else { model.leave(cpu) }
            }
            model.step(Step::Collect);
            model.check();
        }
        prop_assert_eq!(model.free.len(), FRAMES);
    }
}

#[test]
fn a_cpu_that_is_away_holds_nothing_up() {
    let epochs = Epochs::<2>::new();
    let epoch = epochs.begin();
    assert!(epochs.has_passed(epoch) && epochs.is_behind(0));
    epochs.pass(0, || {});
    assert!(!epochs.is_behind(0));
    let next = epochs.begin();
    assert!(
        epochs.is_behind(0) && epochs.holds(0, next) && !epochs.holds(1, next) && !epochs.has_passed(next)
    );
    let away = epochs.leave(0);
    assert!(epochs.has_passed(next));
    epochs.come_back(0, away);
    assert!(epochs.is_behind(0) && !epochs.has_passed(next));
}

#[test]
fn who_was_away_while_nothing_happened_drops_nothing() {
    let epochs = Epochs::<1>::new();
    epochs.pass(0, || {});
    let away = epochs.leave(0);
    epochs.come_back(0, away);
    assert!(!epochs.is_behind(0));
}

#[test]
fn a_full_limbo_gives_back_what_it_has_no_room_for() {
    let epochs = Epochs::<1>::new();
    let mut limbo = Limbo::<u32, 2>::new();
    assert!(limbo.is_empty());
    let (first, second) = (epochs.begin(), epochs.begin());
    assert_eq!(
        (limbo.rest(second, 2), limbo.rest(first, 1), limbo.rest(second, 3)),
        (Ok(()), Ok(()), Err(3))
    );
    assert_eq!((limbo.take(&epochs), limbo.take(&epochs), limbo.take(&epochs)), (Some(1), Some(2), None));
}

/// Real threads: a slot that is taken out of a table is never freed while a thread is in between reading the table and
/// its next pass.
#[test]
fn threads_never_meet_what_is_free() {
    const SLOTS: usize = 64;
    let epochs = Epochs::<3>::new();
    let current = AtomicUsize::new(0);
    let freed: Vec<AtomicBool> = (0..SLOTS).map(|_| AtomicBool::new(false)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cpu in 0..3 {
            let (epochs, current, freed, done) = (&epochs, &current, &freed, &done);
            scope.spawn(move || {
                // What the thread still uses between two passes.
                let mut held = None;
                while !done.load(Ordering::SeqCst) {
                    epochs.pass(cpu, || held = None);
                    for _ in 0..20 {
                        let slot = *held.get_or_insert_with(|| current.load(Ordering::SeqCst));
                        assert!(
                            !freed[slot].load(Ordering::SeqCst),
                            "CPU {cpu} holds slot {slot}, which is free"
                        );
                    }
                    if cpu == 2 {
                        let away = epochs.leave(cpu);
                        std::thread::yield_now();
                        epochs.come_back(cpu, away);
                    }
                }
                drop(epochs.leave(cpu));
            });
        }
        let mut limbo = Limbo::<usize, SLOTS>::new();
        for slot in 1..SLOTS {
            let old = current.swap(slot, Ordering::SeqCst);
            // There is room for all; a panic here would leave the threads running.
            let _ = limbo.rest(epochs.begin(), old);
            while let Some(free) = limbo.take(&epochs) {
                freed[free].store(true, Ordering::SeqCst);
            }
            std::thread::yield_now();
        }
        done.store(true, Ordering::SeqCst);
    });
}
