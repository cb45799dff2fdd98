//! Two backends as one (two tiers), with threads of this process as ranks.

use crate::jobs::PAIR;

use std::sync::Arc;
use std::time::Duration;

use c10d::{Error, ErrorKind, HashStore, Result};
use libtest_mimic::{Failed, Trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("tiered/other_settings_are_named", other_settings_are_named)]
}

fn other_settings_are_named() -> Result<(), Failed> {
    const ODD: u32 = 2;
    let store = Arc::new(HashStore::new());
    let join = |rank: u32| -> Result<(), Error> {
        let builder = c10d::builder().providers(&[&PAIR]).backend("cpu:gloo-like+gloo-like");
        let builder = builder.hint("tiered.least", if rank == ODD { "2" } else { "1" });
        builder.rank(rank).size(3).store(store.clone()).timeout(Duration::from_secs(20)).build().map(drop)
    };
    let errors: Vec<Option<Error>> = std::thread::scope(|s| {
        let ranks: Vec<_> = (0..3).map(|rank| s.spawn(move || join(rank).err())).collect();
        ranks.into_iter().map(|rank| rank.join().ok().flatten()).collect()
    });
    for (rank, error) in (0..).zip(errors) {
        let error = error.ok_or_else(|| format!("rank {rank} has a group"))?;
        let named = rank == ODD || error.report().guilty == [ODD];
        if !named || *error.kind() != ErrorKind::InvalidArgument || !error.to_string().contains("tiered.least 2") {
            return Err(format!("rank {rank}: {error}").into());
        }
    }
    Ok(())
}
