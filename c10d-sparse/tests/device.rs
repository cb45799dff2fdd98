//! Tests of SparseCUDA, with a device whose memory the host cannot access. The results for all kinds of tensors are
//! tested in `reference.rs`.

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::options::AllReduceOptions;
use c10d_core::{Buf, Builder, Coo, DeviceCoo, DispatchKey, Error, ErrorKind, ReduceOp, Result, Status, op};
use c10d_guarded::Guarded;
use common::check;
use common::device::{CAP, RUNTIME, builder, builder_over, on_device, on_host};

/// The rank whose tensor or device is faulty.
const VICTIM: u32 = 1;

/// Makes a tensor of two entries: one that only this rank has, and one that all ranks have.
fn tensor(rank: u32) -> Coo<f32> {
    Coo::new([9, 2], 1, vec![7, i64::from(rank)], vec![1.0, 2.0, 3.0, 4.0]).unwrap()
}

#[test]
fn the_result_is_on_the_tensors_device() {
    let results = builder().run_ranks(3, |pg| {
        assert!(pg.backend(DispatchKey::SparseCuda)?.contains("gloo-like"));
        let sum = pg.all_reduce(on_device(&RUNTIME, &tensor(pg.rank()), pg.rank())?, ReduceOp::Sum)?;
        let places = [sum.indices(), sum.values()].map(|mut buffer| Buf::span(&mut buffer).device().index());
        assert_eq!(places, [pg.rank() as u16; 2]);
        pg.shutdown()?;
        on_host::<f32>(&sum)
    });
    let want = common::reference(&[0, 1, 2].map(tensor), |a, b| a + b);
    for result in results.unwrap() {
        check(&result, &want).unwrap();
    }
}

#[test]
fn indices_on_a_device_must_be_i64() {
    let runtime: Arc<dyn DeviceRuntime> = RUNTIME.clone();
    let buffer = || DeviceBuffer::from_slice(&runtime, 0, &[1f32], CAP).unwrap();
    let e = DeviceCoo::new([9], 1, buffer(), buffer()).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::InvalidArgument);
}

/// Returns the errors of all ranks for a call that fails on the victim.
fn errors_of(builder: Builder, call: impl Fn(&c10d_core::ProcessGroup) -> Result + Sync) -> Vec<Error> {
    let outcomes = builder.run_ranks(3, |pg| {
        let e = call(&pg).expect_err("the call must fail");
        Ok((e, pg))
    });
    outcomes.unwrap().into_iter().map(|(e, _)| e).collect()
}

#[test]
fn wrong_indices_are_an_error_on_all_ranks() {
    builder()
        .run_ranks(3, |pg| {
            for (indices, words) in [([1, -1], "index -1 of entry 1"), ([1, 50], "index 50 of entry 1")] {
                let indices = if pg.rank() == VICTIM { indices } else { [0, 1] };
                let wrong = Coo::new([50], 1, indices.to_vec(), vec![1f32, 2.0])?;
                let e = pg.all_reduce(on_device(&RUNTIME, &wrong, pg.rank())?, ReduceOp::Sum).map(drop).unwrap_err();
                let report = e.report();
                assert_eq!((&report.kind, report.status), (&ErrorKind::InvalidArgument, Status::Rejected), "{e}");
                assert!(*report.guilty == [VICTIM] && report.what.contains(words), "{e}");
            }
            pg.all_reduce(on_device(&RUNTIME, &tensor(pg.rank()), pg.rank())?, ReduceOp::Sum)?;
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn shapes_that_differ_are_a_mismatch() {
    for (rank, e) in errors_of(builder(), |pg| {
        let row = if pg.rank() == VICTIM { 2 } else { 3 };
        let mine = Coo::new([50, row], 1, vec![3], vec![1f32; row])?;
        pg.all_reduce(on_device(&RUNTIME, &mine, pg.rank())?, ReduceOp::Sum).map(drop)
    })
    .into_iter()
    .enumerate()
    {
        assert!(matches!(e.kind(), ErrorKind::Mismatch { field: "shape", .. }), "{e}");
        let guilty = &*e.report().guilty;
        assert!(if rank as u32 == VICTIM { !guilty.is_empty() } else { guilty == [VICTIM] }, "{e}");
    }
}

#[test]
fn known_indices_are_those_of_the_result() {
    let all: Arc<[i64]> = (0..9).collect();
    builder()
        .run_ranks(3, |pg| {
            let options = AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some(all.clone()));
            let sum = pg.all_reduce(on_device(&RUNTIME, &tensor(pg.rank()), pg.rank())?, options)?;
            let sum = on_host::<f32>(&sum)?;
            let at = |i: usize| &sum.values()[2 * i..2 * i + 2];
            assert_eq!(sum.indices(), &all[..]);
            assert_eq!((at(0), at(5), at(7)), (&[3.0, 4.0][..], &[0.0; 2][..], &[3.0, 6.0][..]));
            // One rank has an entry whose index is not among the known indices.
            let some: Arc<[i64]> = (1..9).collect();
            let options = AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some(some));
            let e = pg.all_reduce(on_device(&RUNTIME, &tensor(pg.rank()), pg.rank())?, options).map(drop).unwrap_err();
            assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::InvalidArgument, &[0][..]), "{e}");
            pg.shutdown()
        })
        .unwrap();
}

/// Runs a sum for which `spoil` makes copies of the victim's device fail or stall. Returns the errors of all ranks. If
/// `first`, this is the first sum of the group, in which the ranks connect. Otherwise, one sum has succeeded before.
fn spoiled(timeout: Duration, first: bool, spoil: impl Fn(&Guarded) + Sync) -> Vec<Error> {
    let runtime = Arc::new(Guarded::cuda());
    let errors = errors_of(builder_over(&runtime), |pg| {
        if !first {
            pg.all_reduce(on_device(&runtime, &tensor(pg.rank()), pg.rank())?, ReduceOp::Sum)?;
        }
        let mine = on_device(&runtime, &tensor(pg.rank()), pg.rank())?;
        if pg.rank() == VICTIM {
            spoil(&runtime);
        }
        pg.run(op::all_reduce(mine, ReduceOp::Sum).timeout(timeout)).map(drop).map_err(Error::from)
    });
    runtime.recover();
    errors
}

#[test]
fn a_failed_copy_is_an_error_on_all_ranks() {
    for (spoil, words) in [
        (
            &(|device: &Guarded| device.fail(1, "copy_out", "parity error")) as &(dyn Fn(&Guarded) + Sync),
            "parity error",
        ),
        // The second copy can be started, and fails when it runs.
        (&|device: &Guarded| device.fail_copy(1, 1, "burnt out"), "burnt out"),
    ] {
        let errors = spoiled(CAP, false, spoil);
        assert_eq!(*errors[VICTIM as usize].kind(), ErrorKind::Device, "{}", errors[VICTIM as usize]);
        for e in errors {
            assert!(e.to_string().contains(words) && e.report().guilty.iter().all(|rank| *rank == VICTIM), "{e}");
        }
    }
}

#[test]
fn a_copy_that_never_finishes_is_a_timeout_of_the_call() {
    for first in [true, false] {
        let errors = spoiled(Duration::from_secs(2), first, |device| device.stall(1));
        let e = &errors[VICTIM as usize];
        assert!(*e.kind() == ErrorKind::Timeout && e.to_string().contains("device cuda did not finish"), "{e}");
        // If the ranks were connected before this call, all ranks learn which rank did not finish.
        for e in errors.iter().filter(|e| !first && e.report().rank != Some(VICTIM)) {
            assert!(e.report().guilty.contains(&VICTIM), "{e}");
        }
    }
}
