//! The status page: what a person in front of the machine wants to know. Pure: what is known goes in, lines of text come out.

use crate::network::report::{Port, State};
use crate::storage::report::{Data, Report};

/// Lines are no longer than a text screen is wide, less one column, so that no terminal breaks them.
pub(crate) const WIDTH: usize = 79;
/// VMs that are listed. The page has to fit on a screen of 25 lines with some interfaces and disks.
const MOST_VMS: usize = 10;
/// Disks and interfaces that are listed, of each.
const MOST_DEVICES: usize = 4;
const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];

/// The state of a VM that runs.
pub(crate) const RUNNING: &str = "running";

/// All that the page shows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Status {
    /// The node's name.
    pub(crate) node: String,
    /// Everything that is looked for at the beginning was found or given up.
    pub(crate) is_ready: bool,
    /// Its interfaces.
    pub(crate) ports: Vec<Port>,
    /// Its disks.
    pub(crate) storage: Report,
    /// Its VMs, in the order in which they are to be shown.
    pub(crate) vms: Vec<Vm>,
    /// What is wrong beyond what can be seen from the rest, a line each.
    pub(crate) complaints: Vec<String>,
    /// How to reach the node, a line each.
    pub(crate) reach: Vec<String>,
}

/// A VM, as the kernel's messages tell of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Vm {
    /// Its name.
    pub(crate) name: String,
    /// Its state in a word.
    pub(crate) state: String,
    /// How much of a CPU it uses, in percent; more than 100 with several vCPUs.
    pub(crate) load: Option<u32>,
}

impl Status {
    /// The page.
    pub(crate) fn lines(&self) -> Vec<String> {
        let troubles = self.troubles();
        let health = match (troubles.is_empty(), self.is_ready) {
            (false, _) => "needs attention",
            (true, true) => "healthy",
            (true, false) => "starting",
        };
        let title = format!("Basalt node {}", self.node);
        let space = WIDTH.saturating_sub(title.chars().count() + health.len());
        let mut lines = vec![format!("{title}{:space$}{health}", ""), "-".repeat(WIDTH)];
        section(&mut lines, "Network", &limited(self.ports.iter().map(port), MOST_DEVICES, "interfaces"));
        section(&mut lines, "Disks", &self.storage());
        section(&mut lines, "VMs", &limited(self.vms.iter().map(vm), MOST_VMS, "VMs"));
        section(
            &mut lines,
            "Health",
            &if troubles.is_empty() { vec!["nothing is wrong".to_owned()] } else { troubles },
        );
        section(&mut lines, "Reach it", &self.reach);
        lines.iter().map(|line| printable(line)).collect()
    }

    fn storage(&self) -> Vec<String> {
        let disks = self.storage.disks.iter().map(|disk| format!("{:<10} {}", disk.name, size(disk.bytes)));
        let mut lines = limited(disks, MOST_DEVICES, "disks");
        lines.push(match &self.storage.data {
            Some(Data::Mounted(device)) => format!("data       on {device}"),
            Some(Data::Refused(device)) => format!("data       on {device}, which cannot be mounted"),
            Some(Data::Nowhere) => "data       nowhere: nothing lasts over a boot".to_owned(),
            None => "data       being looked for".to_owned(),
        });
        lines
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.complaints.clone();
        let unanswered = self.ports.iter().filter(|port| port.state == State::Unanswered);
        troubles.extend(unanswered.map(|port| format!("no DHCP server answers on {}", port.name)));
        if let Some(Data::Refused(device)) = &self.storage.data {
            troubles.push(format!("the node's data on {device} cannot be used"));
        }
        troubles
    }
}

/// What is the case, under a heading in the first column.
fn section(lines: &mut Vec<String>, heading: &str, texts: &[String]) {
    let headings = std::iter::once(heading).chain(std::iter::repeat(""));
    lines.extend(texts.iter().zip(headings).map(|(text, heading)| format!("{heading:<10}{text}")));
}

fn limited(all: impl ExactSizeIterator<Item = String>, most: usize, what: &str) -> Vec<String> {
    let rest = all.len().saturating_sub(most);
    let mut lines: Vec<String> = all.take(most).collect();
    match (lines.is_empty(), rest) {
        (true, _) => lines.push("none".to_owned()),
        (false, 0) => {}
        (false, rest) => lines.push(format!("and {rest} more {what}")),
    }
    lines
}

