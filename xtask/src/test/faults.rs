//! Carries out the table of boot faults: each is a boot of the kernel for tests, and a test.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::tests::faults::{self, End, Fault, GROUP, LIMIT_S};
use ::tests::log::Log;
use ::tests::scenario::Kernel;
use ::tests::scenario::Tier;

use crate::console::{Console, News};
use crate::failure::{Failure, Result};
use crate::image::{self, Recipe};
use crate::machine::{self, Launch, Profile};
use crate::{build, guest, interrupt, paths, play, progress, symbolize};

/// The guest that is loaded, and sees nothing of it.
const GUEST: &str = "spin";
/// A bound in real time, for a machine that says nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
/// A CPU that has said its last word halts within this, in real time.
const HALT_LIMIT: Duration = Duration::from_secs(20);
/// What comes on the serial port is on the screen within this, in real time.
const SCREEN_LIMIT: Duration = Duration::from_secs(10);
/// The name of a fault, which is no word of anything else.
const A_FAULT: &[u8] = b"bad-rsdp-checksum";
/// How many emulators run at once.
const AT_ONCE: usize = 2;
/// The TSC's rate on machines whose time counts instructions: QEMU's, and Bochs'.
const QEMU_TSC_HZ: f64 = 1e9;
const BOCHS_TSC_HZ: f64 = 200e6;
/// What the kernel says first.
const BANNER: &str = "basalt: Basalt ";
/// How much of a failed test's log is shown.
const SHOWN_LINES: usize = 15;

/// Fine, or the reason why not.
type Verdict = Result<()>;

/// The faults that these names choose, or those of CI where there are none; on one machine only if one is given.
pub(super) fn chosen(names: &[String], machine: Option<&str>) -> Vec<Fault> {
    let named = |fault: &Fault| match names {
        [] => fault.tier == Tier::Ci,
        names => names.iter().any(|name| full_name(fault).starts_with(name.as_str())),
    };
    let mut faults = faults::faults();
    faults.retain(|fault| named(fault) && machine.is_none_or(|machine| machine == fault.machine));
    faults
}

fn full_name(fault: &Fault) -> String {
    format!("{GROUP}-{}", fault.name)
}

/// Prints the group's lines of the list of tests.
pub(super) fn list() {
    let faults = faults::faults();
    for tier in [Tier::Ci, Tier::Full] {
        let of_tier: Vec<_> = faults.iter().filter(|fault| fault.tier == tier).collect();
        let mut machines: Vec<_> = of_tier.iter().map(|fault| fault.machine).collect();
        machines.sort_unstable();
        machines.dedup();
        let names: Vec<_> = of_tier.iter().map(|fault| fault.name).collect();
        let (tier, machines, names) = (tier.name(), machines.join(","), names.join(", "));
        println!(
            "{GROUP:<20} {tier:<4} {machines:<20} {} boot faults: {GROUP}-NAME with {names}",
            of_tier.len()
        );
    }
}

/// Carries them out. Gives the number that passed and the names of those that failed.
pub(super) fn run(faults: Vec<Fault>) -> Result<(usize, Vec<String>)> {
    let start = Instant::now();
    let released = has_faults(&build::kernel()?)?;
    let kernel = build::kernel_for(Kernel::WithFaults)?;
    let mut boots = Vec::new();
    for fault in faults {
        boots.push(Boot::prepare(fault, &kernel)?);
    }
    // Slow machines first, so that none is left running alone at the end.
    boots.sort_by_key(|boot| std::cmp::Reverse((boot.machine.patience, !boot.machine.boots_archive())));
    let count = boots.len();
    progress::note(&format!("{count} boot faults ..."));
    let queue = Mutex::new(boots.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !interrupt::requested() {
                    let Ok(Some(boot)) = queue.lock().map(|mut queue| queue.next()) else { return };
                    if let Err(failure) = boot.carry_out()
                        && let Ok(mut failed) = failed.lock()
                    {
                        println!("FAILED {}: {}", boot.name(), failure.what);
                        failed.push(boot.name());
                    }
                }
            });
        }
    });
    let mut failed: Vec<String> = failed.into_inner().map_err(|_| play::poisoned())?;
    if released || !has_faults(&kernel)? {
        println!("FAILED {GROUP}: the kernel for users must not have boot faults, that for tests must");
        failed.push(format!("{GROUP}: left out of the kernel for users"));
    }
    let count = count + 1;
    let verdict = if failed.is_empty() { "ok    " } else { "FAILED" };
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{verdict} {GROUP} ({} of {count} boots as they should be, {seconds:.1} s)",
        count - failed.len()
    );
    Ok((count - failed.len(), failed))
}

/// Whether a kernel knows the names of faults.
fn has_faults(kernel: &Path) -> Result<bool> {
    let bytes = paths::read_bytes(kernel)?;
    Ok(bytes.windows(A_FAULT.len()).any(|window| window == A_FAULT))
}

/// A fault, ready to be tried.
struct Boot {
    fault: Fault,
    machine: Profile,
    kernel: PathBuf,
    image: PathBuf,
    tsc_hz: f64,
}

impl Boot {
    fn prepare(fault: Fault, kernel: &Path) -> Result<Self> {
        let machine = machine::profile(fault.machine)?;
        machine.ensure()?;
        let guests = guest::prepare_all(&[GUEST.to_owned()], "")?;
        // Boots without GRUB share an archive, and have their options on the emulator's command line.
        let (name, options) = match machine.boots_archive() {
            true => (GROUP.to_owned(), String::new()),
            false => (full_name(&fault), fault.options.to_owned()),
        };
        let recipe = Recipe { kernel: kernel.to_path_buf(), options, guests };
        let image = recipe.make_for(&machine, &name)?;
        let tsc_hz = if machine.is_qemu() { QEMU_TSC_HZ } else { BOCHS_TSC_HZ };
        Ok(Self { fault, machine, kernel: kernel.to_path_buf(), image, tsc_hz })
    }

