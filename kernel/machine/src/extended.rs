//! The part of a vCPU that neither VMCS nor VMCB switches: x87, SSE and the other XSAVE components, XCR0,
//! the debug address registers, CR2 and, on Intel, DR6. It is switched eagerly when a CPU changes to
//! another vCPU, never lazily, so that nothing of one VM is ever in the CPU while another runs. In between
//! it stays in the CPU: the kernel uses no vector registers.
//!
//! Sources: Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set"; AMD APM vol. 2, "Saving Media
//! and x87 State" and "XSAVE/XRSTOR Instructions"; SDM vol. 3, "Debug Registers".

// UNSAFETY: XSAVE and XRSTOR write and read memory by address; debug registers are privileged.
#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, Ordering};

use vcpu::{MemoryError, PAGE_SIZE, power_up};

use crate::memory::{self, frames::Block, frames::FrameKind};
use crate::registers;

/// Bytes of the legacy region and header of an XSAVE area.
const XSAVE_MINIMUM: usize = 576;
/// Offset of MXCSR in the legacy region.
const MXCSR_OFFSET: usize = 24;
/// Offset of XSTATE_BV in the XSAVE header.
const XSTATE_BV_OFFSET: usize = 512;
/// MXCSR and the x87 control and abridged tag words after power-up.
const MXCSR_RESET: u32 = 0x1f80;
const FCW_RESET: u16 = 0x0040;
const FTW_RESET: u8 = 0xff;
/// x87 in XCR0 and XSTATE_BV.
const X87: u64 = 1;
/// Components that XCR0 can name: the highest bit is no component.
const COMPONENTS: u32 = 62;

/// A CPU states another size for the compacted format than its components make.
static COMPACTS_STRANGELY: AtomicBool = AtomicBool::new(false);

/// Whether guests can be offered the compacted format of save areas (XSAVEC). A guest's kernel takes as much memory for one
/// as its components make, one behind the other; a CPU that states another size (Bochs' `skylake_x`) writes them elsewhere.
pub(crate) fn compacts() -> bool {
    !COMPACTS_STRANGELY.load(Ordering::Relaxed)
}

/// Bytes of a save area in the compacted format (SDM vol. 1, "Compacted Format of an XSAVE Area"). `component` gives its size
/// and whether it is aligned to 64 bytes.
fn compacted_size(components: u64, component: impl Fn(u32) -> (u32, bool)) -> u32 {
    (2..COMPONENTS).filter(|bit| components >> bit & 1 != 0).map(component).fold(
        XSAVE_MINIMUM as u32,
        |end, (size, aligned)| {
            let start = if aligned { end.next_multiple_of(COMPONENT_ALIGNMENT) } else { end };
            start.saturating_add(size)
        },
    )
}

/// How this CPU saves extended state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// XCR0 bits the CPU has; 0 where it has no XSAVE.
    pub(crate) components: u64,
    /// Bytes of a save area with all of them.
    pub(crate) size: usize,
    /// FXSAVE and XSAVE leave FIP, FDP and FOP alone unless an exception is pending (AMD before Zen's
    /// XSaveErPtr), so that another VM's would stay readable.
    pub(crate) leaves_error_pointers: bool,
}

/// CPUID leaf 1 ECX: XSAVE.
const CPUID_XSAVE: u32 = 1 << 26;
/// CPUID leaf 0DH subleaf 1 EAX: XSAVEC, XSAVES with IA32_XSS, IA32_XFD.
const CPUID_XSAVEC: u32 = 1 << 1;
const CPUID_XSAVES: u32 = 1 << 3;
const CPUID_XFD: u32 = 1 << 4;
const IA32_XSS: u32 = 0xda0;
const IA32_XFD: u32 = 0x1c4;
/// CPUID leaf 0DH, a component's subleaf, ECX: in the compacted format it is aligned to so many bytes.
const COMPONENT_ALIGNED: u32 = 1 << 1;
const COMPONENT_ALIGNMENT: u32 = 64;
/// CPUID leaf 8000_0008 EBX: FXSAVE and XSAVE always save error pointers.
const CPUID_ERROR_POINTERS: u32 = 1 << 2;

