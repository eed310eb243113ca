//! What QEMU writes down with `-d exec,nochain,in_asm`: a line for each block that it carries out, and the instructions of each when it first comes to it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::Counts;
use crate::failure::{Context, Result};
use crate::paths;

/// Begins the list of a block's instructions, of which each is `ADDRESS:  BYTES  NAME`.
const BLOCK: &[u8] = b"IN:";
/// Begins the line of a block that is carried out: `Trace 0: HOST [CS/ADDRESS/FLAGS/FLAGS]`.
const CARRIED_OUT: &[u8] = b"Trace ";

/// Reads a file of it.
pub(super) fn read(file: &Path) -> Result<Counts> {
    let reading = || format!("reading {}", paths::shown(file));
    let mut trace = Trace::default();
    let mut lines = BufReader::new(File::open(file).context(reading())?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).context(reading())? != 0 {
        trace.take(&line);
        line.clear();
    }
    Ok(trace.counts())
}

/// What was read so far.
#[derive(Default)]
struct Trace {
    /// The instructions of the block that begins there.
    blocks: HashMap<u64, Vec<u64>>,
    /// How often it was carried out.
    carried_out: HashMap<u64, u64>,
    /// The block whose instructions come now.
    listed: Option<u64>,
    begins: bool,
}

impl Trace {
    fn take(&mut self, line: &[u8]) {
        if line.starts_with(CARRIED_OUT) {
            if let Some(address) = block_of(line) {
                *self.carried_out.entry(address).or_default() += 1;
            }
        } else if line.starts_with(BLOCK) {
            self.begins = true;
        } else if let Some(address) = instruction_of(line) {
            if core::mem::take(&mut self.begins) {
                self.listed = Some(address);
                self.blocks.insert(address, Vec::new());
            }
            let listed = self.listed.and_then(|block| self.blocks.get_mut(&block));
            listed.into_iter().for_each(|block| block.push(address));
        }
    }

    fn counts(self) -> Counts {
        let mut counts = Counts::new();
        for (block, times) in self.carried_out {
            for address in self.blocks.get(&block).into_iter().flatten() {
                *counts.entry(*address).or_default() += times;
            }
        }
        counts
    }
}

fn block_of(line: &[u8]) -> Option<u64> {
    let line = core::str::from_utf8(line).ok()?;
    let (_, place) = line.split_once('[')?;
    u64::from_str_radix(place.split('/').nth(1)?, 16).ok()
}

fn instruction_of(line: &[u8]) -> Option<u64> {
    let line = core::str::from_utf8(line).ok()?;
    let (address, _) = line.strip_prefix("0x")?.split_once(':')?;
    u64::from_str_radix(address, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_of_a_block_counts_as_often_as_the_block() {
        let mut trace = Trace::default();
        for line in [
            "----------------\n",
            "IN: \n",
            "0xffffffff80200010:  55                       pushq    %rbp\n",
            "0xffffffff80200011:  c3                       retq     \n",
            "\n",
            "Trace 0: 0x7f1 [0000000000000000/ffffffff80200010/0240c0b1/ff000000] start\n",
            "IN: \n",
            "0xffffffff80200020:  90                       nop      \n",
            "Trace 0: 0x7f2 [0000000000000000/ffffffff80200020/0240c0b1/ff000000] \n",
            "Trace 0: 0x7f1 [0000000000000000/ffffffff80200010/0240c0b1/ff000000] start\n",
            "Trace 0: nonsense\n",
        ] {
            trace.take(line.as_bytes());
        }
        let expected = [(0xffff_ffff_8020_0010, 2), (0xffff_ffff_8020_0011, 2), (0xffff_ffff_8020_0020, 1)];
        assert_eq!(trace.counts().into_iter().collect::<Vec<_>>(), expected);
    }
}