    fn name(&self) -> String {
        format!("{} on {}", full_name(&self.fault), self.machine.name)
    }

    fn carry_out(&self) -> Verdict {
        let machine = self.machine.clone().altered(self.fault.cpu, self.arguments());
        let name = format!("{}-{}", full_name(&self.fault), self.machine.name);
        let memory = self.fault.memory.map(str::to_owned);
        let launch =
            Launch { image: &self.image, name: &name, cpus: self.fault.cpus, memory, forwards: Vec::new() };
        let mut console = Console::start(&machine, &launch)?;
        self.judge(&mut console).map_err(|failure| {
            let lines = console.log.tail(SHOWN_LINES).join("\n         | ");
            let what = failure.what;
            Failure::new(format!("{what}; the end of {}:\n         | {lines}", console.log_path()))
        })
    }

    /// More arguments for QEMU: time counts instructions, unless the machine restarts and waits.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(ToString::to_string));
        if self.fault.end == End::Restarts {
            add(&["-action", "reboot=reset"]);
        }
        if self.fault.is_counted() {
            add(&["-icount", "shift=0,sleep=off"]);
        }
        if self.machine.boots_archive() {
            let kernel = image::small_path(&self.kernel);
            add(&["-kernel", &kernel.display().to_string(), "-append", self.fault.options]);
        }
        arguments
    }

    /// Waits for the last message, and looks at all that must hold.
    fn judge(&self, console: &mut Console) -> Verdict {
        let said = self.await_end(console)?;
        self.fault.is_said_in(&said).map_err(Failure::new)?;
        if let Some(text) = self.fault.besides.filter(|text| !said.contains(text)) {
            return Err(Failure::new(format!("the serial port does not say \"{text}\"")));
        }
        self.in_time(&console.log, &said)?;
        if let End::Panics { within } = self.fault.end {
            let frames = symbolize::epitaph(&console.log, &self.kernel);
            if !frames.iter().any(|frame| frame.contains(&format!(" at {within}:"))) {
                return Err(Failure::new(format!(
                    "the backtrace does not lead through {within}: {frames:?}"
                )));
            }
        }
        if matches!(self.fault.end, End::GoesOn | End::Restarts) {
            return self.on_screen(console);
        }
        if self.machine.is_qemu() && !console.machine().stands_still(HALT_LIMIT)? {
            return Err(Failure::new("the CPU does not stand still after its last words"));
        }
        if console.has_ended() || console.log.kernel().filter(|line| line.contains(BANNER)).count() > 1 {
            return Err(Failure::new("the machine did not stand still but went off or restarted"));
        }
        self.on_screen(console)
    }

    /// Waits for the last thing that the kernel has to say. Gives all that it has said, on the serial port if there is
    /// one.
    fn await_end(&self, console: &mut Console) -> Result<String> {
        let start = Instant::now();
        loop {
            let ended = matches!(console.next(POLL)?, News::End);
            let said = match self.fault.end {
                End::StopsWithoutSerial => self.screen(console)?,
                _ => console.log.kernel().collect::<Vec<_>>().join("\n"),
            };
            let complete = match self.fault.end {
                End::StopsEarly | End::GoesOn | End::Restarts => self.fault.is_said_in(&said).is_ok(),
                _ => faults::stopped_at(&said, self.tsc_hz).is_some(),
            };
            if complete {
                return Ok(said);
            }
            if ended || start.elapsed() > PATIENCE * self.machine.patience {
                let why = if ended { "the machine went off" } else { "time is up" };
                let missing = self.fault.is_said_in(&said).err();
                let missing = missing.unwrap_or_else(|| "not its last line".to_owned());
                return Err(Failure::new(format!("{why}, and the kernel has said {missing}")));
            }
        }
    }

    /// Whether the message came within a second of the machine's time.
    fn in_time(&self, log: &Log, said: &str) -> Verdict {
        if !self.fault.is_counted() {
            return Ok(());
        }
        let time = match self.fault.end {
            // Before the kernel there is nobody who could take long.
            End::StopsEarly | End::Restarts => return Ok(()),
            End::GoesOn => self.fault.says.last().and_then(|last| faults::logged_at(log, last)),
            _ => faults::stopped_at(said, self.tsc_hz),
        };
        match time {
            Some(time) if time <= LIMIT_S => Ok(()),
            Some(time) => Err(Failure::new(format!("it took {time:.3} s of the machine's time"))),
            None => Err(Failure::new("the message has no time")),
        }
    }

    /// Whether the screen shows the messages, too. Only QEMU tells what is on it.
    fn on_screen(&self, console: &mut Console) -> Verdict {
        if !self.machine.is_qemu() || matches!(self.fault.end, End::StopsWithoutScreen | End::Restarts) {
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let screen = self.screen(console)?;
            let Err(missing) = self.fault.is_said_in(&screen) else { return Ok(()) };
            if start.elapsed() > SCREEN_LIMIT {
                return Err(Failure::new(format!("the screen shows {missing}, but this:\n{screen}")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// What is on the screen: text as QEMU leaves it to the kernel, or the pixels that GRUB has set up.
    fn screen(&self, console: &mut Console) -> Result<String> {
        match self.machine.boots_archive() {
            true => console.machine().text_screen(),
            false => Ok(console.screen()?.join("\n")),
        }
    }
}
