//! What is told of networks at the prompt: tables, of which as many rows are shown as the console has room for.

use core::fmt::{self, Write as _};

use arrayvec::ArrayString;
use vcpu::{Backend, Host};
use vswitch::counters::{Counters, Drop};

use crate::config::network::verdict_name;
use crate::config::nic::Words;
use crate::config::values::MacText;
use crate::networks::{Network, RuleText, SessionText};
use crate::run::cpu::Cpu;
use crate::run::lead::Lead;

/// Room that the console must have for one more row.
pub(super) const ROW_BYTES: usize = 512;
const SECOND: u64 = 1_000_000_000;

/// What holds where no rule fits, in words.
pub(super) const fn by_default(allow: bool) -> &'static str {
    if allow {
        "what no rule fits is allowed"
    } else {
        "what no rule fits is denied, but ARP and neighbour discovery"
    }
}

impl Lead {
    /// A row of a table, after which others get their turn. False where there is no room for it.
    pub(in crate::run) fn row<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        text: fmt::Arguments<'_>,
    ) -> bool {
        if self.console.room() < ROW_BYTES {
            return false;
        }
        self.answer(text);
        cpu.rota.look(cpu.host, "a row of a table");
        true
    }

    /// Says how many rows were not shown.
    pub(super) fn tell_left(&mut self, left: usize) {
        if left > 0 {
            self.answer(format_args!("... and {left} more, for which the console has no room now"));
        }
    }

    pub(super) fn list_networks<B: Backend, H: Host>(&mut self, cpu: &mut Cpu<'_, '_, '_, B, H>) {
        let (node, second) = (cpu.node, second(cpu));
        if node.networks.iter().next().is_none() {
            self.answer(format_args!("there is no network: net=NETWORK in VMs' lines makes one"));
            return;
        }
        self.answer(format_args!("{NETWORKS}"));
        let mut left = 0;
        for network in node.networks.iter() {
            let (switch, mut known) = (&network.switch, 0);
            switch.addresses.list(second, |_, _, _, _| known += 1);
            let row = format_args!(
                "{:<16}  {:>5}  {known:>9}  {:<7}  {:>5}  {:>7}  {:>9} packets",
                network.name,
                switch.ports().count(),
                verdict_name(switch.rules.allows_by_default()),
                switch.rules.count_of_rules(),
                switch.mirrors.list().len(),
                Amount(switch.rules.denied_by_default(), "")
            );
            left += usize::from(!self.row(cpu, row));
        }
        self.tell_left(left);
    }

    pub(super) fn list_ports<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        network: &Network,
    ) {
        self.answer(format_args!("{PORTS}"));
        let mut left = 0;
        for (id, port) in network.switch.ports() {
            let Some(device) = network.device(id) else { continue };
            let ((sent, sent_bytes), (received, received_bytes)) =
                (port.counters.sent.read(), port.counters.received.read());
            let row = format_args!(
                "{device:<16}  {:<9}  {:>9}  {:>10}  {:>9}  {:>10}  {:>9}",
                network.link(id).name(),
                Amount(sent, ""),
                Amount(sent_bytes, "B"),
                Amount(received, ""),
                Amount(received_bytes, "B"),
                Amount(port.counters.lost_in_all(), "")
            );
            let is_shown = self.row(cpu, row)
                && self.row(cpu, format_args!("    {}", Words(&port.settings())))
                && (port.counters.lost_in_all() == 0
                    || self.row(cpu, format_args!("    lost: {}", Lost(&port.counters))));
            left += usize::from(!is_shown);
        }
        self.tell_left(left);
    }

    pub(super) fn list_addresses<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        network: &Network,
    ) {
        self.answer(format_args!("{ADDRESSES}"));
        let (addresses, second, mut left) = (&network.switch.addresses, second(cpu), 0);
        for (at, device) in network.devices().filter(|(at, _)| addresses.count_of(*at) != 0) {
            addresses.list(second, |mac, vlan, port, age| {
                if port == at {
                    // Another CPU may be a second ahead.
                    let age = if age > i32::MAX as u32 { 0 } else { age };
                    let row = format_args!("{}  {vlan:>4}  {device:<16}  {age:>5} s", MacText(mac));
                    left += usize::from(!self.row(cpu, row));
                }
            });
        }
        self.tell_left(left);
    }

    pub(super) fn list_rules<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        network: &Network,
    ) {
        self.answer(format_args!("{RULES}"));
        let (rules, mut left) = (&network.switch.rules, 0);
        for number in 0..rules.count_of_rules() {
            let Some((rule, packets, bytes)) = rules.get(number) else { break };
            let row = format_args!(
                "{:>3}  {:>9}  {:>10}  {}",
                number + 1,
                Amount(packets, ""),
                Amount(bytes, "B"),
                RuleText(&rule, network)
            );
            left += usize::from(!self.row(cpu, row));
        }
        self.tell_left(left);
        let (denied, allow) = (rules.denied_by_default(), rules.allows_by_default());
        self.answer(format_args!("  -  {:>9}              {}", Amount(denied, ""), by_default(allow)));
    }

    pub(super) fn list_mirrors<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        network: &Network,
    ) {
        let (name, mirrors) = (network.name, network.switch.mirrors.list());
        if mirrors.is_empty() {
            self.answer(format_args!(
                "network {name} has no mirror; mirror {name} add both=VM to=VM makes one"
            ));
        }
        let mut left = 0;
        for (number, session) in mirrors.iter().enumerate() {
            let row = format_args!("{:>3}  {}", number + 1, SessionText(session, network));
            left += usize::from(!self.row(cpu, row));
        }
        self.tell_left(left);
    }
}

