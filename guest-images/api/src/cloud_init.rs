//! What a guest's cloud-init is told: names, users, addresses (cloud-init's documentation, "NoCloud").

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::disk::check_path;

const MOST_USERS: usize = 32;
const MOST_KEYS: usize = 64;
const MOST_ADDRESSES: usize = 16;
/// Letters of any value at most.
const LONGEST: usize = 16 << 10;

/// What is on the disk for cloud-init. It is made anew at each start.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// The guest's name; that of the VM, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What tells cloud-init whether it has seen this machine before: its identity, or else its name, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// A file that is given as user data as it is, instead of `users`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Who can log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Addresses of the VM's network devices, in their order; those of which nothing is said ask for one (DHCP).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
}

/// Somebody who can log in.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name.
    pub name: String,
    /// Public keys for SSH, as they stand in `authorized_keys`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// The password, as `mkpasswd` or `openssl passwd -6` prints it. Nobody logs in by a password, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// May do anything, without being asked for a password.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
}

/// A network device's addresses.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its own, each with the bits of its network: `"10.0.0.5/24"`. It asks for one, where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Who is asked for names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
}

impl CloudInit {
    /// Checks it for a VM with so many network devices.
    pub(crate) fn check(&self, networks: usize) -> Result<(), String> {
        if let Some(name) = self.hostname.as_ref().filter(|name| !is_host_name(name)) {
            return Err(format!(
                "cloud_init.hostname: '{}' is no name of a host: write letters, digits, - and . between them",
                name.escape_debug()
            ));
        }
        let printable =
            |id: &String| (1..=64).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_graphic());
        if self.instance_id.as_ref().is_some_and(|id| !printable(id)) {
            return Err("cloud_init.instance_id: write 1 to 64 letters, digits and signs".to_owned());
        }
        self.user_data.iter().try_for_each(|name| check_path("cloud_init.user_data", name))?;
        if self.user_data.is_some() && !self.users.is_empty() {
            return Err("cloud_init.users: what is in user_data stands alone; name users there".to_owned());
        }
        if self.users.len() > MOST_USERS {
            return Err(format!("cloud_init.users: there are up to {MOST_USERS}"));
        }
        if self.networks.len() > networks {
            return Err(format!("cloud_init.networks: the VM has {networks} network devices"));
        }
        self.users.iter().try_for_each(User::check)?;
        self.networks.iter().try_for_each(Network::check)
    }
}

impl User {
    fn check(&self) -> Result<(), String> {
        let name = self.name.as_bytes();
        let first = name.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'_');
        let known =
            |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if !first || name.len() > 32 || !name.iter().all(known) {
            return Err(format!(
                "cloud_init.users.name: '{}' is no user's name: write a-z, 0-9, _ and -",
                self.name.escape_debug()
            ));
        }
        let is_key = |key: &String| key.contains(' ') && is_line(key);
        if self.ssh_keys.len() > MOST_KEYS || !self.ssh_keys.iter().all(is_key) {
            return Err(format!(
                "cloud_init.users.ssh_keys: of {}: write up to {MOST_KEYS} public keys, a line each, such as \"ssh-ed25519 AAAA...\"",
                self.name
            ));
        }
        let is_hash = |hash: &String| hash.starts_with('$') && is_line(hash) && !hash.contains([':', ' ']);
        if self.password_hash.as_ref().is_some_and(|hash| !is_hash(hash)) {
            return Err(format!(
                "cloud_init.users.password_hash: of {}: write what `openssl passwd -6` prints, never the password",
                self.name
            ));
        }
        Ok(())
    }
}

impl Network {
    fn check(&self) -> Result<(), String> {
        if self.addresses.len() > MOST_ADDRESSES || self.dns.len() > MOST_ADDRESSES {
            return Err(format!("cloud_init.networks: there are up to {MOST_ADDRESSES} addresses of a kind"));
        }
        match self.addresses.iter().find(|text| !is_address(text)) {
            Some(text) => Err(format!(
                "cloud_init.networks.addresses: '{}' is no address: write one with the bits of its network, as in \"10.0.0.5/24\"",
                text.escape_debug()
            )),
            None => Ok(()),
        }
    }
}

/// An address and its network's bits.
fn is_address(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

fn is_host_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// One line of text that every reader of YAML takes: nothing that ends a line or is no letter.
fn is_line(text: &str) -> bool {
    let is_none = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    !text.is_empty() && text.len() <= LONGEST && !text.contains(is_none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CloudInit, String> {
        let read: CloudInit = toml::from_str(text).map_err(|error| error.to_string())?;
        read.check(1).map(|()| read)
    }

    #[test]
    fn all_of_it_can_be_said() {
        let text = "hostname = 'web.example.org'\n[[users]]\nname = 'ada'\nadmin = true\n\
            ssh_keys = ['ssh-ed25519 AAAA ada@home: \"x\"']\npassword_hash = '$6$a$b'\n\
            [[networks]]\naddresses = ['10.0.0.5/24', 'fd00::5/64']\ngateway = '10.0.0.1'\ndns = ['10.0.0.1', '::1']";
        let seed = read(text).expect("valid");
        assert_eq!((seed.users.len(), seed.networks[0].dns.len()), (1, 2));
        assert_eq!(read("").as_ref(), Ok(&CloudInit::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, culprit) in [
            ("hostname = 'a b'", "hostname: 'a b'"),
            ("hostname = 'a\\n'", "hostname"),
            ("instance_id = ''", "instance_id"),
            ("user_data = '../x'", "user_data: '../x'"),
            ("user_data = 'x'\n[[users]]\nname = 'a'", "users: what is in user_data"),
            ("[[users]]\nname = 'Ada'", "name: 'Ada'"),
            ("[[users]]\nname = ''", "name: ''"),
            ("[[users]]\nname = 'a'\nssh_keys = ['key']", "ssh_keys: of a"),
            ("[[users]]\nname = 'a'\nssh_keys = [\"ssh-rsa A\\nroot: x\"]", "ssh_keys: of a"),
            ("[[users]]\nname = 'a'\npassword_hash = 'secret'", "never the password"),
            ("[[networks]]\naddresses = ['10.0.0.5']", "'10.0.0.5' is no address"),
            ("[[networks]]\naddresses = ['10.0.0.5/33']", "'10.0.0.5/33' is no address"),
            ("[[networks]]\ngateway = '10.0.0'", "line 2"),
            ("[[networks]]\n[[networks]]", "the VM has 1 network devices"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(culprit), "{text:?}: {error}");
        }
    }
}
