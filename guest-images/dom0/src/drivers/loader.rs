//! Puts modules into the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Result;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::system::{finit_module, uname};

use super::index::Index;
use crate::log;

/// The modules of the running kernel.
pub(crate) struct Loader {
    folder: PathBuf,
    index: Index,
    loaded: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// What devices have asked for so far.
    asked: BTreeSet<String>,
}

impl Loader {
    /// Reads what there is.
    pub(crate) fn open() -> Result<Self> {
        let folder = PathBuf::from("/lib/modules").join(&*uname().release().to_string_lossy());
        let read = |name| fs::read_to_string(folder.join(name));
        let index = Index::parse(&read("modules.dep")?, &read("modules.alias")?, &read("modules.softdep")?);
        let (loaded, failed, asked) = Default::default();
        Ok(Self { folder, index, loaded, failed, asked })
    }

    /// Loads what serves a device, or the module of that name. True where there is any.
    pub(crate) fn load_for(&mut self, alias: &str) -> bool {
        let serving: Vec<String> = self.index.serving(alias).into_iter().map(str::to_owned).collect();
        if self.asked.insert(alias.to_owned()) {
            serving.iter().for_each(|module| self.load(module));
        }
        !serving.is_empty()
    }

    /// The modules that were loaded, without those that only others need.
    pub(crate) fn summary(&self) -> String {
        let mut names: Vec<&str> = self.loaded.iter().map(String::as_str).collect();
        names.retain(|name| !self.loaded.iter().any(|other| self.is_needed(name, other)));
        names.join(" ")
    }

    fn is_needed(&self, name: &str, by: &str) -> bool {
        name != by && self.index.order(by).iter().any(|(needed, _)| *needed == name)
    }

    fn load(&mut self, module: &str) {
        for (name, path) in self.index.order(module) {
            if self.loaded.contains(name) || self.failed.contains(name) {
                continue;
            }
            match insert(&self.folder.join(path)) {
                Ok(()) | Err(Errno::EXIST) => _ = self.loaded.insert(name.to_owned()),
                Err(error) => {
                    // A module may look at the machine itself and find nothing for it there.
                    if error != Errno::NODEV {
                        log::warn(&format!("module {name}: {error}"));
                    }
                    self.failed.insert(name.to_owned());
                }
            }
        }
    }
}

fn insert(path: &std::path::Path) -> std::result::Result<(), Errno> {
    let file = File::open(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    finit_module(&file, c"", 0)
}
