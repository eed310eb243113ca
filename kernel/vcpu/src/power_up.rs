//! The state of a processor after power-up, before firmware: one statement of it for all backends.
//!
//! Sources: Intel SDM vol. 3, "Processor State After Reset"; AMD APM vol. 2, "Processor Initialization State".

use crate::{
    DescriptorTable, DescriptorTableName, Registers, Segment, SegmentName, SystemRegister, Vcpu, cr0, rflags,
};

/// Instruction pointer: sixteen bytes below the end of the first 4 GiB, by the base of CS.
pub const RIP: u64 = 0xfff0;
/// CR0: real mode, caches off.
pub const CR0: u64 = cr0::CD | cr0::NW | cr0::ET;
/// DR6: nothing has happened; the bits that are always one.
pub const DR6: u64 = 0xffff_0ff0;
/// DR7: no breakpoints; the bit that is always one.
pub const DR7: u64 = 0x400;
/// IA32_PAT: write-back, write-through, uncached with MTRRs' leave, uncached, and again.
pub const PAT: u64 = 0x0007_0406_0007_0406;
/// XCR0: x87.
pub const XCR0: u64 = 1;

/// System registers that are not zero, in an order in which each write finds a valid state.
const SYSTEM: [(SystemRegister, u64); 5] = [
    (SystemRegister::Cr0, CR0),
    (SystemRegister::Dr6, DR6),
    (SystemRegister::Dr7, DR7),
    (SystemRegister::Pat, PAT),
    (SystemRegister::Xcr0, XCR0),
];

/// System registers that are zero. IA32_EFER comes before CR0, FS and GS bases come with their segments.
const ZERO: [SystemRegister; 17] = [
    SystemRegister::Efer,
    SystemRegister::Cr2,
    SystemRegister::Cr3,
    SystemRegister::Cr4,
    SystemRegister::Dr0,
    SystemRegister::Dr1,
    SystemRegister::Dr2,
    SystemRegister::Dr3,
    SystemRegister::Star,
    SystemRegister::Lstar,
    SystemRegister::Cstar,
    SystemRegister::Sfmask,
    SystemRegister::KernelGsBase,
    SystemRegister::SysenterCs,
    SystemRegister::SysenterEsp,
    SystemRegister::SysenterEip,
    SystemRegister::TscAux,
];

/// Gives a vCPU all registers of the contract as they are after power-up. What else a backend keeps (pending events,
/// windows, extended state) is for the backend.
pub fn registers<V: Vcpu>(vcpu: &mut V) {
    *vcpu.registers_mut() = Registers::default();
    for register in ZERO {
        vcpu.write(register, 0);
    }
    for (register, value) in SYSTEM {
        vcpu.write(register, value);
    }
    for name in SegmentName::ALL {
        vcpu.set_segment(name, Segment::at_power_up(name));
    }
    let table = DescriptorTable { base: 0, limit: 0xffff };
    vcpu.set_table(DescriptorTableName::Gdtr, table);
    vcpu.set_table(DescriptorTableName::Idtr, table);
    vcpu.set_rip(RIP);
    vcpu.set_rsp(0);
    vcpu.set_rflags(rflags::FIXED);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Clock, FakeBackend};
    use crate::{Backend as _, Exit, Gpr};

    /// What a guest has left in its registers is gone; none that the contract names is forgotten.
    #[test]
    fn nothing_of_before_is_left() {
        let backend = FakeBackend::new(&Clock::new(1_000_000_000), 1 << 20);
        backend.add_program(|_| Exit::Halt);
        let space = backend.create_space().expect("space");
        let mut vcpu = backend.create_vcpu(&space).expect("vCPU");
        vcpu.load();
        let bases = [SystemRegister::FsBase, SystemRegister::GsBase];
        for register in ZERO.into_iter().chain(SYSTEM.map(|(register, _)| register)).chain(bases) {
            vcpu.write(register, 0x55);
        }
        vcpu.set_gpr(Gpr::R15, 7);
        vcpu.set_rip(1);
        registers(&mut vcpu);
        assert_eq!(vcpu.registers(), &Registers::default());
        assert_eq!((vcpu.rip(), vcpu.rsp(), vcpu.rflags()), (RIP, 0, rflags::FIXED));
        assert!(ZERO.into_iter().all(|register| vcpu.read(register) == 0));
        assert!(SYSTEM.into_iter().all(|(register, value)| vcpu.read(register) == value));
        assert_eq!(vcpu.segment(SegmentName::Cs).base, 0xffff_0000);
        let distinct = ZERO.len() + SYSTEM.len() + bases.len();
        assert_eq!(distinct, SystemRegister::TscAux as usize + 1, "the enumeration has another");
    }
}
