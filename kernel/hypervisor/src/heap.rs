//! Values on the heap where there may be no memory for them: that is told, and nobody panics.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What an [`Arc`] keeps beside its value: two counters.
const COUNTERS: usize = 2 * size_of::<usize>();

/// A value that can have several owners. `None` where there is no memory for it.
///
/// The standard library has no such thing yet, so it is asked first whether there is room, and then for that: right behind each other, as another
/// CPU may take it in between.
pub(crate) fn arc<T>(value: T) -> Option<Arc<T>> {
    let mut room = Vec::<(T, [u8; COUNTERS])>::new();
    room.try_reserve_exact(1).ok()?;
    drop(room);
    Some(Arc::new(value))
}

/// A value that can be handed on by its address. `None` where there is no memory for it.
pub(crate) fn boxed<T>(value: T) -> Option<Box<T>> {
    let mut room = Vec::<T>::new();
    room.try_reserve_exact(1).ok()?;
    drop(room);
    Some(Box::new(value))
}

/// So many equal values in a row. `None` where there is no memory for them.
pub(crate) fn row<T: Clone>(count: usize, value: T) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).ok()?;
    values.resize(count, value);
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_memory_for_is_refused() {
        assert_eq!((arc(7).as_deref(), boxed(8).as_deref()), (Some(&7), Some(&8)));
        assert_eq!(row(3, 1), Some(std::vec![1, 1, 1]));
        assert!(row(usize::MAX / 16, 0_u64).is_none());
    }
}
