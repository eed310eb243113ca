//! What VMs say at their consoles is kept, the newest of it: in the folder of a VM that is the node's own, else in dom0's memory.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::log;

/// Bytes of a log, after which another one is begun; the one before is kept.
const LOG_BYTES: u64 = 1 << 20;
/// The same where it is kept in memory.
const SHORT_BYTES: u64 = 64 << 10;
/// Where those are that have no folder.
const IN_MEMORY: &str = "/run/basalt/logs";
/// Their names in a VM's folder.
const NAME: &str = "console.log";
const BEFORE: &str = "console.log.1";

/// All that are open.
#[derive(Default)]
pub(super) struct Consoles(HashMap<String, Console>);

/// One VM's.
struct Console {
    folder: PathBuf,
    most: u64,
    file: Option<File>,
    length: u64,
}

impl Consoles {
    /// A VM says something. `folder` is where that is to be kept, if not in memory.
    pub(super) fn write(&mut self, vm: &str, folder: Option<&PathBuf>, bytes: &[u8]) {
        let console = self.0.entry(vm.to_owned()).or_insert_with(|| Console::new(vm, folder));
        if let Err(error) = console.write(bytes) {
            // It is tried again with the next bytes: once is enough said.
            if console.file.take().is_some() {
                log::warn(&format!("VM {vm}: its log cannot be written: {error}"));
            }
        }
    }

    /// It is no more.
    pub(super) fn forget(&mut self, vm: &str) {
        self.0.remove(vm);
    }

    /// The last bytes of what it has said.
    pub(super) fn tail(&self, vm: &str, folder: Option<&PathBuf>, most: usize) -> Vec<u8> {
        let place =
            self.0.get(vm).map_or_else(|| Console::new(vm, folder).folder, |console| console.folder.clone());
        tail(&place, NAME, BEFORE, most)
    }
}

/// The last bytes of a log and the one before.
fn tail(folder: &Path, name: &str, before: &str, most: usize) -> Vec<u8> {
    let mut newest = last(&folder.join(name), most).unwrap_or_default();
    if newest.len() < most {
        let mut all = last(&folder.join(before), most - newest.len()).unwrap_or_default();
        all.append(&mut newest);
        newest = all;
    }
    newest
}

fn last(path: &Path, most: usize) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most as u64)))?;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Console {
    fn new(vm: &str, folder: Option<&PathBuf>) -> Self {
        let place = folder.map_or_else(|| Path::new(IN_MEMORY).join(vm), Clone::clone);
        let most = if folder.is_some() { LOG_BYTES } else { SHORT_BYTES };
        Self { folder: place, most, file: None, length: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length >= self.most {
            self.file = None;
            fs::rename(self.folder.join(NAME), self.folder.join(BEFORE))?;
        }
        if self.file.is_none() {
            fs::create_dir_all(&self.folder)?;
            let file = OpenOptions::new().create(true).append(true).open(self.folder.join(NAME))?;
            self.length = file.metadata()?.len();
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        self.length += bytes.len() as u64;
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_has_what_came_last() {
        let folder = std::env::temp_dir().join(format!("basaltd-{}-consoles", std::process::id()));
        let mut consoles = Consoles::default();
        for number in 0..40_000 {
            consoles.write(
                "web",
                Some(&folder),
                format!("{number:>8} is a line of {:>60}\r\n", "it").as_bytes(),
            );
        }
        let sizes = [NAME, BEFORE].map(|name| fs::metadata(folder.join(name)).expect("it is there").len());
        assert!(sizes.iter().all(|size| *size <= LOG_BYTES + 100), "{sizes:?}");
        let tail = consoles.tail("web", Some(&folder), 1_500_000);
        assert!(tail.len() > 1 << 20, "both of them");
        assert!(String::from_utf8_lossy(&tail).lines().last().is_some_and(|line| line.contains(" 39999 is")));
        assert_eq!(consoles.tail("web", Some(&folder), 10).len(), 10);
        fs::remove_dir_all(folder).expect("it is there");
    }
}
