//! One function that dom0 has found.

use arrayvec::ArrayVec;
use devices::Width;
use vcpu::PciFunction;

use super::bars::Layout;
use super::capability::{self, Capability, id};
use super::ground::{Access, Pages, count};
use super::header::Header;
use super::lanes;
use super::msi::Msi;
use super::msix::MsiX;

const CLASS: u16 = 0x08;
const CLASS_HOST_BRIDGE: u32 = 0x0600;
const HEADER_TYPE: u16 = 0x0e;
const HEADER_CARDBUS: u32 = 2;
const HEADER_END: u16 = 0x40;
const EXTENDED: u16 = 0x100;
/// The entry that stands for a function's MSI; MSI-X tables have at most 2048.
const MSI_ENTRY: u16 = u16::MAX;

/// A function.
pub(super) struct Function {
    at: PciFunction,
    /// Vendor and device, by which a new one in its place is known.
    identity: u32,
    /// It is not for dom0.
    hidden: bool,
    header: Header,
    msi: Option<Msi>,
    msix: Option<MsiX>,
    /// Capabilities that are not shown: first byte and the one behind the last.
    vanished: ArrayVec<(u16, u16), 8>,
    /// The same of extended ones; found when dom0 looks there.
    extended: Option<ArrayVec<(u16, u16), 8>>,
}

impl Function {
    /// Finds out what the function is, and has it send no message.
    pub(super) fn learn(access: &mut Access<'_, '_>) -> Self {
        let class = access.read(CLASS, Width::Dword) >> 16;
        let kind = access.read(HEADER_TYPE, Width::Byte);
        let list = capability::list(access, kind & 0x7f == HEADER_CARDBUS);
        let hidden = capability::is_iommu(access, &list);
        let host_bridge = class == CLASS_HOST_BRIDGE;
        let mut function = Self {
            at: access.at,
            identity: access.read(0, Width::Dword),
            hidden,
            header: Header::learn(access, Layout::of(kind), host_bridge),
            msi: None,
            msix: None,
            vanished: ArrayVec::new(),
            extended: None,
        };
        if hidden {
            return function;
        }
        for &(id, register) in &list {
            let shown = match id {
                id::MSI if function.msi.is_none() => {
                    function.msi = Msi::learn(access, register);
                    function.msi.is_some()
                }
                id::MSI_X if function.msix.is_none() => {
                    function.msix = MsiX::learn(access, register);
                    function.msix.is_some()
                }
                id::MSI | id::MSI_X | id::ENHANCED_ALLOCATION => false,
                _ => true,
            };
            if !shown {
                function.vanish(access, register, &list);
            }
        }
        let image = function.header.decoding_image(access);
        if let Some(msix) = &mut function.msix {
            msix.follow(access, function.header.layout, image.as_ref());
        }
        function
    }

    /// Has a capability read as a null capability. Where there is no room to remember that, the whole function is hidden.
    fn vanish(&mut self, access: &mut Access<'_, '_>, register: u16, list: &[Capability]) {
        let behind = list.iter().map(|(_, other)| *other).filter(|other| *other > register);
        let end = behind.min().unwrap_or(EXTENDED);
        count(&mut access.refused().room);
        self.hidden |= self.vanished.try_push((register, end)).is_err();
    }

    pub(super) const fn at(&self) -> PciFunction {
        self.at
    }

    pub(super) const fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// Whether what reads as vendor and device says that it is this function no more, and whether it says another is there.
    pub(super) const fn is_gone(&self, identity: u32) -> Option<bool> {
        if identity == self.identity { None } else { Some(identity & 0xffff != 0xffff) }
    }

    /// The registers that hold bus numbers lead to other functions.
    pub(super) fn leads_on(&self, access: &Access<'_, '_>) -> bool {
        self.header.layout == Layout::Bridge || access.read(HEADER_TYPE, Width::Byte) & 0x7f == HEADER_CARDBUS
    }

    pub(super) fn table_pages(&self) -> Option<Pages> {
        self.msix.as_ref()?.pages()
    }

    /// Its MSI-X.
    pub(super) const fn msix(&mut self) -> Option<&mut MsiX> {
        self.msix.as_mut()
    }

    pub(super) const fn msix_ref(&self) -> Option<&MsiX> {
        self.msix.as_ref()
    }

    /// What dom0 wrote for an entry.
    pub(super) fn message(&self, entry: u16) -> Option<(u64, u32)> {
        match entry {
            MSI_ENTRY => self.msi.as_ref().map(Msi::message),
            _ => self.msix.as_ref()?.message(entry),
        }
    }

    /// Has it send no message, and closes its sources. Where it is not there any more nothing is written.
    pub(super) fn quiesce(&mut self, access: &mut Access<'_, '_>, there: bool) {
        if let Some(msi) = &mut self.msi {
            msi.quiesce(access, there);
        }
        if let Some(msix) = &mut self.msix {
            msix.quiesce(access, there);
        }
    }

    /// Reads an aligned register.
    pub(super) fn read(&mut self, access: &mut Access<'_, '_>, register: u16, width: Width) -> u32 {
        if register < HEADER_END {
            return self.header.read(access, register, width).unwrap_or_else(|| access.read(register, width));
        }
        if let Some(value) = self.msi.as_mut().and_then(|msi| msi.read(access, register, width)) {
            return value;
        }
        if let Some(msix) = &mut self.msix {
            msix.before_read(access, register);
        }
        let null: u32 = match self.vanished_at(access, register) {
            // An extended capability has 16 bits for its identifier.
            Some(first) if first == lanes::dword(register) => {
                if register < EXTENDED {
                    0xff
                } else {
                    0xffff
                }
            }
            _ => 0,
        };
        access.read(register, width) & !lanes::extract(null, register, width)
    }

    /// Writes an aligned register.
    pub(super) fn write(&mut self, access: &mut Access<'_, '_>, register: u16, width: Width, value: u32) {
        if register < HEADER_END {
            self.header.write(access, self.msix.as_mut(), register, width, value);
        } else if self.header.host_bridge {
            count(&mut access.refused().host_bridge);
        } else if self.vanished_at(access, register).is_some() {
            count(&mut access.refused().guarded);
        } else {
            let done = self.msi.as_mut().is_some_and(|msi| msi.write(access, register, width, value))
                || self.msix.as_mut().is_some_and(|msix| msix.write(access, register, width, value));
            if !done {
                access.write(register, width, value);
            }
        }
    }

    /// The first register of the capability that is not shown and has this register.
    fn vanished_at(&mut self, access: &Access<'_, '_>, register: u16) -> Option<u16> {
        let ranges = if register < EXTENDED {
            &self.vanished
        } else {
            self.extended.get_or_insert_with(|| capability::decoding(access))
        };
        ranges.iter().find(|(first, end)| (*first..*end).contains(&register)).map(|(first, _)| *first)
    }
}

impl Msi {
    /// Opens the source of a function's MSI.
    pub(super) fn open(access: &mut Access<'_, '_>) -> Option<(vcpu::SourceId, vcpu::Message)> {
        let at = access.at;
        access.ground.open(at, MSI_ENTRY)
    }
}
