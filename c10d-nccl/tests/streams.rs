//! Tests of the caller's streams: a stream for which no op can wait is rejected, and collectives do not disturb a
//! stream that is capturing a graph.
#![allow(unsafe_code)]

use crate::common;

use std::sync::Barrier;

use c10d_core::{Builder, DeviceCoo, DispatchKey, Error, ErrorKind, ProcessGroup, ReduceOp, Result, op};
use common::driver::recording;
use common::{SECOND, cuda, on, with_cpu, with_fake};

/// Makes groups whose collectives use NCCL, and groups whose collectives are staged.
fn both() -> [Builder; 2] {
    [with_cpu(), with_cpu().backend("cpu:gloo-like,cuda:gloo-like")]
}

/// Makes calls on this stream on two ranks: collectives, messages, and sparse calls if the group has them. If
/// `records`, the stream is capturing a graph during the calls. Returns their errors, after checking that the groups
/// can still be used.
fn refusals(groups: &Builder, stream: impl Fn(&ProcessGroup) -> Result<u64> + Sync, records: bool) -> Vec<Error> {
    let ready = Barrier::new(2);
    let refused = groups.clone().run_ranks(2, |pg| {
        let (stream, device) = (stream(&pg)?, pg.rank());
        let (mut x, mut y) = (on(device, &[1f32; 4]), on(device, &[1f32; 4]));
        let t = sparse(&pg)?;
        let calls = || {
            // SAFETY: the stream belongs to this device and is not destroyed.
            let collective = pg
                .run(unsafe { op::all_reduce(&mut x, ReduceOp::Sum).on_stream(stream) })
                .map(drop)
                .map_err(c10d_core::Error::from);
            let message = match pg.rank() {
                // SAFETY: the same as above.
                0 => pg.run(unsafe { op::send(&y, 1, 0).on_stream(stream) }).map(drop).map_err(c10d_core::Error::from),
                // SAFETY: the same as above.
                _ => pg
                    .run(unsafe { op::recv(&mut y, 0, 0).on_stream(stream) })
                    .map(drop)
                    .map_err(c10d_core::Error::from),
            };
            let sparse = t.map(|t| {
                // SAFETY: the same as above.
                pg.run(unsafe { op::all_reduce(t, ReduceOp::Sum).on_stream(stream) })
                    .map(drop)
                    .map_err(c10d_core::Error::from)
            });
            let refused = [Some(collective), Some(message), sparse].into_iter().flatten();
            refused.map(|refused| refused.expect_err("no op can follow the stream")).collect::<Vec<Error>>()
        };
        let refused = if records { recording(stream, calls) } else { calls() };
        ready.wait();
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x.to_vec::<f32>(60 * SECOND)?, [2.0; 4]);
        Ok(refused)
    });
    refused.unwrap().into_iter().flatten().collect()
}

#[test]
fn a_stream_that_captures_a_graph_is_rejected() {
    with_fake("a_stream_that_captures_a_graph_is_rejected", "", || {
        for groups in both() {
            for e in refusals(&groups, |pg| cuda().create_stream(pg.rank() as u16), true) {
                assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{e}");
                assert!(e.to_string().contains("the stream is capturing a graph"), "{e}");
            }
        }
    });
}

/// The handle 2 (`CU_STREAM_PER_THREAD`) means a different stream on each thread, so the thread that calls NCCL cannot
/// wait for the caller's stream.
#[test]
fn the_default_stream_of_a_thread_is_refused() {
    with_fake("the_default_stream_of_a_thread_is_refused", "", || {
        for groups in both() {
            for e in refusals(&groups, |_| Ok(2), false) {
                assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{e}");
                assert!(e.to_string().contains("CU_STREAM_PER_THREAD"), "{e}");
            }
        }
    });
}

/// While one thread captures a graph on a stream of its own, the calls of other threads succeed, and so does the
/// capture.
#[test]
fn collectives_do_not_disturb_the_capture_of_a_graph() {
    with_fake("collectives_do_not_disturb_the_capture_of_a_graph", "", || {
        for groups in both() {
            let (begun, done) = (Barrier::new(3), Barrier::new(3));
            std::thread::scope(|s| {
                s.spawn(|| {
                    let stream = cuda().create_stream(0).unwrap();
                    recording(stream, || {
                        begun.wait();
                        done.wait();
                    });
                });
                let sums = groups.run_ranks(2, |pg| {
                    begun.wait();
                    let sum = reduced(&pg);
                    done.wait();
                    sum
                });
                assert_eq!(sums.unwrap(), vec![vec![2.0; 1000]; 2]);
            });
        }
    });
}

/// Makes a sparse tensor, if the group's backend supports sparse tensors.
fn sparse(pg: &ProcessGroup) -> Result<Option<DeviceCoo>> {
    let tensor = || DeviceCoo::new([4], 1, on(pg.rank(), &[2i64]), on(pg.rank(), &[1f32]));
    (pg.backend(DispatchKey::Cuda)? == "nccl").then(tensor).transpose()
}

/// Makes a sparse call (if the group has them), a message and a dense all-reduce, each with its own memory. Returns the
/// dense sum.
fn reduced(pg: &ProcessGroup) -> Result<Vec<f32>> {
    if let Some(t) = sparse(pg)? {
        assert_eq!(pg.all_reduce(t, ReduceOp::Sum)?.values().to_vec::<f32>(60 * SECOND)?, [2.0]);
    }
    let mut y = on(pg.rank(), &[pg.rank() as f32]);
    match pg.rank() {
        0 => pg.send(&y, 1, 0).map(drop)?,
        _ => pg.recv(&mut y, 0, 0).map(drop)?,
    }
    let mut x = on(pg.rank(), &[1f32; 1000]);
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    x.to_vec(60 * SECOND)
}
