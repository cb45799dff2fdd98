//! The whole conformance suite over the fakes, and who does their work.

use std::time::Duration;

use c10d_conformance::{Ranks, Suite};
use c10d_core::device::DeviceBuffer;
use c10d_core::{GroupBuilder, ProcessGroup, ReduceOp, Result, run_ranks};

use super::{GIVEN, PROVIDER};

const SECOND: Duration = Duration::from_secs(1);
const MAP: &str = "cpu:gloo-like,cuda:executing";

#[test]
fn every_case_over_processes() {
    const THIS: &str = "tests::executing::suite::every_case_over_processes";
    let suite = Suite::new(&[&PROVIDER, &c10d_gloo_like::PROVIDER]).backend(MAP).device("executing");
    let worlds = [1, 2, 3, 4];
    let suite = suite.worlds(&worlds).arguments([THIS, "--exact", "--nocapture"]);
    suite.serve_rank();
    for world in worlds {
        let outcomes = suite.run(Ranks::Processes, world).unwrap();
        let wrong = outcomes.iter().filter_map(|o| Some(format!("{}: {}", o.name, o.result.as_ref().err()?)));
        let wrong: Vec<String> = wrong.collect();
        assert!(outcomes.len() > 100, "world {world} has {} cases", outcomes.len());
        assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), outcomes.len(), wrong.join("\n"));
    }
}

/// The group's collectives are done by the CPU backend that was given to the fake, and those of its parts are not.
#[test]
fn the_given_backend_does_the_work() {
    let sum = |pg: &ProcessGroup| -> Result<Vec<f32>> {
        let cuda = (PROVIDER.devices[0].open)()?;
        let mine = vec![1.0 + pg.rank() as f32; 1000];
        let mut x = DeviceBuffer::from_slice(&cuda, pg.global_rank(pg.rank()).unwrap() as u16, &mine, SECOND)?;
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        x.to_vec(SECOND)
    };
    let builder = GroupBuilder::new().name("given").providers(&[&PROVIDER, &c10d_gloo_like::PROVIDER]).backend(MAP);
    let done = run_ranks(3, builder, |pg| {
        let sent = || GIVEN.lock()[&("given".to_owned(), pg.rank())].upgrade().unwrap().bytes_sent().unwrap();
        let before = sent();
        assert_eq!(sum(&pg)?, [6.0; 1000]);
        let (by_all, others) = (sent() - before, pg.new_group(&[2, 0])?);
        if let Some(two) = others {
            assert_eq!(sum(&two)?, [3.0; 1000]);
        }
        Ok((by_all, sent() - before))
    });
    for (by_all, at_last) in done.unwrap() {
        assert!(by_all >= 4000 && at_last == by_all, "{by_all} bytes, then {at_last}");
    }
}
