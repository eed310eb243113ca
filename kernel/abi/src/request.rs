//! What the management domain asks the kernel for.

use crate::codec::{Name, choices, messages};

/// Bytes that a message can carry itself.
pub const MAX_INLINE: usize = 8 << 10;
/// Bytes of words at most ([`Request::ChangePort`] and others).
pub const MAX_WORDS: usize = 512;
/// All of a VM's processors ([`Request::Pin`]).
pub const ALL_VCPUS: u16 = u16::MAX;

choices! {
    /// A device of a VM that is to be made. Each VM has a 16550A at 3F8H besides.
    DeviceKind: u16 {
        /// A virtio console. `first` and `second` are 0, here and where nothing else is said.
        Console = 1,
        /// A virtio entropy device.
        Entropy = 2,
        /// A virtio balloon.
        Balloon = 3,
        /// A virtio disk in the machine's memory, of zeros until [`Request::FillDisk`] says otherwise. `first` is its size in sectors of 512 bytes,
        /// bit 0 of `second` says that it is read-only to the VM. The first disk that is added is number 0.
        MemoryDisk = 4,
        /// A virtio disk that the domain serves ([`Request::ServeDisks`]). `first` is its size in sectors, bit 0 of `second` says that it is read-only to
        /// the VM. It has the next number among the VM's disks.
        ServedDisk = 5,
        /// Firmware: a ROM of `first` bytes (whole pages, 64 KiB to 8 MiB) that ends with the first 4 GiB, and QEMU's firmware configuration device. The domain
        /// copies the ROM there, and its last 256 KiB below 1 MiB as well. The VM's first processor begins as after power-up, and not where
        /// [`Request::SetEntry`] says; it finds ACPI tables in the configuration device.
        Firmware = 6,
        /// A port at E9H: what is written there is written to the VM's console.
        DebugConsole = 7,
        /// A VGA adapter in text mode: what is on its screen is written to the VM's console.
        TextScreen = 8,
    }
}

choices! {
    /// A list that a network has.
    NetworkList: u16 {
        /// Its rules, of which the first that fits a frame says whether that passes.
        Rules = 1,
        /// Its mirrors: who gets copies of what.
        Mirrors = 2,
    }
}

choices! {
    /// What becomes of the machine.
    PowerAction: u16 {
        /// It goes off.
        Off = 1,
        /// It restarts.
        Restart = 2,
    }
}