impl Layout {
    /// Reads the layout from CPUID. `amd` tells whether the error pointers need care.
    pub(crate) fn detect(amd: bool) -> Self {
        let leaves_error_pointers = amd
            && (__cpuid_count(0x8000_0000, 0).eax < 0x8000_0008
                || __cpuid_count(0x8000_0008, 0).ebx & CPUID_ERROR_POINTERS == 0);
        if __cpuid_count(1, 0).ecx & CPUID_XSAVE == 0 || __cpuid_count(0, 0).eax < 0xd {
            return Self { components: 0, size: XSAVE_MINIMUM, leaves_error_pointers };
        }
        let main = __cpuid_count(0xd, 0);
        let components = u64::from(main.edx) << 32 | u64::from(main.eax);
        let mut size = XSAVE_MINIMUM.max(main.ecx as usize);
        // Not every CPU's (or emulator's) ECX covers what its components say of themselves.
        for component in (2..COMPONENTS).filter(|bit| components >> bit & 1 != 0) {
            let leaf = __cpuid_count(0xd, component);
            size = size.max(leaf.ebx as usize + leaf.eax as usize);
        }
        Self { components, size, leaves_error_pointers }
    }

    const fn order(self) -> u8 {
        let pages = self.size.div_ceil(PAGE_SIZE as usize);
        pages.next_power_of_two().trailing_zeros() as u8
    }
}

/// A vCPU's extended state: in memory while unloaded, in the CPU while loaded.
#[derive(Debug)]
pub(crate) struct ExtendedState {
    layout: Layout,
    area: Block,
    xcr0: u64,
    /// DR0 to DR3.
    debug: [u64; 4],
    dr6: u64,
    cr2: u64,
    loaded: bool,
}

impl ExtendedState {
    /// The state after power-up.
    pub(crate) fn new(layout: Layout) -> Result<Self, MemoryError> {
        let area = Block::zeroed(layout.order(), FrameKind::Control)?;
        let mut state =
            Self { layout, area, xcr0: 0, debug: [0; 4], dr6: power_up::DR6, cr2: 0, loaded: false };
        state.reset();
        Ok(state)
    }

    /// Back to the state after power-up.
    pub(crate) fn reset(&mut self) {
        let loaded = self.loaded;
        self.loaded = false;
        self.xcr0 = power_up::XCR0;
        self.debug = [0; 4];
        self.dr6 = power_up::DR6;
        self.cr2 = 0;
        self.area.zero();
        let area = self.area();
        // SAFETY: the area is ours and at least `XSAVE_MINIMUM` bytes; the offsets lie in its legacy
        // region and header and are aligned for their types.
        unsafe {
            area.cast::<u16>().write(FCW_RESET);
            area.add(4).write(FTW_RESET);
            area.add(MXCSR_OFFSET).cast::<u32>().write(MXCSR_RESET);
            area.add(XSTATE_BV_OFFSET).cast::<u64>().write(X87);
        }
        if loaded {
            self.load();
        }
    }

    fn area(&self) -> *mut u8 {
        memory::direct_map(self.area.start())
    }

