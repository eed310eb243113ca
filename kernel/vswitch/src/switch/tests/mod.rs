//! The switch as a whole.

mod cases;
