//! The disk on which a guest's cloud-init finds what it is told (cloud-init's documentation, "NoCloud"): a FAT file system with the label `CIDATA` and
//! three files. It is made anew at each start, and kept nowhere.

use std::io::{Cursor, Error, Result, Write};
use std::net::IpAddr;
use std::path::Path;

use api::cloud_init::{CloudInit, Network, User};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use serde_json::{Map, Value, json};

use super::file::named;

const LABEL: [u8; 11] = *b"CIDATA     ";
/// Room for what is not user data.
const BYTES: u64 = 1 << 20;
const MOST_USER_DATA: u64 = 1 << 20;
/// What user data begins with that is no script.
const CLOUD_CONFIG: &str = "#cloud-config\n";

/// The disk, as far as it does not depend on where it is.
pub(super) struct Seed {
    user_data: Option<Vec<u8>>,
}

impl Seed {
    /// Reads what it is made of.
    ///
    /// # Errors
    /// The file with user data is missing, or too large.
    pub(super) fn read(folder: &Path, description: &CloudInit) -> Result<Self> {
        let read = |name: &String| {
            let path = folder.join(name);
            let length = path.metadata().map_err(|error| named(&path, error))?.len();
            if length > MOST_USER_DATA {
                return Err(named(&path, format_args!("user data has up to {MOST_USER_DATA} bytes")));
            }
            std::fs::read(&path).map_err(|error| named(&path, error))
        };
        Ok(Self { user_data: description.user_data.as_ref().map(read).transpose()? })
    }

    /// Bytes of the disk.
    pub(super) fn bytes(&self) -> u64 {
        let user_data = self.user_data.as_ref().map_or(0, |bytes| bytes.len() as u64);
        BYTES + user_data.next_multiple_of(BYTES)
    }

    /// The disk's content, for a VM of a name and an identity with network devices of these addresses.
    ///
    /// # Errors
    /// It has no room for all of it.
    pub(super) fn image(
        &self,
        description: &CloudInit,
        (name, identity): (&str, &str),
        networks: &[[u8; 6]],
    ) -> Result<Vec<u8>> {
        let identity = description.instance_id.as_deref().unwrap_or(identity);
        let meta = meta_data(description.hostname.as_deref().unwrap_or(name), identity);
        let user_data = match &self.user_data {
            Some(bytes) => bytes.clone(),
            None => user_data(&description.users).into_bytes(),
        };
        let network = network_config(&description.networks, networks);
        let files = [
            ("meta-data", meta.as_bytes()),
            ("user-data", &user_data[..]),
            ("network-config", network.as_bytes()),
        ];
        let bytes = usize::try_from(self.bytes()).map_err(Error::other)?;
        file_system(vec![0; bytes], &files)
    }
}

/// A file system with these files.
fn file_system(space: Vec<u8>, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut disk = Cursor::new(space);
    // The serial number is the same each time: the content decides whether two are the same.
    format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL).volume_id(0x4241_5341))?;
    disk.set_position(0);
    {
        let system = FileSystem::new(&mut disk, FsOptions::new())?;
        for (name, content) in files {
            let mut file = system.root_dir().create_file(name)?;
            file.write_all(content)?;
            file.flush()?;
        }
        system.unmount()?;
    }
    Ok(disk.into_inner())
}

// JSON is YAML, and has one way to write any text: nothing that somebody has chosen ends where it should not.

fn meta_data(hostname: &str, identity: &str) -> String {
    json!({ "instance-id": identity, "local-hostname": hostname }).to_string()
}

fn user_data(users: &[User]) -> String {
    let mut config = Map::new();
    if !users.is_empty() {
        config.insert("users".to_owned(), users.iter().map(user).collect());
        config.insert("ssh_pwauth".to_owned(), Value::Bool(false));
    }
    format!("{CLOUD_CONFIG}{}", Value::Object(config))
}

