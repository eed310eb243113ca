//! dom0's one program. The kernel starts it as the first process; that one starts copies of itself, each with one job and its own address space:
//!
//! * `init` (process 1): mounts, supervises, powers off; parses nothing that comes from outside.
//! * `control`: gathers what the others tell, and shows it.
//! * `drivers`: loads the modules that the machine's devices ask for, now and when something is plugged in.
//! * `network`: the node's own addresses, by DHCP.
//! * `storage`: the disks, and the file system with the node's data.
//! * `disks`: hands orders for VMs' disks to workers, and their answers back.
//! * `worker`: one VM's disks, without rights.
//! * `modprobe`: loads what the kernel itself asks for; `/sbin/modprobe` is a link to this program.
//!
//! A process tells the others what it found by a file below `/run/basalt` ([`facts`]); nothing else is shared, so each may die and come back.
#![forbid(unsafe_code)]

mod channel;
mod clock;
mod command_line;
mod control;
mod dhcp;
mod drivers;
mod durable;
mod facts;
mod hub;
mod init;
mod log;
mod network;
mod operation;
mod rest;
mod signals;
mod status;
mod storage;
mod uevent;
mod worker;

use std::io::Result;
use std::process::ExitCode;

/// Where the program lies in dom0's initial file system.
const PROGRAM: &str = "/init";

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called_as = words.next().unwrap_or_default();
    if std::process::id() == 1 {
        init::run();
    }
    let role = if called_as.ends_with("modprobe") { called_as } else { words.next().unwrap_or_default() };
    // A job that has no end gives only errors.
    let result: Result<bool> = match role.rsplit('/').next() {
        Some("control") => control::run(),
        Some("drivers") => drivers::run(),
        Some("network") => network::run(),
        Some("storage") => storage::run(),
        Some("api") => rest::run(),
        Some("disks") => hub::run(),
        Some("worker") => worker::run(),
        Some("modprobe") => drivers::modprobe(words),
        _ => {
            eprintln!(
                "{PROGRAM} is dom0's first process; its other jobs are drivers, network, storage and modprobe"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log::error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
