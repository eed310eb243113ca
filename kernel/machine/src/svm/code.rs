//! Exit codes and the decoding of their information: plain numbers in, [`Exit`](vcpu::Exit) parts out.
//!
//! Sources: AMD APM vol. 2, appendix "SVM Intercept Exit Codes", and "Intercept Operation".

use vcpu::{Access, ControlRegisterAccess, Event, Gpa, Gpr, IoExit, NestedFault, vector};

pub(crate) const CR_READ: u64 = 0x00;
pub(crate) const CR_WRITE: u64 = 0x10;
/// Writes of CR8.
pub(crate) const CR_END: u64 = 0x1f;
pub(crate) const EXCEPTION: u64 = 0x40;
pub(crate) const EXCEPTION_END: u64 = 0x5f;
pub(crate) const INTR: u64 = 0x60;
pub(crate) const NMI: u64 = 0x61;
pub(crate) const INIT: u64 = 0x63;
pub(crate) const VINTR: u64 = 0x64;
pub(crate) const RDPMC: u64 = 0x6f;
pub(crate) const PUSHF: u64 = 0x70;
pub(crate) const POPF: u64 = 0x71;
pub(crate) const CPUID: u64 = 0x72;
pub(crate) const IRET: u64 = 0x74;
pub(crate) const SOFTWARE_INTERRUPT: u64 = 0x75;
pub(crate) const INVD: u64 = 0x76;
pub(crate) const PAUSE: u64 = 0x77;
pub(crate) const HLT: u64 = 0x78;
pub(crate) const INVLPGA: u64 = 0x7a;
pub(crate) const IOIO: u64 = 0x7b;
pub(crate) const MSR: u64 = 0x7c;
pub(crate) const TASK_SWITCH: u64 = 0x7d;
pub(crate) const FERR_FREEZE: u64 = 0x7e;
pub(crate) const SHUTDOWN: u64 = 0x7f;
pub(crate) const VMRUN: u64 = 0x80;
pub(crate) const VMMCALL: u64 = 0x81;
pub(crate) const VMLOAD: u64 = 0x82;
pub(crate) const SKINIT: u64 = 0x86;
pub(crate) const ICEBP: u64 = 0x88;
pub(crate) const WBINVD: u64 = 0x89;
pub(crate) const MONITOR: u64 = 0x8a;
pub(crate) const MWAIT_ARMED: u64 = 0x8c;
pub(crate) const XSETBV: u64 = 0x8d;
pub(crate) const RDPRU: u64 = 0x8e;
pub(crate) const NESTED_PAGE_FAULT: u64 = 0x400;
/// VMEXIT_INVALID: VMRUN found the guest's state or controls inconsistent.
pub(crate) const INVALID: u64 = u64::MAX;

/// EXITINTINFO and EVENTINJ fields (APM vol. 2, "Event Injection").
mod event {
    pub(super) const VALID: u64 = 1 << 31;
    pub(super) const ERROR_CODE: u64 = 1 << 11;
    pub(super) const INTERRUPT: u64 = 0;
    pub(super) const NMI: u64 = 2;
    pub(super) const EXCEPTION: u64 = 3;
    pub(super) const SOFTWARE_INTERRUPT: u64 = 4;
}

/// The exit is due to an instruction that the hypervisor finishes, so that nRIP is valid where the CPU
/// saves it.
pub(crate) const fn by_instruction(code: u64) -> bool {
    matches!(
        code,
        CR_READ..=CR_END | RDPMC | CPUID | INVD | PAUSE | HLT | INVLPGA | IOIO | MSR | VMRUN..=RDPRU
    )
}

/// The vector of an exit by an exception.
pub(crate) const fn exception_vector(code: u64) -> Option<u8> {
    match code {
        EXCEPTION..=EXCEPTION_END => Some((code - EXCEPTION) as u8),
        _ => None,
    }
}

/// EXITINFO1 of an I/O instruction.
#[inline(always)]
pub(crate) const fn io(info: u64) -> IoExit {
    let size = (info >> 4 & 7) as u8;
    IoExit::new((info >> 16) as u16, size, info & 1 != 0, info & 1 << 2 != 0)
}

/// A control-register exit. The register is in the code; decode assists give the general-purpose register
/// for MOV, and only for it.
pub(crate) const fn control_register(code: u64, info: u64, assists: bool) -> Option<ControlRegisterAccess> {
    /// EXITINFO1: the instruction was MOV.
    const BY_MOV: u64 = 1 << 63;
    if !assists || info & BY_MOV == 0 {
        return None;
    }
    let register = (code & 15) as u8;
    let gpr = Gpr::from_number((info & 15) as u8);
    Some(if code >= CR_WRITE {
        ControlRegisterAccess::Write { register, source: gpr }
    } else {
        ControlRegisterAccess::Read { register, destination: gpr }
    })
}

/// EXITINFO1 of a nested page fault: a page-fault error code, and whose walk it was.
mod fault {
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const FETCH: u64 = 1 << 4;
    pub(super) const TABLE_WALK: u64 = 1 << 33;
}