messages! {
    /// A request. VMs go by the number that [`Request::CreateVm`] was answered with; a number is never used again for another VM.
    Request<'a> {
        /// The first message. Answered by the kernel's [`crate::Answer::Hello`].
        Hello = 0x0001 {
            /// The sender's [`crate::MAJOR`].
            major: u16,
            /// The sender's [`crate::MINOR`].
            minor: u16,
        }
        /// Nothing, to see whether the other side is there.
        Ping = 0x0002 {
            /// It comes back.
            cookie: u64,
        }
        /// Makes a VM without memory, with the devices that were added since the last one was made, which is stopped. Answered by [`crate::Answer::Vm`].
        CreateVm = 0x0100 {
            /// Its name, which no other VM has.
            name: Name,
            /// Virtual CPUs, 1 to 64.
            cpus: u16,
            /// Bytes of memory, whole pages.
            memory: u64,
        }
        /// Gives back all that a VM has. One that runs is stopped first. The answer comes when nothing of it is left.
        DestroyVm = 0x0101 {
            /// The VM.
            vm: u64,
        }
        /// Adds a device to those of the VM that [`Self::CreateVm`] makes next. Whether there can be such a device is said there.
        AddDevice = 0x0102 {
            /// What it is.
            kind: DeviceKind,
            /// See [`DeviceKind`].
            first: u64,
            /// See [`DeviceKind`].
            second: u64,
        }
        /// Adds a virtio network device to them.
        AddNetwork = 0x0104 {
            /// The network that it is on. Those that have a network's name in common are on it; it is made for the first of them.
            network: Name,
            /// Its hardware address in the lower 48 bits, the first byte in the lowest; 0 for one that comes of the VM's name.
            mac: u64,
        }
        /// Forgets the devices that were added.
        ForgetDevices = 0x0105 {
        }
        /// Where a VM's first processor begins, in 64-bit or protected mode (`loader::EntryState`).
        SetEntry = 0x0103 {
            /// The VM.
            vm: u64,
            /// RIP, RAX, RBX, RSI, RSP.
            registers: [u64; 5],
            /// CR0, CR3, CR4, IA32_EFER.
            control: [u64; 4],
            /// Address of the descriptor table, which has code at 10H and data at 18H.
            gdt: u64,
            /// Its limit.
            gdt_limit: u16,
        }
        /// Copies bytes of this message into a VM's memory. At most [`MAX_INLINE`].
        WriteMemory = 0x0110 {
            /// The VM.
            vm: u64,
            /// The first guest-physical address.
            gpa: u64,
            /// The bytes.
            bytes: &'a [u8],
        }
        /// Copies from the domain's own memory into a VM's, in steps; the answer comes at the end.
        CopyIn = 0x0111 {
            /// The VM.
            vm: u64,
            /// The first guest-physical address there.
            gpa: u64,
            /// The first physical address of the domain's own.
            from: u64,
            /// Bytes.
            length: u64,
        }
        /// Copies from a VM's memory into the domain's own.
        CopyOut = 0x0112 {
            /// The VM.
            vm: u64,
            /// The first guest-physical address there.
            gpa: u64,
            /// The first physical address of the domain's own.
            to: u64,
            /// Bytes.
            length: u64,
        }
        /// Where a VM's memory is and what is in it before anything is copied there. Answered by [`crate::Answer::MemoryMap`].
        MemoryMap = 0x0113 {
            /// The VM.
            vm: u64,
        }
        /// Copies from the domain's own memory onto a disk of a VM's that is stopped or held, in steps; the answer comes at the end.
        FillDisk = 0x0114 {
            /// The VM.
            vm: u64,
            /// The disk's number.
            disk: u16,
            /// The first byte there.
            offset: u64,
            /// The first physical address of the domain's own.
            from: u64,
            /// Bytes.
            length: u64,
        }
        /// Starts a VM. One that is stopped gets its memory, cleared, and is held then; one that is held begins at its entry. The answer comes when it is
        /// there.
        Start = 0x0120 {
            /// The VM.
            vm: u64,
        }
        /// Stops a VM at once, as a power switch does.
        Stop = 0x0121 {
            /// The VM.
            vm: u64,
        }
        /// Holds a VM's processors.
        Pause = 0x0122 {
            /// The VM.
            vm: u64,
        }
        /// Lets them go on.
        Resume = 0x0123 {
            /// The VM.
            vm: u64,
        }
        /// Resets a VM: its processors and devices begin anew. One that was made over the channel is held then, with its memory cleared.
        Reset = 0x0124 {
            /// The VM.
            vm: u64,
        }
        /// Presses the power button of a VM that runs, which shuts down then if it wants.
        PressPowerButton = 0x0125 {
            /// The VM.
            vm: u64,
        }
        /// A VM's share of the CPUs.
        SetShare = 0x0130 {
            /// The VM.
            vm: u64,
            /// Its weight, 1 to 10000.
            weight: u16,
            /// What it may have at most, in percent of a CPU; 0 for no limit.
            cap: u32,
            /// What it has in any case, in percent of a CPU.
            reservation: u32,
        }
        /// The CPUs on which a VM's processors may run, of those of its pool.
        Pin = 0x0131 {
            /// The VM.
            vm: u64,
            /// Which of its processors; [`ALL_VCPUS`] for all of them.
            vcpu: u16,
            /// CPUs, bit n for number n.
            cpus: u64,
        }
        /// The VM behind this number, or the next one: from 0 on, all of them. Answered by [`crate::Answer::Status`], or
        /// [`crate::Refusal::NoVm`] behind the last.
        NextVm = 0x0140 {
            /// The number.
            after: u64,
        }
        /// A VM's exits by reason. Answered by [`crate::Answer::Exits`].
        ExitCounters = 0x0141 {
            /// The VM.
            vm: u64,
        }
        /// What of the machine VMs can have. Answered by [`crate::Answer::Machine`].
        Machine = 0x0143 {}
        /// What a CPU did last, as events from that number on: from 0 on, all that are there. Answered by [`crate::Answer::Trace`], or
        /// [`crate::Refusal::Range`] where there is no such CPU.
        ReadTrace = 0x0142 {
            /// The CPU, from 0.
            cpu: u16,
            /// The event's number.
            from: u64,
        }
        /// Has what a VM says at its serial port and its virtio console from here on come as [`crate::Event::ConsoleOutput`], or no longer.
        WatchConsole = 0x0150 {
            /// The VM.
            vm: u64,
            /// Whether it comes.
            on: bool,
        }
        /// Types on the console of a VM that runs or is paused: its virtio console where the guest has opened that, else its serial port. Answered by [`crate::Answer::Taken`]: what had no room is to be sent again.
        ConsoleInput = 0x0151 {
            /// The VM.
            vm: u64,
            /// What is typed.
            bytes: &'a [u8],
        }
        /// Has the kernel's log come as [`crate::Event::LogLine`], from its oldest line on, or no longer.
        WatchLog = 0x0152 {
            /// Whether it comes.
            on: bool,
        }
        /// Sets the clock on the wall that guests are shown: those that are made, or ask their paravirtual clock for it, from here on. It is at least that of
        /// 2000 and at most that of 2242.
        SetWallClock = 0x0161 {
            /// Seconds since 1970, UTC.
            seconds: u64,
        }
        /// Switches the machine, at once: VMs that still run are stopped, the domain with them.
        Power = 0x0160 {
            /// How.
            action: PowerAction,
        }
        /// Changes a port of the switch, that of a VM's network device: by all of these words, or by none.
        ChangePort = 0x0170 {
            /// The VM.
            vm: u64,
            /// Which of its network devices, from 0 on.
            device: u16,
            /// Words with white space between them, as the boot line has them: `vlan=7`, `link=down`, `outbound=100M`.
            words: &'a [u8],
        }
        /// How such a port is. Answered by [`crate::Answer::Port`].
        Port = 0x0171 {
            /// The VM.
            vm: u64,
            /// Which of its network devices.
            device: u16,
        }
        /// The network of this number, from 0 on. Answered by [`crate::Answer::Network`], or `Range` behind the last.
        Network = 0x0172 {
            /// The number.
            number: u16,
        }
        /// Changes a network.
        ChangeNetwork = 0x0173 {
            /// Its name.
            network: Name,
            /// Words such as `default=deny` and `age=300`.
            words: &'a [u8],
        }
        /// Adds an entry at the end of a list of a network's. Answered by [`crate::Answer::Entry`].
        AddEntry = 0x0174 {
            /// The network's name.
            network: Name,
            /// Which list.
            list: NetworkList,
            /// The entry in words, such as `deny from=web port=22`, or `both=web to=probe`.
            words: &'a [u8],
        }
        /// Takes an entry out of such a list. Those behind it move up.
        DeleteEntry = 0x0175 {
            /// The network's name.
            network: Name,
            /// Which list.
            list: NetworkList,
            /// Its number, from 0 on.
            number: u16,
        }
        /// An entry of such a list. Answered by [`crate::Answer::Entry`], or `Range` behind the last.
        Entry = 0x0176 {
            /// The network's name.
            network: Name,
            /// Which list.
            list: NetworkList,
            /// Its number, from 0 on.
            number: u16,
        }
        /// The domain serves a VM's disks from here on, at the port `basalt-disks`. Orders that were not answered are told anew.
        ServeDisks = 0x0180 {
            /// The VM.
            vm: u64,
            /// The window: the first physical address of 2 MiB of the domain's own memory that lie together, a multiple of 4096.
            window: u64,
        }
        /// Orders are answered, at the port `basalt-disks`. Where all is in order, this itself has no answer.
        DisksDone = 0x0181 {
            /// The VM.
            vm: u64,
            /// Entries of four bytes ([`crate::DiskAnswer`]).
            answers: &'a [u8],
        }
    }
}
