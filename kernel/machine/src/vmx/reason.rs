//! Basic exit reasons and the decoding of qualifications: plain numbers in, [`Exit`] parts out.
//!
//! Sources: Intel SDM vol. 3, appendix "VMX Basic Exit Reasons", and "Exit Qualification" with its tables.

use vcpu::{
    APIC_PAGE, Access, ControlRegisterAccess, Event, Gpa, Gpr, Gva, IoExit, NestedFault, SoftwareKind, vector,
};

pub(crate) const EXCEPTION_OR_NMI: u16 = 0;
pub(crate) const EXTERNAL_INTERRUPT: u16 = 1;
pub(crate) const TRIPLE_FAULT: u16 = 2;
pub(crate) const INIT_SIGNAL: u16 = 3;
pub(crate) const INTERRUPT_WINDOW: u16 = 7;
pub(crate) const NMI_WINDOW: u16 = 8;
pub(crate) const TASK_SWITCH: u16 = 9;
pub(crate) const CPUID: u16 = 10;
pub(crate) const GETSEC: u16 = 11;
pub(crate) const HLT: u16 = 12;
pub(crate) const INVD: u16 = 13;
pub(crate) const RDPMC: u16 = 15;
pub(crate) const VMCALL: u16 = 18;
pub(crate) const VMCLEAR: u16 = 19;
pub(crate) const VMXON: u16 = 27;
pub(crate) const CONTROL_REGISTER: u16 = 28;
pub(crate) const IO: u16 = 30;
pub(crate) const RDMSR: u16 = 31;
pub(crate) const WRMSR: u16 = 32;
pub(crate) const MWAIT: u16 = 36;
pub(crate) const MONITOR: u16 = 39;
pub(crate) const PAUSE: u16 = 40;
pub(crate) const TPR_BELOW_THRESHOLD: u16 = 43;
pub(crate) const APIC_ACCESS: u16 = 44;
pub(crate) const VIRTUALIZED_EOI: u16 = 45;
pub(crate) const EPT_VIOLATION: u16 = 48;
pub(crate) const INVEPT: u16 = 50;
pub(crate) const PREEMPTION_TIMER: u16 = 52;
pub(crate) const INVVPID: u16 = 53;
pub(crate) const WBINVD: u16 = 54;
pub(crate) const XSETBV: u16 = 55;
pub(crate) const APIC_WRITE: u16 = 56;
pub(crate) const ENCLS: u16 = 60;
pub(crate) const SEAMCALL: u16 = 76;
pub(crate) const TDCALL: u16 = 77;

/// Bit 31 of the exit reason: the entry failed.
pub(crate) const ENTRY_FAILED: u32 = 1 << 31;

/// Interruption-information fields (SDM vol. 3, "Information for VM Exits Due to Vectored Events").
pub(crate) mod interruption {
    pub(crate) const VALID: u32 = 1 << 31;
    pub(crate) const ERROR_CODE: u32 = 1 << 11;
    pub(crate) const EXTERNAL: u32 = 0;
    pub(crate) const NMI: u32 = 2;
    pub(crate) const HARDWARE_EXCEPTION: u32 = 3;
    pub(crate) const SOFTWARE_INTERRUPT: u32 = 4;
    pub(crate) const PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;
    pub(crate) const SOFTWARE_EXCEPTION: u32 = 6;

    pub(crate) const fn kind(info: u32) -> u32 {
        info >> 8 & 7
    }
}

/// The exit is due to an instruction, so that the instruction length is valid and no delivery was
/// interrupted.
pub(crate) const fn by_instruction(reason: u16) -> bool {
    matches!(reason, CPUID..=VMXON | CONTROL_REGISTER..=WRMSR | MWAIT | MONITOR | PAUSE)
        || matches!(reason, 50 | 51 | 53..=55 | 57..=61 | 63 | 64 | 67 | 68 | SEAMCALL | TDCALL)
}

