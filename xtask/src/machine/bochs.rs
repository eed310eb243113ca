//! Machines in Bochs, as Debian builds it: with its debugger, which must be told to go on, and with plugins
//! for the screen.
//!
//! The screen is Bochs' `x`, on an X server that shows it to nobody. (With `rfb`, Bochs' VNC server, images
//! that ask GRUB for a framebuffer do not start, and two Bochs that start together crash now and then.)

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::{Hardware, node};
use crate::failure::Result;
use crate::{packages, paths};

/// The part of a profile that Bochs understands.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    cpu: String,
    instructions_per_second: u32,
    /// It has a disk and a network card for the management domain.
    #[serde(default)]
    node: bool,
}

/// The debugger stops at each triple fault of a guest, which is no trouble of the machine's: so often it goes on.
const STOPS: usize = 1000;

/// The memory that Bochs takes from the host at most, in MiB: what a machine uses beyond, it keeps in a file.
const MOST_HOST_MIB: u32 = 2048;

impl Settings {
    pub(super) fn set_cpu(&mut self, model: &str) {
        model.clone_into(&mut self.cpu);
    }

    pub(super) fn ensure(&self) -> Result<()> {
        packages::ensure(packages::BOCHS)
    }

    pub(super) fn command(&self, hardware: &Hardware<'_>) -> Result<Command> {
        let settings = hardware.folder.join("bochs.rc");
        let debugger = hardware.folder.join("debugger.rc");
        let mut text = self.file(hardware);
        if self.node {
            text.push_str(&node_devices(&node::make_data_disk(hardware.folder)?));
        }
        paths::write(&settings, text.as_bytes())?;
        paths::write(&debugger, "c\n".repeat(STOPS).as_bytes())?;
        let mut command = Command::new("bochs");
        command.arg("-q").arg("-f").arg(settings).arg("-rc").arg(debugger);
        Ok(command)
    }

    /// Time runs with the instructions executed (`sync=none`), so a run repeats exactly. Unknown MSRs read
    /// as zero, as Debian's kernel expects of these CPU models. A triple fault ends the machine.
    fn file(&self, hardware: &Hardware<'_>) -> String {
        let Hardware { image, cpus, memory_mib, serial_port, control_port: _, folder, forwards: _ } =
            hardware;
        let Self { cpu, instructions_per_second: ips, node } = self;
        let slots = if *node { ", slot1=e1000" } else { "" };
        let host_mib = (*memory_mib).min(MOST_HOST_MIB);
        let image = image.display();
        let log = folder.join("bochs.log");
        let log = log.display();
        format!(
            "config_interface: textconfig\n\
             display_library: x\n\
             memory: guest={memory_mib}, host={host_mib}\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
             cpu: model={cpu}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
             clock: sync=none, time0=1700000000\n\
             pci: enabled=1, chipset=i440fx{slots}\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             ata0-master: type=cdrom, path=\"{image}\", status=inserted\n\
             boot: cdrom\n\
             com1: enabled=1, mode=socket-client, dev=127.0.0.1:{serial_port}\n\
             sound: driver=dummy\n\
             vga: update_freq=1\n\
             log: \"{log}\"\n\
             panic: action=fatal\n\
             error: action=ignore\n\
             info: action=ignore\n\
             debug: action=ignore\n"
        )
    }
}

/// A disk on the second IDE channel, and a network card that leads to a network of Bochs' own with DHCP.
fn node_devices(data: &Path) -> String {
    let data = data.display();
    format!(
        "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
         ata1-master: type=disk, path=\"{data}\", mode=flat\n\
         e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp\n"
    )
}
