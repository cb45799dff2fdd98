//! How the survivors of a group agree on which ranks have survived.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ProcessGroup;
use crate::store::deadline_after;
use crate::{Error, ErrorKind, Phase, Result};

/// The longest time between two checks of which ranks have called `shrink_to_survivors` and which are lost.
const LOOK: Duration = Duration::from_millis(50);
/// The timeout of requests to the store that do not wait for other ranks.
const SOON: Duration = Duration::from_secs(1);

impl ProcessGroup {
    /// Makes a group of the ranks that are still alive, in their old order. The function works on a failed group, and
    /// the dead ranks need not call it.
    ///
    /// The ranks that call `shrink_to_survivors` agree on the survivors. Each rank waits, at most for `limit`, until
    /// every rank has called the function or is [lost](ProcessGroup::lost). The first rank whose wait ends decides the
    /// list of survivors for all ranks: the ranks that have called the function and are not lost. All survivors must
    /// make their calls of `shrink` and `shrink_to_survivors` in the same order.
    ///
    /// Operations that were in flight in the old group are not repeated. A call that failed on some ranks may have
    /// succeeded on others, so the program must make sure that all survivors continue at the same point. The store must
    /// still be reachable. The store of `c10d run` stays reachable, but a store that a lost rank served does not. Start
    /// the job with `c10d run --keep-going`: otherwise `c10d run` ends the survivors when a rank fails.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use c10d_core::{ProcessGroup, ReduceOp, Result};
    /// # fn f(mut pg: ProcessGroup, x: &mut Vec<f32>) -> Result<()> {
    /// while let Err(error) = pg.all_reduce(&mut *x, ReduceOp::Sum) {
    ///     eprintln!("{error}");
    ///     pg = pg.shrink_to_survivors(Duration::from_secs(10))?;
    ///     x.fill(1.0); // the contents of a failed call's buffers are unspecified
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The errors of [`Builder::build`](crate::Builder::build). `PeerDead` if a survivor dies while the group is made;
    /// then call `shrink_to_survivors` again. `Rendezvous` on a rank that called `shrink_to_survivors` after the
    /// survivors had agreed on a group without this rank; the error names the survivors.
    pub fn shrink_to_survivors(&self, limit: Duration) -> Result<ProcessGroup> {
        let number = self.0.next_shrink.fetch_add(1, Ordering::Relaxed);
        self.left_over(number, limit).map_err(|e| self.0.described(e))
    }

    fn left_over(&self, number: u64, limit: Duration) -> Result<ProcessGroup> {
        self.0.is_here()?;
        let ranks = self.agree_on_survivors(number, limit)?;
        if !ranks.contains(&self.0.rank) {
            let what = "the survivors have made a group without this rank, which called shrink_to_survivors too late; \
                end this process";
            return Err(Error::new(ErrorKind::Rendezvous, what).guilty(ranks).phase(Phase::Rendezvous));
        }
        let group = self.subgroup(&ranks, format!("{}/shrunk/{number}", self.0.name), true, self.0.timeout)?;
        group.ok_or_else(|| Error::new(ErrorKind::Internal, "a survivor is in no group"))
    }

    /// Returns the list of survivors. The first rank whose wait ends writes its list to the store, and all ranks use
    /// this list.
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
            // Another rank may have written the list already.
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
