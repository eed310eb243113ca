//! A VM's own file, `vm.toml` in its folder: what it has and what it begins with.

use std::fmt;
use std::fs;
use std::io::{Error, Result};
use std::path::Path;

use serde::Deserialize;

use crate::worker::Format;

/// The file's name.
pub(super) const NAME: &str = "vm.toml";
const SECTOR: u64 = 512;
/// The weight of a VM whose file says nothing of it.
pub(super) const USUAL_WEIGHT: u16 = 100;

/// What stands in it. Files are named from its folder on.
#[derive(Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct VmFile {
    /// The kernel: a bzImage or an ELF file.
    pub(super) kernel: String,
    /// Its initial file system.
    pub(super) initrd: Option<String>,
    /// It is made and started with the node, where it is one of the node's own.
    #[serde(default)]
    pub(super) autostart: bool,
    /// What the kernel is told.
    #[serde(default)]
    pub(super) command_line: String,
    /// Virtual CPUs.
    #[serde(default = "one")]
    pub(super) cpus: u16,
    /// How much memory it has.
    #[serde(default)]
    pub(super) memory: Memory,
    /// A virtio console beside the serial port.
    #[serde(default)]
    pub(super) console: bool,
    /// An entropy device.
    #[serde(default = "yes")]
    pub(super) rng: bool,
    /// A balloon.
    #[serde(default = "yes")]
    pub(super) balloon: bool,
    /// Its weight where VMs compete for CPUs, 1 to 10000.
    #[serde(default = "usual_weight")]
    pub(super) weight: u16,
    /// What it has at most of the CPUs, in percent of one; 0 for no cap.
    #[serde(default)]
    pub(super) cap: u32,
    /// What it has before others share, in percent of a CPU.
    #[serde(default)]
    pub(super) reservation: u32,
    /// The CPUs on which its processors may run; any, where nothing is said.
    pub(super) pin: Option<Cpus>,
    /// Its network devices: each the name of the network that it is on, and words for its port behind it, as in `"lan vlan=7 outbound=100M"`.
    #[serde(default)]
    pub(super) networks: Vec<String>,
    /// Its disks.
    #[serde(default)]
    pub(super) disks: Vec<Disk>,
}

/// A disk: in memory, with a file's content at first; or, where it has a format, in the file.
#[derive(Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    /// The file.
    pub(super) file: String,
    /// How the disk's content lies in the file. Where nothing is said, the file is copied into memory, and what the VM writes is lost with it.
    pub(super) format: Option<Format>,
    /// How large it is to be made where there is no such file: of zeros, which take no room.
    pub(super) size: Option<Memory>,
    /// The VM cannot write to it.
    #[serde(default)]
    pub(super) read_only: bool,
}

/// CPUs, bit n for number n: read from numbers and ranges such as `0-1,3`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(super) struct Cpus(pub(super) u64);

/// It is not of that form.
#[derive(Debug)]
pub(super) struct NoCpus(String);

impl fmt::Display for NoCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no list of CPUs: write numbers from 0 to 63 and ranges, as in \"0-1,3\"", self.0)
    }
}

impl TryFrom<String> for Cpus {
    type Error = NoCpus;

    fn try_from(text: String) -> std::result::Result<Self, NoCpus> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last && last < u64::BITS).then_some(first..=last)
        };
        let bits = text
            .split(',')
            .try_fold(0_u64, |bits, part| Some(range(part)?.fold(bits, |bits, cpu| bits | 1 << cpu)));
        bits.map(Self).ok_or(NoCpus(text))
    }
}

/// An amount of memory: a number with `K`, `M` or `G` behind it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(super) struct Memory(pub(super) u64);

impl Default for Memory {
    fn default() -> Self {
        Self(128 << 20)
    }
}

/// It is not of that form.
#[derive(Debug)]
pub(super) struct NoMemory(String);

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is no amount of memory: write a number with K, M or G behind it, as in \"256M\"",
            self.0
        )
    }
}