/// The qualification of an access to the local APIC's page that the CPU does not virtualize. What is no read or write by an
/// instruction's operand counts as a fetch.
pub(crate) const fn apic_access(qualification: u64) -> NestedFault {
    const OFFSET: u64 = 0xfff;
    let access = match qualification >> 12 & 0xf {
        0 => Access::Read,
        1 | 3 => Access::Write,
        _ => Access::Fetch,
    };
    NestedFault { gpa: Gpa(APIC_PAGE.0 + (qualification & OFFSET)), access, linear: None, table_walk: false }
}

/// The qualification of an I/O instruction, which has these very bits.
#[inline(always)]
pub(crate) const fn io(qualification: u64) -> IoExit {
    IoExit::from_bits(qualification as u32)
}

/// The qualification of a control-register access.
pub(crate) const fn control_register(qualification: u64) -> ControlRegisterAccess {
    let register = (qualification & 15) as u8;
    let gpr = Gpr::from_number((qualification >> 8 & 15) as u8);
    match qualification >> 4 & 3 {
        0 => ControlRegisterAccess::Write { register, source: gpr },
        1 => ControlRegisterAccess::Read { register, destination: gpr },
        2 => ControlRegisterAccess::Clts,
        _ => ControlRegisterAccess::Lmsw { value: (qualification >> 16) as u16 },
    }
}

/// EPT-violation qualification bits.
mod ept {
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const FETCH: u64 = 1 << 2;
    pub(super) const LINEAR_VALID: u64 = 1 << 7;
    pub(super) const FINAL_ACCESS: u64 = 1 << 8;
}
/// Bit 12 of the qualification: the fault hit an IRET that had ended NMI blocking.
pub(crate) const NMI_UNBLOCKED_BY_IRET: u64 = 1 << 12;

/// An EPT violation.
pub(crate) const fn ept_violation(qualification: u64, gpa: u64, linear: u64) -> NestedFault {
    let access = if qualification & ept::WRITE != 0 {
        Access::Write
    } else if qualification & ept::FETCH != 0 {
        Access::Fetch
    } else {
        Access::Read
    };
    let valid = qualification & ept::LINEAR_VALID != 0;
    NestedFault {
        gpa: Gpa(gpa),
        access,
        linear: if valid { Some(Gva(linear)) } else { None },
        table_walk: valid && qualification & ept::FINAL_ACCESS == 0,
    }
}

/// The event whose delivery an exit interrupted, from IDT-vectoring information.
pub(crate) const fn interrupted(info: u32, error_code: u32, length: u32) -> Option<Event> {
    if info & interruption::VALID == 0 {
        return None;
    }
    let vector = info as u8;
    Some(match interruption::kind(info) {
        interruption::EXTERNAL => Event::Interrupt { vector },
        interruption::NMI => Event::Nmi,
        interruption::SOFTWARE_INTERRUPT => {
            Event::Software { vector, length: length as u8, kind: SoftwareKind::Interrupt }
        }
        interruption::PRIVILEGED_SOFTWARE_EXCEPTION => {
            Event::Software { vector, length: length as u8, kind: SoftwareKind::Privileged }
        }
        interruption::SOFTWARE_EXCEPTION => {
            Event::Software { vector, length: length as u8, kind: SoftwareKind::Exception }
        }
        _ => Event::Exception {
            vector,
            error_code: if info & interruption::ERROR_CODE != 0 { Some(error_code) } else { None },
        },
    })
}

/// An event as the entry fields take it: information, error code, instruction length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Injection {
    pub(crate) info: u32,
    pub(crate) error_code: u32,
    pub(crate) length: u32,
}

/// Encodes an event. An error code goes with the exceptions that push one, and only in protected mode, whatever
/// the event says: an entry checks that.
pub(crate) const fn injection(event: Event, protected: bool) -> Injection {
    let (vector, kind, error, length) = match event {
        Event::Interrupt { vector } => (vector, interruption::EXTERNAL, None, 0),
        Event::Nmi => (vector::NMI, interruption::NMI, None, 0),
        Event::Exception { vector, error_code } => {
            let code = match error_code {
                _ if !protected || !vector::has_error_code(vector) => None,
                None => Some(0),
                given => given,
            };
            (vector, interruption::HARDWARE_EXCEPTION, code, 0)
        }
        Event::Software { vector, length, kind } => {
            let kind = match kind {
                SoftwareKind::Interrupt => interruption::SOFTWARE_INTERRUPT,
                SoftwareKind::Privileged => interruption::PRIVILEGED_SOFTWARE_EXCEPTION,
                SoftwareKind::Exception => interruption::SOFTWARE_EXCEPTION,
            };
            (vector, kind, None, length as u32)
        }
    };
    let mut info = interruption::VALID | kind << 8 | vector as u32;
    let error_code = match error {
        Some(code) => {
            info |= interruption::ERROR_CODE;
            code
        }
        None => 0,
    };
    Injection { info, error_code, length }
}

