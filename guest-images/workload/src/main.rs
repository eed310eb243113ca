//! A fixed load: the same work each time, whoever runs it, so that what a hypervisor adds can be compared. It computes, touches memory, starts
//! processes, makes system calls, lets threads wait for each other, and writes and reads files; some hundred million instructions
//! of each.
//!
//! It measures nothing itself: the counters of the machine around it do. Its sums are printed, so that nothing is left out as useless.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::io::{Read, Result, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::{env, fs, io, thread};

/// Says to a copy of this program that it has nothing to do.
const NOTHING: &str = "nothing";
/// The size of a page.
const PAGE: usize = 4096;
/// Where the files are. In a guest's initial file system that is memory.
const FOLDER: &str = "/tmp/workload";

/// Steps of a pseudo-random sequence.
const STEPS: u64 = 40_000_000;
/// Pieces of memory, one after the other, and their pages.
const PIECES: usize = 8;
const PIECE_PAGES: usize = 8 << 10;
/// Processes, one after the other.
const PROCESSES: usize = 250;
/// System calls that do next to nothing.
const CALLS: usize = 500_000;
/// Messages to another thread and back.
const MESSAGES: u64 = 20_000;
/// Small files, and pieces of the large one.
const FILES: usize = 2_000;
const FILE_PIECES: usize = 48;
const FILE_PIECE: usize = 1 << 20;

fn main() -> Result<()> {
    if env::args().nth(1).as_deref() == Some(NOTHING) {
        return Ok(());
    }
    println!("workload begins");
    let mut sum = compute(STEPS);
    sum ^= touch();
    start_processes()?;
    call_system();
    sum ^= send_messages()?;
    sum ^= write_and_read(Path::new(FOLDER))?;
    println!("workload ends: {sum:016x}");
    Ok(())
}

/// One number of the sequence after another (xorshift).
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

fn compute(steps: u64) -> u64 {
    (0..steps).fold(1, |state, _| next(state))
}

/// Fresh pages, each written once, then read in an order that no cache knows.
fn touch() -> u64 {
    let mut sum = 0;
    for piece in 0..PIECES {
        let mut memory = vec![0_u8; PIECE_PAGES * PAGE];
        memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = piece as u8);
        let (memory, mut state) = (black_box(memory), 1 + piece as u64);
        for _ in 0..PIECE_PAGES {
            state = next(state);
            sum += u64::from(memory[state as usize % memory.len()]);
        }
    }
    sum
}

/// Each is a copy of this program, loaded anew, which ends at once.
fn start_processes() -> Result<()> {
    let own = env::current_exe()?;
    for _ in 0..PROCESSES {
        if !Command::new(&own).arg(NOTHING).status()?.success() {
            return Err(io::Error::other("a process has failed"));
        }
    }
    Ok(())
}

fn call_system() {
    for _ in 0..CALLS {
        black_box(std::os::unix::process::parent_id());
    }
}

/// Two threads wait for each other in turn.
fn send_messages() -> Result<u64> {
    let (there, received) = mpsc::sync_channel(0);
    let (back, answers) = mpsc::sync_channel(0);
    let lost = |_| io::Error::other("the other thread is gone");
    thread::scope(|scope| {
        scope.spawn(move || while received.recv().is_ok_and(|number| back.send(next(number)).is_ok()) {});
        let mut sum = 1;
        for _ in 0..MESSAGES {
            there.send(sum).map_err(|_| lost(mpsc::RecvError))?;
            sum = answers.recv().map_err(lost)?;
        }
        drop(there);
        Ok(sum)
    })
}

fn write_and_read(folder: &Path) -> Result<u64> {
    fs::create_dir_all(folder)?;
    let mut sum = 0;
    for number in 0..FILES {
        let file = folder.join(number.to_string());
        fs::write(&file, [number as u8; PAGE])?;
        sum += fs::metadata(&file)?.len() + u64::from(fs::read(&file)?[PAGE - 1]);
    }
    (0..FILES).try_for_each(|number| fs::remove_file(folder.join(number.to_string())))?;
    let large = folder.join("large");
    let mut file = fs::File::create(&large)?;
    (0..FILE_PIECES).try_for_each(|piece| file.write_all(&vec![piece as u8; FILE_PIECE]))?;
    let (mut file, mut piece) = (fs::File::open(&large)?, vec![0; FILE_PIECE]);
    for _ in 0..FILE_PIECES {
        file.read_exact(&mut piece)?;
        sum += u64::from(piece[FILE_PIECE / 2]);
    }
    fs::remove_dir_all(folder)?;
    Ok(sum)
}
