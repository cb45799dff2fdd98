//! Ranks as threads of one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::{HashStore, Store};
use crate::{Error, ErrorKind, Result};

/// Runs `body` once per rank, on one thread per rank. The ranks share one store. See
/// [`run_ranks`](super::Builder::run_ranks).
pub(super) fn run<T: Send>(size: u32, body: impl Fn(u32, Arc<dyn Store>) -> Result<T> + Sync) -> Result<Vec<T>> {
    if size == 0 {
        return Err(Error::invalid("run_ranks needs at least one rank, but got size 0"));
    }
    let store = Arc::new(HashStore::new());
    let ended = AtomicUsize::new(0);
    let results: Vec<std::thread::Result<Result<T, (usize, Error)>>> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let (body, ended, store) = (&body, &ended, store.clone());
                let name = format!("rank {rank}");
                std::thread::Builder::new().name(name).spawn_scoped(s, move || {
                    let result = body(rank, store);
                    let order = ended.fetch_add(1, Ordering::Relaxed);
                    result.map_err(|e| (order, e))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| match t {
                Ok(thread) => thread.join(),
                Err(e) => Ok(Err((0, Error::no_thread("cannot start a thread for a rank", e)))),
            })
            .collect()
    });
    let mut values = Vec::with_capacity(results.len());
    let mut errors = Vec::new();
    let mut panic = None;
    for result in results {
        match result {
            Ok(Ok(value)) => values.push(value),
            Ok(Err(e)) => errors.push(e),
            Err(p) => panic = panic.or(Some(p)),
        }
    }
    if let Some(panic) = panic {
        std::panic::resume_unwind(panic);
    }
    // The errors that are consequences (a rank is dead, or aborted) are sorted last. The first error is the cause.
    errors.sort_by_key(|(order, e)| (matches!(e.kind(), ErrorKind::PeerDead { .. } | ErrorKind::Aborted), *order));
    errors.into_iter().next().map_or(Ok(values), |(_, e)| Err(e))
}
