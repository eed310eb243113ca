//! What KVM documents for guests: CPUID leaves, MSRs, shared areas, hypercalls (Linux documentation, "KVM-specific MSRs", "KVM
//! CPUID bits" and "Linux KVM Hypercall").

use crate::cpu::{self, rdtsc};
use crate::platform::{self, HYPERVISOR_LEAF, Vendor};
use crate::probe;

/// MSR numbers, as KVM names them.
#[expect(missing_docs, reason = "KVM's names")]
pub mod msr {
    pub const WALL_CLOCK: u32 = 0x4b56_4d00;
    pub const SYSTEM_TIME: u32 = 0x4b56_4d01;
    pub const STEAL_TIME: u32 = 0x4b56_4d03;
    pub const EOI_EN: u32 = 0x4b56_4d04;
    pub const POLL_CONTROL: u32 = 0x4b56_4d05;
}

/// Bits of leaf 4000_0001H EAX.
#[expect(missing_docs, reason = "KVM's names")]
pub mod feature {
    pub const CLOCKSOURCE2: u32 = 3;
    pub const STEAL_TIME: u32 = 5;
    pub const PV_EOI: u32 = 6;
    pub const PV_UNHALT: u32 = 7;
    pub const PV_TLB_FLUSH: u32 = 9;
    pub const PV_SEND_IPI: u32 = 11;
    pub const POLL_CONTROL: u32 = 12;
    pub const PV_SCHED_YIELD: u32 = 13;
    pub const CLOCKSOURCE_STABLE: u32 = 24;
}

/// Hypercall numbers.
#[expect(missing_docs, reason = "KVM's names")]
pub mod call {
    pub const KICK_CPU: u64 = 5;
    pub const SEND_IPI: u64 = 10;
    pub const SCHED_YIELD: u64 = 11;
}

/// Bit 0 of the registers that name an area.
pub const ENABLE: u64 = 1;
/// The state byte of the steal area: the vCPU does not run; its translations are stale.
pub const PREEMPTED: u8 = 1 << 0;
/// See [`PREEMPTED`].
pub const FLUSH_TLB: u8 = 1 << 1;

/// Whether a feature is offered.
pub fn has(feature: u32) -> bool {
    platform::hypervisor() && cpu::cpuid(HYPERVISOR_LEAF + 1, 0).eax >> feature & 1 != 0
}

/// Executes a hypercall with up to four arguments.
pub fn hypercall(number: u64, arguments: [u64; 4]) -> i64 {
    let [first, second, third, fourth] = arguments;
    let result: u64;
    // RBX is the compiler's own.
    if platform::vendor() == Vendor::Intel {
        probe!("xchg {first}, rbx", "vmcall", "xchg {first}, rbx", first = inout(reg) first => _,
            inout("rax") number => result, in("rcx") second, in("rdx") third, in("rsi") fourth);
    } else {
        probe!("xchg {first}, rbx", "vmmcall", "xchg {first}, rbx", first = inout(reg) first => _,
            inout("rax") number => result, in("rcx") second, in("rdx") third, in("rsi") fourth);
    }
    result.cast_signed()
}

/// Room for the clock page of one processor.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ClockArea(#[allow(dead_code, reason = "reached by its address")] [u8; 32]);

impl ClockArea {
    /// One that nobody has written.
    pub const EMPTY: Self = Self([0; 32]);
}

/// What a clock page said.
#[derive(Clone, Copy, Debug)]
pub struct ClockPage {
    /// Even.
    pub version: u32,
    tsc_timestamp: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    /// [`TSC_STABLE`] and others.
    pub flags: u8,
}

/// The page's flag: the TSC is the same on all processors.
pub const TSC_STABLE: u8 = 1;

impl ClockPage {
    /// Registers the area at this address for this processor.
    pub fn register(area: u64) {
        cpu::wrmsr(msr::SYSTEM_TIME, area | ENABLE);
    }

    /// What the area says that nobody was writing meanwhile.
    pub fn read(area: u64) -> Self {
        loop {
            let page = Self {
                version: cpu::read32(area),
                tsc_timestamp: cpu::read64(area + 8),
                system_time: cpu::read64(area + 16),
                multiplier: cpu::read32(area + 24),
                shift: cpu::read8(area + 28) as i8,
                flags: cpu::read8(area + 29),
            };
            if page.version.is_multiple_of(2) && cpu::read32(area) == page.version {
                return page;
            }
        }
    }

    /// Nanoseconds at a TSC value.
    pub const fn nanos_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp);
        let ticks = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        self.system_time + ((ticks as u128 * self.multiplier as u128) >> 32) as u64
    }

    /// The time now.
    pub fn now(area: u64) -> u64 {
        let page = Self::read(area);
        // LFENCE: the counter is read behind the page.
        probe!("lfence", options(nostack));
        page.nanos_at(rdtsc())
    }
}

/// The steal area of one processor.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct StealArea(#[allow(dead_code, reason = "reached by its address")] [u8; 64]);

impl StealArea {
    /// Places of the version and of the state byte.
    const VERSION: u64 = 8;
    const STATE: u64 = 16;
    /// One that nobody has written.
    pub const EMPTY: Self = Self([0; 64]);

    /// Registers the area at this address for this processor.
    pub fn register(area: u64) {
        cpu::wrmsr(msr::STEAL_TIME, area | ENABLE);
    }

    /// The time that the processor was kept from running, in nanoseconds.
    pub fn steal(area: u64) -> u64 {
        loop {
            let version = cpu::read32(area + Self::VERSION);
            let steal = cpu::read64(area);
            if version.is_multiple_of(2) && cpu::read32(area + Self::VERSION) == version {
                return steal;
            }
        }
    }

    /// The state byte.
    pub fn state(area: u64) -> u8 {
        cpu::read8(area + Self::STATE)
    }

    /// Leaves word for a processor that does not run to drop its translations. True where that was taken.
    pub fn leave_flush(area: u64) -> bool {
        let old: u8;
        // The hypervisor changes the byte by a locked instruction, too.
        probe!("lock cmpxchg byte ptr [{state}], {new}", state = in(reg) area + Self::STATE,
            new = in(reg_byte) PREEMPTED | FLUSH_TLB, inout("al") PREEMPTED => old);
        old == PREEMPTED
    }
}

/// The bit of one processor that says that nobody needs to hear of an end of interrupt.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct EoiBit(#[allow(dead_code, reason = "reached by its address")] u32);

impl EoiBit {
    /// Clear.
    pub const EMPTY: Self = Self(0);

    /// Registers the one at this address for this processor.
    pub fn register(bit: u64) {
        cpu::wrmsr(msr::EOI_EN, bit | ENABLE);
    }

    /// Clears it, and says whether it was set: the interrupt is ended then. The hypervisor writes it only while the processor
    /// does not run.
    pub fn take(bit: u64) -> bool {
        let was: u8;
        probe!("xor {was}, {was}", "btr dword ptr [{bit}], 0", "setc {was}", bit = in(reg) bit, was = out(reg_byte) was);
        was != 0
    }
}
