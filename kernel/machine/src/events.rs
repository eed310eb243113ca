//! What the CPUs did last, as a panic tells it: on the serial port and in the log that survives, as the screen has no room for more.

use core::fmt::{self, Write};

use trace::{EVENT_BYTES, Event, Ring};
use vcpu::Nanos;

use crate::cpu::registry;
use crate::logger::Particulars;
use crate::{clock, cpu};

/// Events that are told of the CPU that speaks,
const OWN: usize = 8;
/// and of each other one,
const OTHERS: usize = 2;
/// of which so many are told of.
const OTHER_CPUS: usize = 7;

/// Lines that [`report`] takes at most.
pub(crate) const LINES: usize = OWN + OTHERS * OTHER_CPUS;

/// Tells of CPU `own`, which speaks, and of others. A CPU whose clocks are not up tells ticks.
pub(crate) fn report(own: usize) {
    let told = |cpu: &'static cpu::PerCpu, most| tell(&mut Particulars, cpu.number, cpu.trace, most);
    let others = registry::all().filter(|cpu| cpu.number != own && cpu.trace.written() != 0);
    // Last words never fail.
    let _ = registry::get(own).map(|cpu| told(cpu, OWN));
    others.take(OTHER_CPUS).for_each(|cpu| {
        let _ = told(cpu, OTHERS);
    });
}

/// Tells the last events of a ring, the oldest first.
fn tell(to: &mut impl Write, number: usize, ring: &Ring, most: usize) -> fmt::Result {
    let mut events = [[0; EVENT_BYTES]; OWN];
    let taken = ring.read(ring.written().saturating_sub(most as u64), &mut events);
    for event in events.iter().take(taken.count).map(Event::from_bytes) {
        write!(to, "trace: CPU {number} at ")?;
        match clock::clock().map(|clock| clock.time_of(event.tsc())) {
            Some(Nanos(ns)) => write!(to, "{}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)?,
            None => write!(to, "{} ticks", event.tsc())?,
        }
        writeln!(to, ": {event}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trace::{Kind, Subject};

    use super::*;

    #[test]
    fn the_last_events_are_told_oldest_first() {
        let (ring, mut text) = (Ring::new(), String::new());
        assert_eq!(tell(&mut text, 3, &ring, OWN), Ok(()));
        assert_eq!(text, "");
        for number in 0..20 {
            ring.record(Event::new(number, Kind::TurnEnds, Subject::vcpu(0x1_0002, 1), 3, number));
        }
        assert_eq!(tell(&mut text, 3, &ring, OTHERS), Ok(()));
        let wanted = "trace: CPU 3 at 18 ticks: turn-ends vm 0x10002 vcpu 1 0x3 0x12\n\
            trace: CPU 3 at 19 ticks: turn-ends vm 0x10002 vcpu 1 0x3 0x13\n";
        assert_eq!(text, wanted);
        text.clear();
        assert_eq!(tell(&mut text, 3, &ring, OWN), Ok(()));
        assert_eq!(text.lines().count(), OWN);
    }
}
