//! Basalt's build, image, run, test, bench and check commands: `cargo xtask --help`.
//!
//! Everything that is generated lies below `target/`; nothing outside it is touched, except that missing
//! Debian packages are installed when xtask runs as root.
#![forbid(unsafe_code)]

mod build;
mod cli;
mod console;
mod failure;
mod guest;
mod image;
mod interrupt;
mod machine;
mod packages;
mod paths;
mod process;
mod progress;
mod run;
mod symbolize;
mod terminal;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build => build::kernel().map(|kernel| println!("{}", paths::shown(&kernel))),
        Command::Image(options) => run::write_image(&options),
        Command::Run(options) => run::run(&options),
        Command::Check | Command::Test(_) | Command::Bench(_) => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}
