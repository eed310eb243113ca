//! Names: CPUs and sets of them, VMs, vCPUs.

use trace::Subject;

/// The most CPUs that a [`CpuSet`] can name.
pub const MAX_CPUS: usize = 64;
/// The most vCPUs of a VM.
pub const MAX_VCPUS: usize = 64;

/// A physical CPU, counted from 0 in the order of bring-up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cpu(pub u8);

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuSet(u64);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self(0);
    /// Every CPU there can be: not pinned.
    pub const ALL: Self = Self(u64::MAX);

    /// The set whose bit n is CPU n.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit n is CPU n.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The first `count` CPUs.
    pub const fn first(count: usize) -> Self {
        if count >= MAX_CPUS { Self::ALL } else { Self((1 << count) - 1) }
    }

    /// One CPU.
    pub const fn of(cpu: Cpu) -> Self {
        if (cpu.0 as usize) < MAX_CPUS { Self(1 << cpu.0) } else { Self::EMPTY }
    }

    /// Whether the CPU is in it.
    #[inline]
    pub const fn contains(self, cpu: Cpu) -> bool {
        self.0 & Self::of(cpu).0 != 0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The first one at or behind `cpu`, going round.
    pub fn next_from(self, cpu: Cpu) -> Option<Cpu> {
        let turned = self.0.rotate_right(u32::from(cpu.0));
        (turned != 0).then(|| Cpu(((u32::from(cpu.0) + turned.trailing_zeros()) % u64::BITS) as u8))
    }

    /// Each of them, lowest first.
    pub fn iter(self) -> impl Iterator<Item = Cpu> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let cpu = (rest != 0).then(|| Cpu(rest.trailing_zeros() as u8))?;
            rest &= rest - 1;
            Some(cpu)
        })
    }
}

/// A VM known to the scheduler. The generation tells it from an earlier one in the same place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VmId {
    pub(super) index: u16,
    pub(super) generation: u32,
}

impl VmId {
    /// Its place among the VMs, from 0.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// What tells it from others that are or were in its place.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The VM in events.
    #[inline]
    pub const fn subject(self) -> Subject {
        Subject::vm(self.traced())
    }

    /// What is left in an event of the number that the VM has on the management channel.
    const fn traced(self) -> u32 {
        self.generation << 16 | self.index as u32
    }
}

/// A vCPU of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VcpuId {
    /// Its VM.
    pub vm: VmId,
    /// Its number in the VM, from 0.
    pub index: u8,
}

impl VcpuId {
    /// The vCPU in events.
    #[inline]
    pub const fn subject(self) -> Subject {
        Subject::vcpu(self.vm.traced(), self.index)
    }
}

/// A CPU pool: CPUs that a VM's vCPUs may use. A CPU is in one pool. All start in pool 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pool(pub u8);
