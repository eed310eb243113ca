//! What CPUID tells a guest: the baseline `basalt-1`, about x86-64-v3 with AES, less what the host cannot offer, plus
//! what the hypervisor itself makes (x2APIC, TSC deadline, TSC_ADJUST, MCA and MTRRs). Deny by default: a leaf or a bit
//! that is not named here is zero.
//!
//! The table is computed when a VM is made, so that the exit is a look-up. Three leaves follow the guest's own
//! registers: 1 and 7 tell CR4.OSXSAVE and CR4.PKE, 0DH the size of the state that XCR0 enables; the table is changed when
//! those registers are.
//!
//! Sources: Intel SDM vol. 2, "CPUID—CPU Identification"; AMD APM vol. 3, "Obtaining Processor Information Via the CPUID
//! Instruction"; the Linux kernel's documentation of KVM's CPUID bits for leaf 4000_0000H.

mod baseline;
mod state;
#[cfg(test)]
mod tests;
mod topology;

use arrayvec::ArrayVec;
use vcpu::{CpuidResult, cr4, efer};

use crate::paravirtual::Features;

use baseline as bits;
pub use state::StateLayout;

/// Leaves of the basic range, 0 to 16H.
const BASIC: usize = 0x17;
/// Leaves of the hypervisor's range, 4000_0000H to 4000_0010H.
const HYPERVISOR: usize = 0x11;
/// Leaves of the extended range, 8000_0000H to 8000_0008H.
const EXTENDED: usize = 9;
/// Subleaves but the first ones: caches, topology, state components.
const SUBLEAVES: usize = 24;
/// Leaves of the basic range that look at ECX.
const WITH_SUBLEAVES: u32 = 1 << 4 | 1 << 7 | 1 << 0xb | 1 << 0xd;

/// Last basic leaf for an Intel and for another vendor's CPU.
const LAST_INTEL: u32 = 0x16;
const LAST_OTHER: u32 = 0xd;
const LAST_EXTENDED: u32 = 0x8000_0008;
/// Last subleaf of leaf 7, where its features are there.
const LAST_SUBLEAF_7: u32 = 2;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// The leaf of frequencies in the hypervisor's range, as VMware introduced it and KVM's tools offer it.
const HYPERVISOR_FREQUENCIES: u32 = 0x10;
const INTEL_EBX: u32 = u32::from_le_bytes(*b"Genu");
/// Caches that leaf 4 describes at most.
const CACHES: u32 = 8;

/// What the table needs to know beside the host's CPUID.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Ticks of the guest's TSC in a second.
    pub tsc_hz: u64,
    /// That rate never changes and the counter never stops. Where it does, guests are told nothing of it, and find other
    /// timers.
    pub tsc_is_steady: bool,
    /// Ticks of the local APIC's timer in a second, before its divider.
    pub apic_timer_hz: u64,
    /// x2APIC id of this vCPU.
    pub apic_id: u32,
    /// How many vCPUs the machine has; their ids count from 0.
    pub vcpus: u32,
    /// The paravirtual features that it is offered.
    pub paravirtual: Features,
}

/// What a guest may switch on, as its CPUID says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// CR4 bits.
    pub cr4: u64,
    /// IA32_EFER bits but LMA.
    pub efer: u64,
    /// XCR0 bits; 0 without XSAVE.
    pub xcr0: u64,
    /// Width of a guest-physical address in bits.
    pub physical_bits: u8,
    /// Width of the widest linear address in bits: 48, or 57 where CR4.LA57 can be set. Registers that hold a linear
    /// address take one of this width whatever CR4.LA57 is now.
    pub linear_bits: u8,
    /// RDTSCP or RDPID, so that IA32_TSC_AUX exists.
    pub tsc_aux: bool,
    /// The vendor is Intel; decides which vendor's MSRs exist.
    pub intel: bool,
}

#[derive(Clone, Copy, Debug)]
struct Subleaf {
    leaf: u32,
    subleaf: u32,
    result: CpuidResult,
}

/// The table of one vCPU.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    basic: [CpuidResult; BASIC],
    hypervisor: [CpuidResult; HYPERVISOR],
    extended: [CpuidResult; EXTENDED],
    subleaves: ArrayVec<Subleaf, SUBLEAVES>,
    layout: StateLayout,
}

