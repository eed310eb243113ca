//! What takes long, as those see it who have asked for it.

use std::collections::VecDeque;

use api::name::Name;
use api::task::{State, Task};

/// Tasks that are over and still known.
const KEPT: usize = 128;
/// Tasks that are not over, at most: nobody can ask for more.
pub(super) const MOST: usize = 256;

/// All that are known, the oldest first.
#[derive(Default)]
pub(super) struct Tasks {
    all: VecDeque<Task>,
    last: u64,
}

impl Tasks {
    /// A new one, which waits.
    pub(super) fn add(&mut self, what: &str, vm: Option<Name>) -> u64 {
        self.last += 1;
        let what = what.to_owned();
        self.all.push_back(Task { id: self.last, what, vm, state: State::Waiting, progress: 0, error: None });
        while self.all.iter().filter(|task| task.is_over()).count() > KEPT {
            let oldest = self.all.iter().position(Task::is_over);
            oldest.and_then(|oldest| self.all.remove(oldest));
        }
        self.last
    }

    /// How many are not over.
    pub(super) fn waiting(&self) -> usize {
        self.all.iter().filter(|task| !task.is_over()).count()
    }

    /// It goes on.
    pub(super) fn goes_on(&mut self, id: u64, percent: u8) -> Option<&Task> {
        let task = self.get_mut(id)?;
        (task.state, task.progress) = (State::Running, percent.min(100));
        Some(task)
    }

    /// It is over.
    pub(super) fn is_over(&mut self, id: u64, error: Option<api::Error>) -> Option<&Task> {
        let task = self.get_mut(id)?;
        task.state = if error.is_some() { State::Failed } else { State::Done };
        (task.progress, task.error) = (if error.is_some() { task.progress } else { 100 }, error);
        Some(task)
    }

    /// It, if it is known.
    pub(super) fn get(&self, id: u64) -> Option<&Task> {
        self.all.iter().find(|task| task.id == id)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Task> {
        self.all.iter()
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Task> {
        self.all.iter_mut().find(|task| task.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_bounded() {
        let mut tasks = Tasks::default();
        let ids: Vec<u64> = (0..MOST).map(|_| tasks.add("start", None)).collect();
        assert_eq!(tasks.waiting(), MOST);
        for id in &ids {
            assert_eq!(tasks.goes_on(*id, 250).map(|task| task.progress), Some(100));
            assert!(tasks.is_over(*id, None).is_some_and(|task| task.state == State::Done));
        }
        let last = tasks.add("stop", None);
        assert_eq!(tasks.all().count(), KEPT + 1);
        assert!(tasks.get(ids[0]).is_none() && tasks.get(last).is_some());
    }
}
