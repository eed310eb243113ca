//! Ctrl-C and its like: remembered, so that what was started can be ended in order.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::{Context, Failure, Result};

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the signals only set a flag.
pub(crate) fn watch() -> Result<()> {
    let flag = REQUESTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("watching for Ctrl-C")?;
    }
    Ok(())
}

/// True when we have been asked to end.
pub(crate) fn requested() -> bool {
    REQUESTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// What a command that was asked to end fails with.
pub(crate) fn failure() -> Failure {
    Failure::new("interrupted; the emulator has been ended")
}
