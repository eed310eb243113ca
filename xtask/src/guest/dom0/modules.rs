//! The kernel's modules that a list names, with those that they need, laid out as `modprobe` and its kind expect it.
//!
//! Source: manual pages modules.dep(5), depmod(8). Their own program is not used: it describes all 4,000 modules of a package.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure, Result};
use crate::guest::cpio::Archive;
use crate::guest::drivers;
use crate::guest::module_info::ModuleInfo;
use crate::paths;

/// A name of the list and where it stands.
#[derive(Debug, Eq, PartialEq)]
struct Line<'a> {
    number: usize,
    name: &'a str,
}

/// A module that goes into the archive.
struct Module {
    name: String,
    /// Its path below the folder of the kernel's release.
    path: String,
    bytes: Vec<u8>,
    info: ModuleInfo,
}

/// What the kernel's package has.
struct Kernel {
    /// The folder with the modules of the release.
    folder: PathBuf,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    /// The place of each module in the kernel's own order: where several serve a device, the first is to be tried first.
    ranks: BTreeMap<String, usize>,
}

/// Adds what `list` names of the kernel in the unpacked `package`.
pub(super) fn add(archive: &mut Archive, package: &Path, list: &str) -> Result<()> {
    let kernel = Kernel::open(package)?;
    let text = paths::read(&paths::root().join(list))?;
    let mut chosen = BTreeMap::new();
    for Line { number, name } in lines(&text) {
        let name = normal(name);
        if !kernel.built_in.contains(&name) && !kernel.files.contains_key(&name) {
            return Err(Failure::new(format!("{list}:{number}: the kernel has no module `{name}`")));
        }
        kernel.choose(&name, &mut chosen)?;
    }
    let mut modules: Vec<Module> = chosen.into_values().flatten().collect();
    modules.sort_by_key(|module| kernel.ranks.get(&module.name).copied().unwrap_or(usize::MAX));
    kernel.write(archive, &modules)
}

/// The names of a list.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let lines = text.lines().enumerate().map(|(index, line)| Line {
        number: index + 1,
        name: line.split('#').next().unwrap_or_default().trim(),
    });
    lines.filter(|line| !line.name.is_empty())
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in this file.
fn name(path: &str) -> String {
    let file = Path::new(path).file_stem().unwrap_or_default();
    normal(&file.to_string_lossy())
}

impl Kernel {
    fn open(package: &Path) -> Result<Self> {
        let releases = package.join("lib/modules");
        let entries =
            std::fs::read_dir(&releases).context(format_args!("reading {}", paths::shown(&releases)))?;
        let folder = entries.flatten().map(|entry| entry.path()).find(|path| path.is_dir());
        let folder = folder.ok_or_else(|| Failure::new("the kernel's package has no modules"))?;
        let mut files = BTreeMap::new();
        drivers::find(&folder, &mut files)?;
        let built_in = paths::read(&folder.join("modules.builtin"))?.lines().map(name).collect();
        let order = paths::read(&folder.join("modules.order"))?;
        let ranks = order.lines().enumerate().map(|(rank, path)| (name(path), rank)).collect();
        Ok(Self { folder, files, built_in, ranks })
    }

    /// Adds a module and all that it needs. What it would only like to have is added where it is there.
    fn choose(&self, name: &str, chosen: &mut BTreeMap<String, Option<Module>>) -> Result<()> {
        if self.built_in.contains(name) || chosen.contains_key(name) {
            return Ok(());
        }
        let file = self.files.get(name);
        let file = file.ok_or_else(|| Failure::new(format!("a module needs {name}, which is not there")))?;
        let bytes = paths::read_bytes(file)?;
        let info = ModuleInfo::read(&bytes, name)?;
        // It has its place before those that may need it in turn.
        chosen.insert(name.to_owned(), None);
        for needed in info.needs() {
            self.choose(&normal(needed), chosen)?;
        }
        for wanted in info.all("softdep").flat_map(str::split_ascii_whitespace).map(normal) {
            if self.files.contains_key(&wanted) {
                self.choose(&wanted, chosen)?;
            }
        }
        let path = file.strip_prefix(&self.folder).unwrap_or(file).to_string_lossy().into_owned();
        chosen.insert(name.to_owned(), Some(Module { name: name.to_owned(), path, bytes, info }));
        Ok(())
    }

