//! A set of VMs, by their numbers, which any CPU may change at any time.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// VMs of a machine at most.
pub const MAX_VMS: usize = 256;

const WORD: usize = u64::BITS as usize;

/// Some VMs: a bit for each.
#[derive(Debug, Default)]
pub struct VmSet {
    /// How many there are, which is told right after the bits have changed. Who takes a VM in sees to it that somebody looks then.
    count: AtomicU64,
    words: [AtomicU64; MAX_VMS / WORD],
}

impl VmSet {
    /// Takes a VM in, by its number.
    pub fn insert(&self, vm: usize) {
        let bit = 1 << (vm % WORD);
        if self.words.get(vm / WORD).is_some_and(|word| word.fetch_or(bit, SeqCst) & bit == 0) {
            self.count.fetch_add(1, SeqCst);
        }
    }

    /// Leaves a VM out.
    pub fn remove(&self, vm: usize) {
        let bit = 1 << (vm % WORD);
        if self.words.get(vm / WORD).is_some_and(|word| word.fetch_and(!bit, SeqCst) & bit != 0) {
            self.count.fetch_sub(1, SeqCst);
        }
    }

    /// Whether nobody is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(SeqCst) == 0
    }

    /// Whether this holds for one of the VMs that are in it; those that come or go meanwhile may be asked or not.
    pub fn any(&self, mut is: impl FnMut(usize) -> bool) -> bool {
        for (at, word) in self.words.iter().enumerate() {
            for bit in bits(word.load(SeqCst)) {
                if is(at * WORD + bit) {
                    return true;
                }
            }
        }
        false
    }

    /// Takes all of them out: `each` is called for each.
    #[inline]
    pub fn take(&self, each: impl FnMut(usize)) {
        if !self.is_empty() {
            self.take_some(each);
        }
    }

    fn take_some(&self, mut each: impl FnMut(usize)) {
        for (at, word) in self.words.iter().enumerate() {
            let taken = word.swap(0, SeqCst);
            self.count.fetch_sub(taken.count_ones().into(), SeqCst);
            bits(taken).for_each(|bit| each(at * WORD + bit));
        }
    }
}

/// The numbers of the bits that are set, lowest first.
pub fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn who_was_taken_in_is_taken_out_once() {
        let set = VmSet::default();
        for vm in [0, 63, 64, MAX_VMS - 1, 7, MAX_VMS] {
            set.insert(vm);
        }
        set.remove(63);
        set.remove(MAX_VMS);
        let mut asked = Vec::new();
        assert!(
            !set.is_empty()
                && !set.any(|vm| {
                    asked.push(vm);
                    false
                })
        );
        assert_eq!(asked, [0, 7, 64, MAX_VMS - 1]);
        assert!(set.any(|vm| vm == 64));
        let taken = || {
            let mut taken = Vec::new();
            set.take(|vm| taken.push(vm));
            taken
        };
        assert_eq!(taken(), [0, 7, 64, MAX_VMS - 1]);
        assert!(taken().is_empty() && set.is_empty());
        set.insert(200);
        assert_eq!(taken(), [200]);
    }
}
