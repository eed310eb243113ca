//! A VM's own file, `vm.toml` in its folder: what it has and what it begins with. The API's description of a VM is the same, as JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::amount::{Bytes, Cpus};
use crate::cloud_init::CloudInit;
pub use crate::disk::Disk;
use crate::disk::check_path;

/// The file's name.
pub const FILE: &str = "vm.toml";
/// The version of what stands in it. A file that says nothing is of this one.
pub const VERSION: u32 = 1;
/// The weight of a VM whose file says nothing of it.
pub const USUAL_WEIGHT: u16 = 100;
/// The memory of a VM whose file says nothing of it.
pub const USUAL_MEMORY: Bytes = Bytes(128 << 20);

/// What stands in it. Files are named from its folder on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmFile {
    /// The version of this file's keys, 1.
    #[serde(default = "version", skip_serializing_if = "is_version")]
    pub version: u32,
    /// Which machine it is: its addresses come of it. The node chooses one when it makes the VM; whoever copies the folder copies the machine. Without
    /// one, the VM's name is it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The kernel: a bzImage or an ELF file. Without one, firmware boots the first disk that can be booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Its initial file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// It is made and started with the node, where it is one of the node's own.
    #[serde(default, skip_serializing_if = "is_no")]
    pub autostart: bool,
    /// What the kernel is told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command_line: String,
    /// Virtual CPUs.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub cpus: u16,
    /// How much memory it has.
    #[serde(default = "usual_memory")]
    pub memory: Bytes,
    /// A virtio console beside the serial port.
    #[serde(default, skip_serializing_if = "is_no")]
    pub console: bool,
    /// A VGA adapter in text mode, whose screen is written to the VM's console.
    #[serde(default, skip_serializing_if = "is_no")]
    pub text_screen: bool,
    /// An entropy device.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub rng: bool,
    /// A balloon.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub balloon: bool,
    /// Its weight where VMs compete for CPUs, 1 to 10000.
    #[serde(default = "usual_weight", skip_serializing_if = "is_usual_weight")]
    pub weight: u16,
    /// What it has at most of the CPUs, in percent of one; 0 for no cap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cap: u32,
    /// What it has before others share, in percent of a CPU.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reservation: u32,
    /// The CPUs on which its processors may run; any, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Cpus>,
    /// Its network devices: each the name of the network that it is on, and words for its port behind it, as in `"lan vlan=7 outbound=100M"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Its disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// What its guest's cloud-init finds on a small disk behind the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
}

const fn version() -> u32 {
    VERSION
}

const fn one() -> u16 {
    1
}

const fn usual_weight() -> u16 {
    USUAL_WEIGHT
}

const fn usual_memory() -> Bytes {
    USUAL_MEMORY
}

const fn yes() -> bool {
    true
}

// What has its usual value is not written; serde hands references.
macro_rules! usual {
    ($($name:ident($kind:ty) $usual:expr;)*) => {
        $(fn $name(value: &$kind) -> bool {
            *value == $usual
        })*
    };
}

usual! {
    is_version(u32) VERSION;
    is_one(u16) 1;
    is_usual_weight(u16) USUAL_WEIGHT;
    is_yes(bool) true;
    is_no(bool) false;
    is_zero(u32) 0;
}

