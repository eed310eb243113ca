use std::vec;

use vcpu::fake::Action;
use vcpu::{
    ControlRegisterAccess, Event, Exit, Gpa, GuestMemory, NestedFault, SegmentAccess, SystemRegister, cr0,
    cr4,
};

use super::bench::{Bench, KERNEL, injected, step};

#[test]
fn the_guest_starts_as_the_loader_says() {
    let (run, actions) = Bench::run_steps(vec![step(|guest| {
        assert_eq!(guest.cpu.rip, KERNEL);
        assert_eq!(guest.cpu.system(SystemRegister::Efer), 0x500);
        assert_ne!(guest.cpu.system(SystemRegister::Cr0) & cr0::PG, 0);
        assert_eq!(guest.cpu.segments[1].access, SegmentAccess::CODE64);
        // The root pointer's signature, where software searches.
        let mut signature = [0; 8];
        guest.memory.read(Gpa(0xe_0000), &mut signature).unwrap();
        assert_eq!(&signature, b"RSD PTR ");
        let tsc = guest.clock.tsc().wrapping_add(guest.cpu.tsc_offset);
        assert!(tsc < 1_000_000, "the TSC starts near zero, not at {tsc}");
        guest.cpuid(0, 0)
    })]);
    assert!(run.logged("vm demo: stopped: powered off"));
    assert_eq!(run.count("vm demo: exits cpuid"), 1);
    assert!(run.logged("vm demo: ticks guest"));
    assert!(run.logged("console ready"));
    assert_eq!(actions.first(), Some(&Action::Load));
    assert_eq!(actions.last(), Some(&Action::Unload));
}

#[test]
fn cpuid_answers_by_policy_and_advances() {
    let (_, actions) = Bench::run_steps(vec![
        step(|guest| guest.cpuid(0x4000_0000, 0)),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rbx(), u64::from(u32::from_le_bytes(*b"KVMK")));
            assert_eq!(guest.cpu.rip, KERNEL + 2);
            // Upper halves are cleared.
            guest.cpu.registers.set_rax(0xffff_ffff_0000_0001);
            guest.cpu.registers.set_rcx(0);
            Exit::Cpuid
        }),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rax(), 0x506e3);
            assert_ne!(guest.cpu.registers.rcx() & 1 << 31, 0);
            guest.cpuid(1, 0)
        }),
    ]);
    assert!(actions.contains(&Action::Advance(KERNEL + 4)));
}

#[test]
fn without_a_next_rip_the_instruction_is_decoded() {
    let (run, actions) = Bench::run_steps(vec![
        step(|guest| {
            guest.place_code(&[0x66, 0x0f, 0xa2]);
            guest.cpuid(0, 0)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.rip, KERNEL + 3);
            guest.place_code(&[0xf4]);
            guest.cpu.instruction_bytes = vec![0x0f, 0x01, 0xd9];
            Exit::Hypercall
        }),
        step(|guest| {
            assert_eq!(guest.cpu.rip, KERNEL + 6, "the CPU's own bytes come first");
            assert_eq!(guest.cpu.registers.rax() as i64, -1000);
            guest.cpu.instruction_bytes.clear();
            guest.place_code(&[0x66, 0xe5, 0x60]);
            guest.port_read(0x60, 2)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.rip, KERNEL + 9);
            guest.cpu.instruction_length = Some(2);
            guest.cpuid(0, 0)
        }),
    ]);
    assert!(run.logged("powered off"));
    assert!(injected(&actions).is_empty());
}

#[test]
fn another_instruction_than_expected_is_run_again_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.add_module("vm=demo memory=16M kernel", &super::bench::kernel());
    bench.backend.add_program(|guest| {
        guest.place_code(&[0x90, 0x90]);
        guest.cpuid(0, 0)
    });
    let run = bench.run();
    assert!(run.logged("vm demo: stopped: the instruction at RIP is not the one"));
    assert_eq!(run.count("vm demo: exits cpuid"), 16);
    assert!(run.logged("code at RIP: 90 90"));
}

