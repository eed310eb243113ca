//! Which VMs there are, and what they do, as the kernel tells.

use std::collections::HashMap;
use std::io::Result;
use std::time::{Duration, Instant};

use abi::{Answer, Refusal, Request, VmState};

use crate::channel::{Asks, Channel, strange};

/// More VMs than there can be: whoever tells of so many tells nonsense.
const MOST_VMS: usize = 4096;
/// Between two looks by which a load is reckoned.
const APART: Duration = Duration::from_secs(2);

/// The VMs as they were seen last.
#[derive(Default)]
pub(super) struct Watch {
    before: HashMap<u64, Before>,
    seen: Vec<Seen>,
}

/// What a VM had run when its load was reckoned last.
#[derive(Clone, Copy)]
struct Before {
    ran: u64,
    at: Instant,
    load: Option<u32>,
}

/// A VM, as the kernel tells of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// Its number in the kernel.
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) state: VmState,
    pub(super) cpus: u16,
    pub(super) memory: u64,
    pub(super) resident: u64,
    /// Ticks that it has run, and has waited for a CPU.
    pub(super) ticks: [u64; 2],
    /// What its network devices have carried: bytes received, bytes sent, frames lost.
    pub(super) network: [u64; 3],
    /// Percent of a CPU.
    pub(super) load: Option<u32>,
}

impl Watch {
    /// All VMs but dom0 itself.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) fn look(&mut self, channel: &mut Channel) -> Result<&[Seen]> {
        let (mut seen, mut after) = (Vec::new(), 0);
        for _ in 0..MOST_VMS {
            let next = channel.ask(&Request::NextVm { after }, |answer| match answer {
                Answer::Status { vm, name, state, cpus, memory, resident, ticks, network, .. } => {
                    Ok(Some(Seen {
                        number: vm,
                        name: name.as_str().to_owned(),
                        state,
                        cpus,
                        memory,
                        resident,
                        ticks,
                        network,
                        load: None,
                    }))
                }
                Answer::Refused { refusal: Refusal::NoVm, .. } => Ok(None),
                other => Err(strange(&other)),
            })?;
            let Some(vm) = next else { break };
            after = vm.number;
            if vm.name != DOM0 {
                seen.push(vm);
            }
        }
        self.reckon(&mut seen, channel.tsc_hz());
        self.seen = seen;
        Ok(&self.seen)
    }

    /// Those that were seen last.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Their loads, of those that were here before.
    fn reckon(&mut self, seen: &mut [Seen], tsc_hz: u64) {
        let now = Instant::now();
        let mut after = HashMap::new();
        for vm in seen {
            let ran = vm.ticks[0];
            let before = self.before.get(&vm.number).copied();
            let entry = match before {
                Some(before) if now.saturating_duration_since(before.at) < APART => before,
                Some(before) => {
                    let load = load(ran.wrapping_sub(before.ran), now - before.at, tsc_hz);
                    Before { ran, at: now, load }
                }
                None => Before { ran, at: now, load: None },
            };
            vm.load = entry.load.filter(|_| vm.state == VmState::Running);
            after.insert(vm.number, entry);
        }
        self.before = after;
    }
}

/// The name of the VM that this is.
const DOM0: &str = "dom0";

/// Percent of a CPU: ticks that were run, in a time, at so many ticks a second. `None` where no time has passed.
fn load(ran: u64, time: Duration, tsc_hz: u64) -> Option<u32> {
    let all = u128::from(tsc_hz) * time.as_micros();
    let percent = (u128::from(ran) * 100 * 1_000_000).checked_div(all)?;
    u32::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_was_run_of_what_has_passed() {
        let second = Duration::from_secs(1);
        assert_eq!(load(500, second, 1000), Some(50));
        assert_eq!(load(2000, second, 1000), Some(200));
        assert_eq!(load(0, second, 1000), Some(0));
        assert_eq!(load(1, Duration::ZERO, 1000), None);
        assert_eq!(load(1, second, 0), None);
        assert_eq!(load(u64::MAX, Duration::from_micros(1), 1), None, "nonsense is not shown");
    }
}
