//! The interfaces, as `/sys/class/net` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const FOLDER: &str = "/sys/class/net";
/// `ARPHRD_ETHER`.
const ETHERNET: &str = "1";

/// An interface of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    /// The kernel's number for it.
    pub(crate) index: u32,
    /// Its Ethernet address.
    pub(crate) hardware: [u8; 6],
    /// Somebody is at the other end of its cable. False also while it is switched off.
    pub(crate) has_carrier: bool,
}

/// All Ethernet interfaces that belong to a device, by name; bridges, taps and radios are none.
pub(crate) fn all() -> BTreeMap<String, Seen> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let named =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, look(&entry.path())?)));
    named.collect()
}

/// The number of the loopback interface.
pub(crate) fn loopback() -> Option<u32> {
    read(&Path::new(FOLDER).join("lo"), "ifindex")?.parse().ok()
}

fn look(folder: &Path) -> Option<Seen> {
    if !folder.join("device").exists()
        || folder.join("phy80211").exists()
        || read(folder, "type")? != ETHERNET
    {
        return None;
    }
    Some(Seen {
        index: read(folder, "ifindex")?.parse().ok()?,
        hardware: hardware(&read(folder, "address")?)?,
        // Of an interface that is off it cannot be read.
        has_carrier: read(folder, "carrier").is_some_and(|carrier| carrier == "1"),
    })
}

fn read(folder: &Path, file: &str) -> Option<String> {
    fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned())
}

fn hardware(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// An Ethernet address as it is usually written.
pub(crate) fn written(hardware: [u8; 6]) -> String {
    hardware.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let text = "52:54:00:12:ab:ff";
        assert_eq!(hardware(text).map(written).as_deref(), Some(text));
        assert_eq!(hardware("52:54:00"), None);
        assert_eq!(hardware("52:54:00:12:ab:fff"), None);
    }
}