#[test]
fn hypercalls_of_user_mode_are_not_permitted() {
    Bench::run_steps(vec![
        step(|guest| {
            guest.cpu.segments[2].access |= SegmentAccess::DPL;
            Exit::Hypercall
        }),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rax() as i64, -1);
            guest.cpuid(0, 0)
        }),
    ]);
}

#[test]
fn bad_control_register_writes_are_gp_and_good_ones_are_done() {
    let write =
        |register, source| Exit::ControlRegister(Some(ControlRegisterAccess::Write { register, source }));
    let (run, actions) = Bench::run_steps(vec![
        step(move |guest| {
            guest.cpu.registers.set_rbx(cr0::PG);
            write(0, vcpu::Gpr::Rbx)
        }),
        step(move |guest| {
            guest.cpu.registers.set_rbx(cr4::VMXE | cr4::PAE);
            write(4, vcpu::Gpr::Rbx)
        }),
        step(move |guest| {
            guest.cpu.registers.set_rbx(cr4::PAE | cr4::OSXSAVE | cr4::PGE);
            write(4, vcpu::Gpr::Rbx)
        }),
        step(|guest| guest.cpuid(1, 0)),
        step(move |guest| {
            assert_ne!(guest.cpu.registers.rcx() & 1 << 27, 0, "OSXSAVE follows CR4");
            guest.cpu.registers.set_rbx(0x13);
            write(8, vcpu::Gpr::Rbx)
        }),
        step(move |guest| {
            guest.cpu.registers.set_rbx(7);
            write(8, vcpu::Gpr::Rbx)
        }),
        step(|_| {
            let destination = vcpu::Gpr::R9;
            Exit::ControlRegister(Some(ControlRegisterAccess::Read { register: 8, destination }))
        }),
        step(|guest| {
            assert_eq!(guest.cpu.registers.values[9], 7);
            guest.place_code(&[0x0f, 0x22, 0xd8]);
            guest.cpu.registers.set_rax(0x5000);
            Exit::ControlRegister(None)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.system(SystemRegister::Cr3), 0x5000);
            guest.cpu.instruction_length = Some(2);
            Exit::ControlRegister(Some(ControlRegisterAccess::Lmsw { value: 0xe }))
        }),
        step(|guest| {
            assert_eq!(guest.cpu.system(SystemRegister::Cr0) & 0xf, 0xf, "LMSW cannot clear PE");
            Exit::ControlRegister(Some(ControlRegisterAccess::Clts))
        }),
        step(move |guest| {
            assert_eq!(guest.cpu.system(SystemRegister::Cr0) & cr0::TS, 0);
            write(5, vcpu::Gpr::Rax)
        }),
    ]);
    let gp = Event::GENERAL_PROTECTION;
    assert_eq!(injected(&actions), [gp, gp, gp, Event::UNDEFINED]);
    assert!(run.logged("MOV CR4, 0x2020: #GP, Reserved { bits: 8192 }"));
}

#[test]
fn xsetbv_is_checked() {
    let set = |value: u64| {
        step(move |guest| {
            guest.cpu.registers.set_rcx(0);
            guest.cpu.registers.set_edx_eax(value);
            Exit::Xsetbv
        })
    };
    let (_, actions) = Bench::run_steps(vec![
        set(7),
        step(|guest| {
            guest.cpu.registers.set_rax(cr4::PAE | cr4::OSXSAVE);
            let source = vcpu::Gpr::Rax;
            Exit::ControlRegister(Some(ControlRegisterAccess::Write { register: 4, source }))
        }),
        set(6),
        set(0x207),
        set(7),
        step(|guest| {
            assert_eq!(guest.cpu.system(SystemRegister::Xcr0), 7);
            guest.cpuid(0xd, 0)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rbx(), 832);
            guest.cpuid(0, 0)
        }),
    ]);
    let gp = Event::GENERAL_PROTECTION;
    assert_eq!(injected(&actions), [Event::UNDEFINED, gp, gp]);
}

