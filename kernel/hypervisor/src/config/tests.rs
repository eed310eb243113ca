use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn module<'a>(line: &'a str, bytes: &'a [u8]) -> Module<'a> {
    Module { line, bytes }
}

fn collect_all<'a>(modules: &[Module<'a>]) -> (Vec<VmConfig<'a>>, Vec<ConfigError<'a>>) {
    let mut errors = Vec::new();
    let vms = collect(modules, |error| errors.push(error));
    let planned = (vms.vms(), vms.vcpus());
    let mut made = Vec::new();
    vms.each(|name, config| made.push(VmConfig { name, ..VmConfig::clone(config) }));
    assert_eq!(planned, (made.len(), made.iter().map(|vm| vm.cpus).sum()));
    (made, errors)
}

#[test]
fn modules_come_in_any_order() {
    let (vms, errors) = collect_all(&[
        module("vm=demo initrd", b"i"),
        module("vm=b memory=64M kernel", b"kb"),
        module("  vm=demo cpus=1 memory=1G kernel -- console=ttyS0 -- x=--y ", b"kd"),
        module("vm=b module -- first -- line", b"m1"),
        module("vm=b module", b"m2"),
        module("vm=c protocol=pvh kernel", b"kc"),
    ]);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(vms.len(), 3);
    assert_eq!((vms[0].name.as_str(), vms[0].memory, vms[0].kernel), ("demo", 1 << 30, &b"kd"[..]));
    assert_eq!(vms[0].command_line, "console=ttyS0 -- x=--y");
    assert_eq!(vms[0].initrd, Some(&b"i"[..]));
    assert_eq!((vms[1].name.as_str(), vms[1].memory, vms[1].command_line), ("b", 64 << 20, ""));
    assert_eq!((vms[1].initrd, vms[1].protocol), (None, None));
    let modules = [(&b"m1"[..], &b"first -- line"[..]), (b"m2", b"")];
    let modules = modules.map(|(bytes, command_line)| BootModule { bytes, command_line });
    assert_eq!(vms[1].modules.as_slice(), modules);
    assert_eq!(vms[2].protocol, Some(Protocol::Pvh));
}

#[test]
fn each_fault_names_its_culprit_and_a_remedy() {
    let cases = [
        ("", "vm=NAME"),
        ("kernel vm=a", "does not begin"),
        ("vm=A kernel", "'A' is no name"),
        ("vm=a-name-that-is-longer-than-thirty-one kernel", "no name"),
        ("vm= kernel", "'' is no name"),
        ("vm=a", "'kernel', 'initrd', 'module', 'disk' and 'fwcfg=NAME'"),
        ("vm=a kernel initrd", "'kernel', 'initrd', 'module', 'disk' and"),
        ("vm=a kernel fwcfg=x", "'kernel', 'initrd', 'module', 'disk' and"),
        ("vm=a fwcfg=", "'' is no name of a file"),
        ("vm=a e9 fwcfg=x", "'e9' has its place"),
        ("vm=a kernel debug-exit=501", "debug-exit='501' is no port"),
        ("vm=a kernel debug-exit=0x+1", "is no port"),
        ("vm=a kernel debug-exit=0x10000", "is no port"),
        ("vm=a module protocol=pvh", "'protocol=pvh' has its place"),
        ("vm=a kernel protocol=PVH", "protocol='PVH' is unknown; write protocol=linux"),
        ("vm=a console=ttyS0 kernel", "'console=ttyS0' is unknown"),
        ("vm=a cpus=65 kernel", "no number from 1 to 64"),
        ("vm=a cpus=0 kernel", "cpus='0' is no number from 1 to 64"),
        ("vm=a cpus=x kernel", "write cpus=1"),
        ("vm=a memory=lots kernel", "memory='lots' is no size"),
        ("vm=a memory=1M kernel", "memory=1M is out of range; write from 16M to 1T"),
        ("vm=a memory=99999999999999999999G kernel", "is no size"),
        ("vm=a initrd memory=64M", "'memory=64M' has its place"),
        ("vm=a initrd -- x", "'--' has its place"),
        ("vm=a disk cpus=2", "'cpus=2' has its place"),
        ("vm=a kernel readonly", "'readonly' has its place in the line of a disk"),
        ("vm=a disk serial=more-than-twenty-characters", "is no serial number"),
        ("vm=a disk", "smaller than a sector"),
        ("vm=a kernel port=Agent", "'Agent' is no name of a port"),
        ("vm=a kernel port=a port=b port=c port=d", "more than 3 ports"),
        ("vm=a kernel net=LAN", "'LAN' is no name of a network"),
        ("vm=a kernel mtu=1500 net=lan", "'mtu=1500' belongs behind"),
        ("vm=a kernel net=lan mac=03:00:00:00:00:01", "is no address"),
        ("vm=a kernel net=lan mtu=67", "mtu='67' is no number"),
        ("vm=a kernel net=a net=b net=c net=d net=e net=f net=g net=h net=i", "more than 8 network devices"),
        ("vm=a disk net=lan", "'net=lan' has its place"),
        ("vm=a initrd", "VM a has no kernel"),
    ];
    for (line, part) in cases {
        let (vms, errors) = collect_all(&[module(line, b""), module("vm=good kernel", b"k")]);
        assert_eq!(vms.len(), 1, "{line}: the other VM starts");
        assert_eq!(errors.len(), 1, "{line}: {errors:?}");
        let text = errors[0].to_string();
        assert!(text.contains(part) && text.contains(line), "{line}: {text}");
    }
}

