//! What the boot loader brought beside the kernel: options and modules, those in a boot archive included.
//!
//! A loader that hands over a single file (PVH) brings an archive as the only module. Archives among several
//! modules are unpacked in their place, so GRUB can bring one, too.

use alloc::vec::Vec;
use core::fmt;

use archive::{Archive, ArchiveError};
use hypervisor::Module;
use log::warn;
use machine::boot_info;

/// Options and modules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload<'a> {
    modules: &'a [boot_info::Module],
    /// The first archive's options.
    archive_options: &'a str,
    command_line: &'a str,
}

impl<'a> Payload<'a> {
    /// Looks into the archives among the modules.
    pub(crate) fn new(
        modules: &'a [boot_info::Module],
        command_line: &'a str,
    ) -> Result<Self, ArchiveError<'a>> {
        let mut archive_options = None;
        for module in modules.iter().filter(|module| archive::is_archive(module.data())) {
            let archive = Archive::open(module.data())?;
            archive_options = archive_options.or(Some(archive.options()));
        }
        Ok(Self { modules, archive_options: archive_options.unwrap_or_default(), command_line })
    }

    /// The words of the kernel's options. Those of the boot loader's command line come last, so that they win.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'a str> + Clone {
        [self.archive_options, self.command_line].into_iter().flat_map(str::split_ascii_whitespace)
    }

    /// Bytes of memory of the VM that has the machine's own devices, where there is one. Known before there is a heap.
    pub(crate) fn aside(&self) -> Option<u64> {
        self.modules.iter().find_map(|module| match Archive::open(module.data()) {
            Ok(archive) => hypervisor::hardware_memory(archive.modules().map(|module| module.line)),
            Err(_) => hypervisor::hardware_memory(core::iter::once(module.command_line)),
        })
    }

    /// The modules.
    pub(crate) fn modules(&self) -> Vec<Module<'a>> {
        let mut modules = Vec::new();
        for module in self.modules {
            let bytes = module.data();
            match Archive::open(bytes) {
                Ok(archive) => modules.extend(
                    archive.modules().map(|module| Module { line: module.line, bytes: module.bytes }),
                ),
                Err(error) => {
                    if module.command_line.is_empty() {
                        warn!("a module has no line, so it should be a boot archive; read as one, {error}");
                    }
                    modules.push(Module { line: module.command_line, bytes });
                }
            }
        }
        modules
    }
}

/// The options, as they are written.
impl fmt::Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.archive_options.is_empty() || self.command_line.is_empty() { "" } else { " " };
        write!(f, "{}{gap}{}", self.archive_options, self.command_line)
    }
}
