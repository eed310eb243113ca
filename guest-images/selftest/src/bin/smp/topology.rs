//! What CPUID says about processors, packages and caches (SDM vol. 2, "CPUID", leaves 1, 4 and 0BH; AMD APM vol. 3,
//! 8000_0008H; SDM vol. 3, "Detecting Hardware Multi-Threading Support and Topology").

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use selftest::apic::{self, register};
use selftest::cpu::{self, cpuid};
use selftest::platform::{self, Vendor, vendor};
use selftest::smp::{self, MAX_CPUS};
use selftest::{Test, TestResult, check, check_eq, need, tests};

pub(crate) const TESTS: &[Test] = tests![
    ids_are_those_of_the_madt,
    ids_fit_the_package,
    extended_topology_counts_processors,
    cache_sharing_fits,
    core_count_of_8000_0008,
    all_say_the_same,
];

static SEEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// What each processor says.
fn each(job: smp::Job) -> Result<[u64; MAX_CPUS], selftest::Verdict> {
    smp::start_all()?;
    smp::call_all(job)?;
    Ok(core::array::from_fn(|cpu| SEEN[cpu].load(SeqCst)))
}

fn say(value: u64) {
    SEEN[smp::current()].store(value, SeqCst);
}

fn has_extended_topology() -> bool {
    cpuid(0, 0).eax >= 0xb && cpuid(0xb, 0).ebx != 0
}

fn ids_are_those_of_the_madt() -> TestResult {
    let initial = each(|| say(u64::from(cpuid(1, 0).ebx >> 24)))?;
    let register = each(|| say(u64::from(apic::read(register::ID) >> 24)))?;
    let extended = each(|| say(u64::from(cpuid(0xb, 0).edx)))?;
    for cpu in 0..smp::count() {
        let id = u64::from(smp::id_of(cpu));
        check_eq!(initial[cpu], id & 0xff, "initial APIC id of processor {cpu} in leaf 1");
        check_eq!(register[cpu], id, "APIC id register of processor {cpu}");
        check!(
            !has_extended_topology() || extended[cpu] == id,
            "x2APIC id of processor {cpu} in leaf 0BH: {:#x}",
            extended[cpu]
        );
    }
    Ok(())
}

fn ids_fit_the_package() -> TestResult {
    const HTT: u32 = 1 << 28;
    let leaf = cpuid(1, 0);
    check!((leaf.edx & HTT != 0) == (smp::count() > 1), "the multi-threading flag is wrong");
    need!(smp::count() > 1, "one processor");
    let room = leaf.ebx >> 16 & 0xff;
    let highest = (0..smp::count()).map(smp::id_of).max().unwrap_or(0);
    check!(highest < room.next_power_of_two(), "ids up to {highest} in a package of {room}");
    Ok(())
}

fn extended_topology_counts_processors() -> TestResult {
    need!(has_extended_topology(), "no leaf 0BH");
    let (mut subleaf, mut shift, mut processors) = (0, 0, 0);
    while subleaf < 8 {
        let level = cpuid(0xb, subleaf);
        check_eq!(level.ecx & 0xff, subleaf, "level number");
        if level.ecx >> 8 & 0xff == 0 {
            break;
        }
        check!(
            level.eax & 0x1f >= shift,
            "level {subleaf} has a shift of {} after {shift}",
            level.eax & 0x1f
        );
        (shift, processors) = (level.eax & 0x1f, level.ebx & 0xffff);
        subleaf += 1;
    }
    check!(subleaf >= 2, "only {subleaf} levels");
    check_eq!(processors as usize, smp::count(), "processors in the package");
    let package = |cpu| smp::id_of(cpu) >> shift;
    check!((0..smp::count()).all(|cpu| package(cpu) == package(0)), "ids beyond a shift of {shift}");
    Ok(())
}

fn cache_sharing_fits() -> TestResult {
    need!(vendor() == Vendor::Intel && cpuid(0, 0).eax >= 4, "no leaf 4");
    for subleaf in 0..8 {
        let cache = cpuid(4, subleaf).eax;
        if cache & 0x1f == 0 {
            check!(subleaf > 0, "no cache at all");
            break;
        }
        let (sharing, cores) = ((cache >> 14 & 0xfff) + 1, (cache >> 26) + 1);
        check!(cores as usize >= smp::count(), "cache {subleaf}: only {cores} cores");
        check!(sharing <= cores, "cache {subleaf}: shared by {sharing} of {cores}");
    }
    Ok(())
}

fn core_count_of_8000_0008() -> TestResult {
    need!(vendor() == Vendor::Amd && platform::hypervisor(), "Intel's leaf has no such field");
    let leaf = cpuid(0x8000_0008, 0).ecx;
    check_eq!((leaf & 0xff) as usize + 1, smp::count(), "processors");
    check!(1 << (leaf >> 12 & 0xf) >= smp::count(), "id size {}", leaf >> 12 & 0xf);
    Ok(())
}

/// A hash of all leaves but what names the processor.
fn digest() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |value: u32| hash = (hash ^ u64::from(value)).wrapping_mul(0x100_0000_01b3);
    for first in [0, 0x8000_0000, platform::HYPERVISOR_LEAF] {
        let last = cpuid(first, 0).eax.clamp(first, first + 0x20);
        for leaf in first..=last {
            let mut result = cpuid(leaf, 0);
            match leaf {
                1 => result.ebx &= 0x00ff_ffff,
                0xb | 0x1f => result.edx = 0,
                0x8000_001e => result = cpu::CpuidResult::default(),
                _ => {}
            }
            [result.eax, result.ebx, result.ecx, result.edx].into_iter().for_each(&mut add);
        }
    }
    hash
}

fn all_say_the_same() -> TestResult {
    let digests = each(|| say(digest()))?;
    for cpu in 1..smp::count() {
        check_eq!(digests[cpu], digests[0], "hash of CPUID on processor {cpu}");
    }
    Ok(())
}