impl CpuidTable {
    /// The baseline on a CPU whose CPUID, less what its backend cannot let guests use, is `host`.
    pub fn new(host: impl Fn(u32, u32) -> CpuidResult, machine: &Machine) -> Self {
        let layout = StateLayout::detect(&host);
        let mut table = Self {
            basic: [CpuidResult::default(); BASIC],
            hypervisor: [CpuidResult::default(); HYPERVISOR],
            extended: [CpuidResult::default(); EXTENDED],
            subleaves: ArrayVec::new(),
            layout,
        };
        table.fill_features(&host, machine);
        table.fill_caches(&host, machine);
        table.fill_frequencies(machine);
        table.fill_extended(&host, machine);
        table.fill_topology(machine);
        table.fill_hypervisor(machine);
        table.set_xcr0(state::X87);
        table
    }

    /// What CPUID answers.
    #[inline(always)]
    pub fn get(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let index = (leaf & 0x0fff_ffff) as usize;
        let range: &[CpuidResult] = match leaf >> 28 {
            0 => &self.basic,
            4 => &self.hypervisor,
            8 => &self.extended,
            _ => &[],
        };
        if subleaf != 0 && leaf < BASIC as u32 && WITH_SUBLEAVES >> leaf & 1 != 0 {
            return self.subleaf(leaf, subleaf);
        }
        range.get(index).copied().unwrap_or_default()
    }

    fn subleaf(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let found = self.subleaves.iter().find(|entry| entry.leaf == leaf && entry.subleaf == subleaf);
        found.map(|entry| entry.result).unwrap_or_default()
    }

    /// The guest's CR4 is now this: leaf 1 and leaf 7 follow.
    pub fn set_cr4(&mut self, value: u64) {
        let follow = |ecx: &mut u32, bit: u32, on: bool| *ecx = if on { *ecx | bit } else { *ecx & !bit };
        follow(&mut self.basic[1].ecx, bits::ECX1_OSXSAVE, value & cr4::OSXSAVE != 0);
        follow(&mut self.basic[7].ecx, bits::ECX7_OSPKE, value & cr4::PKE != 0);
    }

    /// The guest's local APIC is switched on or off: leaf 1, and AMD's copy of it, follow.
    pub fn set_apic(&mut self, enabled: bool) {
        let others = if self.is_intel() { 0 } else { bits::EDX1_APIC };
        for (edx, bit) in [(&mut self.basic[1].edx, bits::EDX1_APIC), (&mut self.extended[1].edx, others)] {
            *edx = if enabled { *edx | bit } else { *edx & !bit };
        }
    }

    /// The guest's XCR0 is now this: leaf 0DH follows.
    pub fn set_xcr0(&mut self, value: u64) {
        if self.layout.components() == 0 {
            return;
        }
        self.basic[0xd].ebx = self.layout.size(value);
        for entry in &mut self.subleaves {
            if entry.leaf == 0xd && entry.subleaf == 1 {
                entry.result.ebx = self.layout.compacted_size(value);
            }
        }
    }

    /// What the guest may switch on.
    pub fn permissions(&self) -> Permissions {
        let [leaf1, leaf7] = [self.basic[1], self.basic[7]];
        let [ext1, ext8] = [self.extended[1], self.extended[8]];
        let mut allowed_cr4 =
            cr4::TSD | cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::MCE;
        for (present, bit) in [
            (leaf1.edx & bits::EDX1_VME, cr4::VME | cr4::PVI),
            (leaf1.edx & bits::EDX1_DE, cr4::DE),
            (leaf1.ecx & bits::ECX1_PCID, cr4::PCIDE),
            (leaf1.ecx & bits::ECX1_XSAVE, cr4::OSXSAVE),
            (leaf7.ebx & bits::EBX7_FSGSBASE, cr4::FSGSBASE),
            (leaf7.ebx & bits::EBX7_SMEP, cr4::SMEP),
            (leaf7.ebx & bits::EBX7_SMAP, cr4::SMAP),
            (leaf7.ecx & bits::ECX7_UMIP, cr4::UMIP),
            (leaf7.ecx & bits::ECX7_PKU, cr4::PKE),
            (leaf7.ecx & bits::ECX7_LA57, cr4::LA57),
        ] {
            if present != 0 {
                allowed_cr4 |= bit;
            }
        }
        let mut allowed_efer = 0;
        for (present, bit) in [
            (ext1.edx & bits::EDX81_SYSCALL, efer::SCE),
            (ext1.edx & bits::EDX81_LM, efer::LME),
            (ext1.edx & bits::EDX81_NX, efer::NXE),
        ] {
            if present != 0 {
                allowed_efer |= bit;
            }
        }
        Permissions {
            cr4: allowed_cr4,
            efer: allowed_efer,
            xcr0: self.layout.components(),
            physical_bits: ext8.eax as u8,
            linear_bits: (ext8.eax >> bits::EAX88_LINEAR_SHIFT) as u8,
            tsc_aux: ext1.edx & bits::EDX81_RDTSCP != 0 || leaf7.ecx & bits::ECX7_RDPID != 0,
            intel: self.is_intel(),
        }
    }

