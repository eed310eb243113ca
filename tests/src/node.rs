//! Scenarios of a node as people use it: its API and its command, asked from outside by the program `node-tests`.

use crate::dom0::{DOM0, SWITCHED_OFF};
use crate::scenario::{Guest, Scenario, Step, Tier};

/// The machine whose network card leads to this computer's ports.
const MACHINE: &str = "qemu-node-q35-uefi-nvme-e1000e";
/// On the status page, when the API can be asked.
const TOKEN: &str = "first token ";

/// The scenarios of this module.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let node = |name: &str, about: &str, groups: &[&'static str]| Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        tier: Tier::Ci,
        machines: vec![MACHINE],
        cpus: None,
        options: String::new(),
        guests: vec![Guest::new(DOM0)],
        steps: groups
            .iter()
            .map(|group| Step::vm(DOM0, TOKEN).within(300).anywhere().then_talk(group))
            .chain([Step::vm(DOM0, TOKEN).anywhere().then_talk("off"), Step::kernel(SWITCHED_OFF).within(60)])
            .collect(),
        checks: Vec::new(),
    };
    vec![node(
        "node-lives",
        "the life of a VM over the API, from its image to its end",
        &["refusals", "lives"],
    )]
}
