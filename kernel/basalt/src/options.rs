//! The kernel's options: words `name=value` on its line in the boot menu or in a boot archive.

use log::LevelFilter;
use machine::clock::TscUse;
use machine::cpu::Idle;
use machine::fault;
use machine::mitigations::Policy;
use machine::panic::READING_TIME_S;
use machine::watchdog::{self, Watcher};
use machine::without::Without;

/// What there is, for the warning about what there is not.
pub(crate) const KNOWN: &str = "console=serial|screen|both, loglevel=error|warn|info|debug|trace, panic=halt|reboot|reboot:SECONDS, cpus=NUMBER, tsc=check|trust|distrust, apic=firmware|x2apic, end=console|poweroff, view=all|kernel|NAME, pool=N:CPUS, times=SECONDS, poll=MICROSECONDS, network=NAME,WORDS, rule=NAME:WORDS, mirror=NAME:WORDS, idle=hlt|mwait, mitigations=auto|off, watchdog=SECONDS|off|nmi|peers, without=nothing|task-priority|apic-accesses|apic-registers|virtual-interrupts|x2apic|tsc-scaling";

/// Where the log goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Console {
    /// Serial port and screen.
    Both,
    /// Serial port only.
    Serial,
    /// Screen only.
    Screen,
}

impl Console {
    pub(crate) const fn serial(self) -> bool {
        !matches!(self, Self::Screen)
    }

    pub(crate) const fn screen(self) -> bool {
        !matches!(self, Self::Serial)
    }
}

/// The options in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    /// Where the log goes.
    pub(crate) console: Console,
    /// Lines below this level are dropped.
    pub(crate) log_level: LevelFilter,
    /// A panic restarts the machine after that many seconds, instead of halting it.
    pub(crate) reboot_on_panic: Option<u32>,
    /// Most CPUs that are used; all where it is not given.
    pub(crate) cpus: Option<usize>,
    /// Whether time goes by the TSC.
    pub(crate) tsc_use: TscUse,
    /// x2APIC mode is taken although firmware did not choose it.
    pub(crate) x2apic: bool,
    /// How CPUs wait for work.
    pub(crate) idle: Idle,
    /// After how many seconds a CPU counts as stuck; 0 for never.
    pub(crate) watchdog_s: u32,
    /// Who looks whether they are.
    pub(crate) watcher: Watcher,
    /// What is done against speculative execution by guests.
    pub(crate) mitigations: Policy,
    /// Abilities of the CPU that are not used.
    pub(crate) without: Without,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            console: Console::Both,
            log_level: LevelFilter::Info,
            reboot_on_panic: None,
            cpus: None,
            tsc_use: TscUse::IfInvariant,
            x2apic: false,
            idle: Idle::Hlt,
            watchdog_s: watchdog::DEFAULT_S,
            watcher: Watcher::default(),
            mitigations: Policy::Auto,
            without: Without::empty(),
        }
    }
}

impl Options {
    /// Reads the words of a command line. The last of several wins; unknown ones change nothing.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut options = Self::default();
        for word in words {
            // `None` words are reported by `unknown`, when there is a log.
            let _ = options.set(word);
        }
        options
    }

    /// The words that [`Self::parse`] did not understand.
    pub(crate) fn unknown<'a>(self, words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
        words.filter(move |word| { self }.set(word).is_none())
    }

    fn set(&mut self, word: &str) -> Option<()> {
        match word.split_once('=')? {
            ("console", "both") => self.console = Console::Both,
            ("console", "serial") => self.console = Console::Serial,
            ("console", "screen") => self.console = Console::Screen,
            ("loglevel", level) => self.log_level = level.parse().ok()?,
            ("cpus", number) => {
                self.cpus = Some(number.parse().ok().filter(|number| *number != 0)?);
            }
            ("panic", "halt") => self.reboot_on_panic = None,
            ("panic", "reboot") => self.reboot_on_panic = Some(READING_TIME_S),
            ("panic", other) => {
                self.reboot_on_panic = Some(other.strip_prefix("reboot:")?.parse::<u16>().ok()?.into());
            }
            ("idle", "mwait") => self.idle = Idle::Mwait,
            ("idle", "hlt") => self.idle = Idle::Hlt,
            ("mitigations", "auto") => self.mitigations = Policy::Auto,
            ("mitigations", "off") => self.mitigations = Policy::Off,
            ("watchdog", "off") => self.watchdog_s = 0,
            ("watchdog", "nmi") => self.watcher = Watcher::Timer,
            ("watchdog", "peers") => self.watcher = Watcher::Peers,
            ("watchdog", seconds) => {
                self.watchdog_s = seconds.parse::<u16>().ok().filter(|seconds| *seconds != 0)?.into();
            }
            ("without", "nothing") => self.without = Without::empty(),
            ("without", names) => self.without |= Without::parse(names)?,
            ("apic", "firmware") => self.x2apic = false,
            ("apic", "x2apic") => self.x2apic = true,
            // Read by the hypervisor.
            ("end" | "view" | "pool" | "times" | "poll" | "network" | "rule" | "mirror", _) => {}
            ("tsc", "check") => self.tsc_use = TscUse::IfInvariant,
            ("tsc", "trust") => self.tsc_use = TscUse::Always,
            ("tsc", "distrust") => self.tsc_use = TscUse::Never,
            _ if fault::is_option(word) => {}
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Options {
        Options::parse(line.split_ascii_whitespace())
    }

    #[test]
    fn known_words_take_effect_and_the_last_wins() {
        let options = parse(
            "  loglevel=debug console=serial panic=reboot:3 cpus=3 tsc=trust loglevel=WARN without=task-priority without=nothing without=x2apic,tsc-scaling watchdog=30 watchdog=peers idle=mwait mitigations=off",
        );
        assert_eq!(
            options,
            Options {
                console: Console::Serial,
                log_level: LevelFilter::Warn,
                reboot_on_panic: Some(3),
                cpus: Some(3),
                tsc_use: TscUse::Always,
                x2apic: false,
                idle: Idle::Mwait,
                watchdog_s: 30,
                watcher: Watcher::Peers,
                mitigations: Policy::Off,
                without: Without::X2APIC | Without::TSC_SCALING
            }
        );
        assert_eq!(parse("panic=reboot").reboot_on_panic, Some(READING_TIME_S));
        assert_eq!(parse("mitigations=off mitigations=auto").mitigations, Policy::Auto);
        assert_eq!(parse("panic=reboot panic=halt").reboot_on_panic, None);
        assert_eq!(parse(""), Options::default());
        let others = "end=poweroff network=lan,default=deny rule=lan:deny mirror=lan:both=a,to=b";
        assert_eq!(parse(others).unknown(others.split(' ')).count(), 0, "the hypervisor reads them");
        assert!(parse("apic=x2apic").x2apic && !parse("apic=x2apic apic=firmware").x2apic);
    }

    #[test]
    fn unknown_words_are_named_and_change_nothing() {
        let line = "quiet loglevel=loud console=both foo=1 console= panic=reboot: panic=reboot:-1 cpus=0 without=x watchdog=0 mitigations=of";
        let options = parse(line);
        assert_eq!(options, Options::default());
        let unknown: Vec<&str> = options.unknown(line.split_ascii_whitespace()).collect();
        assert_eq!(
            unknown,
            [
                "quiet",
                "loglevel=loud",
                "foo=1",
                "console=",
                "panic=reboot:",
                "panic=reboot:-1",
                "cpus=0",
                "without=x",
                "watchdog=0",
                "mitigations=of"
            ]
        );
    }
}
