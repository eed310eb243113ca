//! What a CPU may keep of a VMCB from one run to the next.
//!
//! A CPU with VMCB clean bits takes a group that is marked clean from its own copy instead of from memory. A group that is
//! marked clean by mistake is a silent bug, so marking is not left to who writes a field: see [`super::vmcb`].
//!
//! Source: AMD APM vol. 2, "VMCB Clean Bits".

use bitflags::bitflags;

bitflags! {
    /// Groups of VMCB fields. What is in none is loaded at each VMRUN.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Clean: u32 {
        /// Intercepts, pause filter, TSC offset.
        const INTERCEPTS = 1 << 0;
        /// Addresses of the permission maps.
        const PERMISSION_MAPS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// The virtual interrupt control.
        const VIRTUAL_INTERRUPT = 1 << 3;
        /// Nested CR3 and PAT.
        const NESTED_PAGING = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const TABLES = 1 << 7;
        /// ES, CS, SS, DS, CPL.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// DEBUGCTL and last-branch records.
        const LAST_BRANCH = 1 << 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vcpu::{DescriptorTableName, SegmentName};

    use super::super::vmcb::{SETTERS, Vmcb, VmcbSegment};
    use super::*;

    /// Which bytes belong to which group, after the manual's table.
    const COVERAGE: &[(Clean, core::ops::Range<usize>)] = &[
        (Clean::INTERCEPTS, 0x000..0x018),
        (Clean::INTERCEPTS, 0x03c..0x040),
        (Clean::INTERCEPTS, 0x050..0x058),
        (Clean::PERMISSION_MAPS, 0x040..0x050),
        (Clean::ASID, 0x058..0x05c),
        (Clean::VIRTUAL_INTERRUPT, 0x060..0x068),
        (Clean::NESTED_PAGING, 0x090..0x098),
        (Clean::NESTED_PAGING, 0x0b0..0x0b8),
        (Clean::NESTED_PAGING, 0x668..0x670),
        (Clean::CONTROL_REGISTERS, 0x4d0..0x4d8),
        (Clean::CONTROL_REGISTERS, 0x548..0x560),
        (Clean::DEBUG_REGISTERS, 0x560..0x570),
        (Clean::TABLES, 0x460..0x470),
        (Clean::TABLES, 0x480..0x490),
        (Clean::SEGMENTS, 0x400..0x440),
        (Clean::SEGMENTS, 0x4cb..0x4cc),
        (Clean::CR2, 0x640..0x648),
        (Clean::LAST_BRANCH, 0x0b8..0x0c0),
        (Clean::LAST_BRANCH, 0x670..0x698),
    ];

    /// A CPU that keeps every group it may.
    struct Keeping(std::boxed::Box<[u8; 4096]>);

    impl Keeping {
        /// What VMRUN loads.
        fn run(&mut self, vmcb: &Vmcb) {
            let memory = vmcb.bytes();
            let kept: std::vec::Vec<_> =
                COVERAGE.iter().filter(|(group, _)| vmcb.kept().contains(*group)).collect();
            for (at, (own, byte)) in self.0.iter_mut().zip(memory).enumerate() {
                if !kept.iter().any(|(_, range)| range.contains(&at)) {
                    *own = *byte;
                }
            }
        }
    }

    /// One write: a field, a segment or a table, with a value.
    fn write(vmcb: &mut Vmcb, which: usize, value: u64) {
        const TABLES: [DescriptorTableName; 2] = [DescriptorTableName::Gdtr, DescriptorTableName::Idtr];
        if let Some(set) = SETTERS.get(which) {
            set(vmcb, value);
        } else if let Some(name) = SegmentName::ALL.get(which - SETTERS.len()) {
            let segment =
                VmcbSegment { selector: value as u16, attributes: 0x93, limit: value as u32, base: value };
            vmcb.set_segment(*name, segment);
        } else {
            vmcb.set_table(TABLES[which % 2], value, value as u32 & 0xffff);
        }
    }

    proptest! {
        #[test]
        fn a_cpu_that_keeps_what_it_may_runs_with_what_was_written(
            runs in prop::collection::vec(prop::collection::vec((0..SETTERS.len() + 10, any::<u64>()), 0..6), 1..12),
        ) {
            let mut vmcb = Vmcb::zeroed();
            let mut cpu = Keeping(std::boxed::Box::new([0xee; 4096]));
            for writes in runs {
                for (which, value) in writes {
                    write(&mut vmcb, which, value);
                }
                cpu.run(&vmcb);
                prop_assert_eq!(&cpu.0[..], &vmcb.bytes()[..]);
                vmcb.mark_kept(Clean::all());
            }
        }
    }

    #[test]
    fn every_write_leaves_the_other_groups_alone() {
        for which in 0..SETTERS.len() + 10 {
            let mut vmcb = Vmcb::zeroed();
            vmcb.mark_kept(Clean::all());
            write(&mut vmcb, which, u64::MAX);
            assert!((Clean::all() - vmcb.kept()).bits().count_ones() <= 1, "write {which}");
        }
    }
}