const NETWORKS: &str = "network           ports  addresses  default  rules  mirrors  denied by default";
const PORTS: &str = "port              link            sent       bytes   received       bytes       lost";
const ADDRESSES: &str = "address            VLAN  port                  age";
const RULES: &str = "  #    packets       bytes  rule";

/// The second that switches reckon with.
fn second<B: Backend, H: Host>(cpu: &Cpu<'_, '_, '_, B, H>) -> u32 {
    (cpu.host.now().0 / SECOND) as u32
}

/// Frames that were lost, by reasons.
struct Lost<'a>(&'a Counters);

impl fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for reason in Drop::ALL {
            let count = self.0.lost(reason);
            if count > 0 {
                write!(f, "{comma}{} {count}", reason.name())?;
                comma = ", ";
            }
        }
        Ok(())
    }
}

/// How much of something, in at most nine characters and the unit.
pub(super) struct Amount(pub(super) u64, pub(super) &'static str);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXACT: u64 = 1_000_000;
        let Self(count, unit) = *self;
        // Twenty digits, and what is behind them.
        let mut text = ArrayString::<32>::new();
        if count < EXACT {
            let space = if unit.is_empty() { "" } else { " " };
            write!(text, "{count}{space}{unit}")?;
        } else {
            let (mut tenths, mut multiple) = (count / 100_000, 'M');
            for next in ['G', 'T', 'P', 'E'] {
                if tenths >= 10_000 {
                    (tenths, multiple) = (tenths / 1_000, next);
                }
            }
            write!(text, "{}.{} {multiple}{unit}", tenths / 10, tenths % 10)?;
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn amounts_are_exact_or_short() {
        for (count, text) in [
            (0, "0 B"),
            (999_999, "999999 B"),
            (1_000_000, "1.0 MB"),
            (999_949_999, "999.9 MB"),
            (1_500_000_000, "1.5 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(Amount(count, "B").to_string(), text);
        }
        assert_eq!(Amount(7, "").to_string(), "7");
        assert_eq!(std::format!("{:>9}|", Amount(12_345_678, "")), "   12.3 M|");
    }

    #[test]
    fn reasons_are_told_that_there_were() {
        let counters = Counters::default();
        counters.lose(Drop::Denied);
        counters.lose(Drop::Storm);
        counters.lose(Drop::Denied);
        assert_eq!(Lost(&counters).to_string(), "storm 1, denied 2");
    }
}
