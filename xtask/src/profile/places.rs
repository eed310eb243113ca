//! Instructions by function, by function with what was made part of it, and by line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use addr2line::Loader;

use crate::failure::{Failure, Result};
use crate::paths;
use crate::symbolize::{demangled, functions};

/// Where instructions were spent.
#[derive(Default)]
pub(super) struct Places {
    total: u64,
    functions: BTreeMap<String, u64>,
    /// With the functions that were inlined, each counted for all that it was inlined into.
    inlined: BTreeMap<String, u64>,
    lines: BTreeMap<String, u64>,
}

impl Places {
    /// Those of the kernel's code.
    pub(super) fn of(kernel: &Path, spent: impl Iterator<Item = (u64, u64)>) -> Result<Self> {
        let loader = Loader::new(kernel).map_err(|error| {
            Failure::new(format!("no symbols: reading {}: {error}", paths::shown(kernel)))
        })?;
        let root = format!("{}/", paths::root().display());
        let mut places = Self::default();
        for (address, count) in spent.filter(|(_, count)| *count != 0) {
            places.add(&loader, &root, (address, count));
        }
        Ok(places)
    }

    fn add(&mut self, loader: &Loader, root: &str, (address, count): (u64, u64)) {
        self.total += count;
        let symbol = loader.find_symbol(address).map_or_else(|| "?".to_owned(), demangled);
        *self.functions.entry(symbol).or_default() += count;
        let (mut names, mut line) = (Vec::new(), None);
        for (name, place) in functions(loader, address) {
            names.extend(name);
            // The innermost of the project's own: what a library does is done for that.
            let own = place.and_then(|(file, number)| Some(format!("{}:{number}", file.strip_prefix(root)?)));
            line = line.or(own);
        }
        names.sort_unstable();
        names.dedup();
        names.into_iter().for_each(|name| *self.inlined.entry(name).or_default() += count);
        *self.lines.entry(line.unwrap_or_else(|| "?".to_owned())).or_default() += count;
    }

    /// Tables of the most expensive, in instructions for each of `per` requests.
    pub(super) fn tables(&self, per: u64, most: usize) -> String {
        let mut text = format!("{:>10.1} instructions of the kernel's in all\n", share(self.total, per));
        for (title, places) in [
            ("by function", &self.functions),
            ("by function, with what it calls inline", &self.inlined),
            ("by line", &self.lines),
        ] {
            let mut sorted: Vec<_> = places.iter().collect();
            sorted.sort_by_key(|(_, count)| core::cmp::Reverse(**count));
            // Writing into a string does not fail.
            let _ = writeln!(text, "\n{title}");
            for (name, count) in sorted.into_iter().take(most) {
                let _ = writeln!(text, "{:>10.1} {name}", share(*count, per));
            }
        }
        text
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn share(count: u64, per: u64) -> f64 {
    count as f64 / per as f64
}
