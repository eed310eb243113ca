use super::*;

const DB: u64 = code::EXCEPTION + 1;
const PF: u64 = code::EXCEPTION + 14;
const WATCHED: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;
const HANDLER: u64 = 0x1000;
const IRET_AT: u64 = 0x1040;
const AFTER: u64 = 0x2000;

fn vmcb() -> std::boxed::Box<Vmcb> {
    let mut vmcb = Vmcb::zeroed();
    vmcb.set_intercept_exceptions(WATCHED);
    vmcb.set_rip(AFTER);
    vmcb.set_rsp(0x9000);
    vmcb.set_dr6(vcpu::power_up::DR6);
    vmcb
}

fn steps(vmcb: &Vmcb) -> bool {
    vmcb.rflags() & rflags::TF != 0
}

fn intercepts_iret(vmcb: &Vmcb) -> bool {
    vmcb.intercept_1() & intercept_1::IRET != 0
}

/// Nothing of a step is left.
fn assert_clean(vmcb: &Vmcb) {
    assert!(!steps(vmcb));
    assert_eq!(vmcb.intercept_exceptions(), WATCHED);
    assert_eq!(vmcb.intercept_1() & USE_FLAGS & !intercept_1::IRET, 0);
    assert_eq!(vmcb.intercept_2() & intercept_2::ICEBP, 0);
}

/// A guest whose NMI handler is at its IRET, which is being stepped over.
fn returning(wanted: bool) -> (Nmi, std::boxed::Box<Vmcb>) {
    let (mut nmi, mut vmcb) = (Nmi::new(NmiBlocking::ByIret), vmcb());
    assert!(nmi.is_ready(&vmcb));
    nmi.injected(&mut vmcb);
    assert!(!nmi.is_ready(&vmcb) && intercepts_iret(&vmcb));
    vmcb.set_rip(HANDLER);
    nmi.want(wanted);
    assert!(!nmi.prepare(&mut vmcb, false) && !nmi.is_stepping(), "the handler runs");
    vmcb.set_rip(IRET_AT);
    nmi.meet_iret(&mut vmcb);
    assert!(nmi.is_busy() && !intercepts_iret(&vmcb));
    assert!(!nmi.prepare(&mut vmcb, false));
    assert!(nmi.is_stepping() && steps(&vmcb));
    (nmi, vmcb)
}

#[test]
fn the_end_of_iret_opens_the_window() {
    for wanted in [true, false] {
        let (mut nmi, mut vmcb) = returning(wanted);
        vmcb.set_rip(AFTER);
        vmcb.set_rflags(0);
        vmcb.set_dr6(vmcb.dr6() | DR6_SINGLE_STEP);
        let exit = if wanted { Exit::NmiWindow } else { Exit::HostEvent };
        assert_eq!(nmi.settle(&mut vmcb, DB), Settled::Exit(exit));
        assert!(nmi.is_ready(&vmcb));
        assert_eq!(vmcb.dr6(), vcpu::power_up::DR6);
        assert_clean(&vmcb);
    }
}

#[test]
fn iret_to_itself_is_over_when_its_trap_comes() {
    let (mut nmi, mut vmcb) = returning(false);
    vmcb.set_rflags(0);
    vmcb.set_dr6(vmcb.dr6() | DR6_SINGLE_STEP);
    assert_eq!(nmi.settle(&mut vmcb, DB), Settled::Exit(Exit::HostEvent));
    assert!(nmi.is_ready(&vmcb));
}

#[test]
fn iret_that_faults_shows_no_step_and_leaves_nmis_blocked() {
    let (mut nmi, mut vmcb) = returning(true);
    assert_ne!(vmcb.intercept_exceptions() & 1 << vector::PF, 0);
    assert_eq!(nmi.settle(&mut vmcb, PF), Settled::Exception(vector::PF));
    assert_clean(&vmcb);
    assert!(!nmi.is_ready(&vmcb) && intercepts_iret(&vmcb), "the page fault's IRET ends the blocking");
    assert!(!nmi.prepare(&mut vmcb, true) && !nmi.is_stepping());
}

#[test]
fn an_instruction_breakpoint_at_iret_is_the_guests() {
    let (mut nmi, mut vmcb) = returning(false);
    vmcb.set_dr6(vmcb.dr6() | 1);
    assert_eq!(nmi.settle(&mut vmcb, DB), Settled::Decode);
    assert!(!nmi.is_ready(&vmcb));
    assert_clean(&vmcb);
}

#[test]
fn a_breakpoint_hit_by_iret_is_the_guests_and_the_window_opens() {
    let (mut nmi, mut vmcb) = returning(true);
    vmcb.set_rip(AFTER);
    vmcb.set_rflags(0);
    vmcb.set_dr7(1 << 4);
    vmcb.set_dr6(vmcb.dr6() | DR6_SINGLE_STEP | 1 << 2);
    assert_eq!(nmi.settle(&mut vmcb, DB), Settled::Decode);
    assert_eq!(vmcb.dr6() & (DR6_SINGLE_STEP | 0xf), 1 << 2);
    assert!(nmi.prepare(&mut vmcb, false), "open");
}

