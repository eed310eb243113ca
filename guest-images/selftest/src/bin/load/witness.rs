//! A guest that notices when somebody else writes its memory, or when it loses what it wrote.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use selftest::{cpu, memory, power, println, smp};

/// How long the slowest processor may take for a pass.
const PATIENCE_US: u64 = 3_600_000_000;

/// Passes that processors have finished, all together.
static FINISHED: AtomicU64 = AtomicU64::new(0);
/// Passes that were told.
static PASSED: AtomicU64 = AtomicU64::new(0);
/// The first wrong word: its address, what was there, what should be. An address of 0 is none.
static WRONG: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// What belongs at an address in a pass.
fn pattern(address: u64, pass: u64) -> u64 {
    let mixed = address ^ crate::number("seed").rotate_left(40) ^ pass.rotate_left(20);
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Each processor takes every n-th page; all of them go from pass to pass together.
pub(crate) fn run() {
    let (start, pages) = memory::all();
    let (own, count) = (smp::current() as u64, smp::processors());
    for pass in 1..=crate::number("passes") {
        let addresses = || {
            let mine = (own..pages).step_by(count);
            mine.flat_map(|page| {
                (0..memory::PAGE).step_by(8).map(move |word| start + page * memory::PAGE + word)
            })
        };
        addresses().for_each(|address| cpu::write64(address, pattern(address, pass)));
        for address in addresses() {
            let (found, expected) = (cpu::read64(address), pattern(address, pass));
            if found != expected && WRONG[0].compare_exchange(0, address, SeqCst, SeqCst).is_ok() {
                WRONG[1].store(found, SeqCst);
                WRONG[2].store(expected, SeqCst);
            }
        }
        FINISHED.fetch_add(1, SeqCst);
        let all = pass * count as u64;
        if own == 0 {
            smp::wait_us(PATIENCE_US, || FINISHED.load(SeqCst) >= all);
            tell(pass, pages);
            PASSED.store(pass, SeqCst);
        } else {
            smp::wait_us(PATIENCE_US, || PASSED.load(SeqCst) >= pass);
        }
    }
    if own == 0 {
        power::off();
    }
}

fn tell(pass: u64, pages: u64) {
    let [address, found, expected] = [0, 1, 2].map(|index: usize| WRONG[index].load(SeqCst));
    if address == 0 {
        println!("witness: pass {pass}, {} KiB good", (pages * memory::PAGE) >> 10);
        return;
    }
    println!("witness: BAD at {address:#x}: found {found:#x}, expected {expected:#x}");
    power::off();
}
