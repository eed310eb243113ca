//! What of SVM this CPU is used with: decided once, by CPUID alone, so that tests can make up the CPU.
//!
//! Sources: AMD APM vol. 3, "Function 8000_000Ah - SVM Features"; vol. 2, "VMCB Clean Bits", "TLB Control", "Pause Intercept
//! Filtering", "NMI Virtualization".

use vcpu::CpuidResult;

use super::apic::ApicPlan;
use super::clean::Clean;
use crate::virtualization::features as cpuid_bits;
use crate::without::Without;

/// The leaves that decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Leaves {
    /// Leaf 1.
    pub(super) basic: CpuidResult,
    /// Leaf 8000_0001H.
    pub(super) extended: CpuidResult,
    /// Leaf 8000_000AH.
    pub(super) svm: CpuidResult,
    /// Leaf 4000_0000H, where leaf 1 says that there is one.
    pub(super) hypervisor: CpuidResult,
}

/// How one address-space identifier's translations are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flush {
    /// By TLB_CONTROL.
    ByAsid,
    /// By going on with another identifier. Everything is flushed when they run out.
    NewAsid,
}

/// How an NMI is kept from interrupting the handler of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NmiBlocking {
    /// The CPU does it.
    Virtual,
    /// IRET is intercepted while a handler runs.
    ByIret,
}

/// How an interrupt that the guest can take at once goes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Injection {
    /// By EVENTINJ.
    Event,
    /// In a way that works with QEMU's TCG: see [`super::emulated`].
    Emulated,
}

/// When a loop with PAUSE exits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PauseFilter {
    /// PAUSEs until the exit.
    pub(super) count: u16,
    /// Cycles between two PAUSEs that begin the count anew; 0 where the CPU does not look at the time.
    pub(super) threshold: u16,
}

/// What is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Address-space identifiers, the host's 0 included.
    pub(super) asids: u32,
    /// The groups of VMCB fields that the CPU may keep between runs.
    pub(super) clean: Clean,
    pub(super) flush: Flush,
    pub(super) nmi: NmiBlocking,
    pub(super) injection: Injection,
    pub(super) pause: Option<PauseFilter>,
    /// The address of the next instruction is in the VMCB.
    pub(super) next_rip: bool,
    /// MOV CR operands and instruction bytes are in the VMCB.
    pub(super) decode_assists: bool,
    /// Guests run with CR4.MCE set, whatever they see: without it a machine check shuts the CPU down instead of reaching
    /// the host.
    pub(super) machine_check: bool,
    pub(super) page_1g: bool,
    pub(super) rdtscp: bool,
    /// A guest's TSC can have another rate.
    pub(super) tsc_ratio: bool,
    /// The CPU switches SPEC_CTRL itself.
    pub(super) speculation_control: bool,
    /// What the CPU does of local APICs.
    pub(super) apic: ApicPlan,
}

/// Leaf 8000_000AH EDX.
mod svm {
    pub(super) const NESTED_PAGING: u32 = 1 << 0;
    pub(super) const NEXT_RIP: u32 = 1 << 3;
    pub(super) const TSC_RATIO: u32 = 1 << 4;
    pub(super) const VMCB_CLEAN: u32 = 1 << 5;
    pub(super) const FLUSH_BY_ASID: u32 = 1 << 6;
    pub(super) const DECODE_ASSISTS: u32 = 1 << 7;
    pub(super) const PAUSE_FILTER: u32 = 1 << 10;
    pub(super) const PAUSE_FILTER_THRESHOLD: u32 = 1 << 12;
    pub(super) const SPEC_CTRL: u32 = 1 << 20;
    pub(super) const VIRTUAL_NMI: u32 = 1 << 25;
}
/// Leaf 1 EDX: machine-check exception.
const MACHINE_CHECK: u32 = 1 << 7;
/// Leaf 8000_0001H EDX: 1 GiB pages.
const PAGE_1G: u32 = 1 << 26;

/// A lock's waiter gives up its CPU after that many PAUSEs with less than that many cycles between them: far more than the
/// wait for a holder that runs.
const PAUSE_COUNT: u16 = 3000;
const PAUSE_THRESHOLD: u16 = 128;

/// Whether that leaf has the signature of QEMU's TCG.
const fn is_tcg(hypervisor: &CpuidResult) -> bool {
    const TCGT: u32 = u32::from_le_bytes(*b"TCGT");
    const CGTC: u32 = u32::from_le_bytes(*b"CGTC");
    const GTCG: u32 = u32::from_le_bytes(*b"GTCG");
    hypervisor.ebx == TCGT && hypervisor.ecx == CGTC && hypervisor.edx == GTCG
}

impl Plan {
    /// The plan, or what the CPU lacks.
    pub(super) const fn choose(leaves: &Leaves, without: Without) -> Result<Self, &'static str> {
        let offered = leaves.svm.edx;
        if offered & svm::NESTED_PAGING == 0 {
            return Err("nested paging (NPT)");
        }
        if leaves.svm.ebx < 2 {
            return Err("address-space identifiers");
        }
        let threshold = if offered & svm::PAUSE_FILTER_THRESHOLD != 0 { PAUSE_THRESHOLD } else { 0 };
        Ok(Self {
            asids: leaves.svm.ebx,
            clean: if offered & svm::VMCB_CLEAN != 0 { Clean::all() } else { Clean::empty() },
            flush: if offered & svm::FLUSH_BY_ASID != 0 { Flush::ByAsid } else { Flush::NewAsid },
            nmi: if offered & svm::VIRTUAL_NMI != 0 { NmiBlocking::Virtual } else { NmiBlocking::ByIret },
            injection: if is_tcg(&leaves.hypervisor) { Injection::Emulated } else { Injection::Event },
            pause: if offered & svm::PAUSE_FILTER != 0 {
                Some(PauseFilter { count: PAUSE_COUNT, threshold })
            } else {
                None
            },
            next_rip: offered & svm::NEXT_RIP != 0,
            decode_assists: offered & svm::DECODE_ASSISTS != 0,
            machine_check: leaves.basic.edx & MACHINE_CHECK != 0,
            page_1g: leaves.extended.edx & PAGE_1G != 0,
            rdtscp: leaves.extended.edx & cpuid_bits::EXTENDED_EDX_RDTSCP != 0,
            tsc_ratio: offered & svm::TSC_RATIO != 0 && !without.contains(Without::TSC_SCALING),
            speculation_control: offered & svm::SPEC_CTRL != 0,
            apic: ApicPlan::new(without, offered & svm::NEXT_RIP != 0),
        })
    }

    /// The optional abilities that are used, by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.next_rip, "next-RIP save"),
            (self.decode_assists, "decode assists"),
            (self.flush == Flush::ByAsid, "flush by ASID"),
            (!self.clean.is_empty(), "VMCB clean bits"),
            (self.nmi == NmiBlocking::Virtual, "virtual NMI"),
            (self.pause.is_some(), "pause filter"),
            (self.tsc_ratio, "TSC ratio"),
            (self.speculation_control, "SPEC_CTRL"),
            (self.apic.contains(ApicPlan::TASK_PRIORITY), "virtual TPR"),
            (self.apic.contains(ApicPlan::OFFER), "virtual interrupts"),
        ]
        .into_iter()
        .filter_map(|(used, name)| used.then_some(name))
    }
}

#[cfg(test)]
mod tests;
