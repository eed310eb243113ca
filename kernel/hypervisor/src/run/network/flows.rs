//! Conversations at the prompt: those that go on, and records of what has passed.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use vcpu::{Backend, Host};
use vswitch::PortId;
use vswitch::flows::{Count, EndReason, Ends, Flow, Record, STEP_BUCKETS, State};
use vswitch::frame::protocol;

use super::tables::Amount;
use crate::networks::Network;
use crate::run::cpu::Cpu;
use crate::run::lead::Lead;

/// Rows of one answer at most: what a screen shows.
const MOST_ROWS: usize = 40;
const MILLISECOND: u64 = 1_000_000;

impl Lead {
    /// The conversations that go on, in no order.
    pub(super) fn list_flows<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        network: &Network,
    ) {
        self.sweep(cpu, network);
        self.answer(format_args!("{FLOWS}"));
        let (flows, now) = (&network.switch.flows, cpu.host.now().0);
        let (mut from, mut rows, mut left) = (Some(0), 0, 0);
        while let Some(bucket) = from {
            let mut found: arrayvec::ArrayVec<Flow, { MOST_ROWS / 4 }> = arrayvec::ArrayVec::new();
            from = flows.list(bucket, |flow| left += usize::from(found.try_push(*flow).is_err()));
            for flow in found {
                let age = now.saturating_sub(flow.began) / MILLISECOND;
                let is_shown = rows < MOST_ROWS
                    && self.row(
                        cpu,
                        format_args!(
                            "{}",
                            Row(&flow.ends, (flow.from, flow.to), flow.counts, network, age, state(&flow))
                        ),
                    );
                rows += usize::from(is_shown);
                left += usize::from(!is_shown);
            }
            cpu.rota.look(cpu.host, "a list of conversations");
        }
        self.tell_left(left);
        let totals = flows.totals();
        self.answer(format_args!(
            "{} of {} places are taken; {} conversations so far, {} of them denied, {} found no place",
            totals.ports.owned,
            totals.capacity,
            totals.ports.created,
            totals.ports.denied,
            totals.ports.untracked
        ));
    }

    /// What has passed since it was last asked for. Each record is told once.
    pub(super) fn take_records<B: Backend, H: Host>(
        &mut self,
        cpu: &mut Cpu<'_, '_, '_, B, H>,
        network: &Network,
    ) {
        self.sweep(cpu, network);
        self.answer(format_args!("{FLOWS}"));
        let flows = &network.switch.flows;
        for _ in 0..MOST_ROWS {
            let mut next: Option<Record> = None;
            if self.console.room() < super::tables::ROW_BYTES
                || flows.drain(1, |record| next = Some(record)) == 0
            {
                break;
            }
            let Some(record) = next else { break };
            let lasted = record.last.saturating_sub(record.began) / MILLISECOND;
            let row =
                Row(&record.ends, (record.from, record.to), record.counts, network, lasted, reason(&record));
            self.row(cpu, format_args!("{row}"));
        }
        let totals = flows.totals();
        self.answer(format_args!(
            "{} more records wait, {} were lost for want of room",
            totals.waiting_records, totals.lost_records
        ));
    }

    /// Ends the conversations whose time is over.
    fn sweep<B: Backend, H: Host>(&self, cpu: &mut Cpu<'_, '_, '_, B, H>, network: &Network) {
        let flows = &network.switch.flows;
        // Each bucket has several places.
        for _ in 0..flows.totals().capacity.div_ceil(STEP_BUCKETS) {
            flows.sweep(cpu.host.now().0, STEP_BUCKETS);
            cpu.rota.look(cpu.host, "a sweep of conversations");
        }
    }
}

const FLOWS: &str = "conversation                                             VLAN  from > to            there: packets, bytes     back                      ms  ";

const fn state(flow: &Flow) -> &'static str {
    if !flow.verdict.allowed {
        return "denied";
    }
    match flow.state {
        State::SynSent => "begins",
        State::Established => "established",
        State::Closing => "closes",
        State::Closed => "closed",
        State::Unreplied => "unanswered",
        State::Replied => "answered",
    }
}

const fn reason(record: &Record) -> &'static str {
    if record.denied {
        return "denied";
    }
    match record.reason {
        EndReason::IdleTimeout => "idle",
        EndReason::ActiveTimeout => "goes on",
        EndReason::EndOfFlow => "ended",
        EndReason::Forced => "was ended",
        EndReason::NoResources => "gave way",
    }
}

/// One line of either list.
struct Row<'a>(&'a Ends, (PortId, Option<PortId>), [Count; 2], &'a Network, u64, &'static str);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ends, (from, to), [there, back], network, time, what) = *self;
        let mut text = arrayvec::ArrayString::<128>::new();
        // What does not fit is cut off.
        let _ = fmt::write(&mut text, format_args!("{}", Conversation(ends)));
        write!(f, "{text:<55}  {:>4}  ", ends.vlan)?;
        text.clear();
        let device = |port: PortId| network.device(port);
        let _ = match (device(from), to.and_then(device)) {
            (Some(from), Some(to)) => fmt::write(&mut text, format_args!("{from} > {to}")),
            (Some(from), None) => fmt::write(&mut text, format_args!("{from} > several")),
            _ => Ok(()),
        };
        write!(
            f,
            "{text:<19}  {:>9} {:>10}  {:>9} {:>10}  {time:>8}  {what}",
            Amount(there.packets, ""),
            Amount(there.bytes, "B"),
            Amount(back.packets, ""),
            Amount(back.bytes, "B")
        )
    }
}

/// Between whom.
struct Conversation<'a>(&'a Ends);

impl fmt::Display for Conversation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = self.0;
        match ends.protocol {
            protocol::TCP => f.write_str("tcp")?,
            protocol::UDP => f.write_str("udp")?,
            protocol::SCTP => f.write_str("sctp")?,
            protocol::ICMP | protocol::ICMPV6 => f.write_str("icmp")?,
            number => write!(f, "ip-{number}")?,
        }
        if ends.fragment {
            f.write_str(" fragments")?;
        }
        for (word, address, port) in
            [(" ", &ends.source, ends.source_port), (" > ", &ends.destination, ends.destination_port)]
        {
            f.write_str(word)?;
            match address.last_chunk::<4>() {
                Some(bytes) if !ends.v6 => write!(f, "{}", Ipv4Addr::from(*bytes))?,
                _ => write!(f, "{}", Ipv6Addr::from(*address))?,
            }
            if port != 0 {
                write!(f, " {port}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use vswitch::frame::v4;

    #[test]
    fn conversations_are_told_by_their_ends() {
        let ends = Ends {
            source: v4([10, 0, 0, 1]),
            destination: v4([10, 0, 0, 2]),
            source_port: 4000,
            destination_port: 22,
            protocol: protocol::TCP,
            v6: false,
            vlan: 7,
            fragment: false,
        };
        assert_eq!(Conversation(&ends).to_string(), "tcp 10.0.0.1 4000 > 10.0.0.2 22");
        let mut source = [0; 16];
        (source[0], source[15]) = (0xfd, 1);
        let v6 = Ends { source, v6: true, source_port: 0, destination_port: 0, protocol: 58, ..ends };
        assert_eq!(Conversation(&v6).to_string(), "icmp fd00::1 > ::ffff:10.0.0.2");
        let other = Ends { protocol: 47, fragment: true, source_port: 0, destination_port: 0, ..ends };
        assert_eq!(Conversation(&other).to_string(), "ip-47 fragments 10.0.0.1 > 10.0.0.2");
    }
}
