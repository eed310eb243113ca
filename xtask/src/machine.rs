//! Machines to boot on: a profile ([`profiles`]), started as an emulator whose first serial port is a
//! connection to us.
//!
//! The connection is the same for every emulator: we listen on a port of the loopback interface, and the
//! emulator connects. So it loses no byte and no two machines can meet.

mod bochs;
mod display;
mod monitor;
mod node;
mod profiles;
mod qemu;

pub(crate) use profiles::{Profile, all, print_list, profile, profile_for};

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use display::Display;
use monitor::Monitor;

use crate::failure::{Context, Failure, Result};
use crate::paths;

/// An emulator that has not connected by then has not started.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What to start.
pub(crate) struct Launch<'a> {
    /// The image to boot, or the boot archive.
    pub(crate) image: &'a Path,
    /// Names the log files: `target/logs/NAME.serial.log`.
    pub(crate) name: &'a str,
    /// CPUs, instead of the profile's.
    pub(crate) cpus: Option<u32>,
    /// Memory, instead of the profile's.
    pub(crate) memory: Option<String>,
    /// TCP ports of this computer that lead to ports of the management domain, where the machine has a network card for it.
    pub(crate) forwards: Vec<Forward>,
}

/// A TCP port of this computer that leads to one of the management domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Forward {
    pub(crate) here: u16,
    pub(crate) there: u16,
}

impl Forward {
    /// One whose port here nobody has.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn to(there: u16) -> Result<Self> {
        // Whoever takes it before the emulator does is told of by the emulator.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a port")?;
        Ok(Self { here: listener.local_addr().context("looking for a port")?.port(), there })
    }
}

impl Profile {
    /// It boots the images that most others do: it has no options of its own.
    pub(crate) fn shares_images(&self) -> bool {
        self.options == profiles::SHARED
    }

    /// It takes the kernel and a boot archive, instead of an image.
    pub(crate) fn boots_archive(&self) -> bool {
        self.qemu.as_ref().is_some_and(qemu::Settings::boots_archive)
    }

    /// The same with another CPU model, and with more arguments for the emulator where that is QEMU.
    pub(crate) fn altered(mut self, cpu: Option<&str>, arguments: Vec<String>) -> Self {
        if let Some(qemu) = &mut self.qemu {
            qemu.alter(cpu, arguments);
        }
        if let (Some(bochs), Some(cpu)) = (&mut self.bochs, cpu) {
            bochs.set_cpu(cpu);
        }
        self
    }

    /// Its time-stamp counter counts instructions: in Bochs it always does; QEMU that counts lets a nanosecond pass with each instruction,
    /// and its counter has a tick a nanosecond.
    pub(crate) fn counts_instructions(&self) -> bool {
        self.bochs.is_some() || self.qemu.as_ref().is_some_and(qemu::Settings::is_counted)
    }

    /// It is QEMU.
    pub(crate) fn is_qemu(&self) -> bool {
        self.qemu.is_some()
    }

    /// Makes sure that the emulator is installed and can run here.
    pub(crate) fn ensure(&self) -> Result<()> {
        match (&self.qemu, &self.bochs) {
            (Some(qemu), None) => qemu.ensure(),
            (None, Some(bochs)) => bochs.ensure(),
            _ => Err(Failure::new(format!("the profile {} must have either [qemu] or [bochs]", self.name))),
        }
    }

    /// Starts the machine and waits for its serial port.
    pub(crate) fn start(&self, launch: &Launch<'_>) -> Result<Machine> {
        self.ensure()?;
        let logs = paths::target().join("logs");
        let folder = work_folder(&self.name);
        paths::create_dir(&logs)?;
        paths::create_dir(&folder)?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a port for the serial line")?;
        let control =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a port for the control line")?;
        let hardware = Hardware {
            image: launch.image,
            cpus: launch.cpus.unwrap_or(self.cpus),
            memory_mib: mebibytes(launch.memory.as_deref().unwrap_or(&self.memory))?,
            serial_port: listener.local_addr().context("opening a port for the serial line")?.port(),
            control_port: control.local_addr().context("opening a port for the control line")?.port(),
            folder: &folder,
            forwards: &launch.forwards,
        };
        let display = self.bochs.as_ref().map(|_| Display::start()).transpose()?;
        let mut command = match (&self.qemu, &self.bochs) {
            (Some(qemu), _) => qemu.command(&hardware)?,
            (None, Some(bochs)) => bochs.command(&hardware)?,
            (None, None) => return Err(Failure::new("a profile without an emulator")),
        };
        if let Some(display) = &display {
            command.env("DISPLAY", &display.name);
        }
        let emulator_log = logs.join(format!("{}.emulator.log", launch.name));
        let mut emulator = spawn(&command, &emulator_log)?;
        let connected = connect(&listener, &mut emulator).and_then(|serial| {
            let monitor = self.qemu.as_ref().map(|_| connect(&control, &mut emulator)).transpose()?;
            Ok((serial, monitor.map(Monitor::new).transpose()?))
        });
        let (serial, monitor) = match connected {
            Ok(connected) => connected,
            Err(failure) => {
                end(&mut emulator);
                return Err(failure.next(format!("its messages are in {}", paths::shown(&emulator_log))));
            }
        };
        let serial_log = logs.join(format!("{}.serial.log", launch.name));
        Ok(Machine { emulator, serial, monitor, serial_log, folder, _display: display })
    }
}

