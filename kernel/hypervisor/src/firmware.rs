//! The devices that a VM's lines switch on, and what its firmware is told by the firmware configuration device.
//!
//! Source: QEMU's documentation, "QEMU Firmware Configuration (fw_cfg) Device".

use alloc::borrow::Cow;
use alloc::vec::Vec;

use devices::acpi::table_loader::{LoaderFiles, RSDP_FILE, SCRIPT_FILE, TABLES_FILE};
use devices::fw_cfg::key;
use devices::{COM1, Chipset, FwCfg};

use crate::config::VmConfig;
use crate::memory_map::MemoryMap;
use crate::vm::StartError;
use crate::vm::task::table_files;

/// The memory map, entries as in the zero page: address, length, type.
const E820_FILE: &str = "etc/e820";
/// Where SeaBIOS' serial console is, 16 bits, and whether it waits for somebody who wants its boot menu, 64 bits (SeaBIOS'
/// documentation, "Runtime config").
const SERIAL_CONSOLE_FILE: &str = "etc/sercon-port";
const BOOT_MENU_FILE: &str = "etc/show-boot-menu";

/// Adds what the VM's lines ask for.
pub(crate) fn add_devices<'m>(
    chipset: &mut Chipset<'m>,
    config: &VmConfig<'m>,
    map: &MemoryMap,
    generation_id: Option<[u8; 16]>,
) -> Result<(), StartError> {
    if config.devices.debug_console {
        chipset.add_debug_console()?;
    }
    if config.devices.fw_cfg || config.firmware.is_some() || !config.files.is_empty() {
        chipset.add_fw_cfg(fw_cfg(config, map, generation_id)?)?;
    }
    if config.devices.vga_text {
        chipset.add_vga()?;
    }
    if let Some(port) = config.devices.debug_exit {
        chipset.add_debug_exit(port)?;
    }
    Ok(())
}

/// What a firmware wants to know of the machine, the kernel's command line, and the user's files.
fn fw_cfg<'m>(
    config: &VmConfig<'m>,
    map: &MemoryMap,
    generation_id: Option<[u8; 16]>,
) -> Result<FwCfg<'m>, StartError> {
    let mut shelf = FwCfg::new();
    let mut command_line = config.command_line.as_bytes().to_vec();
    command_line.push(0);
    shelf.add(key::RAM_SIZE, owned(&config.memory.to_le_bytes()));
    let processors = config.cpus as u16;
    shelf.add(key::NB_CPUS, owned(&processors.to_le_bytes()));
    shelf.add(key::MAX_CPUS, owned(&processors.to_le_bytes()));
    shelf.add(key::CMDLINE_SIZE, owned(&(command_line.len() as u32).to_le_bytes()));
    shelf.add(key::CMDLINE_DATA, Cow::Owned(command_line));
    shelf.add_file(E820_FILE, Cow::Owned(e820(map)))?;
    if config.firmware.is_some() {
        let LoaderFiles { tables, rsdp, script } = table_files(config.cpus, generation_id)?;
        for (name, content) in [(TABLES_FILE, tables), (RSDP_FILE, rsdp), (SCRIPT_FILE, script)] {
            shelf.add_file(name, Cow::Owned(content))?;
        }
        shelf.add_file(SERIAL_CONSOLE_FILE, owned(&COM1.to_le_bytes()))?;
        shelf.add_file(BOOT_MENU_FILE, owned(&0_u64.to_le_bytes()))?;
    }
    for file in &config.files {
        shelf.add_file(file.name, Cow::Borrowed(file.bytes))?;
    }
    Ok(shelf)
}

fn owned<'m>(bytes: &[u8]) -> Cow<'m, [u8]> {
    Cow::Owned(bytes.to_vec())
}

fn e820(map: &MemoryMap) -> Vec<u8> {
    let mut table = Vec::new();
    for entry in &map.e820 {
        table.extend(entry.base.0.to_le_bytes());
        table.extend(entry.length.to_le_bytes());
        table.extend(entry.kind.0.to_le_bytes());
    }
    table
}
