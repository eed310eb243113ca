//! Fuzz targets. Each reads its input as a list of things that a guest (or the management domain) does ([`acts`]) and asserts what must hold whatever they are:
//! nothing panics, everything ends, and a reset makes a device whole again. `cargo xtask fuzz` looks for inputs that break that;
//! the inputs in `corpus` are tried again by the unit tests.
#![forbid(unsafe_code)]

mod acts;
mod bus;
mod device;
mod filter;
mod guest;
mod messages;
mod queue;
mod switch;
mod switch_input;

/// Something to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it tries.
    pub about: &'static str,
    /// Tries one input. Panics where something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "virtqueue",
        about: "a virtqueue whose memory the driver changes as it likes",
        run: queue::run,
    },
    Target { name: "pci", about: "the PCI bus with virtio functions, by ports and by memory", run: bus::run },
    Target { name: "virtio-blk", about: "a disk", run: device::block },
    Target { name: "virtio-balloon", about: "a balloon", run: device::balloon },
    Target { name: "virtio-rng", about: "an entropy device", run: device::entropy },
    Target {
        name: "virtio-console",
        about: "a console device, with another at the end of its line",
        run: device::console,
    },
    Target { name: "virtio-net", about: "a network device, with another on its switch", run: device::net },
    Target {
        name: "messages",
        about: "what the management domain and the kernel say to each other",
        run: messages::run,
    },
    Target {
        name: "pci-filter",
        about: "the machine's PCI functions, under a management domain that writes to them what it likes",
        run: filter::run,
    },
    Target { name: "vswitch", about: "a switch, and frames of any bytes", run: switch::run },
];

/// The target of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_target_holds_for_its_corpus() {
        for target in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
            let files: Vec<_> = std::fs::read_dir(&folder).expect("it has a corpus").flatten().collect();
            assert!(!files.is_empty(), "{}", target.name);
            for file in files {
                (target.run)(&std::fs::read(file.path()).expect("it can be read"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_target_holds_for_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            TARGETS.iter().for_each(|target| (target.run)(&bytes));
        }
    }
}
