//! Talks to a node that `cargo xtask test` has booted: over its API as any program would, and by the command `basalt` as a person would. The first word
//! is the group of tests; they are done one after the other, as each finds what those before have left. A line is printed for each, `ok NAME` or
//! `FAILED NAME: REASON`.
//!
//! Where the node is stands in the environment: `BASALT_NODE`, `BASALT_TOKEN`, `BASALT_FINGERPRINT`; `BASALT_COMMAND` is the command, and
//! `BASALT_KERNEL` and `BASALT_INITRD` are what a VM can be made of.
#![forbid(unsafe_code)]

mod client;
mod lives;
mod refusals;

use std::process::ExitCode;

use client::Client;

/// What a test finds.
type Outcome = Result<(), String>;
/// A test.
type Test = (&'static str, fn(&Client) -> Outcome);

fn main() -> ExitCode {
    let group = std::env::args().nth(1).unwrap_or_default();
    let tests: &[Test] = match group.as_str() {
        "lives" => &lives::TESTS,
        "refusals" => &refusals::TESTS,
        "off" => &lives::OFF,
        other => {
            println!("FAILED {other}: there is no such group of tests: it is lives or refusals");
            return ExitCode::from(2);
        }
    };
    let client = match Client::from_environment() {
        Ok(client) => client,
        Err(error) => {
            println!("FAILED environment: {error}");
            return ExitCode::from(2);
        }
    };
    let mut all_well = true;
    for (name, test) in tests {
        match test(&client) {
            Ok(()) => println!("ok {name}"),
            Err(reason) => {
                all_well = false;
                println!("FAILED {name}: {}", reason.replace('\n', " "));
            }
        }
    }
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