/// VM-instruction error numbers that an entry can give, in words.
pub(crate) const fn instruction_error(number: u32) -> &'static str {
    match number {
        4 => "VMLAUNCH with a VMCS that is not clear",
        5 => "VMRESUME with a VMCS that was not launched",
        7 => "VM entry with invalid control fields",
        8 => "VM entry with invalid host-state fields",
        25 => "VM entry with an invalid executive-VMCS pointer",
        26 => "VM entry with events blocked by MOV SS",
        _ => "VMLAUNCH or VMRESUME failed",
    }
}

/// Basic reasons of a failed entry, in words.
pub(crate) const fn entry_failure(reason: u16) -> &'static str {
    match reason {
        33 => "VM entry with invalid guest state",
        34 => "VM entry failed loading MSRs",
        41 => "VM entry failed by a machine check",
        _ => "VM entry failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_qualification() {
        let exit = io(0x3f8 << 16 | 1 << 3);
        assert_eq!(exit, IoExit::new(0x3f8, 1, true, false));
        let exit = io(0xcfc << 16 | 3 | 1 << 4);
        assert_eq!(exit, IoExit::new(0xcfc, 4, false, true));
    }

    #[test]
    fn control_register_qualification() {
        assert_eq!(
            control_register(4 | 3 << 8),
            ControlRegisterAccess::Write { register: 4, source: Gpr::Rbx }
        );
        assert_eq!(
            control_register(8 | 1 << 4 | 9 << 8),
            ControlRegisterAccess::Read { register: 8, destination: Gpr::R9 }
        );
        assert_eq!(control_register(3 << 4 | 0xfff1 << 16), ControlRegisterAccess::Lmsw { value: 0xfff1 });
    }

    #[test]
    fn a_delivery_that_was_interrupted_is_repeated_unchanged() {
        for event in [
            Event::Interrupt { vector: 0x31 },
            Event::Nmi,
            Event::Exception { vector: 14, error_code: Some(6) },
            Event::Exception { vector: 6, error_code: None },
            Event::Software { vector: 0x80, length: 2, kind: SoftwareKind::Interrupt },
            Event::Software { vector: 3, length: 1, kind: SoftwareKind::Exception },
        ] {
            let encoded = injection(event, true);
            assert_eq!(interrupted(encoded.info, encoded.error_code, encoded.length), Some(event));
        }
        assert_eq!(interrupted(0x31, 0, 0), None);
    }

    #[test]
    fn real_mode_gets_no_error_code() {
        let encoded = injection(Event::Exception { vector: 13, error_code: Some(5) }, false);
        assert_eq!(encoded.info & interruption::ERROR_CODE, 0);
    }

    #[test]
    fn error_codes_go_with_the_exceptions_that_have_them() {
        let code_of = |vector, error_code| {
            let encoded = injection(Event::Exception { vector, error_code }, true);
            (encoded.info & interruption::ERROR_CODE != 0).then_some(encoded.error_code)
        };
        assert_eq!(code_of(14, Some(6)), Some(6));
        assert_eq!(code_of(8, None), Some(0));
        assert_eq!(code_of(6, Some(1)), None);
    }

    #[test]
    fn instruction_exits() {
        for reason in [CPUID, HLT, VMCALL, IO, RDMSR, WRMSR, XSETBV, CONTROL_REGISTER, WBINVD] {
            assert!(by_instruction(reason), "{reason}");
        }
        for reason in [EXCEPTION_OR_NMI, EXTERNAL_INTERRUPT, EPT_VIOLATION, TASK_SWITCH, INTERRUPT_WINDOW] {
            assert!(!by_instruction(reason), "{reason}");
        }
    }
}
