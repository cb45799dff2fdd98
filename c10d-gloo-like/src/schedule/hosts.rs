//! The ranks of each host.

use std::collections::BTreeMap;

/// The ranks of a world, host by host. Hosts are numbered in the order of their first ranks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hosts {
    /// The host of each rank.
    host: Vec<u32>,
    /// All ranks, sorted by host; the ranks of one host are in ascending order.
    ranks: Vec<u32>,
    /// The index in `ranks` at which each host begins, and the end of the last host.
    starts: Vec<usize>,
}

impl Hosts {
    /// Makes the hosts of the ranks. Ranks `p` and `q` share a host if `of[p] == of[q]`; the numbers themselves have no
    /// meaning.
    pub(crate) fn new(of: &[u32]) -> Hosts {
        let mut numbers = BTreeMap::new();
        let host: Vec<u32> = of
            .iter()
            .map(|name| {
                let next = numbers.len() as u32;
                *numbers.entry(*name).or_insert(next)
            })
            .collect();
        let mut ranks: Vec<u32> = (0..of.len() as u32).collect();
        ranks.sort_by_key(|rank| host[*rank as usize]);
        let mut starts: Vec<usize> =
            (0..ranks.len()).filter(|i| *i == 0 || host[ranks[*i] as usize] != host[ranks[i - 1] as usize]).collect();
        starts.push(ranks.len());
        Hosts { host, ranks, starts }
    }

    pub(crate) fn count(&self) -> u32 {
        self.starts.len() as u32 - 1
    }

    pub(crate) fn of(&self, rank: u32) -> u32 {
        self.host[rank as usize]
    }

    /// Returns the ranks of a host, in ascending order.
    pub(crate) fn on(&self, host: u32) -> &[u32] {
        let host = host as usize;
        &self.ranks[self.starts[host]..self.starts[host + 1]]
    }

    /// Returns the first rank of a host.
    pub(crate) fn leader(&self, host: u32) -> u32 {
        self.on(host)[0]
    }

    /// Returns the number of ranks of each host, if all hosts have the same number.
    pub(crate) fn each(&self) -> Option<u32> {
        let first = self.starts[1];
        self.starts.windows(2).all(|w| w[1] - w[0] == first).then_some(first as u32)
    }

    pub(crate) fn are_consecutive(&self) -> bool {
        self.ranks.is_sorted()
    }

    /// Returns the rank's index among the ranks of its host.
    pub(crate) fn place(&self, rank: u32) -> u32 {
        self.on(self.of(rank)).binary_search(&rank).unwrap_or(0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_numbered_by_their_first_ranks() {
        let hosts = Hosts::new(&[7, 3, 7, 9, 3, 7]);
        assert_eq!((0..6).map(|r| hosts.of(r)).collect::<Vec<_>>(), [0, 1, 0, 2, 1, 0]);
        assert_eq!((hosts.count(), hosts.on(0), hosts.on(1), hosts.on(2)), (3, &[0, 2, 5][..], &[1, 4][..], &[3][..]));
        assert_eq!((hosts.place(5), hosts.place(4), hosts.leader(1), hosts.each()), (2, 1, 1, None));
        assert!(!hosts.are_consecutive());
        let even = Hosts::new(&[5, 5, 4, 4]);
        assert!(even.are_consecutive() && even.each() == Some(2));
    }
}
