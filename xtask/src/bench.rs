//! `cargo xtask bench`: what exits cost, counted in instructions where the machine counts them, and what a
//! boot of stock Linux needs.
//!
//! In Bochs, and in QEMU where it counts, the time-stamp counter counts instructions, so these numbers repeat exactly; time limits and the
//! load of the host do not matter.

mod boots;
mod compare;
mod devices;
mod load;
mod node;
mod page;
mod reference;
mod rows;
mod table;

pub(crate) use boots::{boots, machine_memory};
pub(crate) use devices::NOTHING;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::tests::exits;
use serde::{Deserialize, Serialize};

use crate::cli::BenchOptions;
use crate::failure::{Context, Failure, Result};
use crate::machine::Profile;
use crate::play::{self, Play, Played};
use crate::{build, image, interrupt, machine, paths, progress};
use boots::USUAL;

/// One number; the names stay stable.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    machine: String,
    value: f64,
    unit: String,
}

impl Row {
    fn new(name: &str, machine: &str, value: f64, unit: &str) -> Self {
        Self { name: name.to_owned(), machine: machine.to_owned(), value, unit: unit.to_owned() }
    }
}

/// A machine, and whether its time-stamp counter counts instructions.
struct Counted<'a> {
    name: &'a str,
    counts_instructions: bool,
}

impl<'a> From<&'a Profile> for Counted<'a> {
    fn from(profile: &'a Profile) -> Self {
        Self { name: &profile.name, counts_instructions: profile.counts_instructions() }
    }
}

impl Counted<'_> {
    /// What the counter's ticks are.
    fn unit(counts_instructions: bool) -> &'static str {
        if counts_instructions { rows::INSTRUCTIONS } else { rows::TICKS }
    }
}

/// What the boots have given so far.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    exits: devices::Exits,
    loads: load::Loads,
    /// The kernel knows nothing of mitigations, so that with its defaults it costs what it costs without.
    lacks_mitigations: bool,
    failures: Vec<String>,
}

/// Measures, prints the table, writes the file.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    interrupt::watch()?;
    // Before the work, as it may not be there.
    let before = options.compare.as_deref().map(compare::read).transpose()?;
    let references = reference::all()?;
    let Found { rows, failures, .. } = match options.from.as_slice() {
        [] => measure(options)?,
        files => read_all(files)?,
    };
    print!("{}", table::table(&rows, &references));
    if options.write_counts && failures.is_empty() {
        write_json(&paths::root().join(exits::COUNTS_FILE), &rows)?;
    }
    if options.write_docs {
        page::write(&references, &rows)?;
    }
    if let Some(file) = &options.json {
        write_json(file, &rows)?;
    }
    let mut dearer = Vec::new();
    if let Some(before) = before {
        let (text, found) = compare::compare(&before, &rows, options.tolerance);
        print!("\n{text}");
        dearer = found;
    }
    match failures.as_slice() {
        [] if !dearer.is_empty() => Err(Failure::new(format!("dearer than before: {}", dearer.join("; ")))),
        [] => Ok(()),
        failures => Err(Failure::new(format!("no numbers from {}", failures.join("; ")))),
    }
}

/// The rows that earlier runs have written. What stands in several files counts as in the last one.
fn read_all(files: &[PathBuf]) -> Result<Found> {
    let mut rows: Vec<Row> = Vec::new();
    for row in files.iter().map(|file| compare::read(file)).collect::<Result<Vec<_>>>()?.into_iter().flatten()
    {
        match rows.iter_mut().find(|old| old.name == row.name && old.machine == row.machine) {
            Some(old) => *old = row,
            None => rows.push(row),
        }
    }
    Ok(Found { rows, ..Found::default() })
}

