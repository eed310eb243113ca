//! What is done so that a guest learns nothing by speculative execution of the kernel's memory, which is all of the machine's, or of
//! another guest's: the option `mitigations=`, what the CPU needs ([`decide`]), what an entry and an exit do ([`guard`]), and what a
//! CPU does when it starts and when another VM comes. `docs/mitigations.md` has the table.
//!
//! What a guest does for its own kernel against its own programs is its own matter: [`guest`] gives it the means. Sources: those of [`decide`]. No locks.

// UNSAFETY: writes MSRs that say how the CPU speculates, and reads memory for its side effect.
#![allow(unsafe_code)]

mod decide;
mod detect;
pub(crate) mod guard;
mod guest;

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use log::{info, warn};
use spin::Once;

pub(crate) use self::decide::Measures;
use self::decide::{Decision, Gaps};
pub(crate) use self::guest::Offer;
use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::registers;
use crate::virtualization::Refusal;

/// The option `mitigations=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// What the CPU needs.
    #[default]
    Auto,
    /// Nothing.
    Off,
}

/// MSRs: Intel, "CPUID Enumeration and Architectural MSRs"; AMD has the first two as well.
pub(crate) const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const ARCH_CAPABILITIES: u32 = 0x10a;
const FLUSH_CMD: u32 = 0x10b;
/// BP_CFG (AMD, "Technical Update Regarding Speculative Return Stack Overflow").
const BP_CFG: u32 = 0xc001_102e;
/// IA32_SPEC_CTRL.
const IBRS: u32 = 1 << 0;
const BHI_DIS_S: u32 = 1 << 10;
/// IA32_PRED_CMD and IA32_FLUSH_CMD.
const IBPB: u64 = 1 << 0;
const L1D_FLUSH: u64 = 1 << 0;
const BP_SPEC_REDUCE: u64 = 1 << 4;
/// EFER: automatic IBRS.
const EFER_AUTOMATIC_IBRS: u64 = 1 << 21;

/// Twice the largest L1 data cache of a CPU that L1TF reaches, so that replacement that is not quite by age leaves nothing.
const READ_ORDER: u8 = 4;
const READ_BYTES: u64 = vcpu::PAGE_SIZE << READ_ORDER;

/// What is done on this machine.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    policy: Policy,
    measures: Measures,
    /// What guests are given, whatever the policy.
    offer: Offer,
    /// What is read for [`Measures::L1D_READ`].
    reading: u64,
}

static CHOSEN: Once<Chosen> = Once::new();

/// Decides what is done, does the boot CPU's part of it, and says so. To be called once, before vCPUs are made.
pub fn start(policy: Policy) {
    let cpu = detect::this_cpu();
    let offer = Offer::of(&cpu);
    let Decision { mut measures, gaps } = match policy {
        Policy::Auto => decide::decide(&cpu),
        Policy::Off => Decision::default(),
    };
    let mut reading = 0;
    if measures.contains(Measures::L1D_READ) {
        match Block::zeroed(READ_ORDER, FrameKind::Control) {
            Ok(block) => reading = memory::direct_map(block.keep()) as u64,
            Err(_) => measures.remove(Measures::L1D_READ),
        }
    }
    CHOSEN.call_once(|| Chosen { policy, measures, offer, reading });
    start_cpu(measures);
    match policy {
        Policy::Off => info!("off: guests may read what is not theirs"),
        Policy::Auto => info!("{}", Described(measures, gaps)),
    }
    if !gaps.is_empty() {
        warn!("{}", Open(gaps));
    }
}

/// Does another CPU's part, which must need and offer what the boot CPU does.
pub(crate) fn join() -> Result<(), Refusal> {
    let Some(chosen) = CHOSEN.get() else { return Ok(()) };
    let cpu = detect::this_cpu();
    let either = Measures::L1D_READ;
    let needs = decide::decide(&cpu).measures | either;
    let differs = chosen.policy == Policy::Auto && needs != chosen.measures | either;
    if differs || Offer::of(&cpu) != chosen.offer {
        return Err(Refusal::Missing { what: "the boot CPU's needs of mitigations" });
    }
    start_cpu(chosen.measures);
    Ok(())
}

/// What is done.
pub(crate) fn measures() -> Measures {
    CHOSEN.get().map_or(Measures::empty(), |chosen| chosen.measures)
}

/// What guests are given.
pub(crate) fn offer() -> Offer {
    CHOSEN.get().map_or(Offer::default(), |chosen| chosen.offer)
}

/// IA32_SPEC_CTRL as the kernel runs with it.
pub(crate) fn kernel_control(measures: Measures) -> u32 {
    let ibrs = measures.intersects(Measures::ENHANCED_IBRS | Measures::SWITCH_CONTROL);
    let histories = measures.contains(Measures::BHI_DIS_S);
    (if ibrs { IBRS } else { 0 }) | if histories { BHI_DIS_S } else { 0 }
}

fn start_cpu(measures: Measures) {
    let control = kernel_control(measures);
    // SAFETY: each MSR and bit is there where `decide` chose the measure, and restricts speculation only.
    unsafe {
        if control != 0 {
            registers::write_msr(SPEC_CTRL, control.into());
        }
        if measures.contains(Measures::AUTOMATIC_IBRS) {
            registers::set_efer(EFER_AUTOMATIC_IBRS);
        }
        if measures.contains(Measures::REDUCE) {
            registers::write_msr(BP_CFG, registers::read_msr(BP_CFG) | BP_SPEC_REDUCE);
        }
    }
}

