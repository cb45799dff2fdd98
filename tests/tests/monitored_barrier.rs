//! The barrier that names the missing ranks.

use crate::jobs;

use std::time::{Duration, Instant};

use c10d::options::Missing;
use c10d::{Error, ErrorKind, op};

/// Returns the results of all ranks of `world` if the ranks `absent` do not call the barrier.
fn without(world: u32, absent: &'static [u32], missing: Missing) -> Vec<Option<Error>> {
    c10d::run_ranks(world, |pg| {
        let soon = Instant::now() + Duration::from_secs(20);
        let e = if absent.contains(&pg.rank()) {
            None
        } else {
            let call = op::monitored_barrier(missing).timeout(Duration::from_millis(300));
            Some(pg.run(call).unwrap_err().error)
        };
        // No rank leaves before all ranks have their result, because leaving would cause another error.
        let n = pg.store().add("answered", 1, soon)?;
        if n == i64::from(world) {
            pg.store().set("all", b"", soon)?;
        }
        pg.store().get("all", soon)?;
        Ok(e)
    })
    .unwrap()
}

#[test]
fn a_barrier_without_missing_ranks_succeeds() {
    for world in [1, 2, 5] {
        c10d::run_ranks(world, |pg| {
            for _ in 0..10 {
                pg.monitored_barrier(Missing::First)?;
                pg.monitored_barrier(Missing::All)?;
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn the_first_missing_rank_is_named_on_every_other_rank() {
    for absent in [&[1, 3][..], &[0, 2], &[4]] {
        for (rank, e) in without(5, absent, Missing::First).iter().enumerate() {
            let Some(e) = e else { continue };
            assert_eq!(*e.kind(), ErrorKind::Timeout, "rank {rank}: {e}");
            assert_eq!(e.report().guilty, absent[..1], "rank {rank}: {e}");
        }
    }
}

#[test]
fn all_missing_ranks_are_named_on_every_other_rank() {
    for absent in [&[1, 3][..], &[0, 2, 4], &[4]] {
        for (rank, e) in without(5, absent, Missing::All).iter().enumerate() {
            let Some(e) = e else { continue };
            assert_eq!(*e.kind(), ErrorKind::Timeout, "rank {rank}: {e}");
            assert_eq!(e.report().guilty, absent, "rank {rank}: {e}");
        }
    }
}

#[test]
fn all_of_this_works_over_tcp() {
    jobs::again_over_tcp("all_of_this_works_over_tcp");
}
