//! VMs in the management domain's initial file system: a folder each, with `vm.toml` and the files that it names.

use std::fmt::Write as _;

use crate::failure::{Failure, Result};
use crate::guest::Guest;
use crate::guest::cpio::Archive;
use crate::paths;

/// Where `basaltd` looks for them.
const FOLDERS: [&str; 3] = ["etc", "etc/basalt", "etc/basalt/vms"];

/// What is said of a disk that dom0 makes in the node's data, as large as the module.
const SERVED: &str = "disk served";

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
        archive.file(&format!("{folder}/kernel"), &paths::read_bytes(&guest.kernel)?);
        if let Some(initrd) = &guest.initrd {
            archive.file(&format!("{folder}/initrd"), &paths::read_bytes(initrd)?);
        }
        for (number, module) in guest.modules.iter().enumerate().filter(|(_, module)| module.words != SERVED)
        {
            archive.file(&format!("{folder}/disk{number}"), &paths::read_bytes(&module.file)?);
        }
    }
    Ok(archive.finish())
}

/// What `vm.toml` says of it.
fn description(guest: &Guest) -> Result<String> {
    let mut text = format!(
        "kernel = \"kernel\"\ncommand_line = \"{}\"\ncpus = {}\nmemory = \"{}\"\n",
        guest.cmdline.replace('\\', "\\\\").replace('"', "\\\""),
        guest.cpus,
        guest.memory
    );
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
            _ if word == "virtio-console" => text.push_str("console = true\n"),
            _ => return cannot(&format!("vm.toml has nothing for the word `{word}`")),
        }
    }
    let networks: Vec<String> = networks.iter().map(|network| format!("\"{network}\"")).collect();
    let _ = writeln!(text, "networks = [{}]", networks.join(", "));
    for (number, module) in guest.modules.iter().enumerate() {
        if module.words == SERVED {
            let kibibytes = paths::read_bytes(&module.file)?.len() / 1024;
            let _ = write!(
                text,
                "[[disks]]\nfile = \"/data/images/{}-{number}.img\"\nformat = \"raw\"\nsize = \"{kibibytes}K\"\n",
                guest.name
            );
            continue;
        }
        let read_only = match module.words.as_str() {
            "disk" => false,
            "disk readonly" => true,
            words => return cannot(&format!("vm.toml has nothing for a module `{words}`")),
        };
        let _ = write!(text, "[[disks]]\nfile = \"disk{number}\"\nread_only = {read_only}\n");
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
    fn what_dom0_cannot_start_is_named() {
        let firmware = Guest { settings: "firmware".to_owned(), ..guest() };
        assert!(description(&firmware).is_err_and(|failure| failure.what.contains("`firmware`")));
    }
}
