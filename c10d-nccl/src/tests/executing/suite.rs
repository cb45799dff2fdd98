//! The whole conformance suite over the fakes, its order with the caller's stream, and who does the work.
#![allow(unsafe_code)]

use std::time::Duration;

use c10d_conformance::{Ranks, Suite};
use c10d_core::device::{DeviceBuffer, DevicePtr};
use c10d_core::{Buf, Builder, DType, Memory, ProcessGroup, ReduceOp, Result, op};

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

/// What the caller's stream was given before comes before, and what it is given after a blocking call comes after; the
/// fake refuses what would be a race.
#[test]
fn the_callers_stream_is_ordered() {
    let builder = Builder::new().name("ordered").providers(&[&PROVIDER, &c10d_gloo_like::PROVIDER]).backend(MAP);
    let done = builder.run_ranks(2, |pg| {
        let (cuda, index) = ((PROVIDER.devices[0].open)()?, pg.rank() as u16);
        let (stream, event) = (cuda.create_stream(index)?, cuda.create_event(index)?);
        let mut x = DeviceBuffer::new(&cuda, index, DType::F32, 1 << 20)?;
        let Memory::Cuda(at) = (&x).span().memory() else { panic!("CUDA's memory") };
        let place = DevicePtr { base: at as *mut (), offset: 0 };
        let (mine, mut sums) = (vec![1.0 + f32::from(index); 1 << 20], vec![0f32; 1 << 20]);
        // SAFETY: host and device memory stay until the event was seen.
        unsafe {
            cuda.copy_in(index, stream, place, mine.as_ptr().cast(), 4 << 20)?;
            pg.run(op::all_reduce(&mut x, ReduceOp::Sum).on_stream(stream))?;
            cuda.copy_out(index, stream, sums.as_mut_ptr().cast(), place, 4 << 20)?;
            cuda.record(index, event, stream)?;
            while !cuda.query(index, event)? {
                std::thread::yield_now();
            }
        }
        Ok(sums.iter().all(|sum| *sum == 3.0))
    });
    assert_eq!(done.unwrap(), [true; 2]);
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
    let builder = Builder::new().name("given").providers(&[&PROVIDER, &c10d_gloo_like::PROVIDER]).backend(MAP);
    let done = builder.run_ranks(3, |pg| {
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
