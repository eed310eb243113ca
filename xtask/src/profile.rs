//! `cargo xtask profile`: where in the kernel the instructions of a measurement go.
//!
//! The emulator writes down each block of the kernel's code that it carries out, and the instructions of each block; so these are all of them, not samples. Of
//! a boot with requests to a device, that of the same boot without them is taken away.

mod places;
mod trace;

use std::collections::BTreeMap;
use std::path::Path;

use object::{Object, ObjectSection, SectionKind};

use crate::bench;
use crate::cli::ProfileOptions;
use crate::failure::{Context, Failure, Result};
use crate::play::Play;
use crate::{build, interrupt, machine, paths, progress};
use places::Places;

/// The machine on which this is done: its time is the number of instructions.
const MACHINE: &str = "qemu-svm-counted";

/// How often each instruction was carried out, by its address.
type Counts = BTreeMap<u64, u64>;

/// Measures, and prints the tables.
pub(crate) fn run(options: &ProfileOptions) -> Result<()> {
    interrupt::watch()?;
    let kernel = build::kernel()?;
    let busy = counts(&options.boot, &kernel)?
        .ok_or_else(|| Failure::new(format!("there is no boot `{}`", options.boot)).next(known()))?;
    let idle = counts(&format!("{}{}", options.boot, bench::NOTHING), &kernel)?.unwrap_or_default();
    let per = options.per.max(1);
    let spent = busy.into_iter().map(|(address, count)| {
        let before = idle.get(&address).copied().unwrap_or(0);
        (address, count.saturating_sub(before))
    });
    print!("{}", Places::of(&kernel, spent)?.tables(per, options.most));
    Ok(())
}

fn known() -> String {
    let names: Vec<String> = bench::boots().into_iter().map(|boot| boot.name).collect();
    format!("take one of {}", names.join(", "))
}

/// Makes a boot of the bench. `None` where it has none of that name.
fn counts(name: &str, kernel: &Path) -> Result<Option<Counts>> {
    let Some(scenario) = bench::boots().into_iter().find(|boot| boot.name == name) else { return Ok(None) };
    let folder = paths::target().join("profile");
    paths::create_dir(&folder)?;
    let file = folder.join(format!("{name}.trace"));
    let code = code_of(kernel)?;
    let arguments =
        vec!["-d".to_owned(), "exec,nochain,in_asm".to_owned(), "-dfilter".to_owned(), code, "-D".to_owned()];
    let arguments = arguments.into_iter().chain([file.display().to_string()]).collect();
    let mut machine = machine::profile(MACHINE)?.altered(None, arguments);
    if let Some(memory) = bench::machine_memory(name) {
        memory.clone_into(&mut machine.memory);
    }
    let play = Play::prepare(scenario, machine, kernel)?;
    progress::note(&format!("{} ...", play.title()));
    let played = play.carry_out()?;
    if let Some(reason) = played.tests.iter().find_map(|(_, reason)| reason.clone()) {
        return Err(Failure::new(format!("{name}: {reason} (log: {})", played.log_path)));
    }
    let counts = trace::read(&file)?;
    // It may be large.
    let _ = std::fs::remove_file(&file);
    Ok(Some(counts))
}

/// Where the kernel's code is, as the emulator's filter has it.
fn code_of(kernel: &Path) -> Result<String> {
    let reading = || format!("reading {}", paths::shown(kernel));
    let bytes = std::fs::read(kernel).context(reading())?;
    let file = object::File::parse(bytes.as_slice())
        .map_err(|error| Failure::new(format!("{}: {error}", reading())))?;
    let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
    let (start, end) = code.fold((u64::MAX, 0), |(start, end), section| {
        (start.min(section.address()), end.max(section.address() + section.size()))
    });
    if start >= end {
        return Err(Failure::new(format!("{}: there is no code in it", reading())));
    }
    Ok(format!("{start:#x}..{end:#x}"))
}
