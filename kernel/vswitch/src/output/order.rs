//! Whose frame is next.

use super::{BLOCKS, NONE, PRIORITIES, Waiting};
use crate::MAX_PORTS;
use crate::port::{PortId, PortSet};

/// The frames of one sender with one priority, in order, by their first blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct List {
    first: u16,
    last: u16,
}

/// All lists.
#[derive(Debug)]
pub(super) struct Order {
    lists: [[List; MAX_PORTS]; PRIORITIES],
    /// Who has something in a list of each priority.
    active: [PortSet; PRIORITIES],
    /// The frame behind each.
    next: [u16; BLOCKS],
    /// What each frame costs.
    costs: [u32; BLOCKS],
    /// How much each sender has had, in bytes of all time; and how much he has had whose frame was last.
    had: [u64; MAX_PORTS],
    level: u64,
}

impl Order {
    pub(super) const fn new() -> Self {
        Self {
            lists: [[List { first: NONE, last: NONE }; MAX_PORTS]; PRIORITIES],
            active: [PortSet::NONE; PRIORITIES],
            next: [NONE; BLOCKS],
            costs: [0; BLOCKS],
            had: [0; MAX_PORTS],
            level: 0,
        }
    }

    pub(super) fn push(&mut self, frame: u16, waiting: &Waiting) {
        let (from, priority) = (waiting.from, usize::from(waiting.priority) & (PRIORITIES - 1));
        if let Some(cost) = self.costs.get_mut(usize::from(frame)) {
            *cost = u32::try_from(waiting.wire_bytes).unwrap_or(u32::MAX);
        }
        if let Some(next) = self.next.get_mut(usize::from(frame)) {
            *next = NONE;
        }
        if !self.is_active(from)
            && let Some(had) = self.had.get_mut(from.index())
        {
            // Who comes back after a pause has not saved up for it.
            *had = (*had).max(self.level);
        }
        let Some(list) = self.lists.get_mut(priority).and_then(|lists| lists.get_mut(from.index())) else {
            return;
        };
        let before = core::mem::replace(&mut list.last, frame);
        match self.next.get_mut(usize::from(before)) {
            Some(link) => *link = frame,
            None => list.first = frame,
        }
        if let Some(active) = self.active.get_mut(priority) {
            *active = active.with(from);
        }
    }

    fn is_active(&self, port: PortId) -> bool {
        self.active.iter().any(|active| active.has(port))
    }

    /// Takes the frame that is next. `guaranteed` have not yet had what they are guaranteed.
    pub(super) fn take(&mut self, guaranteed: PortSet) -> Option<u16> {
        let highest = self.active.iter().rposition(|active| !active.is_empty())?;
        let all = self.active.iter().fold(PortSet::NONE, |all, active| all.or(*active));
        let first = all.and(guaranteed);
        let (from, priority) = if first.is_empty() {
            (self.least(*self.active.get(highest)?)?, highest)
        } else {
            let from = self.least(first)?;
            (from, self.active.iter().rposition(|active| active.has(from))?)
        };
        let list = self.lists.get_mut(priority)?.get_mut(from.index())?;
        let frame = list.first;
        list.first = *self.next.get(usize::from(frame))?;
        if list.first == NONE {
            list.last = NONE;
            let active = self.active.get_mut(priority)?;
            *active = active.without(from);
        }
        let had = self.had.get_mut(from.index())?;
        self.level = self.level.max(*had);
        *had = had.saturating_add(self.costs.get(usize::from(frame)).copied().unwrap_or(0).into());
        Some(frame)
    }

    /// Forgets all frames; `with` gets each.
    pub(super) fn clear(&mut self, mut with: impl FnMut(u16)) {
        for (lists, active) in self.lists.iter_mut().zip(&mut self.active) {
            for from in core::mem::replace(active, PortSet::NONE) {
                let Some(list) = lists.get_mut(from.index()) else { continue };
                let mut frame = list.first;
                *list = List { first: NONE, last: NONE };
                while let Some(next) = self.next.get(usize::from(frame)) {
                    with(frame);
                    frame = *next;
                }
            }
        }
    }

    /// Who of these has had least.
    fn least(&self, mut of: PortSet) -> Option<PortId> {
        let first = of.take_first()?;
        if of.is_empty() {
            return Some(first);
        }
        let had = |port: PortId| self.had.get(port.index()).copied().unwrap_or(0);
        Some(of.fold(first, |least, port| if had(port) < had(least) { port } else { least }))
    }
}
