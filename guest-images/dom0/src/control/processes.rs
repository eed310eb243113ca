//! What the processes of dom0 themselves take.

use std::fs;
use std::path::Path;

/// Bytes of memory that all of them have; what several share is counted once (Linux, "/proc/PID/smaps_rollup", Pss).
pub(super) fn memory() -> u64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes =
        entries.filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    // One that has ended meanwhile has none.
    processes.map(|process| share(&process.path()).unwrap_or(0)).sum()
}

fn share(process: &Path) -> Option<u64> {
    let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(share(Path::new("/proc/self")).is_some_and(|bytes| bytes > 100 << 10));
        assert!(memory() > 100 << 10);
    }
}