/// A vCPU of the VM with this number is loaded. What another VM has taught the CPU of branches must not steer it.
pub(crate) fn meet(vm: u64, last: &AtomicU64, measures: Measures) {
    if measures.contains(Measures::SWITCH_IBPB) && last.swap(vm, Ordering::Relaxed) != vm {
        // SAFETY: the CPU has the MSR; it only forgets predictions.
        unsafe { registers::write_msr(PRED_CMD, IBPB) };
    }
}

/// Leaves nothing in the L1 data cache that a guest must not read by L1TF (Intel, "L1 Terminal Fault").
#[cold]
pub(crate) fn flush_l1d(measures: Measures) {
    if measures.contains(Measures::L1D_COMMAND) {
        // SAFETY: the CPU has the MSR; what is flushed is written back.
        unsafe { registers::write_msr(FLUSH_CMD, L1D_FLUSH) };
    } else if let Some(chosen) = CHOSEN.get().filter(|_| measures.contains(Measures::L1D_READ)) {
        // SAFETY: reads the block that was taken for this, eight lines a turn; the fence keeps the entry behind it.
        unsafe {
            asm!(
                "2:",
                ".set basalt_line, 0",
                ".rept 8",
                "mov {scratch:e}, [{at} + basalt_line]",
                ".set basalt_line, basalt_line + 64",
                ".endr",
                "add {at}, 512",
                "cmp {at}, {end}",
                "jne 2b",
                "lfence",
                at = inout(reg) chosen.reading => _,
                end = in(reg) chosen.reading + READ_BYTES,
                scratch = out(reg) _,
                options(nostack, readonly)
            );
        }
    }
}

/// What is done against what, and which attacks need nothing. In few words: an old screen has 25 short lines.
struct Described(Measures, Gaps);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Measures as M;
        const TEXTS: [(&str, &[(Measures, &str)]); 5] = [
            (
                "Spectre v2",
                &[
                    (M::SWITCH_IBPB, "IBPB"),
                    (M::SWITCH_CONTROL, "IBRS"),
                    (M::ENHANCED_IBRS, "enhanced IBRS"),
                    (M::AUTOMATIC_IBRS, "automatic IBRS"),
                    (M::FILL_RETURNS, "return stack"),
                    (M::ONE_RETURN, "a return"),
                ],
            ),
            ("BHI", &[(M::CLEAR_HISTORY, "loop"), (M::BHI_DIS_S, "BHI_DIS_S")]),
            ("SRSO", &[(M::EXIT_IBPB, "IBPB at exits, which is dear"), (M::REDUCE, "BP_SPEC_REDUCE")]),
            ("MDS", &[(M::VERW, "VERW")]),
            ("L1TF", &[(M::L1D_COMMAND, "L1D flush"), (M::L1D_READ, "L1D read")]),
        ];
        for (attack, measures) in TEXTS {
            let mut mark = ":";
            for (_, text) in measures.iter().filter(|(measure, _)| self.0.contains(*measure)) {
                let name = if mark == ":" { attack } else { "" };
                write!(f, "{name}{mark} {text}")?;
                mark = ",";
            }
            if mark == "," {
                f.write_str(". ")?;
            }
        }
        f.write_str("Immune:")?;
        for (attack, measures) in TEXTS {
            // Without a barrier it is not known that nothing were needed.
            let unknown = attack == "SRSO" && self.1.contains(Gaps::NO_BARRIER);
            if !unknown && !measures.iter().any(|(measure, _)| self.0.contains(*measure)) {
                write!(f, " {attack}")?;
            }
        }
        Ok(())
    }
}

/// What stays open, and the way out.
struct Open(Gaps);

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LACKS: [(Gaps, &str); 4] = [
            (Gaps::NO_BARRIER, " IBPB"),
            (Gaps::NO_CONTROL, " IBRS"),
            (Gaps::NO_CLEARING, " MD_CLEAR"),
            (Gaps::WEAK_BARRIER, " IBPB_BRTYPE"),
        ];
        if self.0 != Gaps::THREADS {
            f.write_str("no")?;
            for (_, text) in LACKS.iter().filter(|(gap, _)| self.0.contains(*gap)) {
                f.write_str(text)?;
            }
            f.write_str(": update firmware ")?;
        }
        if self.0.contains(Gaps::THREADS) {
            f.write_str("threads share buffers: hyper-threading off ")?;
        }
        f.write_str("or trust all VMs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_what_is_done_and_what_is_open() {
        let texts = |measures, gaps| std::format!("{} | {}", Described(measures, gaps), Open(gaps));
        assert_eq!(
            texts(Measures::FILL_RETURNS, Gaps::NO_BARRIER | Gaps::NO_CONTROL),
            "Spectre v2: return stack. Immune: BHI MDS L1TF | no IBPB IBRS: update firmware or trust all VMs"
        );
        let measures = Measures::SWITCH_IBPB | Measures::FILL_RETURNS | Measures::VERW | Measures::L1D_READ;
        assert_eq!(
            texts(measures, Gaps::THREADS),
            "Spectre v2: IBPB, return stack. MDS: VERW. L1TF: L1D read. Immune: BHI SRSO | \
             threads share buffers: hyper-threading off or trust all VMs"
        );
    }
}
