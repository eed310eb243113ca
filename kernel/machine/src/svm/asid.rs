//! Address-space identifiers. There may be as few as 15, so they are given to vCPUs for a *generation*:
//! when they run out, a new generation begins with a flush of everything, and a vCPU of an older
//! generation takes a new identifier when it is loaded.
//!
//! Source: AMD APM vol. 2, "TLB Control".

/// Generations of a CPU never get out of these.
const GENERATION_BITS: u32 = 48;

/// Identifiers of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asids {
    generation: u64,
    next: u32,
    count: u32,
    /// A full flush was promised and has not been made.
    owed: bool,
}

/// A vCPU's identifier and the generation in which it is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asid {
    pub(crate) number: u32,
    generation: u64,
}

impl Asids {
    /// `count` identifiers, the host's 0 included, of the CPU with this number. Another CPU has other generations, so
    /// that a vCPU which comes from there takes a new identifier.
    pub(crate) const fn new(count: u32, cpu: usize) -> Self {
        let count = if count < 2 { 2 } else { count };
        Self { generation: (cpu as u64) << GENERATION_BITS | 1, next: 1, count, owed: false }
    }

    /// The identifier a vCPU that had `old` runs with now, and whether the whole TLB must be flushed first.
    pub(crate) const fn assign(&mut self, old: Asid) -> (Asid, bool) {
        if old.generation == self.generation {
            (old, core::mem::replace(&mut self.owed, false))
        } else {
            self.next()
        }
    }

    /// The full flush that came with an identifier was not made, because its vCPU did not run.
    pub(crate) const fn owe_flush(&mut self) {
        self.owed = true;
    }

    /// No identifier given so far is valid any more, and the next comes with a full flush.
    pub(crate) const fn renew(&mut self) {
        self.generation += 1;
        self.next = 1;
        self.owed = true;
    }

    /// An identifier that has no translations yet, and whether the whole TLB must be flushed first.
    pub(crate) const fn next(&mut self) -> (Asid, bool) {
        let exhausted = self.next >= self.count;
        if exhausted {
            self.generation += 1;
            self.next = 1;
        }
        let flush = exhausted | core::mem::replace(&mut self.owed, false);
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
        let mut asids = Asids::new(4, 0);
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

    /// Who takes another identifier for a flush never gets one that anybody has used since the last full flush.
    #[test]
    fn a_new_identifier_has_no_translations() {
        let mut asids = Asids::new(8, 0);
        let mut used = [false; 8];
        for _ in 0..50 {
            let (asid, flush) = asids.next();
            if flush {
                used = [false; 8];
            }
            assert!(!core::mem::replace(&mut used[asid.number as usize], true), "{asid:?}");
        }
    }

    #[test]
    fn a_flush_that_was_not_made_is_made_by_the_next() {
        let mut asids = Asids::new(16, 1);
        let (kept, _) = asids.assign(Asid::default());
        asids.owe_flush();
        assert_eq!(asids.assign(kept), (kept, true));
        assert_eq!(asids.assign(kept), (kept, false));
        asids.owe_flush();
        assert!(asids.next().1 && !asids.next().1);
    }

    /// A vCPU that moves to and fro never runs with an identifier that another CPU gave it.
    #[test]
    fn identifiers_of_other_cpus_are_not_valid() {
        let mut cpus = [Asids::new(16, 0), Asids::new(16, 1)];
        let mut asid = Asid::default();
        for step in 0..8 {
            let cpu = step % 2;
            let (next, _) = cpus[cpu].assign(asid);
            assert_ne!(next, asid);
            asid = next;
            assert_eq!(cpus[cpu].assign(asid), (asid, false));
        }
    }

    #[test]
    fn after_a_renewal_everybody_takes_a_new_identifier_and_the_first_flushes() {
        let mut asids = Asids::new(16, 1);
        let (one, two) = (asids.assign(Asid::default()).0, asids.assign(Asid::default()).0);
        asids.renew();
        let ((new_one, flush_one), (new_two, flush_two)) = (asids.assign(one), asids.assign(two));
        assert!(new_one != one && new_two != two && flush_one && !flush_two);
    }

    #[test]
    fn a_vcpu_keeps_its_identifier_while_it_is_valid() {
        let mut asids = Asids::new(16, 1);
        let (first, flush) = asids.assign(Asid::default());
        assert!(!flush);
        assert_eq!(asids.assign(first), (first, false));
    }
}
