//! What the kernel answers.

use crate::codec::{Name, choices, messages};

choices! {
    /// What a VM does.
    VmState: u16 {
        /// It has not started, or has ended.
        Stopped = 1,
        /// It is being started, reset, or ended.
        Changing = 2,
        /// It runs.
        Running = 3,
        /// It is paused.
        Paused = 4,
        /// Its memory is there, and it is to be told where it begins.
        Held = 5,
    }
}

choices! {
    /// What a port's link is like.
    Link: u16 {
        /// Frames pass.
        Up = 1,
        /// It was set down.
        Down = 2,
        /// The guest has no driver for its device, or its VM does not run.
        NoDriver = 3,
        /// It gets copies only, as the target of a mirror.
        Watches = 4,
    }
}

choices! {
    /// Why a request was refused. Nothing has changed then.
    Refusal: u16 {
        /// The versions of both sides differ; `first` is the kernel's major one, `second` the domain's.
        Version = 1,
        /// The message could not be read; `first` is its kind.
        Malformed = 2,
        /// There is no such VM; `first` is its number.
        NoVm = 3,
        /// A VM has that name; `first` is its number.
        NameTaken = 4,
        /// There is no memory: `first` bytes were wanted, `second` are free.
        NoMemory = 5,
        /// There are as many VMs as there can be: `first`.
        TooMany = 6,
        /// A number is out of range; `first` is what it was, `second` the most.
        Range = 7,
        /// The VM is not in a state for that; `first` is its [`VmState`].
        State = 8,
        /// There is no memory of the VM's, or of the domain's own, at the address `first`.
        Address = 9,
        /// The kernel does not know how to do that yet.
        Unsupported = 10,
        /// The VM cannot start; the kernel's log says why.
        Start = 11,
        /// There is no network of that name.
        NoNetwork = 12,
    }
}

messages! {
    /// An answer, with the request's id.
    Answer<'a> {
        /// The kernel's versions. What follows is in the words of the lower one.
        Hello = 0x8001 {
            /// The kernel's [`crate::MAJOR`].
            major: u16,
            /// The kernel's [`crate::MINOR`].
            minor: u16,
            /// Ticks of the time-stamp counter in a second.
            tsc_hz: u64,
            /// CPUs that run VMs.
            cpus: u16,
            /// Bytes that are free for VMs.
            free: u64,
        }
        /// The cookie of a ping.
        Pong = 0x8002 {
            /// As it came.
            cookie: u64,
        }
        /// It is done.
        Done = 0x8003 {}
        /// It was refused.
        Refused = 0x8004 {
            /// Why.
            refusal: Refusal,
            /// See [`Refusal`].
            first: u64,
            /// See [`Refusal`].
            second: u64,
        }
        /// It was refused, as its words mean nothing, or cannot be.
        Misread = 0x8005 {
            /// Why, which word, and what to write, in a sentence.
            bytes: &'a [u8],
        }
        /// A VM.
        Vm = 0x8100 {
            /// Its number.
            vm: u64,
        }
        /// A VM's memory.
        MemoryMap = 0x8113 {
            /// Where the root pointer of its ACPI tables is, which are there once its memory is.
            rsdp: u64,
            /// Address, bytes and type of up to eight ranges, as firmware tells of them (ACPI, "System Address Map Interfaces"); zeros behind the last.
            ranges: [u64; 24],
        }
        /// What a VM is and does.
        Status = 0x8140 {
            /// Its number.
            vm: u64,
            /// Its name.
            name: Name,
            /// What it does.
            state: VmState,
            /// Virtual CPUs.
            cpus: u16,
            /// Bytes of memory.
            memory: u64,
            /// How many of them it has now: 0 before its start and after its end, and less than all where its balloon has given some back.
            resident: u64,
            /// Ticks that its processors have run, and have waited for a CPU.
            ticks: [u64; 2],
            /// Exits in all.
            exits: u64,
            /// What its network devices have carried since it was made: bytes received, bytes sent, frames lost.
            network: [u64; 3],
        }
        /// A VM's exits: port accesses, memory accesses, CPUID, MSR reads, MSR writes, control registers, halts, hypercalls, interrupts of the
        /// host's, interrupt windows, pauses, all others.
        Exits = 0x8141 {
            /// How many of each.
            counts: [u64; 12],
        }
        /// What of the machine VMs can have.
        Machine = 0x8143 {
            /// CPUs on which they run.
            cpus: u16,
            /// Bytes of memory that are free.
            free: u64,
        }
        /// Events of a CPU.
        Trace = 0x8142 {
            /// The number of the event behind them: from where to ask next.
            next: u64,
            /// So many before them, from where was asked on, were not there any more.
            lost: u64,
            /// The events, 32 bytes each, the oldest first; none where nothing more has happened.
            bytes: &'a [u8],
        }
        /// So many bytes were taken.
        Taken = 0x8151 {
            /// How many.
            count: u32,
        }
        /// How a port is.
        Port = 0x8171 {
            /// The VM.
            vm: u64,
            /// Which of its network devices.
            device: u16,
            /// The network that it is on.
            network: Name,
            /// The device's address, the first byte in the lowest 8 bits.
            mac: u64,
            /// Its link.
            link: Link,
            /// Frames and bytes that its device has sent, frames that were lost included.
            sent: [u64; 2],
            /// Frames and bytes that its device has received.
            received: [u64; 2],
            /// Frames that were lost on its account, by reason: malformed, another's hardware address, another's IP address, another VLAN, a reserved address,
            /// too many to many, denied, no receiver, link down, too long, queue full, unsuited to its receiver, sent by who only watches.
            lost: [u64; 13],
            /// Its settings, in the words of [`crate::Request::ChangePort`].
            words: &'a [u8],
        }
        /// A network.
        Network = 0x8172 {
            /// Its name.
            network: Name,
            /// Its ports.
            ports: u16,
            /// Its rules.
            rules: u16,
            /// Its mirrors.
            mirrors: u16,
            /// Whether what no rule fits passes.
            allows: bool,
            /// Packets that no rule fitted, and that did not pass.
            denied: u64,
        }
        /// An entry of a network's list.
        Entry = 0x8174 {
            /// Its number.
            number: u16,
            /// Packets and bytes that it has judged, where it is a rule.
            counts: [u64; 2],
            /// The entry, in words.
            words: &'a [u8],
        }
    }
}
