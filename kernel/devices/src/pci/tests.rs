use super::*;

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
