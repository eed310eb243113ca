//! Tests against a fake machine. Expectations come from the manuals' prose, not from the code under test.

mod arithmetic;
mod fake;
mod intercepts;
mod moves;
mod random;
mod segments;
mod strings;
mod walker;
