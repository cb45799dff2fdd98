//! Functions of a vendor's collectives besides ops: batches of messages, sub-groups, and errors while no call runs.

use crate::samples;

use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use c10d::backend::{Provider, Registry};
use c10d::device::{DeviceBuffer, DeviceRuntime};
use c10d::{ErrorKind, ReduceOp, op};
use c10d_privateuse::{Search, Verdict};
use samples::Sample;

const CAP: Duration = Duration::from_secs(30);

fn providers() -> &'static [&'static Provider] {
    static LOADED: OnceLock<Vec<&'static Provider>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let both = [Sample::CCollectives, Sample::CCuda];
        samples::build(&both);
        let report = both.iter().fold(Search::new(), |search, sample| search.file(sample.file())).load();
        assert!(report.decisions.iter().all(|d| d.verdict == Verdict::Loaded), "{:?}", report.decisions);
        report.providers
    })
}

fn builder(map: &str) -> c10d::Builder {
    c10d::builder().providers(providers()).backend(map).timeout(CAP)
}

fn device(name: &str) -> Arc<dyn DeviceRuntime> {
    Registry::collect(providers()).unwrap().device(name).unwrap()
}

#[test]
fn a_ring_of_messages_completes_on_the_host() {
    builder("cpu:c-collectives")
        .run_ranks(3, |pg| {
            let (left, right) = ((pg.rank() + 2) % 3, (pg.rank() + 1) % 3);
            // Each rank sends a large message to the right and a small one to the left, and waits for the small one
            // first.
            let sends = vec![op::send(vec![pg.rank(); 1 << 18], right, 0), op::send(vec![pg.rank(); 3], left, 1)];
            let receives = vec![op::recv(vec![9; 3], right, 1), op::recv(vec![9; 1 << 18], left, 0)];
            let (sent, received) = pg.batch(sends, receives);
            let received: Vec<Vec<u32>> = received.into_iter().map(|work| work.wait()).collect::<Result<_, _>>()?;
            assert_eq!(received, [vec![right; 3], vec![left; 1 << 18]]);
            sent.into_iter().try_for_each(|work| work.wait().map(drop))?;
            pg.shutdown()
        })
        .unwrap();
}

/// Tests messages and sums on the device, in the group and in sub-groups.
fn on_device(map: &str, name: &str) {
    let runtime = device(name);
    builder(map)
        .run_ranks(4, |pg| {
            let buffer = |of: &[f32]| DeviceBuffer::from_slice(&runtime, 0, of, CAP);
            let other = pg.rank() ^ 1;
            let mine = buffer(&[pg.rank() as f32; 5])?;
            let (sent, got) = pg.batch(vec![op::send(mine, other, 0)], vec![op::recv(buffer(&[9.0; 5])?, other, 0)]);
            for work in got {
                assert_eq!(work.wait()?.to_vec::<f32>(CAP)?, [other as f32; 5]);
            }
            sent.into_iter().try_for_each(|work| work.wait().map(drop))?;
            let part = pg.split((pg.rank() != 3).then_some(0), 10 - pg.rank())?;
            let Some(part) = part else { return pg.shutdown() };
            // The backend of the sub-group got its id from the parent group, so the sub-group's store has no id.
            let (backend, _) = part.backend_of(runtime.device(0))?;
            assert!(pg.store().check(&[&format!("{backend}/id")], Instant::now() + CAP)?);
            assert!(!part.store().check(&[&format!("{backend}/id")], Instant::now() + CAP)?);
            let mut x = buffer(&[pg.rank() as f32; 100])?;
            part.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x.to_vec::<f32>(CAP)?, [3.0; 100]);
            // A sub-group of the sub-group.
            let pair = part.new_group(&[2, 0])?;
            if let Some(pair) = pair {
                pair.all_reduce(&mut x, ReduceOp::Sum)?;
                assert_eq!(x.to_vec::<f32>(CAP)?, [6.0; 100]);
                pair.shutdown()?;
            }
            part.shutdown()?;
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn messages_and_sub_groups_work_on_the_vendors_device() {
    on_device("cpu:c-collectives,c-collectives:c-collectives", "c-collectives");
}

#[test]
fn messages_and_sub_groups_work_in_cuda_memory() {
    let runtime = device("cuda");
    assert_eq!(runtime.device(0), c10d::Device::cuda(0));
    assert!(runtime.identity(0).unwrap().starts_with("heap of process"));
    on_device("cpu:c-cuda,cuda:c-cuda", "cuda");
}

#[test]
fn an_error_reaches_ranks_that_wait_for_nothing() {
    let together = Barrier::new(2);
    builder("cpu:c-collectives")
        .run_ranks(2, |pg| {
            pg.barrier()?;
            if pg.rank() == 0 {
                pg.abort("enough");
            }
            let end = Instant::now() + CAP;
            while pg.failure().is_none() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            let error = pg.failure().expect("the group reports the abort").clone();
            assert_eq!(*error.kind(), ErrorKind::Aborted);
            assert!(error.to_string().contains("enough") && error.report().guilty == [0], "{error}");
            together.wait();
            Ok(())
        })
        .unwrap();
}
