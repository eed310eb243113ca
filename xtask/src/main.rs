//! Basalt's build, image, run, test, fuzz, bench, profile and check commands: `cargo xtask --help`.
//!
//! Everything that is generated lies below `target/`; nothing outside it is touched, except that missing
//! Debian packages are installed when xtask runs as root.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod check;
mod cli;
mod console;
mod failure;
mod fuzz;
mod guest;
mod image;
mod interrupt;
mod machine;
mod packages;
mod paths;
mod play;
mod process;
mod profile;
mod progress;
mod run;
mod symbolize;
mod talk;
mod terminal;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(options) if options.dom0 => guest::Dom0::make()
            .map(|dom0| println!("{}\n{}", paths::shown(&dom0.kernel), paths::shown(&dom0.initrd))),
        Command::Build(_) => build::kernel().map(|kernel| println!("{}", paths::shown(&kernel))),
        Command::Image(options) => run::write_image(&options),
        Command::Run(options) => run::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Test(options) => match test::run(&options) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(failure) => Err(failure),
        },
        Command::Fuzz(options) => match fuzz::run(&options) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(failure) => Err(failure),
        },
        Command::Check => check::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}
