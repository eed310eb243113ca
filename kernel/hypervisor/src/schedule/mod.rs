//! Who runs where, and for how long: a pure state machine. It has no clock and no hardware: it is told the time, what woke,
//! slept or yielded, and says whom a CPU runs until when, and who should change the CPU.
//!
//! # The parts
//!
//! [`Shared`] is what all CPUs share, only atomics: per VM its parameters, its virtual time, the clocks of its cap and
//! reservation, how many vCPUs are runnable; per CPU a board with what it tells of its queue; pools. [`RunQueue`] is one CPU's:
//! the vCPUs whose home it is, asleep ones too. A vCPU is in one queue at any time. Memory is taken by `make_room`.
//!
//! Each queue goes into a lock of its own. Everything but [`transfer`] takes one queue and atomics; a transfer takes two,
//! locked in the order of their CPUs. What the atomics say may be out of date when it is read; a transfer looks again. The
//! loop of a CPU:
//!
//! ```text
//! lock own queue: wake() each vCPU that the mailbox names; for Woken::move_to: unlock, unload it where it is in the registers,
//!                 transfer() it, kick that CPU where transfer() says so; for Woken::until: the run ends then
//! loop {          lock own queue: decision = next(now); unlock
//!                 lock own queue: wanted = balance(now); unlock
//!                 somebody is in the registers who is not to run or is `wanted`: unload and set_loaded(false)
//!                 no wanted, 8 rounds, or transfer(wanted) fails: break       (kick `wanted.to` where transfer() says so)
//! }
//! Run: set_loaded(true) and run the vCPU until then, or until sleep() (it halted), yielded() (it spins) or a kick; then the loop again
//! Idle: wait until then, or for a kick
//! ```
//!
//! A wake-up belongs to the vCPU's home ([`Shared::home`]); an operation in another queue says [`Error::NotHere`]. Who pins a
//! running vCPU or changes pools kicks the CPUs; their `balance` moves who is in the wrong place. The model in
//! `tests/machine.rs` is this loop.
//!
//! # Shares
//!
//! *Virtual time* is service divided by weight. A CPU runs the vCPU with the least; nobody waits for a clock, so nothing
//! runs behind. A VM's weight is shared by its runnable vCPUs: a run is charged with the integral of their number over the
//! run, so it does not help to sleep when the charging happens. A slice is 5 ms while others wait; a light vCPU's ends when it
//! is a slice of the next one ahead, but not before 1 ms.
//!
//! *Sleepers.* A vCPU that wakes starts at its VM's virtual time, which counts the service of all its vCPUs and falls behind
//! the others' by no more than 2 ms of service. If that is not ahead of the others, the vCPU goes before them for up to 2 ms,
//! once the running one has had 1 ms. So a VM that sleeps much runs within 1 or 2 ms, and any number of vCPUs that take turns
//! have together what one would have.
//!
//! *A cap* is a clock that each run takes on by `100 / cap` of its length; ahead of now, the VM is throttled until then.
//! Nothing is lost or won by rounding periods. What a VM did not use it can catch up by 10 ms of the clock after sleep, by 50 ms
//! after waiting. A *reservation* is the same clock read the other way: behind now, the VM has a claim, and goes
//! before all others, in pieces of 1 ms (less for reservations below 10 %); it gets the larger of its reservation and its
//! share by weight. Reservations in a pool cannot exceed its CPUs. Beside a claim, a wake-up may wait for the claim's
//! piece, too.
//!
//! *Yielding* makes another go first, once, and gives the place in the order to a sibling that waits in the same queue (the
//! named one if it is there): the VM loses and wins nothing.
//!
//! *Times.* Each tick of a CPU is charged to the vCPU that was chosen or is idle time, charged to nobody. Steal is the time
//! from becoming runnable to running. Throttled time is part of it, as with KVM, whose guests see the time that a thread
//! waited for a CPU for whatever reason; it is also counted alone.
//!
//! # Balance
//!
//! Virtual times are comparable between the queues of a pool. At each decision an idle CPU, or one whose choice is ahead by
//! a slice, takes the most lagging that waits elsewhere; those that wait are given to idle CPUs; every 10 ms a queue gives
//! away the one that is most behind another queue. So lag moves with the vCPU, and two CPUs share three hogs evenly.
//!
//! Queues that cannot exchange vCPUs because of pinning go at their own speed; every 100 ms, gaps between queues that are wider
//! than balancing can make them are closed, all queues behind a gap together, so that nothing old counts when
//! pinning changes. A queue where nobody waits stays near those where somebody does.
//!
//! # What is not exact
//!
//! * Moves are single steps: where pinning allows the fair share only by moving a vCPU that runs alone and needs a whole CPU, it
//!   is not found (in the tests' random pinnings about 1 of 200 misses by more than 2 %).
//! * A wake-up may take 3 ms where many wake at once on many CPUs (1 of 400 random mixes).
//! * A vCPU whose fair share is nearly a CPU cannot make up for what it lost while capped or reserved VMs ran many
//!   vCPUs at once. The guarantees themselves, caps and reservations, hold.
//! * A share below about 1 % of a CPU is exact to some slices, not to 2 % of itself.
//!
//! # Cost
//!
//! [`RunQueue::next`] looks once at each vCPU of the queue that is awake, some 20 instructions each. [`RunQueue::balance`] looks at the boards
//! of CPUs where somebody waits, and every 10 ms at up to 64 vCPUs against each CPU of the pool. Nothing loops longer.
//!
//! Sources of ideas, none of code: start-time fair queueing (Goyal, Guo, Vin 1996), lag carried along with migration (Stoica,
//! Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995), the generic cell rate algorithm for the clocks (ITU-T I.371).

mod account;
mod balance;
mod board;
mod id;
mod manage;
mod parameters;
mod pick;
mod queue;
mod shared;
#[cfg(test)]
mod tests;
mod time;

pub use balance::{Moved, Transfer, transfer};
pub use id::{Cpu, CpuSet, MAX_CPUS, MAX_VCPUS, Pool, VcpuId, VmId};
pub use parameters::{Error, MAX_PERCENT, MAX_POOLS, MAX_WEIGHT, Parameters, Times};
pub use queue::{Decision, RunQueue, Woken};
pub use shared::Shared;
pub use time::{Ticks, Timing};