#[test]
fn a_broken_line_costs_the_whole_vm() {
    let (vms, errors) = collect_all(&[module("vm=a kernel", b"k"), module("vm=a initrd typo", b"i")]);
    assert!(vms.is_empty());
    assert_eq!(errors.len(), 1);
    let (vms, errors) = collect_all(&[module("vm=a kernel", b"k"), module("vm=a kernel", b"l")]);
    assert!(vms.is_empty());
    assert_eq!(errors[0].fault, Fault::Twice("kernel"));
}

#[test]
fn disks_come_in_the_order_of_their_lines() {
    let (vms, errors) = collect_all(&[
        module("vm=a disk readonly", &[1; 512]),
        module("vm=a kernel", b"k"),
        module("vm=a serial=number-2 disk", &[2; 600]),
    ]);
    assert!(errors.is_empty(), "{errors:?}");
    let [first, second] = vms[0].disks.as_slice() else { panic!("two disks") };
    assert_eq!((first.bytes[0], first.read_only, first.serial), (1, true, ""));
    assert_eq!((second.bytes.len(), second.read_only, second.serial), (600, false, "number-2"));
    let lines: Vec<_> = (0..9).map(|_| module("vm=a disk", &[0; 512])).collect();
    assert_eq!(collect_all(&lines).1[0].fault, Fault::ManyDisks);
}

#[test]
fn devices_are_switched_on() {
    let (vms, errors) = collect_all(&[
        module("vm=a fwcfg e9 debug-exit=0xf4 vga=text console=virtio kernel", b"k"),
        module("vm=a fwcfg=opt/x", b"content"),
        module("vm=b kernel", b"k"),
    ]);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        vms[0].devices,
        DeviceOptions {
            fw_cfg: true,
            debug_console: true,
            debug_exit: Some(0xf4),
            vga_text: true,
            virtio_console: true
        }
    );
    assert_eq!(vms[0].files.as_slice(), [NamedFile { name: "opt/x", bytes: b"content" }]);
    assert_eq!(vms[1].devices, DeviceOptions::default());
}

#[test]
fn modules_that_do_not_fit_cost_the_vm() {
    let mut modules = Vec::from([module("vm=a kernel", b"k")]);
    modules.extend([module("vm=a module", b"m"); MAX_MODULES]);
    let (vms, errors) = collect_all(&modules);
    assert_eq!((vms[0].modules.len(), errors.len()), (MAX_MODULES, 0));
    modules.push(module("vm=a module -- one more", b"m"));
    let (vms, errors) = collect_all(&modules);
    assert!(vms.is_empty() && errors[0].to_string().contains("more than 15 modules"));
}

#[test]
fn a_vm_too_many_is_refused() {
    let lines: Vec<String> = (0..=MAX_VMS).map(|n| format!("vm=v{n} kernel")).collect();
    let modules: Vec<Module<'_>> = lines.iter().map(|line| module(line, b"k")).collect();
    let (vms, errors) = collect_all(&modules);
    assert_eq!(vms.len(), MAX_VMS);
    assert_eq!(errors[0].fault, Fault::TooMany);
}

#[test]
fn a_line_makes_many_vms_that_share_their_modules() {
    let (vms, errors) = collect_all(&[
        module("vm=web initrd", b"i"),
        module("vm=web count=12 memory=32M cpus=2 net=lan kernel -- quiet", b"k"),
        module("vm=web disk readonly", &[1; 512]),
        module("vm=web-13 kernel", b"o"),
        module("vm=one count=1 net=lan mac=02:00:00:00:00:01 port=p kernel", b"1"),
        // The one is not made itself, so the other's name is free.
        module("vm=web-1 count=2 kernel", b"n"),
    ]);
    assert!(errors.is_empty(), "{errors:?}");
    let names: Vec<_> = vms.iter().map(|vm| vm.name).collect();
    assert_eq!((names[0].as_str(), names[8].as_str(), names[11].as_str()), ("web-1", "web-9", "web-12"));
    assert_eq!(
        names[12..].iter().map(ArrayString::as_str).collect::<Vec<_>>(),
        ["web-13", "one-1", "web-1-1", "web-1-2"]
    );
    for vm in &vms[..12] {
        assert_eq!((vm.kernel, vm.initrd, vm.command_line), (&b"k"[..], Some(&b"i"[..]), "quiet"));
        assert_eq!((vm.cpus, vm.memory, vm.disks.len(), vm.nics.len()), (2, 32 << 20, 1, 1));
    }
    let mut addresses: Vec<_> = vms[..12].iter().map(|vm| vm.nics[0].address(&vm.name, 0)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 12, "each has its own");
}

