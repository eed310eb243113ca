//! What the kernel's own command line says to the hypervisor.

use alloc::vec::Vec;

use super::{network, share};
use crate::cpu_list::parse_cpus;
use crate::schedule::{CpuSet, MAX_POOLS, Pool};

/// What happens when every VM has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum End {
    /// The console stays, for the log; Ctrl-A x powers the machine off.
    #[default]
    Console,
    /// The machine is powered off.
    PowerOff,
}

/// What the console shows at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FirstView<'a> {
    /// The lines of all guests and of the kernel.
    #[default]
    Merged,
    /// The kernel's log alone.
    Kernel,
    /// One VM's console.
    Guest(&'a str),
}

/// Options of the hypervisor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options<'a> {
    /// `end=console|poweroff`.
    pub end: End,
    /// `view=all|kernel|NAME`.
    pub view: FirstView<'a>,
    /// `pool=N:CPUS`: the CPUs of each pool but those that stay in pool 0.
    pub pools: [CpuSet; MAX_POOLS],
    /// `times=SECONDS`: how often the VMs' times are told in the log; 0 for never.
    pub times: u32,
    /// `poll=MICROSECONDS`: how long a CPU waits at most for a vCPU that has halted, before it lets it sleep; 0 for not at all.
    pub poll: u32,
    /// `network=`, `rule=` and `mirror=`: these words as they are, in their order, which is that of the rules. [`Node::new`](crate::Node::new) reads
    /// them, when it knows the networks.
    pub networks: Vec<&'a str>,
    /// VMs for which there is room beside those of the boot modules; `None` for some where there is a management domain, which makes them, and else none.
    pub later: Option<usize>,
}

/// `poll=` where it is not given.
const POLL: u32 = 50;
/// The longest such wait: what a CPU may do without looking for other work.
const MOST_POLL: u32 = 100;

impl<'a> Options<'a> {
    /// Reads the words of the kernel's command line. Those that are not for the hypervisor are left to others; a wrong value
    /// is told in the log and the default stands.
    pub fn parse(words: impl Iterator<Item = &'a str>) -> Self {
        let mut options = Self { poll: POLL, ..Self::default() };
        for word in words {
            match word.split_once('=') {
                Some(("end", "console")) => options.end = End::Console,
                Some(("end", "poweroff")) => options.end = End::PowerOff,
                Some(("end", value)) => {
                    log::warn!("option end={value} is unknown; write end=console or end=poweroff");
                }
                Some(("view", "all")) => options.view = FirstView::Merged,
                Some(("view", "kernel")) => options.view = FirstView::Kernel,
                Some(("view", name)) => options.view = FirstView::Guest(name),
                Some(("pool", value)) => options.set_pool(value),
                Some(("poll", value)) => match value.parse() {
                    Ok(micros) if micros <= MOST_POLL => options.poll = micros,
                    _ => log::warn!(
                        "option poll={value} is no number of microseconds up to {MOST_POLL}; write poll={POLL}"
                    ),
                },
                Some(("times", value)) => match value.parse() {
                    Ok(seconds) => options.times = seconds,
                    Err(_) => log::warn!("option times={value} is no number of seconds; write times=10"),
                },
                Some((key, _)) if network::KEYS.contains(&key) => options.networks.push(word),
                _ => {}
            }
        }
        options
    }

    fn set_pool(&mut self, value: &str) {
        let read = value.split_once(':').and_then(|(number, cpus)| {
            let pool = share::pool(number).filter(|pool| *pool != Pool(0))?;
            Some((self.pools.get_mut(usize::from(pool.0))?, parse_cpus(cpus)?))
        });
        match read {
            Some((pool, cpus)) => *pool = cpus,
            None => log::warn!(
                "option pool={value} is no pool; write a number from 1 to {} and CPUs, such as pool=1:2-3",
                MAX_POOLS - 1
            ),
        }
    }
}