#[test]
fn the_guests_own_step_over_iret_is_its_own() {
    let (mut nmi, mut vmcb) = (Nmi::new(NmiBlocking::ByIret), vmcb());
    nmi.injected(&mut vmcb);
    vmcb.set_rip(IRET_AT);
    vmcb.set_rflags(rflags::TF);
    nmi.meet_iret(&mut vmcb);
    nmi.prepare(&mut vmcb, false);
    vmcb.set_rip(AFTER);
    vmcb.set_dr6(vmcb.dr6() | DR6_SINGLE_STEP);
    assert_eq!(nmi.settle(&mut vmcb, DB), Settled::Decode);
    assert_ne!(vmcb.dr6() & DR6_SINGLE_STEP, 0);
    assert!(nmi.is_ready(&vmcb));
}

#[test]
fn a_host_interrupt_before_iret_is_no_end() {
    let (mut nmi, mut vmcb) = returning(true);
    assert_eq!(nmi.settle(&mut vmcb, code::INTR), Settled::Decode);
    assert_clean(&vmcb);
    assert!(!nmi.is_ready(&vmcb));
    nmi.prepare(&mut vmcb, false);
    assert!(nmi.is_stepping(), "again");
    assert_eq!(nmi.settle(&mut vmcb, code::INTR), Settled::Decode);
    nmi.prepare(&mut vmcb, true);
    assert!(!nmi.is_stepping() && intercepts_iret(&vmcb), "an interrupt's handler runs first");
    assert_clean(&vmcb);
}

#[test]
fn flags_that_iret_has_loaded_stay() {
    let (mut nmi, mut vmcb) = returning(false);
    vmcb.set_rip(AFTER);
    assert!(steps(&vmcb), "loaded by IRET");
    assert_eq!(nmi.settle(&mut vmcb, code::INTR), Settled::Decode);
    assert!(steps(&vmcb) && nmi.is_ready(&vmcb));
}

#[test]
fn a_delivery_that_is_interrupted_blocks_nothing() {
    let (mut nmi, mut vmcb) = (Nmi::new(NmiBlocking::ByIret), vmcb());
    nmi.injected(&mut vmcb);
    nmi.interrupted(&mut vmcb);
    assert!(nmi.is_ready(&vmcb) && !intercepts_iret(&vmcb));
}

fn shadowed() -> (Nmi, std::boxed::Box<Vmcb>) {
    let (mut nmi, mut vmcb) = (Nmi::new(NmiBlocking::ByIret), vmcb());
    vmcb.set_interrupt_shadow(SHADOW);
    nmi.want(true);
    assert!(!nmi.is_ready(&vmcb));
    assert!(!nmi.prepare(&mut vmcb, false) && nmi.is_stepping());
    (nmi, vmcb)
}

#[test]
fn the_end_of_a_shadow_opens_the_window() {
    let (mut nmi, mut vmcb) = shadowed();
    vmcb.set_rip(AFTER + 2);
    vmcb.set_interrupt_shadow(0);
    vmcb.set_dr6(vmcb.dr6() | DR6_SINGLE_STEP);
    assert_eq!(nmi.settle(&mut vmcb, DB), Settled::Exit(Exit::NmiWindow));
    assert_clean(&vmcb);
    assert!(nmi.is_ready(&vmcb));
    nmi.want(false);
    assert!(!nmi.is_busy());
}

#[test]
fn what_would_show_the_step_runs_without_it() {
    for exit in
        [code::PUSHF, code::POPF, code::IRET, code::SOFTWARE_INTERRUPT, code::ICEBP, PF, code::EXCEPTION + 3]
    {
        let (mut nmi, mut vmcb) = shadowed();
        assert_eq!(nmi.settle(&mut vmcb, exit), Settled::Exit(Exit::HostEvent));
        assert_clean(&vmcb);
        assert!(!nmi.prepare(&mut vmcb, false) && !nmi.is_stepping(), "not again at this instruction");
        vmcb.set_rip(AFTER + 2);
        vmcb.set_interrupt_shadow(0);
        assert!(nmi.prepare(&mut vmcb, false), "open at the next exit");
    }
}

#[test]
fn an_exit_in_a_shadow_is_handled_as_always() {
    for exit in [code::CPUID, code::NESTED_PAGE_FAULT, code::INTR, code::EXCEPTION + 17] {
        let (mut nmi, mut vmcb) = shadowed();
        assert_eq!(nmi.settle(&mut vmcb, exit), Settled::Decode);
        assert_clean(&vmcb);
    }
}

#[test]
fn virtual_nmis_are_the_cpus() {
    let (mut nmi, mut vmcb) = (Nmi::new(NmiBlocking::Virtual), vmcb());
    vmcb.set_interrupt_shadow(SHADOW);
    assert!(nmi.is_ready(&vmcb) && nmi.hand_over(&mut vmcb));
    assert_ne!(vmcb.virtual_interrupt() & virtual_interrupt::V_NMI, 0);
    nmi.injected(&mut vmcb);
    assert!(!intercepts_iret(&vmcb) && !nmi.is_busy());
    nmi.reset(&mut vmcb);
    assert_eq!(vmcb.virtual_interrupt(), 0);
    assert!(!Nmi::new(NmiBlocking::ByIret).hand_over(&mut vmcb));
}

#[test]
fn breakpoints_by_dr7() {
    assert_eq!(enabled_breakpoints(0x400), 0);
    for (n, pair) in [(0, 1), (0, 2), (1, 4), (1, 8), (2, 0x10), (3, 0x80)] {
        assert_eq!(enabled_breakpoints(0x400 | pair), 1 << n);
    }
    assert_eq!(enabled_breakpoints(0xff), 0xf);
}
