//! Whole-system scenarios: what is booted, what is typed, what must come out, and how the console log is
//! read. `cargo xtask test` carries them out on the emulators.
//!
//! This crate starts nothing and touches no file, so all of it is tested on the host. A scenario is data and
//! small functions ([`scenario`]); the list of them is [`linux::scenarios`], [`protocols::scenarios`],
//! [`robust::scenarios`], [`hosts::scenarios`], [`smp::scenarios`], [`smp_guests::scenarios`]
//! [`shares::scenarios`], [`stretch::scenarios`], [`leaks::scenarios`], [`time::scenarios`], [`virtio::scenarios`],
//! [`vswitch::scenarios`], [`hostile::scenarios`], [`exits::scenarios`], [`many::scenarios`] and [`touches::scenarios`];
//! most selftest guests
//! need no list, each of them is a group ([`selftest`]). Faults at boot have a table of their own ([`faults`]).
#![forbid(unsafe_code)]

pub mod dom0;
pub mod exits;
pub mod faults;
pub mod footprint;
pub mod hostile;
pub mod hosts;
pub mod leaks;
pub mod linux;
pub mod log;
pub mod many;
pub mod node;
pub mod protocols;
pub mod report;
pub mod robust;
pub mod scenario;
pub mod screen;
pub mod selftest;
pub mod shares;
pub mod smp;
pub mod smp_guests;
pub mod stretch;
pub mod time;
pub mod touches;
pub mod virtio;
pub mod vswitch;

/// All scenarios, in the order in which they are run.
#[must_use]
pub fn scenarios() -> Vec<scenario::Scenario> {
    let mut scenarios = linux::scenarios();
    scenarios.extend(protocols::scenarios());
    scenarios.extend(robust::scenarios());
    scenarios.extend(hosts::scenarios());
    scenarios.extend(smp::scenarios());
    scenarios.extend(smp_guests::scenarios());
    scenarios.extend(shares::scenarios());
    scenarios.extend(stretch::scenarios());
    scenarios.extend(leaks::scenarios());
    scenarios.extend(time::scenarios());
    scenarios.extend(virtio::scenarios());
    scenarios.extend(vswitch::scenarios());
    scenarios.extend(hostile::scenarios());
    scenarios.extend(exits::scenarios());
    scenarios.extend(many::scenarios());
    scenarios.extend(touches::scenarios());
    scenarios.extend(dom0::scenarios());
    scenarios.extend(node::scenarios());
    scenarios
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_and_can_be_file_names() {
        let mut names: Vec<_> = super::scenarios().into_iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        let allowed = |symbol: char| symbol.is_ascii_lowercase() || symbol.is_ascii_digit() || symbol == '-';
        assert!(names.iter().all(|name| name.chars().all(allowed)), "{names:?}");
    }

    #[test]
    fn every_scenario_can_be_carried_out() {
        for scenario in super::scenarios() {
            assert!(!scenario.guests.is_empty(), "{} boots nothing", scenario.name);
            assert!(!scenario.machines.is_empty(), "{} runs nowhere", scenario.name);
            assert!(!scenario.steps.is_empty(), "{} waits for nothing", scenario.name);
            for vm in scenario.steps.iter().filter_map(|step| step.from.vm()) {
                assert!(scenario.guests.iter().any(|guest| guest.makes(vm)), "{}: no VM {vm}", scenario.name);
            }
        }
    }
}
