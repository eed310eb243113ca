//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Builds, checks, boots and tests Basalt.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Look at the source: format, lints, the dependency law, the unsafe law, file lengths
    #[command(after_help = "Example:\n  cargo xtask check")]
    Check,
    /// Build the kernel: target/basalt.elf
    #[command(after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --dom0")]
    Build(BuildOptions),
    /// Make a bootable image: target/basalt.img
    #[command(after_help = IMAGE_EXAMPLES)]
    Image(ImageOptions),
    /// Boot Basalt on a machine, usually an emulated one
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunOptions),
    /// Run the tests: on the host, in test guests, and with stock Linux
    #[command(after_help = TEST_EXAMPLES)]
    Test(TestOptions),
    /// Measure what exits, requests, VMs, bring-up and Linux cost, in instructions
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchOptions),
    /// Tell where in the kernel the instructions of a measurement go
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile(ProfileOptions),
    /// Look for inputs that break what reads bytes of guests
    #[command(after_help = FUZZ_EXAMPLES)]
    Fuzz(FuzzOptions),
}

const IMAGE_EXAMPLES: &str = "\
Examples:
  cargo xtask image
  cargo xtask image --pvh
  cargo xtask image --guest demo --guest demo --output two.img";

const RUN_EXAMPLES: &str = "\
On the console, Ctrl-A and a digit goes to that VM, Ctrl-A n to the next one, Ctrl-A k to the kernel's log, Ctrl-A h helps, Ctrl-A x ends.

Examples:
  cargo xtask run
  cargo xtask run --machine list
  cargo xtask run --no-dom0 --machine bochs-vmx --headless --until 'basalt-demo login ready' --timeout 900
  cargo xtask run --guest dom0+demo+node
  cargo xtask run --headless --until Linux --guest-append 'basalt.run=\"uname -a\"'
  cargo xtask run --headless --send 'login ready=>uname\\r' --until Linux";

const TEST_EXAMPLES: &str = "\
A NAME is a test of `--list`, or the beginning of one; without any, everything of the tier `ci` is run.

Examples:
  cargo xtask test
  cargo xtask test --list
  cargo xtask test host
  cargo xtask test linux-boot --machine bochs-svm
  cargo xtask test --matrix";

const BENCH_EXAMPLES: &str = "\
Rows that miss what is required of them have a `*`. docs/performance.md says what they are.

Examples:
  cargo xtask bench
  cargo xtask bench --machine bochs-vmx --json bench.json
  cargo xtask bench --machine bochs-vmx --only bench-device --compare bench.json
  cargo xtask bench --machine bochs-svm --only bench
  cargo xtask bench --write-docs
  cargo xtask bench --write-counts
  cargo xtask bench --from vmx.json --from svm.json --write-docs";

const PROFILE_EXAMPLES: &str = "\
All instructions are counted, on qemu-svm-counted; those of a boot without requests are taken away where the bench makes one.

Examples:
  cargo xtask profile bench-device-switch_64 --per 8192
  cargo xtask profile bench-linux --most 60";

const FUZZ_EXAMPLES: &str = "\
What a run finds worth keeping stays in target/fuzz, and the next run goes on from there.

Examples:
  cargo xtask fuzz all --seconds 60
  cargo xtask fuzz virtqueue virtio-net
  cargo xtask fuzz virtio-blk --input target/fuzz/found/virtio-blk/crash-...";

#[derive(Args)]
pub(crate) struct BuildOptions {
    /// Build the management domain instead: target/guests/dom0/vmlinux and target/guests/dom0/initrd
    #[arg(long)]
    pub(crate) dom0: bool,
}

#[derive(Args)]
pub(crate) struct FuzzOptions {
    /// The targets: names of folders in tests/fuzz/corpus, or `all`
    #[arg(value_name = "TARGET", required = true)]
    pub(crate) targets: Vec<String>,
    /// How long each is run
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) seconds: u32,
    /// Try this input only, and show all that is said about it
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
}

/// What an image holds.
#[derive(Args)]
pub(crate) struct Contents {
    /// A guest that the boot line starts: `demo`, a selftest, or the path of a guest.toml (repeat for several VMs); `dom0+NAME` for one that the
    /// management domain starts. Without any: `dom0+demo`
    #[arg(long, value_name = "NAME")]
    pub(crate) guest: Vec<String>,
    /// Start the demo guest by the boot line, without a management domain
    #[arg(long, conflicts_with = "guest")]
    pub(crate) no_dom0: bool,
    /// Added to the command line of every guest
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) guest_append: Option<String>,
    /// Options for Basalt itself
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) option: Vec<String>,
}

impl Contents {
    /// Whether the management domain makes VMs.
    pub(crate) fn makes_vms(&self) -> bool {
        self.has_dom0() && (self.guest.is_empty() || self.guest.iter().any(|name| name.contains('+')))
    }

    /// Whether the management domain is among the guests.
    pub(crate) fn has_dom0(&self) -> bool {
        match self.guest.as_slice() {
            [] => !self.no_dom0,
            names => names.iter().any(|name| crate::guest::is_dom0(name)),
        }
    }
}

