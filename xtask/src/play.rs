//! Carries out a scenario on a machine: boots its image, waits, types, and judges.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::tests::log::{Cursor, Log};
use ::tests::scenario::{Awaited, Damage, Guest as ScenarioGuest, Scenario, Speaker, Step};
use ::tests::{report, selftest};

use crate::console::{Console, News};
use crate::failure::{Failure, Result};
use crate::guest::{self, Guest, Module};
use crate::image::Recipe;
use crate::machine::{Launch, Profile};
use crate::talk::Talk;
use crate::{interrupt, paths, run};

/// How many emulators run at once: an emulator has one busy thread, and the smallest machine that we care
/// for has two CPUs.
pub(crate) const AT_ONCE: usize = 2;
/// How often the conditions are looked at while the machine is silent.
const POLL: Duration = Duration::from_secs(1);

/// A scenario, ready to be carried out on a machine.
pub(crate) struct Play {
    pub(crate) scenario: Scenario,
    pub(crate) machine: Profile,
    /// What it boots from.
    pub(crate) image: PathBuf,
    kernel: PathBuf,
}

/// How it went.
pub(crate) struct Played {
    /// All that the machine said.
    pub(crate) log: Log,
    /// Every test: its name, and the reason if it failed.
    pub(crate) tests: Vec<(String, Option<String>)>,
    /// What the scenario has measured, for people.
    pub(crate) table: Option<String>,
    /// How long it took, in real time.
    pub(crate) time: Duration,
    /// Where the log lies.
    pub(crate) log_path: String,
}

impl Play {
    /// Makes the image, and the emulator available.
    pub(crate) fn prepare(scenario: Scenario, machine: Profile, kernel: &Path) -> Result<Self> {
        machine.ensure()?;
        let guests = scenario
            .guests
            .iter()
            .map(|guest| prepare_guest(&scenario.name, guest))
            .collect::<Result<Vec<_>>>()?;
        let mut recipe = Recipe { kernel: kernel.to_path_buf(), options: scenario.options.clone(), guests };
        recipe.suit(&machine);
        let suited = recipe.guests.iter().any(|guest| guest.selftest) && !machine.selftest_options.is_empty()
            || !machine.shares_images();
        let name = match suited {
            true => format!("{}-{}", scenario.name, machine.name),
            false => scenario.name.clone(),
        };
        let image = recipe.make_for(&machine, &name)?;
        if scenario.steps.iter().any(|step| step.talk.is_some()) {
            Talk::prepare()?;
        }
        Ok(Self { scenario, machine, image, kernel: kernel.to_path_buf() })
    }

    /// Its name, for people.
    pub(crate) fn title(&self) -> String {
        format!("{} on {}", self.scenario.name, self.machine.name)
    }