    fn write(&self, archive: &mut Archive, modules: &[Module]) -> Result<()> {
        let release = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let root = format!("lib/modules/{release}");
        let parents = |module: &Module| {
            let folders = Path::new(&module.path).ancestors().skip(1);
            folders.map(|folder| folder.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let folders: BTreeSet<String> = modules.iter().flat_map(parents).collect();
        for folder in folders {
            archive.folder(format!("{root}/{folder}").trim_end_matches('/'));
        }
        for module in modules {
            archive.file(&format!("{root}/{}", module.path), &module.bytes);
        }
        let texts = [
            ("modules.dep", dependencies(modules)),
            ("modules.alias", aliases(modules)),
            ("modules.softdep", soft_dependencies(modules)),
            ("modules.builtin", Ok(paths::read(&self.folder.join("modules.builtin"))?)),
        ];
        for (name, text) in texts {
            let text = text.context(format_args!("writing {name}"))?;
            archive.file(&format!("{root}/{name}"), text.as_bytes());
        }
        Ok(())
    }
}

/// `modules.dep`: each module with all that it needs, the nearest first.
fn dependencies(modules: &[Module]) -> std::result::Result<String, std::fmt::Error> {
    let by_name: BTreeMap<&str, &Module> =
        modules.iter().map(|module| (module.name.as_str(), module)).collect();
    let mut text = String::new();
    for module in modules {
        let mut order = Vec::new();
        needs(module, &by_name, &mut order);
        write!(text, "{}:", module.path)?;
        for needed in order.iter().rev().filter(|needed| needed.name != module.name) {
            write!(text, " {}", needed.path)?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// Puts a module on the list, behind what it needs.
fn needs<'a>(module: &'a Module, by_name: &BTreeMap<&str, &'a Module>, order: &mut Vec<&'a Module>) {
    if order.iter().any(|known| known.name == module.name) {
        return;
    }
    let needed = module.info.needs().filter_map(|name| by_name.get(normal(name).as_str()));
    needed.for_each(|needed| needs(needed, by_name, order));
    order.push(module);
}

fn aliases(modules: &[Module]) -> std::result::Result<String, std::fmt::Error> {
    let mut text = String::new();
    for module in modules {
        for alias in module.info.all("alias") {
            writeln!(text, "alias {alias} {}", module.name)?;
        }
    }
    Ok(text)
}

fn soft_dependencies(modules: &[Module]) -> std::result::Result<String, std::fmt::Error> {
    let mut text = String::new();
    for module in modules {
        for words in module.info.all("softdep") {
            writeln!(text, "softdep {} {words}", module.name)?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_names_and_comments() {
        let found: Vec<_> =
            lines("# Disks\nahci\n\n  nvme # fast\n").map(|line| (line.number, line.name)).collect();
        assert_eq!(found, [(2, "ahci"), (4, "nvme")]);
        assert_eq!(name("kernel/crypto/crc32c-intel.ko"), "crc32c_intel");
    }

    #[test]
    fn the_list_of_dom0_names_each_module_once() {
        let text = paths::read(&paths::root().join(crate::guest::dom0::MODULES)).expect("readable");
        let mut names = BTreeSet::new();
        let twice: Vec<_> = lines(&text).filter(|line| !names.insert(normal(line.name))).collect();
        assert_eq!(twice, []);
        assert!(names.len() > 50);
    }

    #[test]
    fn the_files_of_depmod() {
        let module = |path: &str, section: &[u8]| {
            let info = ModuleInfo::parse(section);
            Module { name: name(path), path: path.to_owned(), bytes: Vec::new(), info }
        };
        let modules = [
            module("kernel/pps-core.ko", b""),
            module("kernel/ptp.ko", b"depends=pps_core\0"),
            module(
                "kernel/e1000e.ko",
                b"alias=pci:v8086d*\0alias=x\0depends=ptp,absent\0softdep=pre: crc32c\0",
            ),
        ];
        let text = "kernel/pps-core.ko:\nkernel/ptp.ko: kernel/pps-core.ko\nkernel/e1000e.ko: kernel/ptp.ko kernel/pps-core.ko\n";
        assert_eq!(dependencies(&modules).as_deref(), Ok(text));
        assert_eq!(aliases(&modules).as_deref(), Ok("alias pci:v8086d* e1000e\nalias x e1000e\n"));
        assert_eq!(soft_dependencies(&modules).as_deref(), Ok("softdep e1000e pre: crc32c\n"));
    }
}
