//! A screen for emulators that want an X server: Xvfb, which shows it to nobody.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::supervised;
use crate::failure::{Context, Failure, Result};

/// Large enough for every mode that GRUB chooses.
const SIZE: &str = "1280x1024x24";

/// An X server of our own; dropping it ends it.
pub(super) struct Display {
    server: Child,
    /// For the environment variable `DISPLAY`.
    pub(super) name: String,
}

impl Display {
    /// Starts a server on a free display number and waits until it takes connections.
    pub(super) fn start() -> Result<Self> {
        let starting = "starting Xvfb";
        let mut command = Command::new("Xvfb");
        // It writes the number to its standard output once it listens.
        command.args(["-displayfd", "1", "-screen", "0", SIZE, "-nolisten", "tcp"]);
        let mut server = supervised(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context(starting)?;
        let mut number = String::new();
        if let Some(output) = server.stdout.take() {
            BufReader::new(output).read_line(&mut number).context(starting)?;
        }
        let display = Self { server, name: format!(":{}", number.trim()) };
        match number.trim().parse::<u32>() {
            Ok(_) => Ok(display),
            Err(_) => Err(Failure::new("Xvfb, the screen of Bochs, did not start").next("try: Xvfb :99")),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        super::end(&mut self.server);
    }
}
