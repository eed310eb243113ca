//! QEMU's control connection, to look into a machine from outside: at its screen, and whether its CPU stands still.
//!
//! Source: QEMU Machine Protocol Specification; its answers are JSON objects, one a line.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::paths;

/// An emulator that does not answer by then hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at the CPU.
const HALT_POLL: Duration = Duration::from_millis(50);

/// The VGA text screen: cells of a character and an attribute.
const TEXT_BUFFER: u32 = 0xb8000;
const COLUMNS: usize = 80;
const LINES: usize = 25;

/// A control connection that accepts commands.
pub(super) struct Monitor {
    answers: BufReader<TcpStream>,
    commands: TcpStream,
}

impl Monitor {
    /// Takes the connection that the emulator has made.
    pub(super) fn new(connection: TcpStream) -> Result<Self> {
        let setting_up = "setting up the emulator's control connection";
        connection.set_read_timeout(Some(ANSWER_LIMIT)).context(setting_up)?;
        let answers = BufReader::new(connection.try_clone().context(setting_up)?);
        let mut monitor = Self { answers, commands: connection };
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// A picture of the screen in the PPM format, by way of a file in `folder`.
    pub(super) fn screen(&mut self, folder: &Path) -> Result<Vec<u8>> {
        let file = folder.join("screen.ppm");
        self.execute("screendump", json!({ "filename": file }))?;
        paths::read_bytes(&file)
    }

    fn human(&mut self, command: &str) -> Result<String> {
        let value = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    /// What the VGA text screen shows, line by line.
    pub(super) fn text_screen(&mut self) -> Result<String> {
        let dump = self.human(&format!("xp /{}hx {TEXT_BUFFER:#x}", COLUMNS * LINES))?;
        Ok(text_of(&dump))
    }

    /// Waits, at most `limit`, until the first CPU stands still for good: halted, with interrupts off.
    pub(super) fn stands_still(&mut self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        loop {
            let registers = self.human("info registers")?;
            if halted_for_good(&registers) {
                return Ok(true);
            }
            if start.elapsed() > limit {
                return Ok(false);
            }
            std::thread::sleep(HALT_POLL);
        }
    }

    /// Sends a command and gives its answer; what happens meanwhile is passed over.
    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.commands, "{request}").context("talking to the emulator")?;
        loop {
            let mut line = String::new();
            let count = self.answers.read_line(&mut line).context("waiting for the emulator's answer")?;
            if count == 0 {
                return Err(Failure::new("the emulator has ended"));
            }
            let mut answer: Value = serde_json::from_str(&line).context("reading the emulator's answer")?;
            if let Some(error) = answer.get("error") {
                return Err(Failure::new(format!("the emulator refuses `{command}`: {error}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}

/// The text of a dump of cells, `ADDRESS: 0x0741 0x0742 ...`.
fn text_of(dump: &str) -> String {
    let cells = dump.lines().flat_map(|line| {
        let (_, cells) = line.split_once(':').unwrap_or_default();
        cells.split_whitespace().filter_map(|cell| u16::from_str_radix(cell.strip_prefix("0x")?, 16).ok())
    });
    let cells: Vec<char> = cells.map(|cell| char::from(cell.to_le_bytes()[0])).collect();
    let lines = cells.chunks(COLUMNS).map(|line| line.iter().collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `info registers` has `HLT=1` for a halted CPU, and `EFL=` or `RFL=` with the flags in hexadecimal.
fn halted_for_good(registers: &str) -> bool {
    const INTERRUPTS_ON: u32 = 1 << 9;
    let flags = ["RFL=", "EFL="].into_iter().find_map(|name| {
        let digits = registers.split_once(name)?.1.split_whitespace().next()?;
        u32::from_str_radix(digits, 16).ok()
    });
    registers.contains("HLT=1") && flags.is_some_and(|flags| flags & INTERRUPTS_ON == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_of_the_screen_becomes_text() {
        let mut dump = "00000000000b8000: 0x0748 0x0749\r\n".to_owned();
        dump.push_str(&format!("00000000000b8004:{}\r\n", " 0x0720".repeat(COLUMNS - 2)));
        dump.push_str("00000000000b80a0: 0x4f21");
        assert_eq!(text_of(&dump), "HI\n!");
    }

    #[test]
    fn only_a_halted_cpu_without_interrupts_stands_still() {
        assert!(halted_for_good("RIP=1 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1"));
        assert!(!halted_for_good("RIP=1 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1"));
        assert!(!halted_for_good("RIP=1 EFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0"));
    }
}