impl TryFrom<String> for Memory {
    type Error = NoMemory;

    fn try_from(text: String) -> std::result::Result<Self, NoMemory> {
        let (number, shift) = match text.char_indices().next_back() {
            Some((at, 'K')) => (text.get(..at), 10),
            Some((at, 'M')) => (text.get(..at), 20),
            Some((at, 'G')) => (text.get(..at), 30),
            _ => (None, 0),
        };
        let number = number.and_then(|number| number.parse::<u64>().ok());
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or(NoMemory(text))
    }
}

const fn one() -> u16 {
    1
}

const fn usual_weight() -> u16 {
    USUAL_WEIGHT
}

const fn yes() -> bool {
    true
}

impl VmFile {
    /// Reads the file of a folder.
    ///
    /// # Errors
    /// It cannot be read, or a key is not known, missing or has no such value: key and line are named.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let text = fs::read_to_string(&path).map_err(|error| named(&path, error))?;
        Self::parse(&text).map_err(|error| named(&path, error))
    }

    fn parse(text: &str) -> std::result::Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

/// Whether a VM has disks in files. One whose file cannot be read has none: that is told where it is made.
pub(super) fn has_files(folder: &Path) -> bool {
    VmFile::read(folder).is_ok_and(|file| file.disks.iter().any(|disk| disk.format.is_some()))
}

/// An error that names a file.
pub(super) fn named(path: &Path, error: impl fmt::Display) -> Error {
    Error::other(format!("{}: {error}", path.display()))
}

/// Whole sectors for so many bytes.
pub(super) const fn sectors(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_enough() {
        let file = VmFile::parse("kernel = \"vmlinuz\"").expect("valid");
        assert_eq!((file.cpus, file.memory, file.initrd), (1, Memory(128 << 20), None));
        assert_eq!((file.weight, file.cap, file.reservation, file.pin), (100, 0, 0, None));
        assert!(file.rng && file.balloon && !file.console && file.disks.is_empty());
    }

    #[test]
    fn everything_can_be_said() {
        let text = r#"
            kernel = "vmlinuz"
            initrd = "initrd"
            command_line = "console=ttyS0"
            cpus = 2
            memory = "1G"
            console = true
            rng = false
            weight = 300
            cap = 150
            reservation = 50
            pin = "0-1,3"
            networks = ["lan", "lan vlan=7"]
            [[disks]]
            file = "root.img"
            read_only = true
        "#;
        let file = VmFile::parse(text).expect("valid");
        assert_eq!((file.cpus, file.memory.0, file.networks.len()), (2, 1 << 30, 2));
        assert_eq!((file.weight, file.cap, file.reservation, file.pin), (300, 150, 50, Some(Cpus(0b1011))));
        assert_eq!(
            file.disks,
            [Disk { file: "root.img".to_owned(), format: None, size: None, read_only: true }]
        );
    }

    #[test]
    fn errors_name_key_and_line() {
        for (text, culprit) in [
            ("kernel = \"k\"\ncpu = 2", "line 2"),
            ("kernel = \"k\"\ncpu = 2", "`cpu`"),
            ("cpus = 2", "`kernel`"),
            ("kernel = \"k\"\nmemory = \"12\"", "'12' is no amount of memory"),
            ("kernel = \"k\"\n\nmemory = \"20000000000G\"", "line 3"),
            ("kernel = 5", "line 1"),
            ("kernel = \"k\"\npin = \"3-1\"", "'3-1' is no list of CPUs"),
            ("kernel = \"k\"\npin = \"64\"", "line 2"),
            ("kernel = \"k\"\nweight = 70000", "line 2"),
            ("kernel = \"k\"\n[[disks]]\nread_only = true", "`file`"),
            ("kernel = \"k\"\n[[disks]]\nfile = \"f\"\nformat = \"vmdk\"", "line 4"),
        ] {
            let error = VmFile::parse(text).expect_err(text).to_string();
            assert!(error.contains(culprit), "{text:?}: {error}");
        }
    }
}