#[derive(Args)]
pub(crate) struct ImageOptions {
    #[command(flatten)]
    pub(crate) contents: Contents,
    /// Make a boot archive instead, for loaders that take the kernel as it is: target/basalt.pvh
    #[arg(long)]
    pub(crate) pvh: bool,
    /// Where to write it, instead of target/basalt.img or target/basalt.pvh
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) contents: Contents,
    /// The machine: a name, `auto`, or `list` to see them
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) machine: String,
    /// The machine's CPUs
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: Option<u32>,
    /// The machine's memory, such as 2G
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Without a keyboard; ends with status 0 when all of `--until` has appeared, and with 1 on a time-out or
    /// a kernel panic
    #[arg(long)]
    pub(crate) headless: bool,
    /// What must appear on a console (repeat: all must)
    #[arg(long, value_name = "TEXT", requires = "headless")]
    pub(crate) until: Vec<String>,
    /// Ends the run after that many seconds (headless: 600 unless given)
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// When TEXT has appeared, type INPUT; \r is Return (repeat: one after the other)
    #[arg(long, value_name = "TEXT=>INPUT", requires = "headless")]
    pub(crate) send: Vec<String>,
}

#[derive(Args)]
pub(crate) struct TestOptions {
    /// The tests to run (with --matrix: the machines)
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Run on this machine instead of the tests' own
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<String>,
    /// List the tests
    #[arg(long)]
    pub(crate) list: bool,
    /// Boot every machine from one and the same image, and print machine and result
    #[arg(long, conflicts_with_all = ["list", "machine"])]
    pub(crate) matrix: bool,
}

#[derive(Args)]
pub(crate) struct BenchOptions {
    /// Write the results to this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Take the figures from what earlier runs have written instead of measuring (repeat for several files)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["machine", "only"])]
    pub(crate) from: Vec<PathBuf>,
    /// Write the main table of docs/performance.md
    #[arg(long)]
    pub(crate) write_docs: bool,
    /// Measure what `cargo xtask test exit-costs` compares with, and write tests/bench/exits.json
    #[arg(long, conflicts_with_all = ["machine", "only", "from", "write_docs"])]
    pub(crate) write_counts: bool,
    /// Emulators that run at once
    #[arg(long, value_name = "NUMBER", default_value_t = crate::play::AT_ONCE)]
    pub(crate) at_once: usize,
    /// Show the figures beside those of an earlier run, and end with status 1 where one is dearer
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
    /// How much dearer a figure may be, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, requires = "compare")]
    pub(crate) tolerance: f64,
    /// Measure on this machine only (repeat for several)
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Vec<String>,
    /// Make only the boot of that name, such as `bench`, or, where there is none, those whose names begin so, such as `bench-device` (repeat
    /// for several)
    #[arg(long, value_name = "BOOT")]
    pub(crate) only: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ProfileOptions {
    /// The boot, one of those that `cargo xtask bench` makes
    #[arg(value_name = "BOOT")]
    pub(crate) boot: String,
    /// Divide by the number of requests that the boot makes
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) per: u64,
    /// Lines of each table
    #[arg(long, value_name = "NUMBER", default_value_t = 40)]
    pub(crate) most: usize,
}

impl BenchOptions {
    /// Whether a boot, one of these, is to be made.
    pub(crate) fn is_wanted(&self, boot: &str, all: &[&str]) -> bool {
        let means =
            |only: &String| boot == only || !all.contains(&only.as_str()) && boot.starts_with(only.as_str());
        self.only.is_empty() || self.only.iter().any(means)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_calls_are_understood() {
        for call in [
            "x run --machine qemu-svm --headless --until ready --timeout 600",
            "x test linux-boot --machine bochs-svm",
            "x bench --json out.json",
            "x bench --compare out.json --tolerance 1.5",
            "x bench --write-counts",
            "x bench --from out.json --from more.json --write-docs --at-once 1",
            "x profile bench-device-switch_64 --per 8192",
            "x fuzz all --seconds 60",
            "x fuzz virtio-blk --input file",
            "x image --output x.img --guest demo",
            "x image --pvh",
            "x build --dom0",
            "x run --option -x --guest-append -y",
        ] {
            Cli::try_parse_from(call.split(' ')).map(drop).expect(call);
        }
        assert!(Cli::try_parse_from(["x", "run", "--until", "ready"]).is_err());
    }

    #[test]
    fn boots_are_chosen_by_name_or_by_its_beginning() {
        let chosen = |only: &str| {
            let call = ["x", "bench", "--only", only];
            let Command::Bench(options) = Cli::try_parse_from(call).expect("understood").command else {
                return Vec::new();
            };
            let all = ["bench", "bench-idle", "bench-linux"];
            all.into_iter().filter(|boot| options.is_wanted(boot, &all)).collect::<Vec<_>>()
        };
        assert_eq!(chosen("bench"), ["bench"]);
        assert_eq!(chosen("bench-"), ["bench-idle", "bench-linux"]);
        assert_eq!(chosen("bench-l"), ["bench-linux"]);
    }
}