    fn is_intel(&self) -> bool {
        self.basic[0].ebx == INTEL_EBX
    }

    fn add_subleaf(&mut self, leaf: u32, subleaf: u32, result: CpuidResult) {
        // A table that is full tells the guest of fewer caches or components, which is always allowed.
        let _ = self.subleaves.try_push(Subleaf { leaf, subleaf, result });
    }

    fn fill_features(&mut self, host: &impl Fn(u32, u32) -> CpuidResult, machine: &Machine) {
        let leaf0 = host(0, 0);
        let last = if leaf0.ebx == INTEL_EBX { LAST_INTEL } else { LAST_OTHER };
        self.basic[0] = CpuidResult { eax: last, ..leaf0 };

        let (leaf1, leaf7) = (host(1, 0), host(7, 0));
        let if_steady = |bit| if machine.tsc_is_steady { bit } else { 0 };
        let without = self.layout.hidden_features();
        self.basic[1] = CpuidResult {
            eax: leaf1.eax & bits::EAX1_SIGNATURE,
            // The CLFLUSH size is the host's.
            ebx: topology::leaf1_ebx(machine) | leaf1.ebx & 0xff00,
            ecx: leaf1.ecx & bits::ECX1 & !without.ecx1
                | bits::ECX1_EMULATED
                | if_steady(bits::ECX1_TSC_DEADLINE),
            edx: leaf1.edx & bits::EDX1 | bits::EDX1_EMULATED,
        };
        self.basic[6] = CpuidResult { eax: bits::EAX6_ARAT, ..CpuidResult::default() };
        let speculation =
            if leaf7.eax >= LAST_SUBLEAF_7 { host(7, LAST_SUBLEAF_7).edx & bits::EDX72 } else { 0 };
        if speculation != 0 {
            self.add_subleaf(7, LAST_SUBLEAF_7, CpuidResult { edx: speculation, ..CpuidResult::default() });
        }
        self.basic[7] = CpuidResult {
            eax: if speculation != 0 { LAST_SUBLEAF_7 } else { 0 },
            ebx: leaf7.ebx & bits::EBX7 & !without.ebx7 | bits::EBX7_EMULATED,
            ecx: leaf7.ecx & bits::ECX7 & !without.ecx7,
            edx: leaf7.edx & bits::EDX7 & !without.edx7,
        };
        let (main, one) = self.layout.leaves(host(0xd, 1).eax & bits::EAXD1);
        self.basic[0xd] = main;
        self.add_subleaf(0xd, 1, one);
        for component in 2..state::COMPONENTS {
            if let Some(result) = self.layout.leaf(component) {
                self.add_subleaf(0xd, component, result);
            }
        }
    }

    fn fill_caches(&mut self, host: &impl Fn(u32, u32) -> CpuidResult, machine: &Machine) {
        if !self.is_intel() {
            return;
        }
        self.basic[2] = host(2, 0);
        for index in 0..CACHES {
            let mut cache = host(4, index);
            if cache.eax & bits::EAX4_TYPE == 0 {
                break;
            }
            cache.eax = topology::shared_cache(cache.eax, machine);
            if index == 0 {
                self.basic[4] = cache;
            } else {
                self.add_subleaf(4, index, cache);
            }
        }
    }

    /// Leaves 15H and 16H: the TSC by the crystal that also drives the APIC timer.
    fn fill_frequencies(&mut self, machine: &Machine) {
        const KHZ: u64 = 1000;
        const MHZ: u64 = 1_000_000;
        if !self.is_intel() || !machine.tsc_is_steady || machine.apic_timer_hz < KHZ || machine.tsc_hz < MHZ {
            return;
        }
        let (numerator, denominator) = ratio(machine.tsc_hz / KHZ, machine.apic_timer_hz / KHZ);
        self.basic[0x15] =
            CpuidResult { eax: denominator, ebx: numerator, ecx: machine.apic_timer_hz as u32, edx: 0 };
        let mhz = (machine.tsc_hz / MHZ) as u32 & 0xffff;
        self.basic[0x16] = CpuidResult { eax: mhz, ebx: mhz, ecx: bits::BUS_MHZ, edx: 0 };
    }