#[test]
fn what_there_cannot_be_several_of_is_refused() {
    let cases = [
        ("count=0", "count='0' is no number from 1 to 256"),
        ("count=257", "write count=2"),
        ("count=x", "count='x'"),
        ("count=2 net=lan mac=02:00:00:00:00:01", "'mac=' is for one VM"),
        ("count=2 port=agent", "'port=' is for one VM"),
    ];
    for (words, part) in cases {
        let line = format!("vm=a {words} kernel");
        let (vms, errors) = collect_all(&[module(&line, b"k"), module("vm=a initrd", b"i")]);
        let text = errors[0].to_string();
        assert!(vms.is_empty() && errors.len() == 1 && text.contains(part) && text.contains(&line), "{text}");
    }
    let line = format!("vm={} count=100 kernel", "n".repeat(28));
    let (_, errors) = collect_all(&[module(&line, b"k")]);
    assert!(errors[0].to_string().contains("write at most 27 characters"));
    let line = line.replace("100", "99");
    let (vms, _) = collect_all(&[module(&line, b"k")]);
    assert_eq!((vms.len(), vms[98].name.len()), (99, MAX_NAME));
}

#[test]
fn names_that_count_makes_are_taken() {
    let (vms, errors) = collect_all(&[
        module("vm=a-2 kernel", b"k"),
        module("vm=a count=2 kernel", b"k"),
        module("vm=a-02 kernel", b"k"),
        module("vm=b count=256 kernel", b"k"),
        module("vm=c kernel", b"k"),
    ]);
    assert_eq!(vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["a-1", "a-2", "a-02", "c"]);
    let faults: Vec<_> = errors.iter().map(|error| error.fault).collect();
    assert_eq!(faults, [Fault::NameTaken("a"), Fault::TooMany]);
    assert_eq!(errors[1].line, "vm=b count=256 kernel");
}

#[test]
fn options_leave_other_words_alone() {
    let options = Options::parse("log=debug end=poweroff view=demo".split(' '));
    let default = Options::parse([].into_iter());
    assert_eq!(default, Options { poll: 50, ..Options::default() });
    assert_eq!(options, Options { end: End::PowerOff, view: FirstView::Guest("demo"), ..default.clone() });
    assert_eq!(Options::parse("end=never view=all poll=101".split(' ')), default);
    assert_eq!(Options::parse("poll=0".split(' ')), Options::default());
    let words = "rule=lan:deny network=lan,default=deny mirror=lan:both=a,to=b rules=x";
    assert_eq!(Options::parse(words.split(' ')).networks, words.split(' ').take(3).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn any_lines_are_read_without_panic(lines in prop::collection::vec(".{0,60}|vm=[a-c] [a-z=0-9 -]{0,40}", 0..12)) {
        let modules: Vec<Module<'_>> = lines.iter().map(|line| module(line, b"k")).collect();
        let (vms, errors) = collect_all(&modules);
        for error in &errors {
            prop_assert!(!error.to_string().is_empty());
        }
        for vm in &vms {
            prop_assert!(is_name(&vm.name));
            prop_assert!((MIN_MEMORY..=MAX_MEMORY).contains(&vm.memory));
            prop_assert_eq!(vm.memory % vcpu::PAGE_SIZE, 0);
        }
        // Every line either serves a VM or is told to be wrong.
        prop_assert!(lines.is_empty() || !vms.is_empty() || !errors.is_empty());
    }

    #[test]
    fn sizes_read_back(bytes: u64) {
        prop_assert_eq!(parse_size(&Size(bytes).to_string()), Some(bytes));
    }

    #[test]
    fn well_formed_lines_are_understood(
        name in "[a-z0-9-]{1,31}", mib in 16u64..1 << 20, command in "[a-z=0-9]{1,9}( [a-z=0-9]{1,9}){0,3}",
    ) {
        let line = format!("vm={name} memory={mib}M kernel -- {command}");
        let (vms, errors) = collect_all(&[module(&line, b"k")]);
        prop_assert!(errors.is_empty());
        prop_assert_eq!((vms[0].name.as_str(), vms[0].memory, vms[0].command_line), (&name[..], mib << 20, &command[..]));
    }
}
