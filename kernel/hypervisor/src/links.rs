//! Which VMs are joined to which: by a switch where they have the same network, by a line where they have a port of the same name.
//! Used while the VMs are made.

use alloc::sync::Arc;
use alloc::vec::Vec;

use arrayvec::ArrayString;
use virtio::VmSet;
use virtio::console::pipe::{PipeEnd, pipe};

use crate::networks::Networks;
use crate::vm::StartError;

/// What joins VMs so far.
pub(crate) struct Links<'m> {
    calls: Arc<VmSet>,
    /// VMs of which something is asked.
    pub(crate) asked: Arc<VmSet>,
    pub(crate) networks: Networks<'m>,
    /// Names so far, each with the end that nobody has yet.
    ports: Vec<(&'m str, Option<PipeEnd>)>,
}

impl<'m> Links<'m> {
    /// None.
    pub(crate) fn new(calls: &Arc<VmSet>, asked: &Arc<VmSet>, seed: u64) -> Self {
        Self {
            calls: Arc::clone(calls),
            asked: Arc::clone(asked),
            networks: Networks::new(seed),
            ports: Vec::new(),
        }
    }

    /// An end of the line of that name for a port of this VM.
    pub(crate) fn port(&mut self, name: &'m str, vm: usize) -> Result<PipeEnd, StartError> {
        let end = self.end(name)?;
        end.belongs_to(vm);
        Ok(end)
    }

    fn end(&mut self, name: &'m str) -> Result<PipeEnd, StartError> {
        let shown = ArrayString::from(name).unwrap_or_default();
        if let Some((_, other)) = self.ports.iter_mut().find(|(known, _)| *known == name) {
            return other.take().ok_or(StartError::LineFull { name: shown });
        }
        let none = StartError::NoLine { name: shown };
        self.ports.try_reserve(1).map_err(|_| none)?;
        let [end, other] = pipe(&self.calls).ok_or(none)?;
        self.ports.push((name, Some(other)));
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_have_a_line_and_a_third_is_told_so() {
        let mut links = Links::new(&Arc::default(), &Arc::default(), 1);
        assert!(
            links.port("one", 0).is_ok() && links.port("other", 0).is_ok() && links.port("one", 1).is_ok()
        );
        assert!(matches!(links.port("one", 2), Err(StartError::LineFull { name }) if name.as_str() == "one"));
        assert!(links.port("other", 2).is_ok());
    }
}
