//! What is done to a frame's VLAN tag on its way.

use crate::frame::Frame;
use crate::retag;

/// What is done to it; numbers are tag control information, as [`retag::tag`] has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// Nothing.
    Keep,
    /// It is taken away.
    Remove,
    /// It gets one.
    Add(u16),
    /// It gets another.
    Replace(u16),
}

impl Tag {
    /// The frame as it looks then. `None` where it cannot.
    #[inline]
    pub fn apply(self, frame: &Frame) -> Option<Frame> {
        match self {
            Self::Keep => Some(frame.clone()),
            Self::Remove => retag::untag(frame),
            Self::Add(tag) => retag::tag(frame, tag),
            Self::Replace(tag) => retag::retag(frame, tag),
        }
    }
}
