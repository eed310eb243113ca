//! One fuzz target under libFuzzer: the one that `BASALT_FUZZ` names.
#![no_main]

use std::sync::OnceLock;

use fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("BASALT_FUZZ").unwrap_or_default();
        fuzz::find(&name).unwrap_or_else(|| panic!("BASALT_FUZZ={name:?} names no target"))
    });
    (target.run)(data);
});
