//! Who is delivered when: TPR, PPR, CR8, nesting, EOI (SDM vol. 3, "Interrupt, Task, and Processor Priority").

use selftest::apic::{self, bit, read, register, send_self, write};
use selftest::cpu;
use selftest::interrupt::{self, Acknowledge, count, log};
use selftest::{Global, Test, TestResult, check, check_eq, tests};

pub(crate) const TESTS: &[Test] = tests![
    highest_vector_first,
    tpr_blocks_its_class,
    tpr_is_cr8,
    cr8_blocks_and_releases,
    ppr_follows_tpr,
    ppr_follows_the_handler,
    higher_class_preempts,
    same_class_waits,
    lower_class_waits,
    eoi_ends_the_highest,
    eoi_without_interrupt_is_harmless,
    one_request_is_kept,
    request_during_service_is_kept,
    isr_and_irr_bits,
    all_vectors_arrive,
    deep_nesting,
];

/// Expects vectors, each acknowledged after its handler.
fn expect(vectors: &[u8]) {
    for &vector in vectors {
        interrupt::expect(vector, Acknowledge::LocalApic);
    }
}

fn check_log(expected: &[u8]) -> TestResult {
    check!(log() == expected, "vectors {:x?} instead of {expected:x?}", log());
    Ok(())
}

fn highest_vector_first() -> TestResult {
    expect(&[0x31, 0x71, 0x51, 0x52]);
    for vector in [0x31, 0x71, 0x51, 0x52] {
        send_self(vector);
    }
    interrupt::enabled(|| selftest::tsc::wait_us(10_000, || count(0x31) == 1));
    check_log(&[0x71, 0x52, 0x51, 0x31])
}

fn tpr_blocks_its_class() -> TestResult {
    expect(&[0x4f, 0x50, 0x5f, 0x60]);
    write(register::TPR, 0x50);
    for vector in [0x4f, 0x50, 0x5f, 0x60] {
        send_self(vector);
    }
    cpu::take_interrupts();
    check_log(&[0x60])?;
    write(register::TPR, 0x40);
    cpu::take_interrupts();
    check_log(&[0x60, 0x5f, 0x50])?;
    write(register::TPR, 0x3f);
    cpu::take_interrupts();
    check_log(&[0x60, 0x5f, 0x50, 0x4f])
}

fn tpr_is_cr8() -> TestResult {
    for value in [0, 0x10, 0x50, 0xf0, 0x37] {
        write(register::TPR, value);
        check_eq!(read(register::TPR), value, "TPR");
        check_eq!(cpu::read_cr8(), u64::from(value >> 4), "CR8");
    }
    for value in 0..16 {
        cpu::write_cr8(value);
        check_eq!(u64::from(read(register::TPR)), value << 4, "TPR after MOV CR8");
    }
    Ok(())
}

fn cr8_blocks_and_releases() -> TestResult {
    expect(&[0x45, 0x95, 0xe5]);
    cpu::write_cr8(9);
    for vector in [0x45, 0x95, 0xe5] {
        send_self(vector);
    }
    cpu::take_interrupts();
    check_log(&[0xe5])?;
    // Released by MOV CR8 itself, interrupts being on.
    interrupt::enabled(|| {
        cpu::write_cr8(8);
        selftest::tsc::wait_us(10_000, || count(0x95) == 1);
        let early = count(0x45);
        cpu::write_cr8(0);
        selftest::tsc::wait_us(10_000, || count(0x45) == 1);
        early
    });
    check_log(&[0xe5, 0x95, 0x45])
}

fn ppr_follows_tpr() -> TestResult {
    for value in [0, 0x20, 0x37, 0xff] {
        write(register::TPR, value);
        check_eq!(read(register::PPR), value, "PPR");
    }
    Ok(())
}

static SEEN: Global<[u32; 4]> = Global::new([0; 4]);

fn ppr_follows_the_handler() -> TestResult {
    write(register::TPR, 0x20);
    interrupt::on(0x61, Acknowledge::LocalApic, |_| {
        let with_low_tpr = read(register::PPR);
        write(register::TPR, 0x75);
        let with_high_tpr = read(register::PPR);
        write(register::TPR, 0x20);
        SEEN.set([with_low_tpr, with_high_tpr, 0, 0]);
    });
    send_self(0x61);
    cpu::take_interrupts();
    check_eq!(SEEN.get()[0], 0x60, "PPR in the handler");
    check_eq!(SEEN.get()[1], 0x75, "PPR in the handler with a higher TPR");
    check_eq!(read(register::PPR), 0x20, "PPR after EOI");
    Ok(())
}

/// Sends `inner` from the handler of `outer` with interrupts on; returns whether it came before the handler's end.
fn nests(outer: u8, inner: u8) -> bool {
    static INNER: Global<u8> = Global::new(0);
    static NESTED: Global<bool> = Global::new(false);
    INNER.set(inner);
    expect(&[inner]);
    interrupt::on(outer, Acknowledge::LocalApic, |_| {
        let inner = INNER.get();
        let before = count(inner);
        send_self(inner);
        interrupt::enabled(|| selftest::tsc::wait_us(500, || count(inner) != before));
        NESTED.set(count(inner) != before);
    });
    send_self(outer);
    cpu::take_interrupts();
    interrupt::enabled(|| selftest::tsc::wait_us(10_000, || count(inner) == 1));
    NESTED.get()
}

