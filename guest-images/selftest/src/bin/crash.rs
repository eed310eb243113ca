//! A guest that breaks itself, in the way that `crash=` on the command line names. The hypervisor must stop or hold this
//! virtual machine only. Nothing here comes back, but `crash=storm`.
//!
//! | `crash=` | what happens | what the hypervisor should do |
//! | --- | --- | --- |
//! | `triple` | an exception without an IDT | stop or reset |
//! | `hlt` | HLT with interrupts off | stop |
//! | `wild-jump` | execution where no memory is | stop |
//! | `wild-mmio` | an instruction on device memory that no driver uses | stop |
//! | `bad-cr` | page tables where no memory is | stop |
//! | `loop` | an endless loop with interrupts off | go on with the others |
//! | `debug-storm` | a #DB whose delivery raises #DB, for ever | go on with the others |
//! | `storm` | a second of accesses that nobody answers, then a power-off | keep its log short |
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: breaking the machine takes assembly.
#![allow(unsafe_code)]

use selftest::cpu::{self, cr4};
use selftest::descriptor;
use selftest::{boot, catch, ioapic, platform, println, probe, runner, serial, tsc};

/// A physical address below 4 GiB where a PC has nothing.
const NOWHERE: u64 = 0xd000_0000;

fn main_program() {
    runner::announce("crash");
    let way = boot::option("crash").unwrap_or("");
    println!("crash {way}: now");
    serial::drain();
    match way {
        "triple" => triple(),
        "hlt" => cpu::halt_forever(),
        "wild-jump" => {
            selftest::snippet::call(NOWHERE, 0);
        }
        "wild-mmio" => wild_mmio(),
        "bad-cr" => bad_cr(),
        "loop" => probe!("cli", "2:", "jmp 2b"),
        "debug-storm" => debug_storm(),
        "storm" => storm(),
        _ => println!(
            "crash: no way named; use crash=triple|hlt|wild-jump|wild-mmio|bad-cr|loop|debug-storm|storm"
        ),
    }
    println!("crash {way}: survived");
}

fn triple() {
    descriptor::load_idt(0, 0);
    probe!("ud2");
}

fn wild_mmio() {
    cpu::write_cr4(cr4::BASELINE | cr4::OSFXSR);
    probe!("fninit", "fnsave [{}]", in(reg) ioapic::SELECT);
}

fn bad_cr() {
    cpu::write_cr3(NOWHERE);
    cpu::read64(0x1000);
}

/// The exception's own push hits a watchpoint, so that each delivery of #DB raises the next.
fn debug_storm() {
    let stack = selftest::memory::page() + 0x800;
    cpu::write_dr0(stack - 8);
    cpu::write_dr7(0x403 | 3 << 16 | 2 << 18);
    probe!("mov rsp, {}", "2:", "mov rax, [rsp - 8]", "jmp 2b", in(reg) stack, options(noreturn));
}

fn storm() {
    let mut rounds = 0_u64;
    tsc::wait_us(1_000_000, || {
        rounds += 1;
        cpu::outl(0x0e50, rounds as u32);
        cpu::inb(0x0e51);
        let _ = catch(|| cpu::wrmsr(0x4000_1234, 0));
        let _ = catch(|| {
            cpu::rdmsr(0x1234);
        });
        cpu::write32(NOWHERE, 0);
        cpu::read32(NOWHERE + 4);
        false
    });
    println!("crash storm: {rounds} rounds under a hypervisor: {}", platform::hypervisor());
}

selftest::program!(main_program());
