//! Address-space identifiers. There may be as few as 15, so they are given to vCPUs for a *generation*:
//! when they run out, a new generation begins with a flush of everything, and a vCPU of an older
//! generation takes a new identifier when it is loaded.
//!
//! Source: AMD APM vol. 2, "TLB Control".

/// Identifiers of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asids {
    generation: u64,
    next: u32,
    count: u32,
}

/// A vCPU's identifier and the generation in which it is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asid {
    pub(crate) number: u32,
    generation: u64,
}

impl Asids {
    /// `count` identifiers, the host's 0 included.
    pub(crate) const fn new(count: u32) -> Self {
        let count = if count < 2 { 2 } else { count };
        Self { generation: 1, next: 1, count }
    }

    /// The identifier a vCPU that had `old` runs with now, and whether the whole TLB must be flushed first.
    pub(crate) const fn assign(&mut self, old: Asid) -> (Asid, bool) {
        if old.generation == self.generation {
            return (old, false);
        }
        let flush = self.next >= self.count;
        if flush {
            self.generation += 1;
            self.next = 1;
        }
        let number = self.next;
        self.next += 1;
        (Asid { number, generation: self.generation }, flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within a generation no two vCPUs share an identifier; a new one starts with a flush.
    #[test]
    fn identifiers_are_unique_in_a_generation() {
        let mut asids = Asids::new(4);
        let mut vcpus = [Asid::default(); 5];
        let mut owners = [None; 4];
        for step in 0..100 {
            let vcpu = step * 7 % vcpus.len();
            let (asid, flush) = asids.assign(vcpus[vcpu]);
            if flush {
                owners = [None; 4];
            }
            assert!(asid.number > 0 && asid.number < 4);
            let owner = owners[asid.number as usize].get_or_insert(vcpu);
            assert_eq!(*owner, vcpu);
            vcpus[vcpu] = asid;
        }
    }

    #[test]
    fn a_vcpu_keeps_its_identifier_while_it_is_valid() {
        let mut asids = Asids::new(16);
        let (first, flush) = asids.assign(Asid::default());
        assert!(!flush);
        assert_eq!(asids.assign(first), (first, false));
    }
}
