//! A VM that is made while the machine runs, as who asks for it describes it.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use virtio::block::SECTOR;

use super::plan::{ROM_BYTES, is_rom};
use super::{
    DEFAULT_MEMORY, DeviceOptions, Disk, MAX_CPUS, MAX_DISKS, MAX_MEMORY, MAX_NICS, MAX_PORTS, MIN_MEMORY,
    Name, Nic, Restart, Share, VmConfig, is_name, name,
};
use crate::paravirtual::Features;
use crate::run::CreateVmError;

/// A disk of zeros in the machine's memory, which it takes where something is put there; or one that the management domain serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlankDisk {
    /// Bytes, whole sectors.
    pub size: u64,
    /// Its VM cannot write to it.
    pub read_only: bool,
    /// The management domain has its content.
    pub served: bool,
}

impl BlankDisk {
    /// What of a disk's size is kept in a list, so much at most.
    pub const MAX_SIZE: u64 = 64 << 30;
    /// What others have may be as large as the kernel's largest files.
    pub const MAX_SERVED: u64 = 1 << 60;

    const fn to_disk<'m>(self) -> Disk<'m> {
        Disk { bytes: &[], size: self.size, read_only: self.read_only, serial: "", served: self.served }
    }

    fn can_be(&self) -> bool {
        (SECTOR..=self.most()).contains(&self.size) && self.size.is_multiple_of(SECTOR)
    }

    const fn most(&self) -> u64 {
        if self.served { Self::MAX_SERVED } else { Self::MAX_SIZE }
    }
}

/// A VM without files: what is in its memory is put there from outside, once that is there, and where its first vCPU begins is told then.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its name, `[a-z0-9-]`, 1 to 31 characters, which no other VM has.
    pub name: Name,
    /// Virtual CPUs, 1 to [`MAX_CPUS`].
    pub cpus: usize,
    /// Bytes of memory, in whole pages.
    pub memory: u64,
    /// Its disks, whose content is put there from outside.
    pub disks: ArrayVec<BlankDisk, MAX_DISKS>,
    /// Its network devices, up to [`MAX_NICS`].
    pub nics: Vec<Nic>,
    /// Named ports of its virtio console device, each joined to that of another VM.
    pub ports: ArrayVec<Name, MAX_PORTS>,
    /// It has an entropy device.
    pub rng: bool,
    /// It has a balloon.
    pub balloon: bool,
    /// Bytes of a ROM in which it begins, as at power-up; what is in that is put there from outside.
    pub firmware: Option<u64>,
    /// Its other devices.
    pub devices: DeviceOptions,
    /// Its share of the CPUs.
    pub share: Share,
    /// What happens when it has ended by itself.
    pub restart: Restart,
    /// The paravirtual features that it is offered.
    pub paravirtual: Features,
    /// The rate of its TSC in kHz; `None` for the host's.
    pub tsc_khz: Option<u32>,
}

impl Description {
    /// A VM of that name that is like one of whose line says nothing. A name that is too long is none.
    pub fn new(text: &str) -> Self {
        Self {
            name: name(text),
            cpus: 1,
            memory: DEFAULT_MEMORY,
            disks: ArrayVec::new(),
            nics: Vec::new(),
            ports: ArrayVec::new(),
            rng: true,
            balloon: true,
            firmware: None,
            devices: DeviceOptions::default(),
            share: Share::default(),
            restart: Restart::No,
            paravirtual: Features::all(),
            tsc_khz: None,
        }
    }

    /// Whether there can be such a VM.
    pub(crate) fn check(&self) -> Result<(), CreateVmError> {
        let asked = self.memory;
        if !is_name(&self.name) {
            return Err(CreateVmError::BadName(self.name));
        }
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(CreateVmError::Cpus { asked: self.cpus, most: MAX_CPUS });
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&asked) || !asked.is_multiple_of(vcpu::PAGE_SIZE) {
            return Err(CreateVmError::Memory { asked, least: MIN_MEMORY, most: MAX_MEMORY });
        }
        if let Some(disk) = self.disks.iter().find(|disk| !disk.can_be()) {
            return Err(CreateVmError::Disk { asked: disk.size, most: disk.most() });
        }
        if let Some(asked) = self.firmware.filter(|bytes| !is_rom(*bytes)) {
            return Err(CreateVmError::Rom { asked, most: *ROM_BYTES.end() });
        }
        if self.nics.len() > MAX_NICS {
            return Err(CreateVmError::Nics { asked: self.nics.len(), most: MAX_NICS });
        }
        if let Some(khz) = self.tsc_khz.filter(|khz| !super::TSC_KHZ.contains(khz)) {
            return Err(CreateVmError::TscRate { khz });
        }
        let names = self.nics.iter().map(|nic| &nic.network).chain(&self.ports);
        match names.into_iter().find(|name| !is_name(name)) {
            Some(name) => Err(CreateVmError::BadName(*name)),
            None => Ok(()),
        }
    }

    /// The same as a VM's own.
    pub(crate) fn into_config<'m>(self) -> VmConfig<'m> {
        VmConfig {
            name: self.name,
            cpus: self.cpus,
            memory: self.memory,
            kernel: &[],
            firmware: self.firmware,
            held: true,
            hardware: false,
            protocol: None,
            command_line: "",
            initrd: None,
            modules: ArrayVec::new(),
            files: ArrayVec::new(),
            disks: self.disks.into_iter().map(BlankDisk::to_disk).collect(),
            nics: self.nics,
            ports: self.ports,
            rng: self.rng,
            balloon: self.balloon,
            devices: self.devices,
            share: self.share,
            restart: self.restart,
            starts: false,
            paravirtual: self.paravirtual,
            tsc_khz: self.tsc_khz,
        }
    }
}