    /// Boots, and carries out all steps. An error is that of our own side: the emulator did not start, or
    /// we were interrupted.
    pub(crate) fn carry_out(&self) -> Result<Played> {
        let start = Instant::now();
        let name = format!("{}-{}", self.scenario.name, self.machine.name);
        let memory = self.scenario.memory().map(str::to_owned);
        let talks = self.scenario.steps.iter().any(|step| step.talk.is_some());
        let forwards = if talks { Talk::forwards()? } else { Vec::new() };
        let launch = Launch {
            image: &self.image,
            name: &name,
            cpus: self.scenario.cpus,
            memory,
            forwards: forwards.clone(),
        };
        let mut console = Console::start(&self.machine, &launch)?;
        let mut cursor = Cursor::default();
        let mut tests = Vec::new();
        let mut stopped = None;
        for step in &self.scenario.steps {
            stopped = self.wait(&mut console, step, &mut cursor)?;
            tests.extend(results_of(step, &console.log));
            // Without its results a test guest has failed, but the others may still be fine.
            if stopped.is_some() && step.awaited != Awaited::Results {
                break;
            }
            if let Some(keys) = step.send {
                console.send(keys.as_bytes());
            }
            if let Some(group) = step.talk {
                let talk = Talk { forwards: &forwards, group, limit: step.limit * self.machine.patience };
                tests.extend(talk.carry_out(&mut console)?);
            }
            if console.log.panicked() || interrupt::requested() {
                break;
            }
        }
        if interrupt::requested() {
            return Err(interrupt::failure());
        }
        if console.log.panicked() {
            console.await_epitaph(|_| {})?;
            stopped = Some(run::panic_failure(&console, &self.kernel).what);
        }
        if stopped.is_none() {
            let checks = self.scenario.checks.iter();
            tests.extend(checks.map(|check| (check.name.to_owned(), (check.holds)(&console.log).err())));
        }
        tests.push(("steps".to_owned(), stopped));
        let log_path = console.log_path();
        let table = ::tests::shares::table(&self.scenario.name, &console.log)
            .or_else(|| ::tests::hostile::table(&self.scenario.name, &console.log))
            .or_else(|| ::tests::exits::notes(&self.scenario.name, &console.log));
        Ok(Played { log: std::mem::take(&mut console.log), tests, table, time: start.elapsed(), log_path })
    }

    /// Waits for what the step waits for. Gives the reason if it does not come.
    fn wait(&self, console: &mut Console, step: &Step, cursor: &mut Cursor) -> Result<Option<String>> {
        if step.anywhere {
            *cursor = Cursor::default();
        }
        let limit = step.limit * self.machine.patience;
        let start = Instant::now();
        loop {
            if let Some(place) = arrived(step, &console.log, *cursor) {
                *cursor = place;
                return Ok(None);
            }
            if let Awaited::Screen(text) = &step.awaited
                && console.screen()?.iter().any(|line| line.contains(text))
            {
                return Ok(None);
            }
            if let Some(reason) = hopeless(step, &console.log) {
                return Ok(Some(reason));
            }
            if console.log.panicked() {
                return Ok(Some("Basalt panicked".to_owned()));
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                let seconds = limit.as_secs();
                return Ok(Some(format!("{} did not come within {seconds} s", describe(step))));
            }
            if matches!(console.next(left.min(POLL))?, News::End) {
                // The last bytes may have brought it.
                let came = arrived(step, &console.log, *cursor).is_some();
                let reason = format!("the machine ended before {} came", describe(step));
                return Ok((!came).then_some(reason));
            }
        }
    }
}

/// Carries out all plays, so many at a time, and calls `done` with each result as it comes.
pub(crate) fn carry_out_all(
    plays: Vec<Play>,
    at_once: usize,
    started: impl Fn(&Play) + Sync,
    done: impl Fn(&Play, Result<Played>) + Sync,
) {
    let queue = Mutex::new(plays.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                while !interrupt::requested() {
                    let next = queue.lock().map(|mut queue| queue.next());
                    let Ok(Some(play)) = next else { return };
                    started(&play);
                    done(&play, play.carry_out());
                }
            });
        }
    });
}

fn prepare_guest(scenario: &str, wanted: &ScenarioGuest) -> Result<Guest> {
    let mut guest = guest::prepare(&wanted.guest, &wanted.append)?;
    guest.name.clone_from(&wanted.vm);
    guest.settings = format!("{} {}", guest.settings, wanted.settings).trim().to_owned();
    for (words, content) in &wanted.modules {
        let name = format!("{}-{}", wanted.vm, guest.modules.len());
        guest.modules.push(module_file(scenario, &name, words, content)?);
    }
    guest.cpus = wanted.cpus.unwrap_or(guest.cpus);
    if let Some(memory) = wanted.memory {
        memory.clone_into(&mut guest.memory);
    }
    if wanted.damage != Damage::None {
        let mut image = paths::read_bytes(&guest.kernel)?;
        wanted.damage.apply(&mut image);
        let name = format!("{}-{}", wanted.guest, wanted.damage.name());
        guest.kernel = paths::target().join("guests/damaged").join(name);
        paths::write(&guest.kernel, &image)?;
    }
    Ok(guest)
}

