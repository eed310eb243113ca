//! A network device's port of a switch.

use alloc::sync::Arc;

use vswitch::{PortId, Switch, switch::Port};

/// A port for one device, which goes with it.
#[derive(Debug)]
pub struct Plug {
    switch: Arc<Switch>,
    id: PortId,
}

impl Plug {
    /// That port of a switch.
    pub const fn new(switch: Arc<Switch>, id: PortId) -> Self {
        Self { switch, id }
    }

    /// The switch.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The port's number.
    pub const fn id(&self) -> PortId {
        self.id
    }

    /// The port.
    #[inline]
    pub fn port(&self) -> Option<&Port> {
        self.switch.port(self.id)
    }

    /// Whether there is a link.
    pub(super) fn has_link(&self) -> bool {
        self.switch.has_link(self.id)
    }

    /// Whether a frame waits for the device.
    #[inline]
    pub(super) fn has_frames(&self) -> bool {
        self.port().is_some_and(|port| !port.output.is_empty())
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.switch.remove(self.id);
    }
}