#[test]
fn exits_without_a_handler_have_architectural_effects() {
    let (run, actions) = Bench::run_steps(vec![
        step(|_| Exit::CacheControl),
        step(|_| Exit::Pause),
        step(|_| Exit::ReadPmc),
        step(|_| Exit::Undefined),
        step(|_| Exit::Exception { vector: 17, error_code: Some(0) }),
    ]);
    let alignment = Event::Exception { vector: 17, error_code: Some(0) };
    assert_eq!(injected(&actions), [Event::GENERAL_PROTECTION, Event::UNDEFINED, alignment]);
    assert_eq!(run.count("vm demo: exits pause"), 1);
}

#[test]
fn device_memory_is_reached_through_the_emulator() {
    let fault = |gpa, access| {
        Exit::NestedFault(NestedFault { gpa: Gpa(gpa), access, linear: None, table_walk: false })
    };
    let (run, actions) = Bench::run_steps(vec![
        // MOV EAX, [RBX]: the local APIC's version register.
        step(move |guest| {
            guest.place_code(&[0x8b, 0x03]);
            guest.cpu.registers.set_rbx(0xfee0_0030);
            guest.cpu.registers.set_rax(u64::MAX);
            fault(0xfee0_0030, vcpu::Access::Read)
        }),
        // OR [RBX], ECX: the I/O APIC's select register keeps its index.
        step(move |guest| {
            assert_eq!(guest.cpu.registers.rax() & 0xff, 0x14, "{:#x}", guest.cpu.registers.rax());
            guest.place_code(&[0x09, 0x0b]);
            guest.cpu.registers.set_rbx(0xfec0_0000);
            guest.cpu.registers.set_rcx(0x10);
            fault(0xfec0_0000, vcpu::Access::Write)
        }),
        // MOV ECX, [RBX], which crosses into another page, is not taken for an aligned one.
        step(move |guest| {
            assert_eq!(guest.cpu.registers.rcx(), 0x10, "kept");
            guest.place_code(&[0x8b, 0x0b]);
            guest.cpu.registers.set_rbx(0xcfff_fffe);
            fault(0xd000_0000, vcpu::Access::Read)
        }),
        // MOV RAX, [RBX], and MOV [RBX], ECX: what lies in the first page is of no length that a device knows.
        step(move |guest| {
            guest.place_code(&[0x48, 0x8b, 0x03]);
            guest.cpu.registers.set_rbx(0xcfff_fff9);
            guest.cpu.registers.set_rax(0);
            fault(0xcfff_fff9, vcpu::Access::Read)
        }),
        step(move |guest| {
            assert_eq!(guest.cpu.registers.rax(), u64::MAX, "nobody is there");
            guest.place_code(&[0x89, 0x0b]);
            guest.cpu.registers.set_rbx(0xcfff_fffd);
            fault(0xcfff_fffd, vcpu::Access::Write)
        }),
        // MOVZX EAX, BYTE [RBX], where no device is.
        step(move |guest| {
            guest.place_code(&[0x0f, 0xb6, 0x03]);
            guest.cpu.registers.set_rbx(0xd000_0000);
            fault(0xd000_0000, vcpu::Access::Read)
        }),
        // REP STOSB to the hole at 640 KiB: longer than one budget, so it is run again.
        step(move |guest| {
            assert_eq!(guest.cpu.registers.rax(), 0xff);
            guest.place_code(&[0xf3, 0xaa]);
            guest.cpu.registers.set_rdi(0xa_0000);
            guest.cpu.registers.set_rcx(u64::from(emulator::REPEAT_BUDGET) + 1);
            fault(0xa_0000, vcpu::Access::Write)
        }),
        step(move |guest| {
            assert_eq!(guest.cpu.registers.rcx(), 1);
            fault(0xa_0000, vcpu::Access::Write)
        }),
        step(|guest| {
            assert_eq!(guest.cpu.registers.rcx(), 0);
            guest.cpu.instruction_length = Some(2);
            guest.cpuid(0, 0)
        }),
    ]);
    assert!(run.logged("powered off"), "{:#?}", run.log);
    assert!(injected(&actions).is_empty());
    assert!(run.logged("no device at 0xd0000000"));
    assert!(run.log.iter().filter(|line| line.contains("no device at")).count() <= 5, "rate-limited");
}

