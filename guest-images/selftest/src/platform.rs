//! What lies below: vendor, hypervisor, emulator.

use crate::{Global, boot, cpu};

/// The processor's maker, as far as instructions differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// VMX, VMCALL.
    Intel,
    /// SVM, VMMCALL (AMD and Hygon).
    Amd,
}

/// Leaf 0: which vendor's rules hold.
pub fn vendor() -> Vendor {
    if &vendor_text() == b"GenuineIntel" { Vendor::Intel } else { Vendor::Amd }
}

/// Leaf 0: the vendor's twelve letters.
pub fn vendor_text() -> [u8; 12] {
    let leaf = cpu::cpuid(0, 0);
    text([leaf.ebx, leaf.edx, leaf.ecx])
}

fn text(words: [u32; 3]) -> [u8; 12] {
    let mut text = [0; 12];
    for (bytes, word) in text.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    text
}

/// First CPUID leaf of a hypervisor.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// The signature of the hypervisor or emulator that shows itself; `None` without the hypervisor bit.
pub fn signature() -> Option<[u8; 12]> {
    if cpu::cpuid(1, 0).ecx & 1 << 31 == 0 {
        return None;
    }
    let leaf = cpu::cpuid(HYPERVISOR_LEAF, 0);
    Some(text([leaf.ebx, leaf.ecx, leaf.edx]))
}

/// True under a hypervisor that offers the KVM leaves: Basalt.
pub fn hypervisor() -> bool {
    signature().is_some_and(|signature| &signature == b"KVMKVMKVM\0\0\0")
}

/// True bare on QEMU's TCG.
pub fn bare_tcg() -> bool {
    signature().is_some_and(|signature| &signature == b"TCGTCGTCGTCG")
}

/// True where no hypervisor shows itself: real hardware, or Bochs, whose local APIC deviates from the manual in places.
pub fn bare() -> bool {
    signature().is_none()
}

/// True where TCG executes the instructions that do not exit: bare, or below the hypervisor by `emulator=tcg`.
pub fn tcg() -> bool {
    bare_tcg() || boot::option("emulator") == Some("tcg")
}

/// True where Bochs executes the instructions that do not exit: bare (or real hardware, which shows itself no better), or
/// below the hypervisor by `emulator=bochs`.
pub fn bochs() -> bool {
    bare() || boot::option("emulator") == Some("bochs")
}

/// True where the hypervisor runs on Bochs' SVM.
pub fn bochs_svm() -> bool {
    hypervisor() && vendor() == Vendor::Amd && bochs()
}

/// True where the processor below delivers an interrupt although RFLAGS.IF is clear, by `masked=delivered`: Bochs 2.7 does where an Intel CPU
/// delivers virtual interrupts itself and one of the host's comes just then.
pub fn delivers_masked() -> bool {
    vendor() == Vendor::Intel && boot::option("masked") == Some("delivered")
}

/// How late a timer may be. TCG shares its processor with others, and its clocks run on meanwhile.
pub fn lateness_us() -> u64 {
    if tcg() { 2_000_000 } else { 50_000 }
}

/// How many of `periods` ticks must come at least: lost ones coalesce where somebody else had the processor.
pub fn least_ticks(periods: u64) -> u64 {
    if tcg() { 1 } else { periods / 3 }
}

/// A feature bit of CPUID.
#[derive(Clone, Copy)]
pub struct Feature {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf.
    pub subleaf: u32,
    /// Register: 0 EAX to 3 EDX.
    pub register: u8,
    /// Bit.
    pub bit: u8,
}

/// A feature bit by leaf (subleaf 0), register and bit.
pub const fn feature(leaf: u32, register: u8, bit: u8) -> Feature {
    Feature { leaf, subleaf: 0, register, bit }
}

/// Features by their manual names.
#[expect(missing_docs, reason = "the manuals' names")]
pub mod features {
    use super::{Feature, feature};
    pub const MONITOR: Feature = feature(1, 2, 3);
    pub const VMX: Feature = feature(1, 2, 5);
    pub const SMX: Feature = feature(1, 2, 6);
    pub const PCID: Feature = feature(1, 2, 17);
    pub const XSAVE: Feature = feature(1, 2, 26);
    pub const OSXSAVE: Feature = feature(1, 2, 27);
    pub const AVX: Feature = feature(1, 2, 28);
    pub const RDRAND: Feature = feature(1, 2, 30);
    pub const PSE: Feature = feature(1, 3, 3);
    pub const MCA: Feature = feature(1, 3, 14);
    pub const MTRR: Feature = feature(1, 3, 12);
    pub const PAT: Feature = feature(1, 3, 16);
    pub const SSE2: Feature = feature(1, 3, 26);
    pub const FSGSBASE: Feature = feature(7, 1, 0);
    pub const TSC_ADJUST: Feature = feature(7, 1, 1);
    pub const SMEP: Feature = feature(7, 1, 7);
    pub const INVPCID: Feature = feature(7, 1, 10);
    pub const RDSEED: Feature = feature(7, 1, 18);
    pub const SMAP: Feature = feature(7, 1, 20);
    pub const UMIP: Feature = feature(7, 2, 2);
    pub const LA57: Feature = feature(7, 2, 16);
    pub const RDPID: Feature = feature(7, 2, 22);
    pub const SVM: Feature = feature(0x8000_0001, 2, 2);
    pub const RDTSCP: Feature = feature(0x8000_0001, 3, 27);
    pub const PAGE_1G: Feature = feature(0x8000_0001, 3, 26);
    pub const XSAVEOPT: Feature = Feature { leaf: 0xd, subleaf: 1, register: 0, bit: 0 };
    pub const XSAVES: Feature = Feature { leaf: 0xd, subleaf: 1, register: 0, bit: 3 };
}

/// True when CPUID offers the feature and its leaf exists.
pub fn has(feature: Feature) -> bool {
    if cpu::cpuid(feature.leaf & 0x8000_0000, 0).eax < feature.leaf {
        return false;
    }
    let leaf = cpu::cpuid(feature.leaf, feature.subleaf);
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][usize::from(feature.register)] & 1 << feature.bit != 0
}

static SEED: Global<u64> = Global::new(0x9e37_79b9_7f4a_7c15);

/// A repeatable pseudo-random number (xorshift).
pub fn random() -> u64 {
    let mut x = SEED.get();
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    SEED.set(x);
    x
}
