//! How the ranks of a communicator get its unique ids: some ranks, which are called roots here, make the ids, and the
//! others read them from the store.

use std::time::Instant;

use c10d_core::{Error, ErrorKind, Phase, Result, Store};

use crate::dialect::Dialect;
use crate::nccl::{NcclApi, Optional, UniqueId, failure};

/// Returns the number of roots of a communicator of this size. Each root makes one id.
pub(crate) fn roots(size: u32, nccl: &dyn NcclApi, dialect: &Dialect) -> u32 {
    if nccl.has(Optional::InitRankScalable) { size.div_ceil(dialect.ranks_per_root()).max(1) } else { 1 }
}

/// Returns the rank that makes id `n` of `roots`. The ranks are divided into `roots` parts of nearly the same size, and
/// the first rank of part `n` makes id `n`.
pub(crate) fn maker(n: u32, roots: u32, size: u32) -> u32 {
    n * (size / roots) + n.min(size % roots)
}

fn here_key(rank: u32) -> String {
    format!("here/{rank}")
}

/// The ids of a communicator: their keys in the store, and the ranks that make them.
pub(crate) struct Ids {
    keys: Vec<String>,
    /// The rank that makes each id.
    makers: Vec<u32>,
}

impl Ids {
    /// Returns the ids of the communicator of all `size` ranks.
    pub(crate) fn of_all(nccl: &dyn NcclApi, dialect: &Dialect, size: u32) -> Ids {
        let roots = roots(size, nccl, dialect);
        let keys = (0..roots).map(|n| dialect.id_key(n, roots)).collect();
        Ids { keys, makers: (0..roots).map(|n| maker(n, roots, size)).collect() }
    }

    /// Returns the id of the communicator of two ranks. The first of the two ranks makes the id.
    pub(crate) fn of_pair(dialect: &Dialect, (first, second): (u32, u32)) -> Ids {
        Ids { keys: vec![dialect.pair_key(first, second)], makers: vec![0] }
    }

    fn keys(&self) -> Vec<&str> {
        self.keys.iter().map(String::as_str).collect()
    }

    /// Makes the ids that this rank must make. Returns all ids if this rank makes all of them, or else `None`.
    pub(crate) fn offer(
        &self,
        nccl: &dyn NcclApi,
        store: &dyn Store,
        rank: u32,
        deadline: Instant,
    ) -> Result<Option<Vec<UniqueId>>> {
        let mut made = Vec::new();
        for (key, _) in self.keys.iter().zip(&self.makers).filter(|(_, maker)| **maker == rank) {
            let id = make(nccl)?;
            store.set(key, &id.0, deadline)?;
            made.push(id);
        }
        Ok((made.len() == self.keys.len()).then_some(made))
    }

    /// Returns all ids if all of them are in the store, or else `None`.
    pub(crate) fn look(&self, store: &dyn Store, deadline: Instant) -> Result<Option<Vec<UniqueId>>> {
        if !store.check(&self.keys(), deadline)? {
            return Ok(None);
        }
        let found = store.multi_get(&self.keys(), deadline)?;
        found.iter().map(|bytes| parse(bytes)).collect::<Result<_>>().map(Some)
    }

    /// Makes the ids that this rank must make, and waits for all ids.
    pub(crate) fn exchange(
        &self,
        nccl: &dyn NcclApi,
        store: &dyn Store,
        rank: u32,
        deadline: Instant,
    ) -> Result<Vec<UniqueId>> {
        if let Some(all) = self.offer(nccl, store, rank, deadline)? {
            return Ok(all);
        }
        let found = store.multi_get(&self.keys(), deadline).map_err(|e| {
            let absent =
                self.keys.iter().zip(&self.makers).filter(|(key, _)| !there(store, key)).map(|(_, maker)| *maker);
            let what = format!("the id of the NCCL communicator was not in the store in time: {e}");
            Error::new(ErrorKind::Timeout, what).guilty(absent).phase(Phase::Rendezvous)
        })?;
        found.iter().map(|bytes| parse(bytes)).collect()
    }
}

/// Records in the store that this rank is connecting.
pub(crate) fn arrive(store: &dyn Store, rank: u32, deadline: Instant) -> Result {
    store.set(&here_key(rank), b"1", deadline)
}

pub(crate) fn make(nccl: &dyn NcclApi) -> Result<UniqueId> {
    nccl.unique_id().map_err(|r| failure(nccl, crate::nccl::Comm::NULL, "ncclGetUniqueId", r))
}

pub(crate) fn parse(bytes: &[u8]) -> Result<UniqueId> {
    let id: Result<[u8; UniqueId::SIZE], _> = bytes.try_into();
    id.map(UniqueId).map_err(|_| {
        let what = format!("an NCCL id has {} bytes, but the value in the store has {}", UniqueId::SIZE, bytes.len());
        Error::new(ErrorKind::Protocol, what).phase(Phase::Rendezvous)
    })
}

/// Returns the ranks that have not begun to connect.
pub(crate) fn absent(store: &dyn Store, size: u32) -> Vec<u32> {
    (0..size).filter(|r| !there(store, &here_key(*r))).collect()
}

fn there(store: &dyn Store, key: &str) -> bool {
    let soon = Instant::now() + std::time::Duration::from_millis(200);
    matches!(store.check(&[key], soon), Ok(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_spread_evenly() {
        assert_eq!(maker(0, 1, 8), 0);
        let makers: Vec<u32> = (0..3).map(|n| maker(n, 3, 257)).collect();
        assert_eq!(makers, [0, 86, 172]);
        for (size, roots) in [(129, 2), (300, 3), (1000, 8)] {
            let makers: Vec<u32> = (0..roots).map(|n| maker(n, roots, size)).collect();
            assert!(makers.windows(2).all(|w| w[0] < w[1]) && makers.iter().all(|r| *r < size));
        }
    }

    #[test]
    fn an_id_of_another_length_is_refused() {
        assert!(parse(&[7; 128]).is_ok());
        assert!(parse(b"short").unwrap_err().to_string().contains("128 bytes"));
    }
}
