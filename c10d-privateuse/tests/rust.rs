//! Rust plugins, built as a vendor builds them.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::ops::MonitoredBarrierOptions;
use c10d_core::registry::Registry;
use c10d_core::{DType, ErrorKind, GroupBuilder, ReduceOp, op, run_ranks};
use c10d_privateuse::{Report, Search, Verdict};

const CAP: Duration = Duration::from_secs(30);

fn load(package: &str, library: &str) -> Report {
    let report = Search::new().file(common::rust_plugin(package, library)).load();
    assert_eq!(report.decisions[0].verdict, Verdict::Loaded, "{}", report.decisions[0]);
    report
}

fn elsewhere() -> GroupBuilder {
    let report = load("c10d-elsewhere-plugin", "c10d_elsewhere_plugin");
    GroupBuilder::new().providers(&report.providers).backend("cpu:elsewhere").timeout(CAP)
}

#[test]
fn a_backend_serves_from_a_plugin() {
    run_ranks(3, elsewhere(), |pg| {
        let me = pg.rank();
        let mut x = vec![me as f64; 100_000];
        pg.all_reduce(&mut x, ReduceOp::Avg)?;
        assert_eq!(x, vec![1f64; 100_000]);
        let all = pg.start(op::all_gather_into(vec![me as i32; 5], vec![0i32; 15]));
        // Rank r sends r, 1 and 2 elements to the ranks in order.
        let given = [me as usize, 1, 2];
        let got = if me == 0 { [0, 1, 2] } else { [me as usize; 3] };
        let mut parts = vec![0u8; got.iter().sum()];
        let sent: usize = given.iter().sum();
        pg.run(op::all_to_all_single(&vec![me as u8 + 1; sent], &mut parts[..]).splits(&given, &got))?;
        let want: Vec<u8> = (0..3u8).flat_map(|r| vec![r + 1; got[r as usize]]).collect();
        assert_eq!(parts, want);
        let (_, all) = all.wait()?;
        assert_eq!(all, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        if me == 0 {
            pg.send(&[7u16, 8], 2, 5)?;
        } else if me == 2 {
            let (got, from) = pg.run(op::recv_any_source(vec![0u16; 2], 5))?;
            assert_eq!((got, from), (vec![7, 8], 0));
        }
        pg.run(op::monitored_barrier(MonitoredBarrierOptions::default()))?;
        pg.shutdown()
    })
    .unwrap();
}

#[test]
fn disagreement_inside_a_plugin_has_its_fields() {
    let errors = run_ranks(2, elsewhere(), |pg| {
        let mut x = vec![0f32; 8 + pg.rank() as usize];
        Ok(pg.all_reduce(&mut x, ReduceOp::Sum).unwrap_err())
    })
    .unwrap();
    let ErrorKind::Mismatch { field, mine, theirs } = errors[0].kind() else { panic!("{}", errors[0]) };
    assert_eq!((*field, mine.as_str(), theirs.as_str()), ("count", "8", "9"));
    assert_eq!(errors[0].report().guilty, [1]);
}

#[test]
fn panics_are_errors() {
    let e = elsewhere().name("panics in create").build().unwrap_err();
    assert!(e.to_string().contains("create was told to") && e.to_string().contains("elsewhere"), "{e}");
    let e = elsewhere().name("panics in split").build().unwrap().new_group(&[0]).map(drop).unwrap_err();
    assert!(e.to_string().contains("split was told to") && e.to_string().contains("elsewhere"), "{e}");
    let pg = elsewhere().name("panics in submit").build().unwrap();
    let e = pg.all_reduce(&mut [1f32; 4], ReduceOp::Sum).unwrap_err();
    assert!(e.to_string().contains("elsewhere"), "{e}");
    // And the process goes on.
    elsewhere().build().unwrap().barrier().unwrap();
}

#[test]
fn a_plugin_splits_groups_and_tells_what_nobody_asked_for() {
    run_ranks(3, elsewhere().name("divided"), |pg| {
        // The first division has a rank that is in no part.
        if let Some(pair) = pg.new_group(&[2, 0])? {
            let mut x = [pair.rank(); 100];
            pair.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, [1; 100]);
            assert!(pair.failure().is_none());
            pair.shutdown()?;
        }
        let alone = pg.split(Some(pg.rank()), 0)?.unwrap();
        assert!(alone.failure().is_none());
        // It fails from then on, perhaps before this is over.
        let _ = alone.barrier();
        let end = Instant::now() + CAP;
        let error = loop {
            assert!(Instant::now() < end, "nobody was told");
            match alone.failure() {
                Some(error) => break error.clone(),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let words = format!("division 2: the part of [{}] is out of breath", pg.rank());
        assert!(error.to_string().contains(&words) && error.to_string().contains("elsewhere"), "{error}");
        assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Device, &[0][..]));
        // The whole goes on.
        pg.barrier()?;
        assert!(pg.failure().is_none());
        pg.shutdown()
    })
    .unwrap();
}

#[test]
fn messages_of_a_batch_reach_a_plugin_together() {
    run_ranks(2, elsewhere().name("batches only"), |pg| {
        let other = 1 - pg.rank();
        let sends = (0..3).map(|tag| op::send(vec![tag; 2], other, tag)).collect();
        let receives = (0..3).rev().map(|tag| op::recv(vec![9; 2], other, tag)).collect();
        let (sent, received) = pg.batch(sends, receives);
        let received: Vec<Vec<u32>> = received.into_iter().map(|work| work.wait()).collect::<Result<_, _>>()?;
        assert_eq!(received, [[2; 2], [1; 2], [0; 2]]);
        sent.into_iter().try_for_each(|work| work.wait().map(drop))?;
        pg.shutdown()
    })
    .unwrap();
}

#[test]
fn a_device_serves_from_a_plugin() {
    let report = load("c10d-guarded-plugin", "c10d_guarded_plugin");
    let mut providers = report.providers.clone();
    providers.push(&c10d_gloo_like::PROVIDER);
    let device: Arc<dyn DeviceRuntime> = Registry::collect(&providers).unwrap().device("guarded").unwrap();
    assert!(device.count().unwrap() > 0);
    let builder = GroupBuilder::new().providers(&providers).backend("guarded:gloo-like").timeout(CAP);
    run_ranks(2, builder, |pg| {
        let index = pg.rank() as u16;
        let mut x = DeviceBuffer::from_slice(&device, index, &[pg.rank() as f32 + 1.0; 5000], CAP)?;
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x.to_vec::<f32>(CAP)?, [3.0; 5000]);
        pg.shutdown()
    })
    .unwrap();
    // What the device refuses comes back in its words.
    let e = device.allocate(9999, 8).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::Device, "{e}");
    assert!(e.to_string().contains("guarded"), "{e}");
    let reduction = device.reduction();
    assert!(reduction.is_none_or(|r| !r.reduces(ReduceOp::Sum).contains(DType::F8E4M3)));
}
