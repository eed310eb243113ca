//! Which module serves what, and what it needs, from the files that `depmod` makes: `modules.alias`, `modules.dep`, `modules.softdep`.
//!
//! Source: manual pages modules.dep(5) and depmod(8). Pure: the files' text in, names out.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;

/// What is known of the modules.
#[derive(Default)]
pub(crate) struct Index {
    aliases: Vec<Alias>,
    modules: BTreeMap<String, Module>,
}

struct Alias {
    /// The pattern up to its first wild card: most are told apart by it at once.
    start: String,
    /// As it is: there are thousands, and the kernel starts us anew for each name that it asks for.
    pattern: String,
    module: String,
}

#[derive(Default)]
struct Module {
    path: String,
    /// What it cannot be loaded without.
    needs: Vec<String>,
    /// What is to be loaded before it and after it, where it is there.
    before: Vec<String>,
    after: Vec<String>,
}

impl Index {
    /// Reads the files' text. Lines that say nothing to us are left out.
    pub(crate) fn parse(dependencies: &str, aliases: &str, soft: &str) -> Self {
        let mut index = Self::default();
        for (path, needs) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_ascii_whitespace().map(name).collect();
            let module = Module { path: path.to_owned(), needs, ..Module::default() };
            index.modules.insert(name(path), module);
        }
        for line in aliases.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let pattern = normal(pattern);
            let start = pattern.split(['*', '?', '[']).next().unwrap_or_default().to_owned();
            index.aliases.push(Alias { start, pattern, module: normal(module) });
        }
        soft.lines().for_each(|line| index.soften(line));
        index
    }

    fn soften(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { return };
        let Some(module) = self.modules.get_mut(&normal(module)) else { return };
        let mut is_before = true;
        for word in words {
            match word {
                "pre:" => is_before = true,
                "post:" => is_before = false,
                word if is_before => module.before.push(normal(word)),
                word => module.after.push(normal(word)),
            }
        }
    }

    /// The modules that serve a device, in the order in which they are to be tried; or the one of that name.
    pub(crate) fn serving(&self, alias: &str) -> Vec<&str> {
        let alias = normal(alias);
        if let Some((name, _)) = self.modules.get_key_value(&alias) {
            return vec![name];
        }
        let fits = |known: &&Alias| {
            alias.starts_with(&known.start)
                && Pattern::new(&known.pattern).is_ok_and(|pattern| pattern.matches(&alias))
        };
        self.aliases.iter().filter(fits).map(|known| known.module.as_str()).collect()
    }

    /// A module and what it needs, in the order in which they are to be loaded: names and paths. Empty for a name that is not known.
    pub(crate) fn order(&self, module: &str) -> Vec<(&str, &str)> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        self.visit(module, &mut seen, &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<(&'a str, &'a str)>) {
        let Some((name, module)) = self.modules.get_key_value(name) else { return };
        if !seen.insert(name) {
            return;
        }
        module.before.iter().for_each(|needed| self.visit(needed, seen, order));
        // `depmod` lists the nearest first.
        module.needs.iter().rev().for_each(|needed| self.visit(needed, seen, order));
        order.push((name, &module.path));
        module.after.iter().for_each(|wanted| self.visit(wanted, seen, order));
    }
}

/// A module's name, from the path of its file.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    normal(file.split('.').next().unwrap_or_default())
}

/// Dashes and underscores are the same in names of modules, except between the brackets of a pattern.
fn normal(text: &str) -> String {
    let mut in_brackets = false;
    let symbols = text.chars().map(|symbol| {
        match symbol {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ => {}
        }
        if symbol == '-' && !in_brackets { '_' } else { symbol }
    });
    symbols.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index() -> Index {
        Index::parse(
            "kernel/net/e1000e.ko: kernel/ptp/ptp.ko kernel/pps/pps-core.ko\nkernel/ptp/ptp.ko: kernel/pps/pps-core.ko\n\
             kernel/pps/pps-core.ko:\nkernel/fs/ext4.ko:\nkernel/crypto/crc32c-intel.ko:\nkernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n",
            "# Aliases\nalias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\nalias usb:v*p*d*dc*dsc*dp*ic08isc0[1-6]ip50in* usb_storage\n\
             alias fs-ext4 ext4\nalias input:b*v*-e*1,*k*2 x\nnonsense\nalias pci:v0000[ broken\n",
            "softdep ext4 pre: crc32c-intel post: ptp absent\n",
        )
    }

    #[test]
    fn devices_find_their_modules() {
        let index = index();
        assert_eq!(index.serving("pci:v00008086d000010D3sv00001AF4sd00001100bc02sc00i00"), ["e1000e"]);
        assert!(index.serving("pci:v00008086d000010D4sv00001AF4sd00001100bc02sc00i00").is_empty());
        assert_eq!(index.serving("usb:v1p2d3dc0dsc0dp0ic08isc06ip50in00"), ["usb_storage"]);
        assert!(index.serving("usb:v1p2d3dc0dsc0dp0ic08isc07ip50in00").is_empty());
        assert_eq!(index.serving("fs-ext4"), ["ext4"]);
        assert_eq!(index.serving("input:b0v1-e0,1,k2"), ["x"]);
        assert_eq!(index.serving("pps_core"), ["pps_core"]);
    }

    #[test]
    fn what_is_needed_comes_first() {
        let index = index();
        let names = |module| index.order(module).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("e1000e"), ["pps_core", "ptp", "e1000e"]);
        assert_eq!(names("ext4"), ["crc32c_intel", "ext4", "pps_core", "ptp"]);
        assert_eq!(names("a"), ["b", "a"]);
        assert!(names("unknown").is_empty());
        assert_eq!(index.order("pps_core"), [("pps_core", "kernel/pps/pps-core.ko")]);
    }

    proptest! {
        #[test]
        fn a_device_may_say_anything(alias in ".{0,80}") {
            index().serving(&alias);
        }
    }
}
