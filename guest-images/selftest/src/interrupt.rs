//! External interrupts: every delivery is logged, acknowledged as the test said, and shown to its hook. Each processor has
//! its own expectations, counts and log.

use crate::cpu::flag;
use crate::exception::Frame;
use crate::platform;
use crate::smp::MAX_CPUS;
use crate::{PerCpu, TestResult, apic, cpu, pic, smp, verdict};

/// How a delivery is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledge {
    /// Nobody expects this vector: the test fails. The local APIC gets its EOI.
    Unexpected,
    /// The test's hook does it, or none is due.
    Nothing,
    /// EOI to the local APIC.
    LocalApic,
    /// EOI to the 8259 pair; the vector's offset from [`pic::BASE`] is the line.
    Pic,
}

/// Deliveries that the log keeps.
pub const LOG_SIZE: usize = 64;

struct State {
    acknowledge: [Acknowledge; 256],
    hooks: [Option<fn(&mut Frame)>; 256],
    counts: [u32; 256],
    log: [u8; LOG_SIZE],
    logged: usize,
    last_rip: u64,
    stray: Option<u8>,
    /// A vector that came while RFLAGS.IF was clear.
    masked: Option<u8>,
    draining: bool,
}

const NEW: State = State {
    acknowledge: [Acknowledge::Unexpected; 256],
    hooks: [None; 256],
    counts: [0; 256],
    log: [0; LOG_SIZE],
    logged: 0,
    last_rip: 0,
    stray: None,
    masked: None,
    draining: false,
};
static STATE: PerCpu<State> = PerCpu::new([NEW; MAX_CPUS]);

/// Back to: every vector unexpected, nothing logged.
pub fn reset() {
    STATE.with(|state| {
        state.acknowledge.fill(Acknowledge::Unexpected);
        state.acknowledge[usize::from(apic::SPURIOUS_VECTOR)] = Acknowledge::Nothing;
        state.hooks.fill(None);
        state.counts.fill(0);
        state.logged = 0;
        state.last_rip = 0;
        state.stray = None;
        state.masked = None;
        state.draining = false;
    });
}

/// Expects a vector.
pub fn expect(vector: u8, acknowledge: Acknowledge) {
    STATE.with(|state| state.acknowledge[usize::from(vector)] = acknowledge);
}

/// Expects a vector and calls `hook` at each delivery, before it is acknowledged.
pub fn on(vector: u8, acknowledge: Acknowledge, hook: fn(&mut Frame)) {
    expect(vector, acknowledge);
    STATE.with(|state| state.hooks[usize::from(vector)] = Some(hook));
}

/// Deliveries of a vector.
pub fn count(vector: u8) -> u32 {
    count_on(smp::current(), vector)
}

/// Deliveries of a vector on another processor.
pub fn count_on(cpu: usize, vector: u8) -> u32 {
    // SAFETY: a volatile read of one element, which its handler may be changing between two reads.
    unsafe { (&raw const (*STATE.of(cpu)).counts[usize::from(vector)]).read_volatile() }
}

/// What came to a processor that must not come, as far as its job is done.
///
/// # Errors
/// A vector that nobody expected, or one that came with interrupts off.
pub fn verdict_on(cpu: usize) -> TestResult {
    // SAFETY: as in `count_on`.
    let (stray, masked) = unsafe {
        let state = STATE.of(cpu);
        ((&raw const (*state).stray).read_volatile(), (&raw const (*state).masked).read_volatile())
    };
    if let Some(vector) = masked {
        return Err(verdict::fail(format_args!(
            "processor {cpu} got an interrupt with RFLAGS.IF clear, vector {vector:#x}"
        )));
    }
    match stray {
        Some(vector) => {
            Err(verdict::fail(format_args!("stray interrupt on processor {cpu}, vector {vector:#x}")))
        }
        None => Ok(()),
    }
}

/// The vectors delivered but the spurious one, in order, as far as the log reaches.
pub fn log() -> &'static [u8] {
    // SAFETY: tests look at the log with interrupts off.
    let state = unsafe { &*STATE.own() };
    &state.log[..state.logged.min(LOG_SIZE)]
}

/// The instruction pointer that the last delivery saved.
pub fn last_rip() -> u64 {
    STATE.with(|state| state.last_rip)
}

pub(crate) fn dispatch(frame: &mut Frame) {
    let vector = frame.vector as u8;
    let (acknowledge, hook) = STATE.with(|state| {
        if state.draining {
            return (Acknowledge::LocalApic, None);
        }
        state.counts[usize::from(vector)] += 1;
        // A spurious interrupt may come at any time that a request goes away.
        if vector != apic::SPURIOUS_VECTOR {
            if state.logged < LOG_SIZE {
                state.log[state.logged] = vector;
            }
            state.logged += 1;
        }
        state.last_rip = frame.rip;
        let acknowledge = state.acknowledge[usize::from(vector)];
        if acknowledge == Acknowledge::Unexpected {
            state.stray.get_or_insert(vector);
        }
        // What nobody acknowledges may be an INT instruction's.
        let is_masked = frame.rflags & flag::IF == 0 && acknowledge != Acknowledge::Nothing;
        if is_masked && !platform::delivers_masked() {
            state.masked.get_or_insert(vector);
        }
        (acknowledge, state.hooks[usize::from(vector)])
    });
    if let Some(hook) = hook {
        hook(frame);
    }
    match acknowledge {
        Acknowledge::Nothing => {}
        Acknowledge::LocalApic | Acknowledge::Unexpected => apic::eoi(),
        Acknowledge::Pic => pic::eoi(vector.wrapping_sub(pic::BASE)),
    }
}

/// Runs `f` with interrupts on.
pub fn enabled<T>(f: impl FnOnce() -> T) -> T {
    cpu::sti();
    let value = f();
    cpu::cli();
    value
}

/// Takes and forgets whatever the local APIC still holds.
pub(crate) fn drain() {
    STATE.with(|state| state.draining = true);
    cpu::take_interrupts();
    STATE.with(|state| state.draining = false);
}
