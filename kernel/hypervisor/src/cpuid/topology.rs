//! Where a vCPU is in its machine: one package, a core for each vCPU, one thread in each; APIC ids count from 0.
//!
//! Sources: Intel SDM vol. 2, "CPUID" (leaves 1, 4 and 0BH); AMD APM vol. 3, "Legacy Method" of "Multiple Core Number"
//! (8000_0008H).

use vcpu::CpuidResult;

use super::{CpuidTable, Machine, bits};

/// Leaf 4 EAX: ids that share the cache, less one.
const SHARING: u32 = 14;
/// Leaf 4 EAX: ids of cores in the package, less one; six bits.
const CORES: u32 = 26;
const MOST_CORES: u32 = 64;
/// From this level on a cache belongs to the package.
const SHARED_LEVEL: u32 = 3;
/// 8000_0008H ECX: how many low bits of the APIC id name the core.
const CORE_ID_BITS: u32 = 12;

/// How many APIC ids the package has room for: a power of two.
const fn id_room(vcpus: u32) -> u32 {
    match vcpus {
        0 => 1,
        count => count.next_power_of_two(),
    }
}

/// Leaf 1 EBX: the initial APIC id, and how many ids the package has room for.
pub(super) const fn leaf1_ebx(machine: &Machine) -> u32 {
    let room = id_room(machine.vcpus);
    machine.apic_id << 24 | (if room > 255 { 255 } else { room }) << 16
}

/// Leaf 4 EAX of a cache.
pub(super) const fn shared_cache(cache: u32, machine: &Machine) -> u32 {
    let last = id_room(machine.vcpus) - 1;
    let level = (cache & bits::EAX4_CACHE) >> 5 & 7;
    let sharing = if level >= SHARED_LEVEL { last } else { 0 };
    let cores = if last < MOST_CORES { last } else { MOST_CORES - 1 };
    cache & bits::EAX4_CACHE | sharing << SHARING | cores << CORES
}

/// 8000_0008H ECX: how many cores, and how wide their ids are.
pub(super) const fn core_count(machine: &Machine) -> u32 {
    let vcpus = if machine.vcpus == 0 { 1 } else { machine.vcpus };
    id_room(vcpus).ilog2() << CORE_ID_BITS | (vcpus - 1)
}

impl CpuidTable {
    /// Leaf 0BH, and the bits that say that there are others.
    pub(super) fn fill_topology(&mut self, machine: &Machine) {
        const LEVEL_SMT: u32 = 1;
        const LEVEL_CORE: u32 = 2;
        let level = |number, kind: u32, shift, threads| CpuidResult {
            eax: shift,
            ebx: threads,
            ecx: kind << 8 | number,
            edx: machine.apic_id,
        };
        self.basic[0xb] = level(0, LEVEL_SMT, 0, 1);
        self.add_subleaf(0xb, 1, level(1, LEVEL_CORE, id_room(machine.vcpus).ilog2(), machine.vcpus.max(1)));
        self.add_subleaf(0xb, 2, level(2, 0, 0, 0));
        if machine.vcpus > 1 {
            self.basic[1].edx |= bits::EDX1_HTT;
            if !self.is_intel() {
                self.extended[1].ecx |= bits::ECX81_CMP_LEGACY;
            }
        }
    }
}