/// A nested page fault.
pub(crate) const fn nested_fault(info_1: u64, info_2: u64) -> NestedFault {
    let table_walk = info_1 & fault::TABLE_WALK != 0;
    let access = if info_1 & fault::FETCH != 0 && !table_walk {
        Access::Fetch
    } else if info_1 & fault::WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    };
    NestedFault { gpa: Gpa(info_2), access, linear: None, table_walk }
}

/// The event whose delivery an exit interrupted. INT n, INT3 and INTO are not repeated by injection: RIP
/// still points to them, so the guest executes them again.
pub(crate) const fn interrupted(info: u64) -> Option<Event> {
    if info & event::VALID == 0 {
        return None;
    }
    let vector = info as u8;
    match info >> 8 & 7 {
        event::INTERRUPT => Some(Event::Interrupt { vector }),
        event::NMI => Some(Event::Nmi),
        event::EXCEPTION if !matches!(vector, vector::BP | vector::OF) => Some(Event::Exception {
            vector,
            error_code: if info & event::ERROR_CODE != 0 { Some((info >> 32) as u32) } else { None },
        }),
        _ => None,
    }
}

/// An interrupt as EVENTINJ takes it for an INT instruction.
pub(crate) const fn as_software(vector: u8) -> u64 {
    vector as u64 | event::SOFTWARE_INTERRUPT << 8 | event::VALID
}

/// The vector of an INT instruction whose delivery an exit interrupted.
pub(crate) const fn interrupted_software(info: u64) -> Option<u8> {
    let software = info & event::VALID != 0 && info >> 8 & 7 == event::SOFTWARE_INTERRUPT;
    if software { Some(info as u8) } else { None }
}

/// An event as EVENTINJ takes it. An error code goes with the exceptions that push one, and only in protected
/// mode, whatever the event says.
pub(crate) const fn injection(pending: Event, protected: bool) -> u64 {
    let (vector, kind, error) = match pending {
        Event::Interrupt { vector } => (vector, event::INTERRUPT, None),
        Event::Nmi => (vector::NMI, event::NMI, None),
        Event::Exception { vector, error_code } => {
            let code = match error_code {
                _ if !protected || !vector::has_error_code(vector) => None,
                None => Some(0),
                given => given,
            };
            (vector, event::EXCEPTION, code)
        }
        Event::Software { vector, .. } => (vector, event::SOFTWARE_INTERRUPT, None),
    };
    let base = event::VALID | kind << 8 | vector as u64;
    match error {
        Some(code) => base | event::ERROR_CODE | (code as u64) << 32,
        None => base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_information() {
        let exit = io(0x3f8 << 16 | 1 << 4 | 1);
        assert_eq!(exit, IoExit::new(0x3f8, 1, true, false));
        let exit = io(0xcfc << 16 | 4 << 4 | 1 << 2);
        assert_eq!(exit, IoExit::new(0xcfc, 4, false, true));
    }

    #[test]
    fn control_registers_need_decode_assists() {
        assert_eq!(control_register(0x14, 1 << 63 | 3, false), None);
        assert_eq!(
            control_register(0x14, 1 << 63 | 3, true),
            Some(ControlRegisterAccess::Write { register: 4, source: Gpr::Rbx })
        );
        assert_eq!(control_register(0x10, 0, true), None, "LMSW and CLTS are not MOV");
    }

    #[test]
    fn a_delivery_that_was_interrupted_is_repeated_unchanged() {
        for event in [
            Event::Interrupt { vector: 0x31 },
            Event::Nmi,
            Event::Exception { vector: 14, error_code: Some(6) },
            Event::Exception { vector: 6, error_code: None },
        ] {
            assert_eq!(interrupted(injection(event, true)), Some(event));
        }
        assert_eq!(interrupted(0x31), None);
        let breakpoint = injection(Event::Exception { vector: 3, error_code: None }, true);
        assert_eq!(interrupted(breakpoint), None, "INT3 is executed again instead");
    }

    #[test]
    fn error_codes_go_with_the_exceptions_that_have_them() {
        let encoded = |vector, error_code, protected| {
            injection(Event::Exception { vector, error_code }, protected) & !event::VALID
        };
        assert_eq!(encoded(14, Some(6), true), 6 << 32 | 1 << 11 | 3 << 8 | 14);
        assert_eq!(encoded(13, Some(6), false), 3 << 8 | 13);
        assert_eq!(encoded(8, None, true), 1 << 11 | 3 << 8 | 8);
        assert_eq!(encoded(6, Some(1), true), 3 << 8 | 6);
    }

    #[test]
    fn nested_faults() {
        let fault = nested_fault(1 << 32 | 0b110, 0xfee0_0300);
        assert_eq!((fault.access, fault.table_walk, fault.gpa), (Access::Write, false, Gpa(0xfee0_0300)));
        assert!(nested_fault(1 << 33 | 0b110, 0x1000).table_walk);
    }
}
