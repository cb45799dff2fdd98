//! The host of each rank, and how each pair is connected. All ranks have the same information, so they choose the same
//! algorithms.

/// The group's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    /// The host number of each rank. Hosts are numbered in the order of their lowest ranks.
    pub(crate) hosts: Vec<u32>,
    /// For each rank, as bits: the ranks with which it shares memory according to its own report.
    shm: Vec<Vec<u8>>,
}

impl Topology {
    pub(super) fn new(hosts: Vec<u32>, shm: Vec<Vec<u8>>) -> Topology {
        Topology { hosts, shm }
    }

    /// Whether both ranks reported that they share memory.
    pub(crate) fn shares_memory(&self, a: u32, b: u32) -> bool {
        bit(&self.shm, a, b) && bit(&self.shm, b, a)
    }

    /// Whether all ranks of each host share memory with each other.
    pub(crate) fn hosts_share_memory(&self) -> bool {
        let ranks = || (0..).zip(&self.hosts);
        ranks().all(|(a, host)| ranks().all(|(b, other)| a == b || host != other || self.shares_memory(a, b)))
    }

    /// Whether all ranks share memory with each other.
    pub(crate) fn is_shared(&self) -> bool {
        self.hosts.iter().all(|h| *h == 0) && self.hosts_share_memory()
    }

    pub(crate) fn host_count(&self) -> u32 {
        self.hosts.iter().max().map_or(0, |h| h + 1)
    }

    /// Returns the ranks on this rank's host, itself included, in ascending order.
    pub(crate) fn local_ranks(&self, rank: u32) -> Vec<u32> {
        let host = self.hosts.get(rank as usize);
        (0..).zip(&self.hosts).filter(|(_, h)| Some(*h) == host).map(|(r, _)| r).collect()
    }
}

fn bit(rows: &[Vec<u8>], row: u32, column: u32) -> bool {
    let byte = rows.get(row as usize).and_then(|r| r.get(column as usize / 8));
    byte.is_some_and(|b| b & (1 << (column % 8)) != 0)
}

pub(super) fn bits(size: u32, set: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut out = vec![0; (size as usize).div_ceil(8)];
    (0..size).filter(|rank| set(*rank)).for_each(|rank| out[rank as usize / 8] |= 1 << (rank % 8));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_shares_memory_only_if_both_ranks_report_it() {
        // Ranks 0, 2 and 10 are on one host, and all others on another host. The pair 2 and 10 uses TCP.
        let hosts: Vec<u32> = (0..11).map(|r| u32::from(![0, 2, 10].contains(&r))).collect();
        let same = |a: u32, b: u32| a != b && hosts[a as usize] == hosts[b as usize];
        let broken = |a, b| [(2, 10), (10, 2)].contains(&(a, b));
        let rows = (0..11).map(|a| bits(11, |b| same(a, b) && !broken(a, b))).collect();
        let t = Topology::new(hosts.clone(), rows);
        assert!(t.shares_memory(0, 10) && !t.shares_memory(2, 10) && !t.shares_memory(0, 1) && !t.shares_memory(0, 99));
        assert!(!t.hosts_share_memory() && !t.is_shared());
        assert_eq!((t.host_count(), t.local_ranks(2)), (2, vec![0, 2, 10]));
        let whole = Topology::new(hosts.clone(), (0..11).map(|a| bits(11, |b| same(a, b))).collect());
        assert!(whole.hosts_share_memory() && !whole.is_shared());
        let one_sided = (0..11).map(|a| bits(11, |b| same(a, b) && (a, b) != (2, 10))).collect();
        assert!(!Topology::new(hosts, one_sided).shares_memory(10, 2));
    }
}
