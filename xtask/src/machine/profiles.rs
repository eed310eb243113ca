//! The machine profiles: read from `xtask/machines/*.toml`, one a file. A file with `[[axes]]` stands for
//! many: each axis names some values, each value holds settings of the emulator, and there is a profile for
//! every combination, named after the file and the values.

use serde::Deserialize;
use toml::{Table, Value};

use super::{bochs, qemu};
use crate::failure::{Context, Failure, Result};
use crate::paths;

/// `--machine auto`.
pub(crate) const AUTO: &str = "auto";
const KVM: &str = "kvm";
const FALLBACK: &str = "qemu-svm";
/// A machine with what a node has: a disk for its data, and a network card.
const NODE: &str = "qemu-node-q35-uefi-nvme-e1000e";
const AXES: &str = "axes";
const ABOUT: &str = "about";
const QEMU: &str = "qemu";

/// Options of all machines that boot the same images.
pub(super) const SHARED: &str = "tsc=trust";

/// A machine, as its profile describes it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The name: that of the profile's file, and of the values of its axes.
    #[serde(skip)]
    pub(crate) name: String,
    /// What it is, in one line.
    pub(crate) about: String,
    /// Memory, unless the user asks for another size (`1G`).
    pub(crate) memory: String,
    /// CPUs, unless the user asks for another number.
    pub(crate) cpus: u32,
    /// How many times longer than QEMU it may take: time limits are multiplied by it.
    pub(crate) patience: u32,
    /// Options for Basalt: what an image for this machine says that one for any PC does not.
    pub(crate) options: String,
    /// What selftest guests must know of it: added to their command lines.
    #[serde(default)]
    pub(crate) selftest_options: String,
    pub(super) qemu: Option<qemu::Settings>,
    pub(super) bochs: Option<bochs::Settings>,
}

/// All profiles, sorted by name.
pub(crate) fn all() -> Result<Vec<Profile>> {
    let folder = paths::root().join("xtask/machines");
    let entries = std::fs::read_dir(&folder).context(format_args!("reading {}", paths::shown(&folder)))?;
    let mut profiles = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let read = read(&name, &paths::read(&path)?)
                .context(format_args!("{} is not a machine profile", paths::shown(&path)))?;
            profiles.extend(read);
        }
    }
    profiles.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(profiles)
}

/// The profiles of a file.
fn read(name: &str, text: &str) -> std::result::Result<Vec<Profile>, toml::de::Error> {
    let mut base: Table = toml::from_str(text)?;
    let axes: Vec<Table> = match base.remove(AXES) {
        Some(axes) => axes.try_into()?,
        None => Vec::new(),
    };
    let mut combinations = vec![(name.to_owned(), base)];
    for axis in axes {
        let mut wider = Vec::new();
        for (name, base) in combinations {
            for (value, settings) in &axis {
                let settings: Table = settings.clone().try_into()?;
                wider.push((format!("{name}-{value}"), with(base.clone(), settings)));
            }
        }
        combinations = wider;
    }
    let profile = |(name, table): (String, Table)| Ok(Profile { name, ..table.try_into()? });
    combinations.into_iter().map(profile).collect()
}

/// Adds a value's settings to those of the emulator, and its words to the description.
fn with(mut base: Table, mut settings: Table) -> Table {
    if let (Some(Value::String(about)), Some(Value::String(more))) =
        (base.get_mut(ABOUT), settings.remove(ABOUT))
    {
        about.push(' ');
        about.push_str(&more);
    }
    if let Some(Value::Table(emulator)) = base.get_mut(QEMU) {
        emulator.extend(settings);
    }
    base
}

/// The profile of that name; `auto` is the machine's own virtualization where it nests, and otherwise the
/// fastest emulator.
pub(crate) fn profile(name: &str) -> Result<Profile> {
    let name = match name {
        AUTO if qemu::why_kvm_does_not_nest().is_none() => KVM,
        AUTO => FALLBACK,
        name => name,
    };
    let mut profiles = all()?;
    match profiles.iter().position(|profile| profile.name == name) {
        Some(index) => Ok(profiles.swap_remove(index)),
        None => {
            let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
            Err(Failure::new(format!("there is no machine named `{name}`"))
                .next(format!("one of auto, {}; `--machine list` says what they are", names.join(", "))))
        }
    }
}

/// The profile of that name, where the management domain may be on it: `auto` is a machine with devices for it then.
pub(crate) fn profile_for(name: &str, has_dom0: bool) -> Result<Profile> {
    profile(if has_dom0 && name == AUTO { NODE } else { name })
}

/// Prints the profiles, one a line, the name first.
pub(crate) fn print_list() -> Result<()> {
    let profiles = all()?;
    let width = profiles.iter().map(|profile| profile.name.len()).max().unwrap_or_default();
    println!("{AUTO:<width$} {NODE} with dom0; else kvm where this machine nests, otherwise {FALLBACK}");
    for profile in profiles {
        println!("{:<width$} {}", profile.name, profile.about);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mebibytes;

    #[test]
    fn all_profiles_can_be_read() {
        let profiles = all().expect("readable");
        assert!(profiles.iter().any(|profile| profile.name == FALLBACK));
        assert!(profiles.len() >= 12);
        for profile in &profiles {
            assert!(profile.qemu.is_some() != profile.bochs.is_some(), "{}", profile.name);
            mebibytes(&profile.memory).expect("a size");
        }
        let mut others: Vec<_> = profiles.iter().filter(|profile| !profile.shares_images()).collect();
        assert!(others.len() <= 5, "most boot the same ones");
        others.dedup_by_key(|profile| &profile.options);
        assert_eq!(others.len(), 1, "and the others all boot another one");
        for pair in profiles.windows(2) {
            assert_ne!(pair[0].name, pair[1].name);
            assert!(pair[0].options.starts_with(SHARED), "{}", pair[0].options);
        }
    }

    #[test]
    fn axes_multiply() {
        let text = "about = 'QEMU:'\nmemory = '1G'\ncpus = 1\npatience = 1\noptions = ''\n[qemu]\naccel = 'tcg'\ncpu = 'max'\n\
            [[axes]]\na = { about = 'A', machine = 'q35' }\nb = { about = 'B', machine = 'pc' }\n\
            [[axes]]\nc = { about = 'C', firmware = 'ovmf' }\nd = { about = 'D', firmware = 'seabios' }\n";
        let profiles = read("x", text).expect("valid");
        let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["x-a-c", "x-a-d", "x-b-c", "x-b-d"]);
        assert_eq!(profiles[1].about, "QEMU: A D");
        assert!(read("x", "about = 'no more'").is_err());
        assert!(read("x", &text.replace("firmware", "nonsense")).is_err());
    }
}