impl VmFile {
    /// Reads it.
    ///
    /// # Errors
    /// A key is not known, missing or has no such value: key and line are named.
    pub fn parse(text: &str) -> Result<Self, String> {
        // The version first: of another one, nothing else may be understood.
        #[derive(Deserialize)]
        struct Version {
            #[serde(default = "version")]
            version: u32,
        }
        let Version { version } = toml::from_str(text).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("its version is {version}, and this node knows version {VERSION} only"));
        }
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        file.check()?;
        Ok(file)
    }

    /// Checks what no single value says: what names files, and how many of a kind there are.
    ///
    /// # Errors
    /// What is wrong, with its key.
    pub fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "version: {} is not {VERSION}, the only one that this node knows",
                self.version
            ));
        }
        if let Some(id) = self.id.as_ref().filter(|id| !is_id(id)) {
            return Err(format!(
                "id: '{}' is no identity: write 8 to 64 of a-z, 0-9 and -",
                id.escape_debug()
            ));
        }
        let limits = [
            ("cpus", u64::from(self.cpus), 1, MOST_CPUS),
            ("weight", u64::from(self.weight), 1, 10_000),
            ("disks", self.all_disks() as u64, 0, MOST_DEVICES),
            ("networks", self.networks.len() as u64, 0, MOST_DEVICES),
            ("command_line", self.command_line.len() as u64, 0, 2047),
        ];
        if let Some((key, is, least, most)) =
            limits.iter().find(|(_, is, least, most)| is < least || is > most)
        {
            return Err(format!("{key}: {is} is out of range: {least} to {most}"));
        }
        if self.memory.0 < LEAST_MEMORY.0 {
            return Err(format!("memory: {} is too little: {LEAST_MEMORY} is the least", self.memory));
        }
        for (key, name) in self.named_files() {
            check_path(key, name)?;
        }
        self.check_boot()?;
        self.disks.iter().try_for_each(Disk::check)?;
        self.cloud_init.iter().try_for_each(|seed| seed.check(self.networks.len()))
    }

    /// What it boots from.
    fn check_boot(&self) -> Result<(), String> {
        if self.kernel.is_some() {
            return Ok(());
        }
        if self.disks.is_empty() {
            return Err("kernel: there is none, and no disk to boot from; name one of them".to_owned());
        }
        if self.initrd.is_some() || !self.command_line.is_empty() {
            return Err(
                "kernel: initrd and command_line are for one; without it, what boots is on a disk".to_owned()
            );
        }
        Ok(())
    }

    /// Disks, with that for cloud-init.
    fn all_disks(&self) -> usize {
        self.disks.len() + usize::from(self.cloud_init.is_some())
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.named_files().map(|(_, name)| name)
    }

    /// The same with the keys that name them.
    pub fn named_files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let disks = self.disks.iter().map(|disk| ("disks.file", Some(&disk.file)));
        let backings = self.disks.iter().map(|disk| ("disks.backing", disk.backing.as_ref()));
        let user_data = self.cloud_init.as_ref().and_then(|seed| seed.user_data.as_ref());
        let others = [
            ("kernel", self.kernel.as_ref()),
            ("initrd", self.initrd.as_ref()),
            ("cloud_init.user_data", user_data),
        ];
        let all = others.into_iter().chain(disks).chain(backings);
        all.filter_map(|(key, name)| Some((key, name?.as_str())))
    }

    /// The same as text of such a file.
    ///
    /// # Errors
    /// None that is known: all values can be written.
    pub fn write(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|error| error.to_string())
    }
}

/// Virtual CPUs of a VM at most, and devices of a kind.
const MOST_CPUS: u64 = 64;
const MOST_DEVICES: u64 = 8;
const LEAST_MEMORY: Bytes = Bytes(1 << 20);

fn is_id(text: &str) -> bool {
    let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (8..=64).contains(&text.len()) && text.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_enough() {
        let file = VmFile::parse("kernel = \"vmlinuz\"").expect("valid");
        assert_eq!((file.cpus, file.memory, file.initrd), (1, USUAL_MEMORY, None));
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
        assert_eq!(file.disks, [Disk { read_only: true, ..Disk::of_file("root.img") }]);
    }

    #[test]
    fn errors_name_key_and_line() {
        for (text, culprit) in [
            ("kernel = \"k\"\ncpu = 2", "line 2"),
            ("kernel = \"k\"\ncpu = 2", "`cpu`"),
            ("cpus = 2", "kernel: there is none"),
            ("command_line = \"a\"\n[[disks]]\nfile = \"f\"", "kernel: initrd and command_line"),
            ("kernel = \"k\"\nmemory = \"12\"", "'12' is no amount"),
            ("kernel = \"k\"\n\nmemory = \"20000000000G\"", "line 3"),
            ("kernel = 5", "line 1"),
            ("kernel = \"k\"\npin = \"3-1\"", "'3-1' is no list of CPUs"),
            ("kernel = \"k\"\npin = \"64\"", "line 2"),
            ("kernel = \"k\"\nweight = 70000", "line 2"),
            ("kernel = \"k\"\n[[disks]]\nread_only = true", "`file`"),
            ("kernel = \"k\"\n[[disks]]\nfile = \"f\"\nformat = \"vmdk\"", "line 4"),
            ("kernel = \"k\"\nversion = 2\nnew = 5", "version is 2"),
            ("kernel = \"../k\"", "kernel: '../k' is no file of the VM's"),
            ("kernel = \"/etc/passwd\"", "kernel: '/etc/passwd' is no file of the VM's"),
            ("kernel = \"k\"\ncpus = 65", "cpus: 65 is out of range"),
            ("kernel = \"k\"\nid = \"X\"", "id: 'X'"),
        ] {
            let error = VmFile::parse(text).expect_err(text);
            assert!(error.contains(culprit), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = "kernel = \"/data/images/k\"\ncpus = 3\nid = \"0123456789abcdef\"\n[[disks]]\nfile = \"a\"\nsize = \"1G\"\nformat = \"raw\"";
        for text in [text, "kernel = \"k\""] {
            let file = VmFile::parse(text).expect("valid");
            let written = file.write().expect("it can be written");
            assert_eq!(VmFile::parse(&written).expect("valid"), file, "{written}");
            let json = serde_json::to_string(&file).expect("it can be written");
            assert_eq!(serde_json::from_str::<VmFile>(&json).expect("valid"), file, "{json}");
        }
        assert_eq!(
            VmFile::parse("kernel = \"k\"").and_then(|file| file.write()).as_deref(),
            Ok("kernel = \"k\"\nmemory = \"128M\"\n")
        );
    }
}
