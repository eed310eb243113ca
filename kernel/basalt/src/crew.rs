//! The CPUs beside the first one: they wait until there are VMs, then run them.

use hypervisor::Node;
use machine::cpu;
use machine::host::PcHost;
use spin::Once;
use vcpu::{Backend, Host};

/// What the CPUs run, whatever the vendor's backend.
trait Work {
    fn run(&self, host: &mut PcHost);
}

impl<B: Backend> Work for Node<'static, B> {
    fn run(&self, host: &mut PcHost) {
        Node::run(self, host);
    }
}

static WORK: Once<&'static (dyn Work + Sync)> = Once::new();

/// Gives the CPUs that wait their work.
pub(crate) fn assemble<B: Backend>(node: &'static Node<'static, B>, host: &mut PcHost)
where
    Node<'static, B>: Sync,
{
    WORK.call_once(|| node);
    (1..host.cpus()).for_each(|cpu| host.kick(cpu));
}

/// What a CPU beside the first one does for good.
pub(crate) fn serve(_cpu: usize) -> ! {
    let Some(mut host) = PcHost::new() else { cpu::halt_forever() };
    // A kick that comes between a look and the wait ends the wait.
    let work = loop {
        match WORK.get() {
            Some(work) => break work,
            None => host.wait_for_interrupt(),
        }
    };
    // It comes back where the machine has more CPUs than run VMs.
    work.run(&mut host);
    host.dismiss()
}
