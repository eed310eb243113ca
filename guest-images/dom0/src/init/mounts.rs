//! The kernel's file systems, and folders that are not on any disk.

use std::ffi::CStr;
use std::fs;

use rustix::mount::{MountFlags, mount};

use crate::{facts, log};

/// Lifts the limit on what programs may write into the kernel's log: ours is the node's log.
const LOG_LIMIT: &str = "/proc/sys/kernel/printk_devkmsg";

struct Mount {
    kind: &'static str,
    place: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const DATA: MountFlags = SAFE.union(MountFlags::NOEXEC);

const MOUNTS: [Mount; 6] = [
    Mount { kind: "devtmpfs", place: "/dev", flags: MountFlags::NOSUID, options: c"mode=0755" },
    Mount { kind: "proc", place: "/proc", flags: DATA, options: c"" },
    Mount { kind: "sysfs", place: "/sys", flags: DATA, options: c"" },
    Mount {
        kind: "devpts",
        place: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0600,ptmxmode=0666",
    },
    Mount { kind: "tmpfs", place: "/run", flags: DATA, options: c"mode=0755,size=16m" },
    Mount { kind: "tmpfs", place: "/tmp", flags: SAFE, options: c"mode=1777,size=64m" },
];

/// Mounts them. What cannot be mounted is told, and the rest goes on: the less works, the more a person will want to see.
pub(crate) fn all() {
    for Mount { kind, place, flags, options } in MOUNTS {
        let made = fs::create_dir_all(place);
        let mounted = made.and_then(|()| Ok(mount(kind, place, kind, flags, options)?));
        if let Err(error) = mounted {
            log::error(&format!("{place} cannot be mounted: {error}"));
        }
    }
    if let Err(error) = fs::create_dir_all(facts::FOLDER) {
        log::error(&format!("{}: {error}", facts::FOLDER));
    }
    if let Err(error) = fs::write(LOG_LIMIT, "on\n") {
        log::warn(&format!("the kernel will leave out lines of ours: {error}"));
    }
}