/// Makes all boots that are wanted.
#[expect(clippy::cast_precision_loss, reason = "the size of a file")]
fn measure(options: &BenchOptions) -> Result<Found> {
    let kernel = build::kernel()?;
    let image_kib = image::size(&kernel)?.div_ceil(1 << 10);
    let mut rows = Vec::new();
    let mut plays = Vec::new();
    for (machine, boot) in wanted(options) {
        if boot.name == boots::BRING_UP {
            rows.push(Row::new("kernel_image_kib", &machine, image_kib as f64, "KiB"));
        }
        let mut profile = machine::profile(&machine)?;
        if let Some(memory) = machine_memory(&boot.name) {
            memory.clone_into(&mut profile.memory);
        }
        plays.push(Play::prepare(boot, profile, &kernel)?);
    }
    let found = Mutex::new(Found { rows, ..Found::default() });
    play::carry_out_all(
        plays,
        options.at_once,
        |play| progress::note(&format!("{} ...", play.title())),
        |play, played| {
            if let Ok(mut found) = found.lock() {
                found.take(play, played);
            }
        },
    );
    let mut found = found.into_inner().map_err(|_| play::poisoned())?;
    if found.lacks_mitigations {
        progress::note("this kernel has no mitigations: rows of its defaults are left out");
        found.rows.retain(|row| !reference::is_of_defaults(&row.name));
    }
    devices::per_request(&mut found.rows, &found.exits);
    let unit =
        |machine: &str| Counted::unit(machine::profile(machine).is_ok_and(|it| it.counts_instructions()));
    found.rows.extend(load::rows(&found.loads, unit));
    Ok(found)
}

/// Machines and boots: the usual ones, or all boots on the machines that are asked for.
fn wanted(options: &BenchOptions) -> Vec<(String, ::tests::scenario::Scenario)> {
    if options.write_counts {
        return exits::MACHINES.map(|machine| (machine.to_owned(), boots::exit_costs())).into();
    }
    let machines: Vec<&str> = match options.machine.as_slice() {
        [] => USUAL.iter().map(|usual| usual.machine).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    let known = boots();
    let names: Vec<&str> = known.iter().map(|boot| boot.name.as_str()).collect();
    let is_made = |machine: &str, boot: &str| {
        let usual = USUAL.iter().find(|usual| options.machine.is_empty() && usual.machine == machine);
        options.is_wanted(boot, &names) && usual.is_none_or(|usual| (usual.has)(boot))
    };
    let on = |machine: &'_ str| {
        let boots = boots().into_iter().filter(|boot| is_made(machine, &boot.name));
        boots.map(|boot| (machine.to_owned(), boot)).collect::<Vec<_>>()
    };
    machines.into_iter().flat_map(on).collect()
}

impl Found {
    fn take(&mut self, play: &Play, played: Result<Played>) {
        let boot = play.scenario.name.as_str();
        let problem = match played {
            Ok(played) => {
                self.lacks_mitigations |= !exits::knows_mitigations(&played.log);
                devices::note(&mut self.exits, &play.machine.name, boot, &played.log);
                load::note(&mut self.loads, &play.machine.name, boot, &played.log);
                let rows = rows::rows_of(&Counted::from(&play.machine), boot, &played.log);
                let empty = rows.is_empty() && !boot.ends_with(NOTHING) && !load::is_one(boot);
                self.rows.extend(rows);
                match played.tests.iter().find_map(|(_, reason)| reason.clone()) {
                    None if empty && boots::TOLD_BY_KERNEL.contains(&boot) => {
                        progress::note(&format!("{}: this kernel does not tell its figures", play.title()));
                        None
                    }
                    Some(reason) if load::is_one(boot) => Some(reason),
                    reason => {
                        empty.then(|| format!("{} (log: {})", reason.unwrap_or_default(), played.log_path))
                    }
                }
            }
            Err(failure) => Some(failure.what),
        };
        self.failures.extend(problem.map(|problem| format!("{}: {problem}", play.title())));
    }
}

fn write_json(file: &Path, rows: &[Row]) -> Result<()> {
    let json = serde_json::to_string_pretty(rows).context("writing JSON")?;
    paths::write(file, format!("{json}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(name: &str, machine: &str, value: f64) -> Row {
        Row::new(name, machine, value, "instructions")
    }
}
