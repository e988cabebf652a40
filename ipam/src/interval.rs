//! Sets of addresses as intervals: a /64 costs as much as one address.
//!
//! The set knows numbers only; [`to_bits`] and [`from_bits`] are the one bridge to addresses. It does not
//! know pools, leases or families: the owner of a set knows which family it holds. Invariant: the intervals
//! are disjoint and never adjacent, so equal sets are equal values.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The family of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: 32 bits.
    V4,
    /// IPv6: 128 bits.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The number that stands for `address` in a set of its family.
pub fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of `family` that `bits` stands for. Of an IPv4 address only the low 32 bits count.
pub fn from_bits(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let [.., a, b, c, d] = bits.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// A set of 128-bit numbers, kept as disjoint, non-adjacent closed intervals. An IPv4 address is
/// its 32-bit value, an IPv6 address its 128-bit value; one set holds one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IntervalSet {
    /// First to last, both included.
    ranges: BTreeMap<u128, u128>,
}

impl IntervalSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `first` to `last`, both included. Nothing happens if `first` lies behind `last`.
    pub fn insert(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        if let Some((&start, &end)) = self.ranges.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            first = start;
            last = last.max(end);
        }
        // What begins within the new interval, or right behind it, becomes part of it.
        while let Some((&start, &end)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            self.ranges.remove(&start);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
    }

    /// Takes `first` to `last` out, both included. Nothing happens if `first` lies behind `last`.
    pub fn remove(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        if let Some((&start, &end)) = self.ranges.range(..first).next_back()
            && end >= first
        {
            self.ranges.insert(start, first - 1);
            if end > last {
                self.ranges.insert(last + 1, end);
                return;
            }
        }
        while let Some((&start, &end)) = self.ranges.range(first..=last).next() {
            self.ranges.remove(&start);
            if end > last {
                self.ranges.insert(last + 1, end);
                return;
            }
        }
    }

    /// True if `number` is in the set.
    pub fn contains(&self, number: u128) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, &last)| last >= number)
    }

    /// True if the set has no numbers.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Count of the numbers in it; `u128::MAX` also for all 2^128 of them.
    pub fn len(&self) -> u128 {
        self.iter().fold(0, |sum: u128, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The intervals, ascending: first and last, both included.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u128, u128)> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// The numbers themselves, ascending. Of a /64 that is 2^64 of them: take only a few.
    pub fn numbers(&self) -> impl Iterator<Item = u128> + '_ {
        self.iter().flat_map(|(first, last)| first..=last)
    }

    /// The numbers as addresses of `family`, ascending. Of a /64 take only a few.
    pub fn addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.numbers().map(move |number| from_bits(number, family))
    }

    /// The number at position `k`, counted from 0 in ascending order. Costs one step an interval.
    pub fn nth(&self, k: u128) -> Option<u128> {
        let mut left = k;
        for (first, last) in self.iter() {
            if left <= last - first {
                return Some(first + left);
            }
            // The interval holds more than `left` minus one numbers only if the branch above ran,
            // so neither the difference nor the one can overflow here.
            left -= last - first;
            left -= 1;
        }
        None
    }

    /// The smallest number in the set that is not below `number`.
    pub fn at_or_after(&self, number: u128) -> Option<u128> {
        if self.contains(number) {
            return Some(number);
        }
        self.ranges.range(number..).next().map(|(&first, _)| first)
    }

    /// Numbers that are in this set or in `other`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (first, last) in other.iter() {
            all.insert(first, last);
        }
        all
    }

    /// Numbers that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (first, last) in other.iter() {
            rest.remove(first, last);
        }
        rest
    }

    /// Numbers that are in this set and in `other`.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// True if any number is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        let (few, many) = if self.ranges.len() <= other.ranges.len() { (self, other) } else { (other, self) };
        few.iter().any(|(first, last)| many.at_or_after(first).is_some_and(|found| found <= last))
    }
}

