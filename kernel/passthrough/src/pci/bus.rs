//! Which function an access is for: those that dom0 has found are remembered, those that go are forgotten.

use devices::Width;
use vcpu::PciFunction;

use super::function::Function;
use super::ground::{Access, Withdraw, count};
use super::header::BUSES;
use super::{Filter, MAX_FUNCTIONS, lanes};

const IDENTITY_END: u16 = 4;
/// Primary, secondary and subordinate bus number.
const BUS_NUMBERS: u32 = 0xff_ffff;

/// What vendor and device read as while a device that was reset is not ready yet (PCI Express, "Configuration Request Retry Status").
const NOT_READY: u32 = 0x0001;
const NOBODY: u32 = 0xffff;

/// The buses that a bridge with these numbers leads to, secondary to subordinate; bus 0 is behind none.
fn behind(numbers: u32) -> core::ops::RangeInclusive<u8> {
    ((numbers >> 8) as u8).max(1)..=(numbers >> 16) as u8
}

/// What a function says of itself.
enum Said {
    /// It is known, at this index.
    Known(usize),
    /// There is none for dom0.
    Absent,
    /// It will say later.
    Later,
}

impl Filter<'_> {
    pub(super) fn is_virtual(&self, function: PciFunction) -> bool {
        function.bus() == 0 && self.slots.contains(&function.device())
    }

    /// Where a function is remembered, or where it would be.
    pub(super) fn find(&self, at: PciFunction) -> Result<usize, usize> {
        self.functions.binary_search_by_key(&at, Function::at)
    }

    /// The function at an address, found by now.
    fn reach(&mut self, at: PciFunction, withdraw: &mut Withdraw<'_>) -> Said {
        if self.hidden.contains(&at) {
            return Said::Absent;
        }
        let index = match self.find(at) {
            Ok(index) => index,
            Err(index) => {
                match self.ground.vendor(at) {
                    NOBODY => return Said::Absent,
                    NOT_READY => return Said::Later,
                    _ => {}
                }
                if self.functions.len() >= MAX_FUNCTIONS || self.functions.try_reserve(1).is_err() {
                    count(&mut self.ground.refused.room);
                    return Said::Absent;
                }
                let function = Function::learn(&mut Access { at, ground: &mut self.ground, withdraw });
                self.functions.insert(index, function);
                index
            }
        };
        match self.functions.get(index) {
            Some(function) if !function.is_hidden() => Said::Known(index),
            _ => Said::Absent,
        }
    }

    /// Forgets a function. Where it is `there` it is told to send nothing first.
    pub(super) fn forget(&mut self, index: usize, there: bool) {
        if index >= self.functions.len() {
            return;
        }
        let mut function = self.functions.remove(index);
        if function.table_pages().is_some() {
            self.ground.generation += 1;
        }
        let at = function.at();
        function.quiesce(&mut Access { at, ground: &mut self.ground, withdraw: &mut |_| {} }, there);
    }

    /// Reads an aligned register.
    pub(super) fn read_piece(
        &mut self,
        at: PciFunction,
        register: u16,
        width: Width,
        withdraw: &mut Withdraw<'_>,
    ) -> u32 {
        let index = match self.reach(at, withdraw) {
            Said::Known(index) => index,
            Said::Later if register < IDENTITY_END => {
                return self.ground.hardware.config_read(at, register, width.bytes());
            }
            Said::Absent | Said::Later => return lanes::ones(width),
        };
        if register < IDENTITY_END {
            let identity = self.ground.hardware.config_read(at, 0, 4);
            if let Some(another) = self.functions.get(index).and_then(|its| its.is_gone(identity)) {
                self.forget(index, !another);
            }
            return lanes::extract(identity, register, width);
        }
        let mut access = Access { at, ground: &mut self.ground, withdraw };
        match self.functions.get_mut(index) {
            Some(function) => function.read(&mut access, register, width),
            None => lanes::ones(width),
        }
    }

    /// Writes an aligned register.
    pub(super) fn write_piece(
        &mut self,
        at: PciFunction,
        register: u16,
        width: Width,
        value: u32,
        withdraw: &mut Withdraw<'_>,
    ) {
        let Said::Known(index) = self.reach(at, withdraw) else { return };
        let is_guarded = |(function, first, end): &(PciFunction, u16, u16)| {
            *function == at && register < *end && register + u16::from(width.bytes()) > *first
        };
        if self.guarded.iter().any(is_guarded) {
            count(&mut self.ground.refused.guarded);
            return;
        }
        if lanes::dword(register) == BUSES && !self.may_renumber(index, at, register, width, value) {
            count(&mut self.ground.refused.buses);
            return;
        }
        // Others may have been forgotten.
        let Ok(index) = self.find(at) else { return };
        let mut access = Access { at, ground: &mut self.ground, withdraw };
        if let Some(function) = self.functions.get_mut(index) {
            function.write(&mut access, register, width, value);
        }
    }

    /// Before a bridge's bus numbers change, what is behind it is forgotten: it will be found elsewhere. False where a hidden function is there, or
    /// would seem to be.
    fn may_renumber(
        &mut self,
        index: usize,
        at: PciFunction,
        register: u16,
        width: Width,
        value: u32,
    ) -> bool {
        let access = Access { at, ground: &mut self.ground, withdraw: &mut |_| {} };
        if !self.functions.get(index).is_some_and(|function| function.leads_on(&access)) {
            return true;
        }
        let before = access.read(BUSES, Width::Dword);
        let after = lanes::merge(before, register, width, value);
        if (before ^ after) & BUS_NUMBERS == 0 {
            return true;
        }
        for buses in [behind(before), behind(after)] {
            let moves = |other: PciFunction| buses.contains(&other.bus()) && other != at;
            if self.hidden.iter().any(|other| moves(*other)) {
                return false;
            }
            while let Some(index) = self.functions.iter().position(|function| moves(function.at())) {
                self.forget(index, true);
            }
        }
        true
    }
}