fn port(Port { name, hardware, state }: &Port) -> String {
    let what = match state {
        State::Starting => "starting".to_owned(),
        State::NoCarrier => "no carrier".to_owned(),
        State::Asking => "asking for an address".to_owned(),
        State::Unanswered => "no address".to_owned(),
        State::Leased { address, prefix, router: None } => format!("{address}/{prefix}"),
        State::Leased { address, prefix, router: Some(router) } => format!("{address}/{prefix} by {router}"),
    };
    format!("{name:<10} {what:<38} {hardware}")
}

fn vm(Vm { name, state, load }: &Vm) -> String {
    let load = load.map_or_else(String::new, |load| format!("{load:>5} %"));
    format!("{name:<24} {state:<16} {load}").trim_end().to_owned()
}

/// Three digits and a unit.
fn size(bytes: u64) -> String {
    let (mut whole, mut unit) = (bytes as f64, 0);
    while whole >= 1000.0 && unit + 1 < UNITS.len() {
        (whole, unit) = (whole / 1024.0, unit + 1);
    }
    let digits = if whole < 9.95 && unit > 0 { 1 } else { 0 };
    format!("{whole:.digits$} {}", UNITS[unit])
}

/// A line that does nothing to a terminal, whatever names somebody has given.
fn printable(line: &str) -> String {
    let symbols = line.chars().map(|symbol| if matches!(symbol, ' '..='~') { symbol } else { '?' });
    symbols.take(WIDTH).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::report::Disk;

    fn node() -> Status {
        let port = |name: &str, state| Port {
            name: name.to_owned(),
            hardware: "52:54:00:12:34:56".to_owned(),
            state,
        };
        let leased = State::Leased {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            router: Some(Ipv4Addr::new(10, 0, 2, 2)),
        };
        let disks = vec![Disk { name: "nvme0n1".to_owned(), bytes: 500 << 30 }];
        Status {
            node: "basalt".to_owned(),
            is_ready: true,
            ports: vec![port("eth0", leased), port("eth1", State::NoCarrier)],
            storage: Report { disks, data: Some(Data::Mounted("nvme0n1p2".to_owned())) },
            vms: vec![Vm { name: "web".to_owned(), state: "running".to_owned(), load: Some(12) }],
            complaints: Vec::new(),
            reach: vec!["by nothing yet".to_owned()],
        }
    }

    #[test]
    fn a_healthy_node() {
        let title = format!("Basalt node basalt{:54}healthy", "");
        let rule = "-".repeat(WIDTH);
        assert_eq!(
            node().lines(),
            [
                title.as_str(),
                &rule,
                "Network   eth0       10.0.2.15/24 by 10.0.2.2               52:54:00:12:34:56",
                "          eth1       no carrier                             52:54:00:12:34:56",
                "Disks     nvme0n1    500 GiB",
                "          data       on nvme0n1p2",
                "VMs       web                      running             12 %",
                "Health    nothing is wrong",
                "Reach it  by nothing yet",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut status = node();
        status.ports[0].state = State::Unanswered;
        status.storage.data = Some(Data::Refused("sda".to_owned()));
        status.complaints.push("the kernel speaks another version".to_owned());
        let lines = status.lines();
        assert!(lines[0].ends_with("needs attention"), "{lines:?}");
        assert!(lines.iter().any(|line| line == "Health    the kernel speaks another version"));
        assert!(lines.iter().any(|line| line.trim() == "no DHCP server answers on eth0"));
        assert!(lines.iter().any(|line| line.trim() == "the node's data on sda cannot be used"));
    }

    #[test]
    fn a_node_that_knows_nothing_yet() {
        let lines = Status::default().lines();
        assert!(lines[0].ends_with("starting"));
        assert!(lines.contains(&"Network   none".to_owned()) && lines.contains(&"VMs       none".to_owned()));
    }

    #[test]
    fn many_vms_are_not_more_than_a_screen() {
        let mut status = node();
        status.vms = vec![status.vms[0].clone(); 300];
        let lines = status.lines();
        assert!(lines.len() <= 24 && lines.iter().any(|line| line.trim() == "and 290 more VMs"), "{lines:?}");
    }

    #[test]
    fn sizes() {
        let sizes = [0, 999, 64 << 20, 1 << 30, 1 << 40, 18 << 40, u64::MAX].map(size);
        assert_eq!(sizes, ["0 bytes", "999 bytes", "64 MiB", "1.0 GiB", "1.0 TiB", "18 TiB", "16777216 TiB"]);
    }

    proptest! {
        #[test]
        fn names_do_nothing_to_a_terminal(name: String, load: Option<u32>) {
            let mut status = node();
            status.vms[0] = Vm { name: name.clone(), state: name.clone(), load };
            status.node = name;
            for line in status.lines() {
                prop_assert!(line.len() <= WIDTH && line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            }
        }
    }
}
