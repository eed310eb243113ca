//! The scheduler on a model of a machine: see `machine`.

mod basics;
mod histories;
mod latency;
mod machine;
mod oracle;
mod random;
mod shares;
