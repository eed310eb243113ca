//! Which VMs there are, and what they do.

use std::collections::HashMap;
use std::io::Result;
use std::time::{Duration, Instant};

use abi::{Answer, Refusal, Request, VmState};

use crate::channel::{Channel, strange};
use crate::status::{RUNNING, Vm};

/// More VMs than there can be: whoever tells of so many tells nonsense.
const MOST_VMS: usize = 4096;

/// What each VM had run when it was last looked at.
#[derive(Default)]
pub(super) struct Watch {
    before: HashMap<u64, (u64, Instant)>,
}

impl Watch {
    /// All VMs but dom0 itself, with their numbers.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) fn look(&mut self, channel: &mut Channel) -> Result<Vec<(u64, Vm)>> {
        let (mut vms, mut seen, mut after) = (Vec::new(), HashMap::new(), 0);
        for _ in 0..MOST_VMS {
            let next = channel.ask(&Request::NextVm { after }, |answer| match answer {
                Answer::Status { vm, name, state, ticks: [ran, _], .. } => {
                    Ok(Some((vm, name.as_str().to_owned(), state, ran)))
                }
                Answer::Refused { refusal: Refusal::NoVm, .. } => Ok(None),
                other => Err(strange(&other)),
            })?;
            let Some((number, name, state, ran)) = next else { break };
            let now = Instant::now();
            let load = self.before.get(&number).and_then(|(ran_before, then)| {
                load(ran.wrapping_sub(*ran_before), now.duration_since(*then), channel.tsc_hz())
            });
            seen.insert(number, (ran, now));
            after = number;
            if name != DOM0 {
                let load = load.filter(|_| state == VmState::Running);
                vms.push((number, Vm { name, state: word(state).to_owned(), load }));
            }
        }
        self.before = seen;
        Ok(vms)
    }
}

/// The name of the VM that this is.
const DOM0: &str = "dom0";

fn word(state: VmState) -> &'static str {
    match state {
        VmState::Stopped => "stopped",
        VmState::Changing => "starting or ending",
        VmState::Running => RUNNING,
        VmState::Paused => "paused",
        VmState::Held => "held",
    }
}

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
