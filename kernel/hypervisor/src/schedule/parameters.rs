//! What can be asked for, what is refused, and what is told of a vCPU.

use core::fmt;

use super::id::{Cpu, MAX_CPUS, Pool, VcpuId, VmId};
use super::time::Ticks;

/// How many pools there can be.
pub const MAX_POOLS: usize = 16;
/// The largest weight; the smallest is 1.
pub const MAX_WEIGHT: u32 = 10_000;
/// The largest cap or reservation in percent of one CPU.
pub const MAX_PERCENT: u32 = 100 * MAX_CPUS as u32;

/// What a VM is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// Its part of what VMs compete for, 1 to [`MAX_WEIGHT`], divided evenly between its runnable vCPUs.
    pub weight: u32,
    /// The most it may have, in percent of one CPU; 0 is no cap.
    pub cap: u32,
    /// What it has before others share, in percent of one CPU, as long as its vCPUs want it and may use enough CPUs.
    pub reservation: u32,
    /// Where it runs.
    pub pool: Pool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { weight: 100, cap: 0, reservation: 0, pool: Pool(0) }
    }
}

/// Why something was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// This VM is not, or no longer, known.
    NoSuchVm(VmId),
    /// This vCPU is not, or no longer, known.
    NoSuchVcpu(VcpuId),
    /// This CPU is not there.
    NoSuchCpu(Cpu),
    /// There are only [`MAX_POOLS`].
    NoSuchPool(Pool),
    /// No place is left for a VM, a vCPU in the VM, or a vCPU in the queue.
    Full,
    /// The VM still has vCPUs.
    HasVcpus(VmId),
    /// Not within 1 and [`MAX_WEIGHT`].
    Weight(u32),
    /// Above [`MAX_PERCENT`], or a reservation above the cap.
    Percent(u32),
    /// The reservations in the pool would be this many percent of one CPU together, more than it has.
    Overcommitted(u32),
    /// The vCPU would have no CPU left on which it may run.
    NowhereToRun(VcpuId),
    /// The vCPU is in another CPU's queue: do it there.
    NotHere(Cpu),
    /// The vCPU is running, asleep or runnable, and this can't be done with it then.
    WrongState(VcpuId),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchVm(_) | Self::NoSuchVcpu(_) => f.write_str("the scheduler does not know it"),
            Self::NoSuchCpu(cpu) => write!(f, "there is no CPU {}", cpu.0),
            Self::NoSuchPool(pool) => {
                write!(f, "there is no pool {}; pools are 0 to {}", pool.0, MAX_POOLS - 1)
            }
            Self::Full => f.write_str("the scheduler has no place left"),
            Self::HasVcpus(_) => f.write_str("it still has vCPUs"),
            Self::Weight(weight) => write!(f, "weight {weight} is not within 1 and {MAX_WEIGHT}"),
            Self::Percent(percent) => write!(
                f,
                "{percent} % is more than the cap, or than the {MAX_PERCENT} % of {MAX_CPUS} CPUs; give less"
            ),
            Self::Overcommitted(percent) => write!(
                f,
                "the reservations in its pool would be {percent} % of a CPU, more than the pool's CPUs have; reserve less"
            ),
            Self::NowhereToRun(vcpu) => write!(
                f,
                "vCPU {} would have no CPU: give it CPUs of its pool that this machine has",
                vcpu.index
            ),
            Self::NotHere(cpu) => write!(f, "it is in the queue of CPU {}", cpu.0),
            Self::WrongState(vcpu) => write!(f, "vCPU {} runs, or has just begun to sleep", vcpu.index),
        }
    }
}

/// Times of a vCPU, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Times {
    /// It ran.
    pub charged: Ticks,
    /// It was runnable and did not run.
    pub steal: Ticks,
    /// The part of `steal` for which its VM's cap was the reason.
    pub throttled: Ticks,
}
