//! Which VMs are joined to which: by a switch where they have the same network, by a line where they have a port of the same name.

use alloc::sync::Arc;
use alloc::vec::Vec;

use virtio::VmSet;
use virtio::console::pipe::{Pipe, PipeEnd};

use crate::config::Name;
use crate::disks;
use crate::networks::Networks;
use crate::vm::StartError;

/// What a VM that is being made is joined to.
pub(crate) struct Links<'a> {
    pub(crate) networks: &'a Networks,
    pub(crate) lines: &'a mut Lines,
    /// VMs of which something is asked.
    pub(crate) asked: &'a Arc<VmSet>,
    /// How the management domain hears of orders for disks that it serves.
    pub(crate) news: disks::News,
}

/// The lines between ports of VMs. An end that its VM no longer has can be another one's, and a line that nobody has is no more.
#[derive(Debug)]
pub(crate) struct Lines {
    calls: Arc<VmSet>,
    list: Vec<(Name, Pipe)>,
}

impl Lines {
    /// None yet.
    pub(crate) fn new(calls: &Arc<VmSet>) -> Self {
        Self { calls: Arc::clone(calls), list: Vec::new() }
    }

    /// An end of the line of that name for a port of this VM.
    pub(crate) fn end(&mut self, name: Name, vm: usize) -> Result<PipeEnd, StartError> {
        if let Some((_, pipe)) = self.list.iter().find(|(known, _)| *known == name) {
            return pipe.take(vm).ok_or(StartError::LineFull { name });
        }
        let none = StartError::NoLine { name };
        self.list.try_reserve(1).map_err(|_| none)?;
        let pipe = Pipe::new(&self.calls).ok_or(none)?;
        let end = pipe.take(vm).ok_or(none)?;
        self.list.push((name, pipe));
        Ok(end)
    }

    /// Lines that nobody has any more are given back.
    pub(crate) fn tidy(&mut self) {
        self.list.retain(|(_, pipe)| pipe.is_used());
        if self.list.is_empty() {
            self.list = Vec::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::name;

    #[test]
    fn two_have_a_line_and_a_third_is_told_so() {
        let mut lines = Lines::new(&Arc::default());
        let mut end = |text, vm| lines.end(name(text), vm);
        let (first, other, _second) = (end("one", 0), end("other", 0), end("one", 1));
        assert!(matches!(end("one", 2), Err(StartError::LineFull { name }) if name.as_str() == "one"));
        assert!(first.is_ok() && end("other", 2).is_ok(), "the end of one that is gone again is free");
        drop((first, other));
        assert!(end("one", 2).is_ok(), "as this is");
        lines.tidy();
        assert_eq!(lines.len(), 1, "the one that somebody has");
    }
}
