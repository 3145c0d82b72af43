//! Ranges of addresses, and which of them an address is in.
//!
//! The ranges stand in the order of their first addresses. Above their last addresses stands a tree of maxima: from the ranges that
//! begin at or before an address, it leads in a few steps to those that do not end before it. What changes is moved and summed up
//! anew in the same memory.

use adit_proto::control::{Refusal, SELECTOR_OVERLAPS_MAX as OVERLAPS_MAX};

/// The ranges, each with the slot of whatever it stands for.
pub struct Ranges<A> {
    firsts: Vec<A>,
    slots: Vec<u32>,
    /// How many ranges the first address of each is in. No address is in more than the nearest first address below it.
    depths: Vec<u8>,
    /// The tree: node n has the higher of nodes 2n and 2n + 1, the leaves from `size` on are the last addresses.
    lasts: Box<[A]>,
    size: usize,
}

impl<A: Copy + Ord + Default> Ranges<A> {
    pub fn new(capacity: usize) -> Ranges<A> {
        let size = capacity.next_power_of_two();
        Ranges {
            firsts: Vec::with_capacity(capacity),
            slots: Vec::with_capacity(capacity),
            depths: Vec::with_capacity(capacity),
            lasts: vec![A::default(); 2 * size].into_boxed_slice(),
            size,
        }
    }

    /// Looks at the slots of the ranges that the address is in until one is the right one. True when one was. The range that
    /// begins last is looked at first: where ranges lie in each other it is the smallest.
    #[inline]
    pub fn around(&self, address: A, is_it: &mut impl FnMut(u32) -> bool) -> bool {
        let mut end = self.firsts.partition_point(|first| *first <= address);
        while let Some(place) = self.reaching(end, address) {
            if is_it(self.slots[place]) {
                return true;
            }
            end = place;
        }
        false
    }

    /// The last of the ranges before `end` that reaches as far as the address.
    #[inline]
    fn reaching(&self, end: usize, address: A) -> Option<usize> {
        if end == 0 {
            return None;
        }
        let mut node = self.size + end;
        loop {
            node -= 1;
            // As long as it is a right child, all that its parent spans lies before `end` too.
            while node > 1 && node & 1 == 1 {
                node >>= 1;
            }
            if self.lasts[node] >= address {
                break;
            }
            // The leftmost node of its level: nothing is left.
            if node.is_power_of_two() {
                return None;
            }
        }
        while node < self.size {
            node = 2 * node + 1;
            if self.lasts[node] < address {
                node -= 1;
            }
        }
        Some(node - self.size)
    }

    /// Adds a range. There is room: the caller has as many slots as there can be ranges.
    pub fn insert(&mut self, first: A, last: A, slot: u32) -> Result<(), Refusal> {
        if self.firsts.len() == self.size {
            return Err(Refusal::PolicyFull);
        }
        let mut depth = 0;
        self.around(first, &mut |_| {
            depth += 1;
            false
        });
        let inside = self.beginning_in(first, last);
        if depth >= OVERLAPS_MAX || self.depths[inside.clone()].iter().any(|depth| *depth >= OVERLAPS_MAX) {
            return Err(Refusal::PolicyOverlap);
        }
        self.depths[inside].iter_mut().for_each(|depth| *depth += 1);
        let place = self.firsts.partition_point(|other| *other <= first);
        let leaves = self.size + place..self.size + self.firsts.len();
        self.lasts.copy_within(leaves, self.size + place + 1);
        self.lasts[self.size + place] = last;
        self.firsts.insert(place, first);
        self.slots.insert(place, slot);
        self.depths.insert(place, depth + 1);
        self.sum_up(place, self.firsts.len());
        Ok(())
    }

    /// Removes the ranges of these slots; each slot is asked about once.
    pub fn remove_if(&mut self, mut goes: impl FnMut(u32) -> bool) {
        const GONE: u32 = u32::MAX;
        let before = self.firsts.len();
        let mut lowest = before;
        for place in 0..before {
            if goes(self.slots[place]) {
                self.slots[place] = GONE;
                lowest = lowest.min(place);
                let inside = self.beginning_in(self.firsts[place], self.lasts[self.size + place]);
                self.depths[inside].iter_mut().for_each(|depth| *depth -= 1);
            }
        }
        let mut kept = lowest;
        for place in lowest..before {
            if self.slots[place] != GONE {
                self.firsts[kept] = self.firsts[place];
                self.slots[kept] = self.slots[place];
                self.depths[kept] = self.depths[place];
                self.lasts[self.size + kept] = self.lasts[self.size + place];
                kept += 1;
            }
        }
        self.firsts.truncate(kept);
        self.slots.truncate(kept);
        self.depths.truncate(kept);
        self.lasts[self.size + kept..self.size + before].fill(A::default());
        self.sum_up(lowest, before);
    }

    /// The places of the ranges that begin between two addresses.
    fn beginning_in(&self, first: A, last: A) -> std::ops::Range<usize> {
        self.firsts.partition_point(|other| *other < first)..self.firsts.partition_point(|other| *other <= last)
    }

    /// Makes the maxima above these leaves anew.
    fn sum_up(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        let (mut low, mut high) = (self.size + from, self.size + to - 1);
        while low > 1 {
            (low, high) = (low >> 1, high >> 1);
            for node in low..=high {
                self.lasts[node] = self.lasts[2 * node].max(self.lasts[2 * node + 1]);
            }
        }
    }
}
