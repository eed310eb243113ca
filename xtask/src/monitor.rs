//! QEMU's monitor (QMP): looks into a machine from outside.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};

/// QEMU connects as soon as it starts, and answers at once.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Between two looks at the CPU.
const HALT_POLL: Duration = Duration::from_millis(50);

/// The VGA text screen: cells of a character and an attribute.
const TEXT_BUFFER: u32 = 0xb8000;
const COLUMNS: usize = 80;
const LINES: usize = 25;

/// A port for a monitor that is to come.
pub(crate) struct Port(TcpListener);

/// A machine's monitor.
pub(crate) struct Monitor {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Port {
    /// Opens one.
    pub(crate) fn open() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a port for QEMU's monitor")?;
        Ok(Self(listener))
    }

    /// QEMU's arguments that make it connect to the port.
    pub(crate) fn arguments(&self) -> Result<[String; 2]> {
        let port = self.0.local_addr().context("opening a port for QEMU's monitor")?.port();
        Ok(["-qmp".to_owned(), format!("tcp:127.0.0.1:{port},server=off")])
    }

    /// The monitor of the machine, which has been started.
    pub(crate) fn accept(self) -> Result<Monitor> {
        let connecting = "connecting to QEMU's monitor";
        self.0.set_nonblocking(true).context(connecting)?;
        let start = Instant::now();
        let stream = loop {
            match self.0.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if start.elapsed() < LIMIT => std::thread::sleep(POLL),
                Err(error) => return Err(error).context(connecting),
            }
        };
        stream.set_nonblocking(false).context(connecting)?;
        stream.set_read_timeout(Some(LIMIT)).context(connecting)?;
        let writer = stream.try_clone().context(connecting)?;
        let mut monitor = Monitor { reader: BufReader::new(stream), writer };
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }
}

impl Monitor {
    /// Carries out a command and gives what it returns.
    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let asking = "asking QEMU's monitor";
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{request}").context(asking)?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).context(asking)? == 0 {
                return Err(Failure::new("QEMU has ended"));
            }
            let mut answer: Value = serde_json::from_str(&line).context(asking)?;
            if let Some(error) = answer.get("error") {
                return Err(Failure::new(format!("QEMU's monitor refuses {command}: {error}")));
            }
            // Greetings and events have none.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn human(&mut self, command: &str) -> Result<String> {
        let value = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    /// What the VGA text screen shows, line by line.
    pub(crate) fn screen(&mut self) -> Result<String> {
        let dump = self.human(&format!("xp /{}hx {TEXT_BUFFER:#x}", COLUMNS * LINES))?;
        Ok(text_of(&dump))
    }

    /// Waits, at most `limit`, until the first CPU stands still for good: halted, with interrupts off.
    pub(crate) fn stands_still(&mut self, limit: Duration) -> Result<bool> {
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
