//! VMs in the management domain's initial file system: a folder each, with `vm.toml` and the files that it names.

use std::fmt::Write as _;

use crate::failure::{Failure, Result};
use crate::guest::cpio::Archive;
use crate::guest::{Guest, Module};
use crate::paths;

/// Where `basaltd` looks for them.
const FOLDERS: [&str; 3] = ["etc", "etc/basalt", "etc/basalt/vms"];

/// What is said of a disk that dom0 makes in the node's data, as large as the module.
const SERVED: &str = "disk served";

/// What is said of a disk image that dom0 serves as it is, and of one of which what is written goes into a qcow2 file over it.
const IMAGE: &str = "disk image";
const OVERLAY: &str = "disk overlay";
/// What is said of what stands in `vm.toml` below `[cloud_init]`.
const CLOUD_INIT: &str = "cloud-init";
/// Where files are that dom0 makes: in the node's data, as what comes with dom0 itself is in memory.
const DATA: &str = "/data/images";

/// What a guest's settings say that its kernel is firmware: dom0 has that itself.
const FIRMWARE: &str = "protocol=firmware";

/// Words of a network device's port that guests of ours have (docs/guests.md).
const PORT_WORDS: [&str; 5] = ["vlan", "mtu", "inbound", "outbound", "ip"];

/// An archive with the guests' folders.
pub(super) fn archive(guests: &[Guest]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    FOLDERS.iter().for_each(|folder| archive.folder(folder));
    for guest in guests {
        let folder = format!("etc/basalt/vms/{}", guest.name);
        archive.folder(&folder);
        archive.file(&format!("{folder}/vm.toml"), description(guest)?.as_bytes());
        if !has_firmware(guest) {
            archive.file(&format!("{folder}/kernel"), &paths::read_bytes(&guest.kernel)?);
        }
        if let Some(initrd) = &guest.initrd {
            archive.file(&format!("{folder}/initrd"), &paths::read_bytes(initrd)?);
        }
        for (number, module) in guest.modules.iter().enumerate().filter(|(_, module)| has_file(module)) {
            archive.file(&format!("{folder}/disk{number}"), &paths::read_bytes(&module.file)?);
        }
    }
    Ok(archive.finish())
}

/// Whether a disk's file comes with dom0.
fn has_file(module: &Module) -> bool {
    !module.words.starts_with(SERVED) && module.words != CLOUD_INIT
}

fn has_firmware(guest: &Guest) -> bool {
    guest.settings.split_ascii_whitespace().any(|word| word == FIRMWARE)
}

/// What `vm.toml` says of it.
fn description(guest: &Guest) -> Result<String> {
    let mut text = format!("cpus = {}\nmemory = \"{}\"\n", guest.cpus, guest.memory);
    if !has_firmware(guest) {
        let command_line = guest.cmdline.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "kernel = \"kernel\"\ncommand_line = \"{command_line}\"");
    }
    if guest.initrd.is_some() {
        text.push_str("initrd = \"initrd\"\n");
    }
    let cannot = |what: &str| {
        Err(Failure::new(format!("{} cannot be started by dom0: {what}", guest.name))
            .next("start it beside dom0, or alone with --no-dom0"))
    };
    let mut networks: Vec<String> = Vec::new();
    for word in guest.settings.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("net", network)) => networks.push(network.to_owned()),
            Some((key @ ("weight" | "cap" | "reservation"), number)) => {
                let _ = writeln!(text, "{key} = {number}");
            }
            Some(("pin", cpus)) => {
                let _ = writeln!(text, "pin = \"{cpus}\"");
            }
            // What stands behind a network device is said of that one.
            Some((key, _)) if PORT_WORDS.contains(&key) && !networks.is_empty() => {
                networks.last_mut().into_iter().for_each(|last| *last = format!("{last} {word}"));
            }
            _ if word == FIRMWARE => {}
            _ if word == "virtio-console" => text.push_str("console = true\n"),
            _ => return cannot(&format!("vm.toml has nothing for the word `{word}`")),
        }
    }
    let networks: Vec<String> = networks.iter().map(|network| format!("\"{network}\"")).collect();
    let _ = writeln!(text, "networks = [{}]", networks.join(", "));
    let (seeds, disks): (Vec<_>, Vec<_>) =
        guest.modules.iter().enumerate().partition(|(_, module)| module.words == CLOUD_INIT);
    for (number, module) in disks {
        text.push_str(&disk(&guest.name, number, module).or_else(|what| cannot(&what))?);
    }
    for (_, module) in seeds {
        let _ = write!(text, "[cloud_init]\n{}", paths::read(&module.file)?);
    }
    Ok(text)
}

