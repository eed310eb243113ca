//! Programs out of Debian's packages for an initial file system, with the shared libraries that they need.
//!
//! A library is looked for in the packages that the package of the one that needs it depends on, nearest first, and only those are
//! fetched that are looked into.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use serde::Deserialize;

use super::cpio::Archive;
use super::debian;
use crate::failure::{Context, Failure, Result};
use crate::{paths, process};

/// Where the dynamic linker looks for libraries.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// The folders of a package in which libraries lie.
const PACKAGE_FOLDERS: [&str; 4] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib"];
/// Packages that are looked into at most: a library that none of these has is not there.
const MAX_PACKAGES: usize = 60;

/// A program of a package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// The package.
    debian: String,
    /// The program's path in it; it goes to `/bin`.
    file: PathBuf,
}

/// What a program or library needs.
#[derive(Debug, Default, Eq, PartialEq)]
struct Needs {
    libraries: Vec<String>,
    /// The dynamic linker's path, for a program.
    interpreter: Option<String>,
}

/// Adds programs and what they need.
pub(super) fn add(archive: &mut Archive, programs: &[Program]) -> Result<()> {
    let mut folders = BTreeSet::new();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for program in programs {
        let bytes = paths::read_bytes(&debian::unpack(&program.debian)?.join(&program.file))?;
        let name = program.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let needs = needs(&bytes, &name)?;
        files.insert(format!("bin/{name}"), bytes);
        let packages = Packages::new(&program.debian);
        let by_program = |library| (library, program.debian.clone());
        let mut wanted: VecDeque<(String, String)> = needs.libraries.into_iter().map(by_program).collect();
        if let Some(interpreter) = &needs.interpreter {
            let path = interpreter.trim_start_matches('/');
            let library = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
            files.insert(path.to_owned(), packages.library(&library, &program.debian)?.0);
        }
        while let Some((library, needed_by)) = wanted.pop_front() {
            let path = format!("{LIBRARIES}/{library}");
            if files.contains_key(&path) {
                continue;
            }
            let (bytes, package) = packages.library(&library, &needed_by)?;
            let more = self::needs(&bytes, &library)?.libraries;
            wanted.extend(more.into_iter().map(|library| (library, package.clone())));
            files.insert(path, bytes);
        }
    }
    for path in files.keys() {
        let parents = Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        folders.extend(parents.map(|folder| folder.to_string_lossy().into_owned()));
    }
    // There for busybox already.
    folders.remove("bin");
    folders.iter().for_each(|folder| archive.folder(folder));
    files.iter().for_each(|(path, bytes)| archive.program(path, bytes));
    Ok(())
}

/// Packages that were looked into so far: the folder that each is unpacked in, and what it depends on. For all guests of a run, as apt takes
/// its time for each answer.
static UNPACKED: Mutex<BTreeMap<String, (PathBuf, Vec<String>)>> = Mutex::new(BTreeMap::new());

/// A package and those that it depends on.
struct Packages {
    root: String,
}

impl Packages {
    fn new(root: &str) -> Self {
        Self { root: root.to_owned() }
    }

    /// A library's content, and its package. It is looked for in what the package of the one that needs it depends on, then
    /// further and further away.
    fn library(&self, name: &str, needed_by: &str) -> Result<(Vec<u8>, String)> {
        let mut queue: VecDeque<String> = [needed_by.to_owned(), self.root.clone()].into();
        let mut seen: BTreeSet<String> = queue.iter().cloned().collect();
        for _ in 0..MAX_PACKAGES {
            let Some(package) = queue.pop_front() else { break };
            let (folder, depends) = self.unpack(&package)?;
            if let Some(found) = find(&folder, name) {
                return Ok((paths::read_bytes(&found)?, package));
            }
            let new: Vec<_> = depends.iter().filter(|next| !seen.contains(*next)).cloned().collect();
            seen.extend(new.iter().cloned());
            // The program's own package comes behind what is nearer.
            let at = if package == needed_by { 0 } else { queue.len() };
            new.into_iter().rev().for_each(|next| queue.insert(at, next));
        }
        Err(Failure::new(format!("no package that {} depends on has the library {name}", self.root)))
    }

    fn unpack(&self, package: &str) -> Result<(PathBuf, Vec<String>)> {
        let known = || UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known().get(package) {
            return Ok(known.clone());
        }
        let folder = debian::unpack(package)?;
        let text = process::text(Command::new("apt-cache").args(["depends", "--important", package]))?;
        let found: (PathBuf, Vec<String>) = (folder, dependencies(&text).map(str::to_owned).collect());
        known().insert(package.to_owned(), found.clone());
        Ok(found)
    }
}

/// A library in an unpacked package: where libraries lie, or in a folder there that a package has for its own.
fn find(package: &Path, name: &str) -> Option<PathBuf> {
    let folders = PACKAGE_FOLDERS.iter().map(|inner| package.join(inner));
    let own = |folder: &PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let all = folders.clone().chain(folders.flat_map(|folder| own(&folder)));
    all.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The packages in what `apt-cache depends` prints.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    let names = text.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches('|');
        line.strip_prefix("Depends: ").or_else(|| line.strip_prefix("PreDepends: "))
    });
    names.filter(|name| !name.starts_with('<'))
}

fn needs(bytes: &[u8], name: &str) -> Result<Needs> {
    let read = || -> object::read::Result<Needs> {
        let mut needs = Needs::default();
        let header = FileHeader64::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, bytes)? {
            if let Some(path) = segment.interpreter(endian, bytes)? {
                needs.interpreter = Some(String::from_utf8_lossy(path).into_owned());
            }
        }
        let sections = header.sections(endian, bytes)?;
        let dynamic = sections.dynamic_table(endian, bytes)?;
        for entry in dynamic.iter().filter(|entry| entry.tag == DT_NEEDED) {
            needs.libraries.push(String::from_utf8_lossy(dynamic.string(entry)?).into_owned());
        }
        Ok(needs)
    };
    read().context(format_args!("{name} is no ELF64 file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let text = "stress\n  Depends: liba\n |Depends: libb\n  PreDepends: libc\n  Depends: <libd>\n    libe\n  Suggests: f\n";
        assert_eq!(dependencies(text).collect::<Vec<_>>(), ["liba", "libb", "libc"]);
    }

    #[test]
    fn what_this_test_needs_is_found() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&own, "this test").unwrap();
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")), "{needs:?}");
        assert!(needs.interpreter.is_some_and(|path| path.starts_with('/')));
        assert!(super::needs(b"text", "text").is_err());
    }
}