fn user(user: &User) -> Value {
    let mut entry = json!({
        "name": user.name,
        "shell": "/bin/bash",
        "lock_passwd": user.password_hash.is_none(),
        "ssh_authorized_keys": user.ssh_keys,
    });
    let rights = [
        ("passwd", user.password_hash.as_ref().map(|hash| json!(hash))),
        ("sudo", user.admin.then(|| json!("ALL=(ALL) NOPASSWD:ALL"))),
    ];
    if let Some(entry) = entry.as_object_mut() {
        entry.extend(rights.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    entry
}

/// All devices, each by its hardware address (cloud-init's documentation, "Networking config Version 2").
fn network_config(described: &[Network], devices: &[[u8; 6]]) -> String {
    let asks = Network::default();
    let said = described.iter().chain(std::iter::repeat(&asks));
    let ethernets: Map<String, Value> = devices
        .iter()
        .zip(said)
        .enumerate()
        .map(|(number, (address, said))| (format!("nic{number}"), device(*address, said)))
        .collect();
    json!({ "version": 2, "ethernets": ethernets }).to_string()
}

fn device(address: [u8; 6], said: &Network) -> Value {
    let address = address.map(|byte| format!("{byte:02x}")).join(":");
    let is_asking = said.addresses.is_empty();
    let mut device = json!({ "match": { "macaddress": address }, "dhcp4": is_asking });
    let Some(entry) = device.as_object_mut() else { return device };
    if !is_asking {
        entry.insert("addresses".to_owned(), json!(said.addresses));
    }
    match said.gateway {
        Some(router @ IpAddr::V4(_)) => drop(entry.insert("gateway4".to_owned(), json!(router))),
        Some(router @ IpAddr::V6(_)) => drop(entry.insert("gateway6".to_owned(), json!(router))),
        None => {}
    }
    if !said.dns.is_empty() {
        entry.insert("nameservers".to_owned(), json!({ "addresses": said.dns }));
    }
    device
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0xab, 1];

    fn image(description: &CloudInit) -> Vec<u8> {
        let seed = Seed { user_data: None };
        seed.image(description, ("web", "0123456789"), &[MAC, MAC]).expect("room")
    }

    fn read(image: &[u8], name: &str) -> String {
        let system = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).expect("a file system");
        assert_eq!(system.volume_label(), "CIDATA");
        let mut text = String::new();
        system.root_dir().open_file(name).expect("it is there").read_to_string(&mut text).expect("text");
        text
    }

    fn described(text: &str) -> CloudInit {
        toml::from_str(text).expect("valid")
    }

    #[test]
    fn what_is_said_is_on_the_disk() {
        let image = image(&described(
            "hostname = 'w.example'\n[[users]]\nname = 'ada'\nadmin = true\nssh_keys = ['ssh-ed25519 A \"a\": b']\n\
            [[networks]]\naddresses = ['10.0.0.5/24']\ngateway = '10.0.0.1'\ndns = ['10.0.0.1']",
        ));
        assert_eq!(image.len() as u64, BYTES);
        assert_eq!(
            read(&image, "meta-data"),
            "{\"instance-id\":\"0123456789\",\"local-hostname\":\"w.example\"}"
        );
        let user_data = read(&image, "user-data");
        let json: Value = serde_json::from_str(user_data.strip_prefix(CLOUD_CONFIG).expect("its first line"))
            .expect("JSON");
        assert_eq!(json["users"][0]["ssh_authorized_keys"][0], "ssh-ed25519 A \"a\": b");
        assert_eq!((&json["users"][0]["lock_passwd"], &json["ssh_pwauth"]), (&json!(true), &json!(false)));
        let network: Value = serde_json::from_str(&read(&image, "network-config")).expect("JSON");
        let [first, second] = ["nic0", "nic1"].map(|name| &network["ethernets"][name]);
        assert_eq!(first["match"]["macaddress"], "02:00:00:00:ab:01");
        assert_eq!((&first["gateway4"], &first["dhcp4"]), (&json!("10.0.0.1"), &json!(false)));
        assert_eq!(second["dhcp4"], true);
    }

    #[test]
    fn the_same_description_is_the_same_disk() {
        let description = CloudInit::default();
        assert_eq!(image(&description), image(&description));
        assert_eq!(read(&image(&description), "user-data"), "#cloud-config\n{}");
        let named = CloudInit { instance_id: Some("mine".to_owned()), ..description };
        assert!(read(&image(&named), "meta-data").contains("\"instance-id\":\"mine\""));
    }

    #[test]
    fn user_data_is_given_as_it_is() {
        let text = "#!/bin/sh\necho 'hello'\n".repeat(60_000).into_bytes();
        let seed = Seed { user_data: Some(text.clone()) };
        let image = seed.image(&CloudInit::default(), ("web", "web"), &[]).expect("room");
        assert_eq!(image.len() as u64, seed.bytes());
        assert_eq!(read(&image, "user-data").as_bytes(), text);
    }

    /// Where there are other readers of such disks, they read the same.
    #[test]
    fn other_programs_read_it() {
        let path = std::env::temp_dir().join(format!("basaltd-{}-seed", std::process::id()));
        std::fs::write(&path, image(&CloudInit::default())).expect("room");
        let run =
            |program: &str, words: &[&str]| Command::new(program).arg("-i").arg(&path).args(words).output();
        if let Ok(listed) = run("mdir", &["-b", "::"]) {
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(
                ["meta-data", "user-data", "network-config"].iter().all(|name| listed.contains(name)),
                "{listed}"
            );
            let shown = run("mtype", &["::meta-data"]).expect("it runs").stdout;
            assert!(shown.starts_with(b"{\"instance-id\""), "{shown:?}");
        }
        std::fs::remove_file(path).expect("it is there");
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_field(hostname: String, key: String, hash: String) {
            let user = User { name: "a".to_owned(), ssh_keys: vec![key.clone()], password_hash: Some(hash.clone()), admin: false };
            let text = user_data(&[user]);
            let body = text.strip_prefix(CLOUD_CONFIG).expect("its first line");
            let json: Value = serde_json::from_str(body).expect("JSON");
            prop_assert!(!body.contains('\n'));
            prop_assert_eq!(&json["users"][0]["ssh_authorized_keys"], &json!([key]));
            prop_assert_eq!(&json["users"][0]["passwd"], &json!(hash));
            prop_assert_eq!(json.as_object().map(Map::len), Some(2));
            let meta: Value = serde_json::from_str(&meta_data(&hostname, "id")).expect("JSON");
            prop_assert_eq!(&meta["local-hostname"], &json!(hostname));
        }
    }
}