fn higher_class_preempts() -> TestResult {
    check!(nests(0x41, 0x60), "60H did not preempt 41H");
    check!(nests(0x4f, 0x50), "50H did not preempt 4FH");
    check_log(&[0x41, 0x60, 0x4f, 0x50])
}

fn same_class_waits() -> TestResult {
    check!(!nests(0x41, 0x4f), "4FH preempted 41H");
    check_log(&[0x41, 0x4f])
}

fn lower_class_waits() -> TestResult {
    check!(!nests(0x61, 0x51), "51H preempted 61H");
    check_log(&[0x61, 0x51])
}

fn eoi_ends_the_highest() -> TestResult {
    interrupt::on(0x41, Acknowledge::Nothing, |_| {
        send_self(0x61);
        cpu::take_interrupts();
    });
    interrupt::expect(0x61, Acknowledge::Nothing);
    send_self(0x41);
    cpu::take_interrupts();
    check!(bit(register::ISR, 0x41) && bit(register::ISR, 0x61), "both should be in service");
    check_eq!(read(register::PPR), 0x60, "PPR with both in service");
    write(register::EOI, 0);
    check!(bit(register::ISR, 0x41) && !bit(register::ISR, 0x61), "the first EOI should end 61H");
    check_eq!(read(register::PPR), 0x40, "PPR after the first EOI");
    write(register::EOI, 0);
    check!(!bit(register::ISR, 0x41), "the second EOI should end 41H");
    Ok(())
}

fn eoi_without_interrupt_is_harmless() -> TestResult {
    for _ in 0..5 {
        write(register::EOI, 0);
    }
    expect(&[0x41]);
    send_self(0x41);
    cpu::take_interrupts();
    check_log(&[0x41])
}

fn one_request_is_kept() -> TestResult {
    expect(&[0x41]);
    for _ in 0..5 {
        send_self(0x41);
    }
    cpu::take_interrupts();
    cpu::take_interrupts();
    check_log(&[0x41])
}

fn request_during_service_is_kept() -> TestResult {
    interrupt::on(0x41, Acknowledge::LocalApic, |_| {
        if count(0x41) == 1 {
            for _ in 0..3 {
                send_self(0x41);
            }
        }
    });
    send_self(0x41);
    cpu::take_interrupts();
    cpu::take_interrupts();
    check_log(&[0x41, 0x41])
}

fn isr_and_irr_bits() -> TestResult {
    static IN_HANDLER: Global<[bool; 3]> = Global::new([false; 3]);
    for vector in [0x20, 0x3f, 0x40, 0x9c, 0xfe] {
        interrupt::on(vector, Acknowledge::LocalApic, |frame| {
            let vector = frame.vector as u8;
            IN_HANDLER.set([
                bit(register::IRR, vector),
                bit(register::ISR, vector),
                bit(register::TMR, vector),
            ]);
        });
        check!(!bit(register::IRR, vector), "{vector:#x} is in the IRR before");
        send_self(vector);
        check!(bit(register::IRR, vector), "{vector:#x} is not in the IRR");
        cpu::take_interrupts();
        let seen = IN_HANDLER.get();
        check!(seen == [false, true, false], "{vector:#x}: IRR, ISR, TMR are {seen:?} in the handler");
        check!(!bit(register::ISR, vector), "{vector:#x} is in service after EOI");
    }
    Ok(())
}

fn all_vectors_arrive() -> TestResult {
    for vector in 0x20..=0xfe {
        if vector == selftest::user::RETURN_VECTOR {
            continue;
        }
        expect(&[vector]);
        send_self(vector);
        cpu::take_interrupts();
        check_eq!(count(vector), 1, "interrupts by vector {vector:#x}");
    }
    Ok(())
}

fn deep_nesting() -> TestResult {
    // One handler in each class, each raising the next.
    static DEEPEST: Global<u32> = Global::new(0);
    for class in 2..=14_u8 {
        interrupt::on(class << 4 | 5, Acknowledge::LocalApic, |frame| {
            let in_service = (0..8).map(|i| read(register::ISR + 16 * i).count_ones()).sum();
            DEEPEST.set(DEEPEST.get().max(in_service));
            let next = frame.vector as u8 + 0x10;
            if next < 0xf0 {
                send_self(next);
                cpu::take_interrupts();
            }
        });
    }
    DEEPEST.set(0);
    send_self(0x25);
    cpu::take_interrupts();
    check_eq!(DEEPEST.get(), 13, "handlers in service at once");
    check_eq!(log().len(), 13, "interrupts");
    check!((0..8).all(|i| apic::read(register::ISR + 16 * i) == 0), "something is still in service");
    Ok(())
}
