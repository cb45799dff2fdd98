//! A rank that leaves before it knows that the group has failed. Its goodbye, which goes through MPI, then reaches its
//! peers before the cause, which goes through the side channel. The peers must still get the cause.

use std::sync::Arc;
use std::time::Instant;

use c10d_core::{ErrorKind, Result, Root, Store};

use crate::groups::{LIMIT, VICTIM, WORLD, builder, wrong};

/// The key that rank 0 sets when it has left.
const LEFT: &str = "left";

/// A store that shows the cause of a failure only after rank 0 has left. So no rank knows the cause before the goodbye.
struct Late(Arc<dyn Store>);

impl Store for Late {
    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        if keys.iter().any(|key| key.ends_with("side/mpi/cause")) {
            self.0.wait(&[LEFT], Instant::now() + LIMIT)?;
            return self.0.check(keys, Instant::now() + LIMIT);
        }
        self.0.check(keys, deadline)
    }

    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.0.set(key, value, deadline)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.0.get(key, deadline)
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.0.wait(keys, deadline)
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.0.add(key, delta, deadline)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.0.compare_set(key, expected, desired, deadline)
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.0.append(key, value, deadline)
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.0.delete(key, deadline)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.0.num_keys(deadline)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.0.multi_get(keys, deadline)
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        self.0.multi_set(pairs, deadline)
    }
}

/// Rank 0 scatters. The victim expects another length, and so fails the group. Rank 0, which does not know this,
/// leaves. The other ranks then call a barrier.
pub(crate) fn leave() -> Result {
    let joined = c10d_rendezvous::init("env://", LIMIT)?;
    let store = joined.store.clone();
    let builder = builder().hint("mpi.side", "store").store(Arc::new(Late(joined.store)));
    let pg = builder.rank(joined.rank).size(joined.size).build()?;
    let (rank, until) = (pg.rank(), Instant::now() + LIMIT);
    let await_others = |what: &str| {
        let keys: Vec<String> = (1..WORLD).map(|rank| format!("{what}/{rank}")).collect();
        store.wait(&keys.iter().map(String::as_str).collect::<Vec<_>>(), until)
    };
    let root = if rank == 0 { Root::Me(vec![vec![1_i32; 2]; WORLD as usize]) } else { Root::At(0) };
    let mut output = vec![0_i32; if rank == VICTIM { 3 } else { 2 }];
    let mut called = pg.scatter(root, &mut output).map(drop);
    if rank == VICTIM {
        // The drop must not end before the cause is in the store.
        drop(pg);
        store.set(&format!("called/{rank}"), b"", until)?;
    } else {
        called?;
        store.set(&format!("called/{rank}"), b"", until)?;
        if rank == 0 {
            await_others("called")?;
            pg.shutdown()?;
            store.set(LEFT, b"", until)?;
            // This rank serves the store, so it ends last.
            return await_others("over");
        }
        called = pg.barrier();
    }
    // Over TCP, the end of a process would disturb the MPI of the other processes.
    store.set(&format!("ended/{rank}"), b"", until)?;
    await_others("ended")?;
    let _ = store.set(&format!("over/{rank}"), b"", until);
    let Err(error) = called else { return Err(wrong(format!("rank {rank} got no error"))) };
    let is_right = match rank {
        VICTIM => matches!(error.kind(), ErrorKind::Mismatch { .. }) && error.report().guilty == [0],
        _ => error.report().guilty == [VICTIM],
    };
    if is_right { Ok(()) } else { Err(error) }
}
