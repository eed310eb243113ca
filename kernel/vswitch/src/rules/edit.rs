//! Changes of single rules, in place: they need no memory.

use core::sync::atomic::Ordering::SeqCst;

use super::{List, MOST_RULES, Rule, Rules};
use crate::counters::Traffic;
use crate::port::{PortId, PortSet};

impl Rules {
    /// One more rule, behind all others. False, and nothing is changed, where there are [`MOST_RULES`].
    pub fn add(&self, rule: Rule) -> bool {
        let mut list = self.list.write();
        let number = list.rules.len();
        if number >= MOST_RULES {
            return false;
        }
        if let Some(count) = self.counts.get(number) {
            count.reset();
        }
        // There is room: see `new`.
        list.rules.push(rule);
        self.publish(&list);
        true
    }

    /// One rule less: those behind it move up, with their counters. False where there is none of that number.
    pub fn remove(&self, number: usize) -> bool {
        let mut list = self.list.write();
        if number >= list.rules.len() {
            return false;
        }
        list.rules.remove(number);
        let counts = self.counts.get(number..).unwrap_or_default();
        for (count, next) in counts.iter().zip(counts.iter().skip(1)) {
            count.take_from(next);
        }
        self.publish(&list);
        true
    }

    /// A port was taken away: rules are about it no longer. Those that were about nobody else stay, and fit nobody. What is for all ports is
    /// for all that will be.
    pub(crate) fn forget_port(&self, port: PortId) {
        let mut list = self.list.write();
        for fits in list.rules.iter_mut().map(|rule| &mut rule.fits) {
            for set in [&mut fits.from, &mut fits.to] {
                if *set != PortSet::ALL {
                    *set = set.without(port);
                }
            }
        }
        self.publish(&list);
    }

    /// Says what holds where no rule fits.
    pub fn set_default(&self, allow: bool) {
        let mut list = self.list.write();
        list.allow = allow;
        self.publish(&list);
    }

    /// A rule, with its packets and bytes.
    pub fn get(&self, number: usize) -> Option<(Rule, u64, u64)> {
        let list = self.list.read();
        let (packets, bytes) = self.counts.get(number).map(Traffic::read)?;
        Some((list.rules.get(number)?.clone(), packets, bytes))
    }

    /// How many rules there are.
    pub fn count_of_rules(&self) -> usize {
        self.list.read().rules.len()
    }

    /// Whether all may pass that no rule fits.
    pub fn allows_by_default(&self) -> bool {
        self.list.read().allow
    }

    /// The list has changed: it gets a number of its own.
    pub(super) fn publish(&self, list: &List) {
        let open = list.allow && list.rules.is_empty();
        let next = (self.generation.load(SeqCst) | 1).wrapping_add(1);
        self.generation.store(next | u32::from(open), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Match, Verdict};
    use std::vec::Vec;

    fn rule(allow: bool, vlan: u16) -> Rule {
        Rule { allow, fits: Match { vlan: Some(vlan), ..Match::default() } }
    }

    #[test]
    fn rules_are_added_and_removed_with_their_counters() {
        let rules = Rules::new().expect("memory");
        (1..=3).for_each(|vlan| assert!(rules.add(rule(true, vlan))));
        for number in 0..3 {
            (0..=number).for_each(|_| rules.count(Verdict { allow: true, rule: Some(number) }, 1, 100));
        }
        assert!(!rules.remove(3) && rules.remove(1));
        let left: Vec<_> = (0..rules.count_of_rules()).filter_map(|number| rules.get(number)).collect();
        assert_eq!(left, [(rule(true, 1), 1, 100), (rule(true, 3), 3, 300)]);
        assert!(rules.add(rule(false, 4)) && rules.get(3).is_none());
        assert_eq!(rules.get(2), Some((rule(false, 4), 0, 0)), "a new one begins at 0");
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let rules = Rules::new().expect("memory");
        assert!((0..MOST_RULES).all(|_| rules.add(rule(true, 1))) && !rules.add(rule(true, 1)));
        assert_eq!(rules.count_of_rules(), MOST_RULES);
        assert!(rules.remove(MOST_RULES - 1) && rules.add(rule(true, 1)));
    }

    #[test]
    fn every_change_has_a_number_and_says_whether_all_may_pass() {
        let rules = Rules::new().expect("memory");
        let mut seen = std::collections::HashSet::from([rules.generation()]);
        let mut is_new = |open| seen.insert(rules.generation()) && Rules::is_open(rules.generation()) == open;
        rules.set_default(false);
        assert!(is_new(false) && !rules.allows_by_default());
        rules.set_default(true);
        assert!(is_new(true) && rules.allows_by_default());
        rules.add(rule(false, 1));
        assert!(is_new(false));
        rules.remove(0);
        assert!(is_new(true));
    }
}
