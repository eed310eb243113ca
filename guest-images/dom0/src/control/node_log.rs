//! The node's log: what is in the ring of dom0's kernel, which has the lines of all processes of dom0 and is bounded by itself.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

const DEVICE: &str = "/dev/kmsg";
/// A record is no longer (Linux, "/dev/kmsg").
const LONGEST: usize = 8192;
/// More records than fit into the ring.
const MOST: usize = 100_000;

/// All of it, a line for each record.
///
/// # Errors
/// It cannot be opened.
pub(super) fn read() -> Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut device = OpenOptions::new().read(true).custom_flags(flags).open(DEVICE)?;
    let (mut record, mut text) = (vec![0; LONGEST], Vec::new());
    for _ in 0..MOST {
        match device.read(&mut record) {
            Ok(0) => break,
            Ok(count) => text.extend(line(record.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Records that were overwritten meanwhile.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// A record's time and text: `6,339,5140900,-;text`, and lines of keys behind it.
fn line(record: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(record);
    let Some((head, text)) = text.split_once(';') else { return Vec::new() };
    let micros: u64 = head.split(',').nth(2).and_then(|time| time.parse().ok()).unwrap_or(0);
    let text = text.lines().next().unwrap_or_default();
    format!("[{:>5}.{:06}] {text}\n", micros / 1_000_000, micros % 1_000_000).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn records_are_lines() {
        let record = b"6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n";
        assert_eq!(line(record), b"[    5.140900] NET: Registered PF_INET6\n");
        assert_eq!(line(b"nonsense"), b"");
    }
}