    fn fill_extended(&mut self, host: &impl Fn(u32, u32) -> CpuidResult, machine: &Machine) {
        let leaf = |number: u32| host(0x8000_0000 | number, 0);
        self.extended[0] = CpuidResult { eax: LAST_EXTENDED, ..leaf(0) };
        let leaf1 = leaf(1);
        let mut edx = leaf1.edx & bits::EDX81;
        if !self.is_intel() {
            edx |= leaf1.edx & bits::EDX81_COPIES | self.basic[1].edx & bits::EDX81_EMULATED_COPIES;
        }
        self.extended[1] = CpuidResult { eax: leaf1.eax, ebx: 0, ecx: leaf1.ecx & bits::ECX81, edx };
        for number in 2..=6 {
            self.extended[number as usize] = leaf(number);
        }
        if machine.tsc_is_steady {
            self.extended[7] = CpuidResult { edx: bits::EDX87_INVARIANT_TSC, ..CpuidResult::default() };
        }
        let leaf8 = leaf(8);
        let physical = match leaf8.eax & bits::EAX88_PHYSICAL {
            0 => bits::PHYSICAL_BITS_DEFAULT,
            width => width,
        };
        let five_levels = self.basic[7].ecx & bits::ECX7_LA57 != 0;
        let linear = if five_levels { bits::LINEAR_BITS_LA57 } else { bits::LINEAR_BITS };
        self.extended[8] = CpuidResult {
            eax: linear << bits::EAX88_LINEAR_SHIFT | physical,
            ebx: leaf8.ebx & bits::EBX88,
            ecx: if self.is_intel() { 0 } else { topology::core_count(machine) },
            edx: 0,
        };
    }

    /// KVM's signature: Linux then trusts that x2APIC works without interrupt remapping. Its features: no I/O delays needed, and
    /// those that the VM is offered. And the frequencies of TSC and APIC timer.
    fn fill_hypervisor(&mut self, machine: &Machine) {
        const HZ_IN_KHZ: u64 = 1000;
        let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        self.hypervisor[0] = CpuidResult {
            eax: HYPERVISOR_BASE + HYPERVISOR_FREQUENCIES,
            ebx: word(b"KVMK"),
            ecx: word(b"VMKV"),
            edx: word(b"M\0\0\0"),
        };
        let mut eax = bits::KVM_NO_IO_DELAY;
        for (feature, bits) in bits::KVM_FEATURES {
            if machine.paravirtual.contains(feature) {
                eax |= bits;
            }
        }
        self.hypervisor[1] = CpuidResult { eax, ..CpuidResult::default() };
        if machine.tsc_is_steady {
            self.hypervisor[HYPERVISOR_FREQUENCIES as usize] = CpuidResult {
                eax: (machine.tsc_hz / HZ_IN_KHZ) as u32,
                ebx: (machine.apic_timer_hz / HZ_IN_KHZ) as u32,
                ..CpuidResult::default()
            };
        }
    }
}

/// `tsc / crystal` (kHz both) as a fraction whose numerator times the crystal fits in 32 bits, since that is how Linux
/// computes: exact where such a fraction is, else off by parts in a million, at worst by 125. (Linux looks here only where it
/// does without the paravirtual clock.)
fn ratio(tsc_khz: u64, crystal_khz: u64) -> (u32, u32) {
    let most = u64::from(u32::MAX) / crystal_khz;
    // Convergents n1/d1 of the continued fraction, and at the end the last semiconvergent that fits.
    let (mut a, mut b) = (tsc_khz, crystal_khz);
    let (mut n0, mut d0, mut n1, mut d1) = (0u64, 1u64, 1u64, 0u64);
    while b != 0 {
        let room = most.saturating_sub(n0).checked_div(n1).unwrap_or(u64::MAX);
        let quotient = (a / b).min(room);
        let (n2, d2) = (quotient.saturating_mul(n1) + n0, quotient.saturating_mul(d1) + d0);
        if quotient < a / b {
            return closer((n1, d1), (n2, d2), (tsc_khz, crystal_khz));
        }
        (n0, d0, n1, d1) = (n1, d1, n2, d2);
        (a, b) = (b, a % b);
    }
    (n1 as u32, d1 as u32)
}

/// Which of two fractions is closer to the third.
fn closer(first: (u64, u64), second: (u64, u64), exact: (u64, u64)) -> (u32, u32) {
    // n/d - e/f = (n*f - e*d) / (d*f): compare |n*f - e*d| / d.
    let error = |(n, d): (u64, u64)| (n * exact.1).abs_diff(exact.0 * d);
    let take_second = first.1 == 0 || second.1 != 0 && error(second) * first.1 < error(first) * second.1;
    let (n, d) = if take_second { second } else { first };
    (n as u32, d as u32)
}
