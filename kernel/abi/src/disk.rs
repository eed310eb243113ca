//! What kernel and domain say of disks that the domain serves: entries of [`crate::Event::DiskOrders`] and [`crate::Request::DisksDone`].

use crate::codec::{Error, Field, Reader, Writer, choices};

choices! {
    /// What is done with sectors.
    DiskVerb: u16 {
        /// They are read into the slot.
        Read = 1,
        /// They are written from there.
        Write = 2,
        /// What was answered before is to survive a loss of power. Of no sectors.
        Flush = 3,
        /// They are of no use any more.
        Discard = 4,
        /// They are zeros from here on.
        Zero = 5,
        /// The same, and they need have no place.
        ZeroUnmap = 6,
    }
}

choices! {
    /// What has become of an order.
    DiskStatus: u16 {
        /// It is done. What was written is where it survives what the disk promises.
        Done = 0,
        /// It is not, or not all of it: the guest sees an error.
        Failed = 1,
        /// There is no such thing at this disk.
        Unsupported = 2,
        /// There is no room for what is written. The VM is paused, and the order told again when it is resumed.
        NoRoom = 3,
    }
}

/// Something to be done with a disk's sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskOrder {
    /// Its slot, by which it is answered, and where its bytes are in the window: 64 KiB for each.
    pub slot: u16,
    /// The disk: the VM's disks have numbers from 0 on.
    pub disk: u16,
    /// What to do.
    pub verb: DiskVerb,
    /// How many sectors of 512 bytes.
    pub sectors: u32,
    /// The first of them.
    pub sector: u64,
    /// Goes up with each order of a VM.
    pub number: u64,
}

impl DiskOrder {
    /// Bytes that it takes.
    pub const BYTES: usize = 32;
}

impl Field<'_> for DiskOrder {
    fn write(&self, to: &mut Writer<'_>) {
        self.slot.write(to);
        self.disk.write(to);
        self.verb.write(to);
        0_u16.write(to);
        self.sectors.write(to);
        0_u32.write(to);
        self.sector.write(to);
        self.number.write(to);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, Error> {
        let (slot, disk) = (u16::read(from, name)?, u16::read(from, name)?);
        let verb = DiskVerb::read(from, name)?;
        let zero = u16::read(from, name)?;
        let sectors = u32::read(from, name)?;
        let more_zeros = u32::read(from, name)?;
        if (zero, more_zeros) != (0, 0) {
            return Err(from.bad(name, more_zeros.into()));
        }
        Ok(Self { slot, disk, verb, sectors, sector: u64::read(from, name)?, number: u64::read(from, name)? })
    }
}

/// What has become of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskAnswer {
    /// Its slot.
    pub slot: u16,
    /// What has become of it.
    pub status: DiskStatus,
}

impl DiskAnswer {
    /// Bytes that it takes.
    pub const BYTES: usize = 4;
}

impl Field<'_> for DiskAnswer {
    fn write(&self, to: &mut Writer<'_>) {
        self.slot.write(to);
        self.status.write(to);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, Error> {
        Ok(Self { slot: u16::read(from, name)?, status: DiskStatus::read(from, name)? })
    }
}

macro_rules! entry {
    ($name:ident, $kind:expr) => {
        impl $name {
            /// Its bytes.
            pub fn to_bytes(&self) -> [u8; Self::BYTES] {
                let mut bytes = [0; Self::BYTES];
                // There is room: it is of this size.
                Field::write(self, &mut Writer::new(&mut bytes));
                bytes
            }

            /// Reads one.
            ///
            /// # Errors
            /// [`Error::Value`] where a field has a value that means nothing.
            pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, Error> {
                Field::read(&mut Reader::new($kind, bytes), "entry")
            }
        }
    };
}

entry!(DiskOrder, 0x4180);
entry!(DiskAnswer, 0x0181);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layouts_are_as_the_reference_says() {
        let order = DiskOrder { slot: 1, disk: 2, verb: DiskVerb::Write, sectors: 4, sector: 5, number: 6 };
        let mut wanted = [0; 32];
        (wanted[0], wanted[2], wanted[4], wanted[8], wanted[16], wanted[24]) = (1, 2, 2, 4, 5, 6);
        assert_eq!(order.to_bytes(), wanted);
        let answer = DiskAnswer { slot: 31, status: DiskStatus::NoRoom };
        assert_eq!(answer.to_bytes(), [31, 0, 3, 0]);
        assert!(DiskAnswer::from_bytes(&[0, 0, 4, 0]).is_err());
        wanted[6] = 1;
        assert!(DiskOrder::from_bytes(&wanted).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_would_be_written(order: [u8; 32], answer: [u8; 4]) {
            if let Ok(read) = DiskOrder::from_bytes(&order) {
                prop_assert_eq!(read.to_bytes(), order);
            }
            if let Ok(read) = DiskAnswer::from_bytes(&answer) {
                prop_assert_eq!(read.to_bytes(), answer);
            }
        }
    }
}