/// What every emulator's command line is made from.
struct Hardware<'a> {
    image: &'a Path,
    cpus: u32,
    memory_mib: u32,
    serial_port: u16,
    control_port: u16,
    folder: &'a Path,
    forwards: &'a [Forward],
}

/// A running machine. Dropping it ends it.
pub(crate) struct Machine {
    emulator: Child,
    /// The first serial port.
    pub(crate) serial: TcpStream,
    /// Where the emulator takes commands, if it does.
    monitor: Option<Monitor>,
    /// Where what comes from the serial port is to be kept.
    pub(crate) serial_log: PathBuf,
    folder: PathBuf,
    /// Ends after the emulator.
    _display: Option<Display>,
}

impl Machine {
    /// The emulator's status when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.emulator.try_wait().ok().flatten()
    }

    /// A picture of the screen in the PPM format.
    pub(crate) fn screen(&mut self) -> Result<Vec<u8>> {
        let folder = self.folder.clone();
        self.monitor()?.screen(&folder)
    }

    /// What a VGA text screen shows.
    pub(crate) fn text_screen(&mut self) -> Result<String> {
        self.monitor()?.text_screen()
    }

    /// Waits, at most `limit`, until the first CPU stands still for good: halted, with interrupts off.
    pub(crate) fn stands_still(&mut self, limit: Duration) -> Result<bool> {
        self.monitor()?.stands_still(limit)
    }

    fn monitor(&mut self) -> Result<&mut Monitor> {
        self.monitor
            .as_mut()
            .ok_or_else(|| Failure::new("this emulator does not let us look into its machine"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.emulator);
        // Only a convenience: what is left of it lies below target/.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn end(emulator: &mut Child) {
    // Fails only when it has ended by itself.
    let _ = emulator.kill();
    let _ = emulator.wait();
}

fn work_folder(machine: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    paths::target().join("machines").join(format!("{machine}-{}-{number}", std::process::id()))
}

/// The same program, in a process group of its own (Ctrl-C is for us to handle) and so that the system ends
/// it with us, however we end.
fn supervised(command: &Command) -> Command {
    let mut supervised = Command::new("setpriv");
    supervised.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    supervised.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    supervised.process_group(0);
    supervised
}

fn spawn(command: &Command, log: &Path) -> Result<Child> {
    let file = File::create(log).context(format_args!("writing {}", paths::shown(log)))?;
    let errors = file.try_clone().context(format_args!("writing {}", paths::shown(log)))?;
    supervised(command)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .context(format_args!("starting {}", command.get_program().to_string_lossy()))
}

fn connect(listener: &TcpListener, emulator: &mut Child) -> Result<TcpStream> {
    let connecting = "waiting for the emulator's serial line";
    listener.set_nonblocking(true).context(connecting)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((serial, _)) => {
                serial.set_nonblocking(false).context(connecting)?;
                serial.set_nodelay(true).context(connecting)?;
                return Ok(serial);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error).context(connecting);
            }
            Err(_) => {}
        }
        if let Ok(Some(status)) = emulator.try_wait() {
            return Err(Failure::new(format!("the emulator ended before the machine started ({status})")));
        }
        if start.elapsed() > CONNECT_LIMIT {
            return Err(Failure::new("the emulator did not open its serial line"));
        }
        std::thread::sleep(POLL);
    }
}

/// Reads a size such as `512M` or `2G`.
pub(crate) fn mebibytes(size: &str) -> Result<u32> {
    let (digits, factor) = match size.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (size.strip_suffix(['M', 'm']).unwrap_or(size), 1),
    };
    let number: Option<u32> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .filter(|size| *size > 0)
        .ok_or_else(|| Failure::new(format!("`{size}` is not a memory size")).next("write it as 512M or 2G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(mebibytes("2G").ok(), Some(2048));
        assert_eq!(mebibytes("512M").ok(), Some(512));
        assert_eq!(mebibytes("64").ok(), Some(64));
        for wrong in ["", "G", "0", "-1M", "1T", "9999999999"] {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_emulator_that_ends_at_once_is_reported() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("port");
        let mut child = Command::new("false").spawn().expect("false starts");
        let failure = connect(&listener, &mut child).expect_err("nobody connects");
        assert!(failure.what.contains("ended before"), "{}", failure.what);
    }
}