    /// Puts the state into the CPU.
    pub(crate) fn load(&mut self) {
        self.loaded = true;
        let area = self.area();
        // SAFETY: the area is 64-byte aligned (a frame), as large as the CPU says it needs, and holds what
        // `save` or `reset` left there. XCR0 gets values the CPU has. Loading guest values into debug
        // address registers has no effect while DR7 is clear, as it is outside guests.
        unsafe {
            if self.layout.leaves_error_pointers {
                // Clears the pointers that XRSTOR would leave.
                asm!("fninit", options(nostack, nomem));
            }
            if self.layout.components == 0 {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
            } else {
                write_xcr0(self.layout.components);
                asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
                write_xcr0(self.xcr0);
            }
            asm!("mov dr0, {}", in(reg) self.debug[0], options(nostack, nomem));
            asm!("mov dr1, {}", in(reg) self.debug[1], options(nostack, nomem));
            asm!("mov dr2, {}", in(reg) self.debug[2], options(nostack, nomem));
            asm!("mov dr3, {}", in(reg) self.debug[3], options(nostack, nomem));
            asm!("mov dr6, {}", in(reg) self.dr6, options(nostack, nomem));
            asm!("mov cr2, {}", in(reg) self.cr2, options(nostack, nomem));
        }
    }

    /// Takes the state out of the CPU.
    pub(crate) fn save(&mut self) {
        self.xcr0 = self.xcr0();
        self.debug = core::array::from_fn(|n| self.dr(n));
        self.dr6 = self.dr6();
        self.cr2 = self.cr2();
        self.loaded = false;
        let area = self.area();
        // SAFETY: the area is 64-byte aligned and as large as the CPU says it needs; XCR0 gets every
        // component, so that all of the guest's state is saved whatever it had enabled.
        unsafe {
            if self.layout.components == 0 {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack));
            } else {
                write_xcr0(self.layout.components);
                asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            }
        }
    }

    /// XCR0 as the guest has it; 1 where the CPU has no XSAVE.
    pub(crate) fn xcr0(&self) -> u64 {
        if self.loaded && self.layout.components != 0 { read_xcr0() } else { self.xcr0 }
    }

    /// Sets XCR0 to a value the hypervisor has checked.
    pub(crate) fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
        if self.loaded && self.layout.components != 0 {
            // SAFETY: the hypervisor lets through only components that the CPU has, x87 among them.
            unsafe { write_xcr0(value) };
        }
    }

    /// DR0 to DR3.
    pub(crate) fn dr(&self, number: usize) -> u64 {
        if !self.loaded {
            return self.debug[number & 3];
        }
        let value: u64;
        // SAFETY: reading a debug register in ring 0 with DR7.GD clear has no effect.
        unsafe {
            match number & 3 {
                0 => asm!("mov {}, dr0", out(reg) value, options(nostack, nomem)),
                1 => asm!("mov {}, dr1", out(reg) value, options(nostack, nomem)),
                2 => asm!("mov {}, dr2", out(reg) value, options(nostack, nomem)),
                _ => asm!("mov {}, dr3", out(reg) value, options(nostack, nomem)),
            }
        }
        value
    }

    /// Sets DR0 to DR3.
    pub(crate) fn set_dr(&mut self, number: usize, value: u64) {
        self.debug[number & 3] = value;
        if !self.loaded {
            return;
        }
        // SAFETY: DR7 is clear outside guests, so the address has no effect on the kernel.
        unsafe {
            match number & 3 {
                0 => asm!("mov dr0, {}", in(reg) value, options(nostack, nomem)),
                1 => asm!("mov dr1, {}", in(reg) value, options(nostack, nomem)),
                2 => asm!("mov dr2, {}", in(reg) value, options(nostack, nomem)),
                _ => asm!("mov dr3, {}", in(reg) value, options(nostack, nomem)),
            }
        }
    }

    /// DR6 (Intel; the VMCB has its own).
    pub(crate) fn dr6(&self) -> u64 {
        if !self.loaded {
            return self.dr6;
        }
        let value: u64;
        // SAFETY: as in `dr`.
        unsafe { asm!("mov {}, dr6", out(reg) value, options(nostack, nomem)) };
        value
    }

    /// Sets DR6 (Intel).
    pub(crate) fn set_dr6(&mut self, value: u64) {
        self.dr6 = value & 0xffff_ffff;
        if self.loaded {
            // SAFETY: DR6 is a status register; the upper half is clear, as the CPU demands.
            unsafe { asm!("mov dr6, {}", in(reg) self.dr6, options(nostack, nomem)) };
        }
    }

    /// CR2 (Intel; the VMCB has its own).
    pub(crate) fn cr2(&self) -> u64 {
        if !self.loaded {
            return self.cr2;
        }
        let value: u64;
        // SAFETY: reading CR2 in ring 0 has no effect.
        unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, nomem)) };
        value
    }

    /// Sets CR2 (Intel).
    pub(crate) fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
        if self.loaded {
            // SAFETY: CR2 is a status register.
            unsafe { asm!("mov cr2, {}", in(reg) value, options(nostack, nomem)) };
        }
    }
}

fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only called where the CPU has XSAVE; the kernel has set CR4.OSXSAVE then.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// The CPU has XSAVE and every component in `value`, which includes x87 and keeps the manuals' rules.
unsafe fn write_xcr0(value: u64) {
    // SAFETY: by the caller.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, nomem));
    }
}

/// Lets the kernel execute XSETBV and XSAVE where the CPU has them.
pub(crate) fn enable(layout: Layout) {
    /// CR4: FXSAVE and SSE; XSAVE.
    const OSFXSR_OSXMMEXCPT: u64 = 1 << 9 | 1 << 10;
    const OSXSAVE: u64 = 1 << 18;
    /// CR0: emulation, task switched; monitor coprocessor, numeric error.
    const CR0_EM_TS: u64 = 1 << 2 | 1 << 3;
    const CR0_MP_NE: u64 = 1 << 1 | 1 << 5;
    let wanted = OSFXSR_OSXMMEXCPT | if layout.components == 0 { 0 } else { OSXSAVE };
    // SAFETY: these bits only make instructions available that this module uses; CR0.EM and TS are cleared
    // for FXSAVE to work, and NE set so that x87 errors never become an external interrupt.
    unsafe {
        let mut cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nostack, nomem));
        cr4 |= wanted;
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, nomem));
        let mut cr0: u64;
        asm!("mov {}, cr0", out(reg) cr0, options(nostack, nomem));
        cr0 = (cr0 & !CR0_EM_TS) | CR0_MP_NE;
        asm!("mov cr0, {}", in(reg) cr0, options(nostack, nomem));
    }
    if layout.components != 0 {
        let subleaf = __cpuid_count(0xd, 1).eax;
        for (feature, msr) in [(CPUID_XSAVES, IA32_XSS), (CPUID_XFD, IA32_XFD)] {
            if subleaf & feature != 0 {
                // SAFETY: the CPU has the MSR. Zero is its value after power-up: no supervisor state for a guest's
                // XSAVES to reach, no component whose saving faults.
                unsafe { registers::write_msr(msr, 0) };
            }
        }
        if subleaf & CPUID_XSAVEC != 0 {
            // SAFETY: OSXSAVE is set, and these are all components that the CPU has. A vCPU that is loaded brings its own.
            unsafe { write_xcr0(layout.components) };
            let expected = compacted_size(layout.components, |component| {
                let leaf = __cpuid_count(0xd, component);
                (leaf.eax, leaf.ecx & COMPONENT_ALIGNED != 0)
            });
            if __cpuid_count(0xd, 1).ebx != expected {
                COMPACTS_STRANGELY.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compacted_format_leaves_no_gaps_but_for_alignment() {
        let component = |number| match number {
            2 => (256, false),
            5 => (64, true),
            6 => (512, true),
            7 => (1024, true),
            9 => (8, false),
            _ => (u32::MAX, false),
        };
        assert_eq!(compacted_size(3, component), 576);
        assert_eq!(compacted_size(7, component), 832);
        assert_eq!(compacted_size(0xe7, component), 2432);
        assert_eq!(compacted_size(0x2e7, component), 2440);
        assert_eq!(compacted_size(1 << 8, component), u32::MAX);
        assert_eq!(compacted_size(1 << 9 | 1 << 10, |bit| (8, bit == 10)), 576 + 64 + 8);
    }
}
