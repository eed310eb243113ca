use super::*;
use proptest::prelude::*;

fn select(bus: &mut PciBus, function: FunctionAddress, register: u8) {
    bus.write_address(PciBus::ADDRESS_ENABLE | u32::from(function.0) << 8 | u32::from(register));
}

#[test]
fn the_host_bridge_answers_in_all_widths() {
    let mut bus = PciBus::new();
    select(&mut bus, FunctionAddress::HOST_BRIDGE, 0);
    assert_eq!(bus.read_data(0, Width::Dword), Ok(0x0d57_8086));
    assert_eq!(bus.read_data(2, Width::Word), Ok(0x0d57));
    assert_eq!(bus.read_data(1, Width::Byte), Ok(0x80));
    assert!(bus.read_data(3, Width::Word).is_err());
    select(&mut bus, FunctionAddress::HOST_BRIDGE, 0x0a);
    assert_eq!(bus.read_data(2, Width::Word), Ok(0x0600));
    assert_eq!(bus.read_address(), 0x8000_0008);
}

#[test]
fn only_writable_bits_change() {
    let mut bus = PciBus::new();
    select(&mut bus, FunctionAddress::HOST_BRIDGE, 4);
    let written = bus.write_data(0, Width::Dword, 0xffff_ffff).unwrap();
    assert_eq!(
        written,
        ConfigWrite { function: FunctionAddress::HOST_BRIDGE, register: 4, width: Width::Dword }
    );
    assert_eq!(bus.read_data(0, Width::Dword), Ok(0x0000_0507));
    select(&mut bus, FunctionAddress::HOST_BRIDGE, 0);
    bus.write_data(0, Width::Dword, 0).unwrap();
    assert_eq!(bus.read_data(0, Width::Dword), Ok(0x0d57_8086));
}

#[test]
fn absent_functions_and_a_disabled_mechanism_do_not_answer() {
    let mut bus = PciBus::new();
    assert!(bus.read_data(0, Width::Dword).is_err());
    let address = FunctionAddress::new(0, 3, 1);
    select(&mut bus, address, 0);
    assert!(bus.read_data(0, Width::Dword).is_err());
    assert!(bus.write_data(0, Width::Byte, 1).is_err());
    let header = Header { vendor: 0x1af4, ..HOST_BRIDGE };
    bus.add(address, ConfigSpace::new(&header)).unwrap();
    assert_eq!(bus.read_data(0, Width::Word), Ok(0x1af4));
    assert_eq!(bus.add(address, ConfigSpace::new(&header)), Err(AddFunctionError::Taken(address)));
    assert_eq!((address.bus(), address.device(), address.function()), (0, 3, 1));
    for device in 4..18 {
        bus.add(FunctionAddress::new(0, device, 0), ConfigSpace::new(&header)).unwrap();
    }
    let extra = FunctionAddress::new(0, 30, 0);
    assert_eq!(bus.add(extra, ConfigSpace::new(&header)), Err(AddFunctionError::Full));
}

#[test]
fn the_window_shows_the_host_bridge() {
    let mut bus = PciBus::new();
    assert_eq!(bus.ecam_read(0, Width::Dword), Ok(0x0d57_8086));
    assert_eq!(bus.ecam_read(3, Width::Byte), Ok(0x0d));
    let written = bus.ecam_write(4, Width::Word, 0xffff).unwrap();
    assert_eq!(
        written,
        ConfigWrite { function: FunctionAddress::HOST_BRIDGE, register: 4, width: Width::Word }
    );
    assert_eq!(bus.ecam_read(4, Width::Dword), Ok(0x0507));
    assert_eq!(bus.ecam_read(3, Width::Word), Err(IoError::Width { offset: 3, width: Width::Word }));
    assert_eq!(bus.ecam_read(0, Width::Qword), Err(IoError::Width { offset: 0, width: Width::Qword }));
    assert_eq!(bus.ecam_read(0x100, Width::Dword), Err(IoError::NoRegister { offset: 0x100 }));
    assert!(bus.ecam_read(Ecam::SIZE, Width::Byte).is_err(), "there is one bus");
    assert!(bus.ecam_read(u64::MAX, Width::Byte).is_err());
}

proptest! {
    /// The window and mechanism 1 are two ways to the same registers; beyond 256 bytes there are none.
    #[test]
    fn both_mechanisms_agree(
        steps in prop::collection::vec((0u8..4, 0u8..2, 0u16..0x140, 0usize..3, any::<u32>(), any::<bool>()), 1..60),
    ) {
        let mut bus = PciBus::new();
        let mut other = PciBus::new();
        for bus in [&mut bus, &mut other] {
            bus.add(FunctionAddress::new(0, 2, 1), ConfigSpace::new(&HOST_BRIDGE)).unwrap();
        }
        for (device, function, register, width, value, write) in steps {
            let width = [Width::Byte, Width::Word, Width::Dword][width];
            let lane = register % 4;
            let address = FunctionAddress::new(0, device, function);
            let offset = u64::from(address.0) << 12 | u64::from(register);
            if write {
                let done = bus.ecam_write(offset, width, value);
                if register < 0x100 {
                    select(&mut other, address, register as u8 & 0xfc);
                    prop_assert_eq!(done.ok(), other.write_data(lane, width, value).ok());
                } else {
                    prop_assert!(done.is_err());
                }
                continue;
            }
            let read = bus.ecam_read(offset, width);
            if register < 0x100 {
                select(&mut other, address, register as u8 & 0xfc);
                prop_assert_eq!(read.ok(), other.read_data(lane, width).ok());
            } else {
                prop_assert!(read.is_err());
            }
        }
    }
}