/// What `vm.toml` says of one of its disks, or why it can say nothing. Behind the words of a disk that dom0 serves may stand more of its keys, such as
/// `format=qcow2` and `iops=50`.
fn disk(name: &str, number: usize, module: &Module) -> std::result::Result<String, String> {
    let (words, keys): (Vec<_>, Vec<_>) =
        module.words.split_ascii_whitespace().partition(|word| !word.contains('='));
    let kibibytes = || {
        let metadata = std::fs::metadata(&module.file);
        metadata
            .map(|it| it.len().div_ceil(1024))
            .map_err(|error| format!("{}: {error}", paths::shown(&module.file)))
    };
    let mut text = "[[disks]]\n".to_owned();
    let written = match words.join(" ").as_str() {
        "disk" if keys.is_empty() => writeln!(text, "file = \"disk{number}\""),
        "disk readonly" if keys.is_empty() => writeln!(text, "file = \"disk{number}\"\nread_only = true"),
        IMAGE => writeln!(text, "file = \"disk{number}\"\nformat = \"raw\""),
        SERVED => {
            let format = if keys.contains(&"format=qcow2") { "" } else { "format = \"raw\"\n" };
            writeln!(text, "file = \"{DATA}/{name}-{number}\"\n{format}size = \"{}K\"", kibibytes()?)
        }
        OVERLAY => writeln!(
            text,
            "file = \"{DATA}/{name}-{number}\"\nformat = \"qcow2\"\nsize = \"{}K\"\n\
             backing = \"disk{number}\"\nbacking_format = \"raw\"",
            kibibytes()?
        ),
        _ => return Err(format!("vm.toml has nothing for a module `{}`", module.words)),
    };
    // Writing to a string does not fail.
    let _ = written;
    for (key, value) in keys.iter().filter_map(|word| word.split_once('=')) {
        let _ = match value.parse::<u32>() {
            Ok(number) => writeln!(text, "{key} = {number}"),
            Err(_) => writeln!(text, "{key} = \"{value}\""),
        };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest {
            name: "web".to_owned(),
            cpus: 2,
            memory: "256M".to_owned(),
            settings: "net=lan vlan=7 net=dmz pin=0-1 weight=200".to_owned(),
            kernel: "vmlinuz".into(),
            initrd: None,
            modules: Vec::new(),
            cmdline: "a=\"b c\" d=\\".to_owned(),
            selftest: false,
        }
    }

    #[test]
    fn a_description_is_toml() {
        let table: toml::Table = toml::from_str(&description(&guest()).expect("it can be")).expect("TOML");
        assert_eq!(table["command_line"].as_str(), Some("a=\"b c\" d=\\"));
        assert_eq!((table["cpus"].as_integer(), table["memory"].as_str()), (Some(2), Some("256M")));
        let networks: Vec<_> = table["networks"].as_array().expect("a list").iter().collect();
        assert_eq!(networks, [&toml::Value::from("lan vlan=7"), &toml::Value::from("dmz")]);
        assert_eq!((table["pin"].as_str(), table["weight"].as_integer()), (Some("0-1"), Some(200)));
        assert!(!table.contains_key("initrd"));
    }

    #[test]
    fn a_guest_with_firmware_has_no_kernel() {
        let firmware = Guest { settings: FIRMWARE.to_owned(), ..guest() };
        let table: toml::Table = toml::from_str(&description(&firmware).expect("it can be")).expect("TOML");
        assert!(!table.contains_key("kernel") && !table.contains_key("command_line"));
    }

    #[test]
    fn what_dom0_cannot_start_is_named() {
        let firmware = Guest { settings: "firmware".to_owned(), ..guest() };
        assert!(description(&firmware).is_err_and(|failure| failure.what.contains("`firmware`")));
    }
}
