//! The entry of a fuzzer: any bytes are an archive.

use crate::{Archive, is_archive};

/// Reads whatever `data` is. It must return, and what it returns must lie in `data`.
pub fn fuzz_one(data: &[u8]) {
    let opened = Archive::open(data);
    let Ok(archive) = opened else { return };
    assert!(is_archive(data));
    let inside = |part: &[u8]| {
        let (whole, part) = (data.as_ptr_range(), part.as_ptr_range());
        whole.start <= part.start && part.end <= whole.end
    };
    assert!(archive.options().is_empty() || inside(archive.options().as_bytes()));
    for module in archive.modules() {
        assert!(!module.bytes.is_empty() && inside(module.bytes));
    }
}