/// An instruction that was decoded before counts as long as its code and what maps that are the same.
#[test]
fn known_instructions_are_known_by_all_that_makes_them() {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    const OTHER: u64 = 0x60_0000;
    // A store to the I/O APIC's select register, and what it shows then.
    let select = |guest: &mut vcpu::fake::Guest<'_>, ecx: u64, edx: u64| {
        guest.cpu.rip = KERNEL;
        guest.cpu.registers.set_rbx(0xfec0_0000);
        guest.cpu.registers.set_rcx(ecx);
        guest.cpu.registers.set_rdx(edx);
        Exit::NestedFault(NestedFault {
            gpa: Gpa(0xfec0_0000),
            access: vcpu::Access::Write,
            linear: None,
            table_walk: false,
        })
    };
    let shown = |guest: &mut vcpu::fake::Guest<'_>| {
        guest.place_code(&[0x8b, 0x33]);
        Exit::NestedFault(NestedFault {
            gpa: Gpa(0xfec0_0000),
            access: vcpu::Access::Read,
            linear: None,
            table_walk: false,
        })
    };
    let is = |guest: &vcpu::fake::Guest<'_>, value: u64| assert_eq!(guest.cpu.registers.rsi(), value);
    let (store_ecx, store_edx) = ([0x89, 0x0b], [0x89, 0x13]);
    let (run, _) = Bench::run_steps(vec![
        step(move |guest| {
            guest.cpu.rip = KERNEL;
            guest.place_code(&store_ecx);
            select(guest, 1, 2)
        }),
        step(move |guest| shown(guest)),
        // The same again,
        step(move |guest| {
            is(guest, 1);
            select(guest, 3, 4)
        }),
        step(move |guest| shown(guest)),
        // other code in its place,
        step(move |guest| {
            is(guest, 3);
            guest.cpu.rip = KERNEL;
            guest.place_code(&store_edx);
            select(guest, 5, 6)
        }),
        step(move |guest| shown(guest)),
        // and another page in the place of the code's.
        step(move |guest| {
            is(guest, 6);
            let (mut table, mut shift) = (guest.cpu.system(SystemRegister::Cr3) & ADDRESS, 39);
            let (at, entry) = loop {
                let at = Gpa(table + (KERNEL >> shift & 0x1ff) * 8);
                let entry = guest.memory.load_u64(at).unwrap();
                if shift == 12 || entry & 1 << 7 != 0 {
                    break (at, entry);
                }
                (table, shift) = (entry & ADDRESS, shift - 9);
            };
            let size = 1 << shift;
            let other = OTHER & !(size - 1) | KERNEL & (size - 1);
            guest.memory.write(Gpa(other), &store_ecx).unwrap();
            let moved = entry & !ADDRESS | OTHER & !(size - 1);
            guest.memory.write(at, &moved.to_le_bytes()).unwrap();
            select(guest, 7, 8)
        }),
        step(move |guest| {
            // Code placed by its address from here on would go to the old page.
            let other = OTHER & !0x1f_ffff | guest.cpu.rip & 0x1f_ffff;
            guest.memory.write(Gpa(other), &[0x8b, 0x33]).unwrap();
            shown(guest)
        }),
        step(move |guest| {
            is(guest, 7);
            guest.cpu.instruction_length = Some(2);
            guest.cpuid(0, 0)
        }),
    ]);
    assert!(run.logged("powered off"), "{:#?}", run.log);
}

#[test]
fn a_page_fault_in_the_emulator_reaches_the_guest() {
    let (_, actions) = Bench::run_steps(vec![
        // ADD [RBX], EAX with an unmapped address, after a nested fault elsewhere.
        step(|guest| {
            guest.place_code(&[0x01, 0x03]);
            guest.cpu.registers.set_rbx(0x7000_0000_0000);
            Exit::NestedFault(NestedFault {
                gpa: Gpa(0xd000_0000),
                access: vcpu::Access::Write,
                linear: None,
                table_walk: false,
            })
        }),
        step(|guest| {
            assert_eq!(guest.cpu.system(SystemRegister::Cr2), 0x7000_0000_0000);
            guest.cpu.instruction_length = Some(2);
            guest.cpuid(0, 0)
        }),
    ]);
    assert_eq!(injected(&actions), [Event::Exception { vector: 14, error_code: Some(2) }]);
}
