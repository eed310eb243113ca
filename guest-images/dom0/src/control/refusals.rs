//! Refusals that several operations have.

use api::{Error, Reason};

/// There is no VM of that name.
pub(super) fn no_vm(name: &str) -> Error {
    Error::new(Reason::NotFound, format!("there is no VM {name}")).next("`basalt vm list` shows all")
}

/// The node's data has to be there for that, or known to be nowhere.
pub(super) fn no_data() -> Error {
    Error::new(Reason::Unavailable, "the node still looks for its data").next("try again in a moment")
}

/// The kernel does not answer.
pub(super) fn no_kernel() -> Error {
    Error::new(Reason::Unavailable, "Basalt's kernel cannot be asked").next("look at `basalt node log`")
}
