//! QEMU's control connection, for a picture of the machine's screen.
//!
//! Source: QEMU Machine Protocol Specification; its answers are JSON objects, one a line.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::paths;

/// An emulator that does not answer by then hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

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
        monitor.execute(r#"{"execute": "qmp_capabilities"}"#)?;
        Ok(monitor)
    }

    /// A picture of the screen in the PPM format, by way of a file in `folder`.
    pub(super) fn screen(&mut self, folder: &Path) -> Result<Vec<u8>> {
        let file = folder.join("screen.ppm");
        // Paths below target/ that need escaping in JSON are refused by the emulator, which is an error here.
        let name = file.display();
        self.execute(&format!(r#"{{"execute": "screendump", "arguments": {{"filename": "{name}"}}}}"#))?;
        paths::read_bytes(&file)
    }

    /// Sends a command and waits for its answer; what happens meanwhile is passed over.
    fn execute(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands, "{command}").context("talking to the emulator")?;
        loop {
            let mut answer = String::new();
            let count = self.answers.read_line(&mut answer).context("waiting for the emulator's answer")?;
            if count == 0 {
                return Err(Failure::new("the emulator has ended"));
            }
            if answer.starts_with(r#"{"return""#) {
                return Ok(());
            }
            if answer.starts_with(r#"{"error""#) {
                return Err(Failure::new(format!("the emulator refuses `{command}`: {}", answer.trim())));
            }
        }
    }
}