impl FromIterator<(u128, u128)> for IntervalSet {
    fn from_iter<I: IntoIterator<Item = (u128, u128)>>(intervals: I) -> Self {
        let mut set = Self::new();
        set.extend(intervals);
        set
    }
}

impl Extend<(u128, u128)> for IntervalSet {
    fn extend<I: IntoIterator<Item = (u128, u128)>>(&mut self, intervals: I) {
        for (first, last) in intervals {
            self.insert(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The model works with 0 to 63; these bases put it at both ends and across the middle.
    const BASES: [u128; 3] = [0, u128::MAX - 63, (1 << 64) - 32];

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u128, u128),
        Remove(u128, u128),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (any::<bool>(), 0u128..64, 0u128..64)
            .prop_map(|(insert, a, b)| if insert { Step::Insert(a, b) } else { Step::Remove(a, b) });
        proptest::collection::vec(step, 0..40)
    }

    fn play(steps: &[Step], base: u128) -> (IntervalSet, BTreeSet<u128>) {
        let (mut set, mut model) = (IntervalSet::new(), BTreeSet::new());
        for step in steps {
            match *step {
                Step::Insert(a, b) => {
                    set.insert(base + a, base + b);
                    model.extend((a..=b).map(|n| base + n));
                }
                Step::Remove(a, b) => {
                    set.remove(base + a, base + b);
                    model.retain(|n| !(base + a..=base + b).contains(n));
                }
            }
        }
        (set, model)
    }

    fn assert_same(set: &IntervalSet, model: &BTreeSet<u128>) {
        assert_eq!(set.numbers().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        let intervals: Vec<_> = set.iter().collect();
        for pair in intervals.windows(2) {
            assert!(pair[0].1 + 1 < pair[1].0, "touching or out of order: {intervals:?}");
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(steps in steps(), base in proptest::sample::select(&BASES[..])) {
            let (set, model) = play(&steps, base);
            assert_same(&set, &model);
            prop_assert_eq!(set.len(), model.len() as u128);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            for offset in 0..64 {
                let number = base + offset;
                prop_assert_eq!(set.contains(number), model.contains(&number));
                prop_assert_eq!(set.at_or_after(number), model.range(number..).next().copied());
                prop_assert_eq!(set.nth(offset), model.iter().nth(usize::try_from(offset).unwrap()).copied());
            }
        }

        #[test]
        fn algebra_holds(a in steps(), b in steps(), base in proptest::sample::select(&BASES[..])) {
            let ((a, model_a), (b, model_b)) = (play(&a, base), play(&b, base));
            assert_same(&a.union(&b), &model_a.union(&model_b).copied().collect());
            assert_same(&a.difference(&b), &model_a.difference(&model_b).copied().collect());
            assert_same(&a.intersection(&b), &model_a.intersection(&model_b).copied().collect());
            prop_assert_eq!(a.intersects(&b), !model_a.is_disjoint(&model_b));
        }

        #[test]
        fn addresses_survive_the_way_there_and_back(v4 in any::<u32>(), v6 in any::<u128>()) {
            for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                prop_assert_eq!(from_bits(to_bits(address), Family::of(address)), address);
            }
        }
    }

    #[test]
    fn the_whole_space_is_one_interval() {
        let mut set = IntervalSet::new();
        set.insert(0, u128::MAX);
        assert_eq!(set.len(), u128::MAX);
        assert_eq!(set.nth(u128::MAX), Some(u128::MAX));
        set.remove(5, 5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 4), (6, u128::MAX)]);
        assert_eq!(set.nth(5), Some(6));
        assert_eq!(set.nth(u128::MAX), None);
        set.remove(0, u128::MAX);
        assert!(set.is_empty());
    }

    #[test]
    fn a_reversed_interval_changes_nothing() {
        let mut set: IntervalSet = [(10, 20)].into_iter().collect();
        set.insert(9, 3);
        set.remove(15, 12);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(10, 20)]);
    }
}
