//! The survivors of a group agree on who they are.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ProcessGroup;
use crate::store::deadline_after;
use crate::{Error, ErrorKind, Phase, Result};

/// The longest interval between two looks at which ranks are here and which are gone.
const LOOK: Duration = Duration::from_millis(50);
/// The time limit of requests that do not wait for other ranks.
const SOON: Duration = Duration::from_secs(1);

impl ProcessGroup {
    /// Makes a group of the ranks that are still alive, in their old order. Use it to go on after ranks have died: it
    /// works on a failed group, and needs nothing from the ranks that are left out.
    ///
    /// The ranks that call it agree on the survivors: all ranks that are not known to be gone, or, after `limit`, all
    /// ranks that have called it. So it also works if several ranks died and not every rank knows of all deaths. Every
    /// survivor calls it equally often. Operations that were in flight in the old group are not repeated, and some
    /// ranks may have finished a call that failed on others, so the ranks must agree on where to go on. The store must
    /// still be there: that of `c10d run` is, one that a lost rank served is not. `c10d run --keep-going` does not end
    /// the survivors.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use c10d_core::{ProcessGroup, ReduceOp, Result};
    /// # fn f(mut pg: ProcessGroup, x: &mut Vec<f32>) -> Result<()> {
    /// while let Err(error) = pg.all_reduce(&mut *x, ReduceOp::Sum) {
    ///     eprintln!("{error}");
    ///     pg = pg.shrink_to_survivors(Duration::from_secs(10))?;
    ///     x.fill(1.0); // what a failed call leaves in its buffers is unspecified
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`Builder::build`](crate::Builder::build); `PeerDead` if a survivor dies while the group is made: call
    /// it again. `Rendezvous` on a rank that came after the others had gone on without it; it names them.
    pub fn shrink_to_survivors(&self, limit: Duration) -> Result<ProcessGroup> {
        let number = self.0.next_shrink.fetch_add(1, Ordering::Relaxed);
        self.left_over(number, limit).map_err(|e| self.0.described(e))
    }

    fn left_over(&self, number: u64, limit: Duration) -> Result<ProcessGroup> {
        self.0.is_here()?;
        let ranks = self.agree_on_survivors(number, limit)?;
        if !ranks.contains(&self.0.rank) {
            let what = "the survivors went on without this rank, which came too late";
            return Err(Error::new(ErrorKind::Rendezvous, what).guilty(ranks).phase(Phase::Rendezvous));
        }
        let group = self.subgroup(&ranks, format!("{}/shrunk/{number}", self.0.name), true)?;
        group.ok_or_else(|| Error::new(ErrorKind::Internal, "a survivor is in no group"))
    }

    /// The survivors, as the first rank that knows them has written them.
    fn agree_on_survivors(&self, number: u64, limit: Duration) -> Result<Vec<u32>> {
        let (store, size, until) = (&self.0.store, self.0.size, deadline_after(limit));
        let soon = || Instant::now() + SOON;
        let here = |r: u32| format!("survivors/{number}/{r}");
        let decided = format!("survivors/{number}/all");
        store.set(&here(self.0.rank), b"", soon())?;
        loop {
            let lost = self.lost();
            let mut ranks: Vec<u32> = Vec::new();
            for rank in 0..size {
                if rank == self.0.rank || store.check(&[&here(rank)], soon())? {
                    ranks.push(rank);
                }
            }
            let complete = (0..size).all(|rank| ranks.contains(&rank) || lost.contains(&rank));
            ranks.retain(|rank| !lost.contains(rank));
            if complete || Instant::now() >= until {
                let text: Vec<String> = ranks.iter().map(u32::to_string).collect();
                let all = store.compare_set(&decided, b"", text.join(" ").as_bytes(), soon())?;
                return Ok(read(&all, size));
            }
            // Another rank that knows more may have decided.
            let slice = until.min(Instant::now() + LOOK);
            if let Ok(all) = store.get(&decided, slice) {
                return Ok(read(&all, size));
            }
        }
    }
}

fn read(all: &[u8], size: u32) -> Vec<u32> {
    let ranks = String::from_utf8_lossy(all);
    ranks.split(' ').filter_map(|rank| rank.parse().ok()).filter(|rank| *rank < size).collect()
}