/// Writes the content of a scenario's module to a file.
fn module_file(scenario: &str, name: &str, words: &str, content: &str) -> Result<Module> {
    let file = paths::target().join("guests/modules").join(scenario).join(name);
    // Written only when it changes: the image is made anew for a younger file.
    if std::fs::read(&file).ok().as_deref() != Some(content.as_bytes()) {
        paths::write(&file, content.as_bytes())?;
    }
    Ok(Module::of_file(words, file))
}

/// The place in the log behind what the step waits for, once it is there.
fn arrived(step: &Step, log: &Log, cursor: Cursor) -> Option<Cursor> {
    match (&step.awaited, &step.from) {
        (Awaited::Text(text), from) => log.find(cursor, text, |source| from.accepts(source)),
        (Awaited::Results, Speaker::Vm(vm)) => selftest::results(log, vm).done.map(|_| cursor),
        (Awaited::End, Speaker::Vm(vm)) => report::has_ended(log, vm).then_some(cursor),
        (Awaited::Results | Awaited::End, Speaker::Kernel) | (Awaited::Screen(_), _) => None,
    }
}

/// A VM that has ended says nothing more.
fn hopeless(step: &Step, log: &Log) -> Option<String> {
    let vm = step.from.vm().filter(|vm| report::has_ended(log, vm))?;
    Some(format!("the VM {vm} ended before {} came", describe(step)))
}

fn results_of(step: &Step, log: &Log) -> Vec<(String, Option<String>)> {
    let (Awaited::Results, Some(vm)) = (&step.awaited, step.from.vm()) else { return Vec::new() };
    let results = selftest::results(log, vm);
    let flaw = results.flaw();
    let mut tests: Vec<_> = results.passed.into_iter().map(|name| (format!("{vm}: {name}"), None)).collect();
    tests.extend(results.failed.into_iter().map(|(name, reason)| (format!("{vm}: {name}"), Some(reason))));
    if let Some(flaw) = flaw {
        tests.push((vm.to_owned(), Some(flaw)));
    }
    tests
}

fn describe(step: &Step) -> String {
    let from = step.from.vm().map_or_else(|| "Basalt".to_owned(), |vm| format!("VM {vm}"));
    match &step.awaited {
        Awaited::Text(text) => format!("`{text}` from {from}"),
        Awaited::Screen(text) => format!("`{text}` on the screen"),
        Awaited::Results => format!("all results of {from}"),
        Awaited::End => format!("the end of {from}"),
    }
}

/// The failure when a result could not be kept.
pub(crate) fn poisoned() -> Failure {
    Failure::new("a test thread broke off")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        Log::from(text)
    }

    #[test]
    fn a_vm_that_ends_early_is_not_waited_for() {
        let ended = log(
            "[    1.000000] info hypervisor: vm exits: ticks guest 1 root 1 idle 0 steal 0 charged 2 throttled 0\n",
        );
        let step = Step::results("exits");
        assert!(arrived(&step, &ended, Cursor::default()).is_none());
        assert!(hopeless(&step, &ended).is_some());
        assert!(arrived(&Step::end("exits"), &ended, Cursor::default()).is_some());
        assert!(hopeless(&Step::results("other"), &ended).is_none());
    }

    #[test]
    fn missing_results_count_as_a_failure() {
        let step = Step::results("exits");
        let tests = results_of(&step, &log("[exits] ok cpuid\n"));
        assert_eq!(tests.len(), 2);
        assert!(tests[0].1.is_none() && tests[1].1.is_some());
        let whole = log("[exits] ok cpuid\n[exits] selftest exits done: 1 passed, 0 failed\n");
        assert_eq!(results_of(&step, &whole), [("exits: cpuid".to_owned(), None)]);
    }
}
