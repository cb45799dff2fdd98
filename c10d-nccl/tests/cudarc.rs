//! Slices and streams of the crate cudarc, with the fake driver, which reports races.

use crate::common;

use std::sync::Arc;

use c10d_core::{Error, ErrorKind, ReduceOp, Result, op};
use c10d_nccl::on_device;
use common::driver::recording;
use common::{SECOND, builder, with_fake};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError};
use half::bf16;

fn cuda<T>(result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(|e| Error::new(ErrorKind::Device, format!("{e:?}")))
}

/// Makes a stream on the rank's device.
fn stream(rank: u32) -> Result<Arc<CudaStream>> {
    cuda(cuda(CudaContext::new(rank as usize))?.new_stream())
}

/// Returns the contents of the slice. The fake copies when the stream reaches the copy, so this function waits for the
/// stream.
fn fetched<T: DeviceRepr>(s: &Arc<CudaStream>, slice: &CudaSlice<T>) -> Result<Vec<T>> {
    let host = cuda(s.clone_dtoh(slice))?;
    cuda(s.synchronize())?;
    Ok(host)
}

#[test]
fn slices_are_buffers() {
    with_fake("slices_are_buffers", "", || {
        let got = builder().run_ranks(2, |pg| -> Result<Vec<f32>> {
            let s = stream(pg.rank())?;
            // On the device, the op runs after this copy.
            let mine = [1.0 + pg.rank() as f32, 10.0];
            let mut x = cuda(s.clone_htod(&mine))?;
            pg.all_reduce(on_device(&mut x), ReduceOp::Sum)?;
            let mut all = cuda(s.alloc_zeros::<f32>(4))?;
            pg.all_gather_into(on_device(&x), on_device(&mut all))?;
            let all = pg.start(op::all_reduce(on_device(all), ReduceOp::Sum)).wait()?.into_inner();
            fetched(&s, &all)
        });
        assert_eq!(got.unwrap(), vec![vec![6.0, 40.0, 6.0, 40.0]; 2]);
    });
}

#[test]
fn parts_of_slices_and_half_floats_are_buffers() {
    with_fake("parts_of_slices_and_half_floats_are_buffers", "", || {
        let got = builder().run_ranks(2, |pg| -> Result<Vec<bf16>> {
            let s = stream(pg.rank())?;
            let mine = [0.0, 1.0, 2.0, 3.0].map(|v| bf16::from_f32(10.0 * pg.rank() as f32 + v));
            let mut x = cuda(s.clone_htod(&mine))?;
            pg.broadcast(on_device(x.slice_mut(1..2)), 1)?;
            let (input, mut output) = (x.slice(1..3), cuda(s.alloc_zeros::<bf16>(2))?);
            pg.all_to_all_single(on_device(input), on_device(&mut output))?;
            let parts = fetched(&s, &output)?;
            pg.all_reduce(on_device(&mut output), ReduceOp::Sum)?;
            Ok([parts, fetched(&s, &output)?].concat())
        });
        let want = [[11.0, 11.0, 13.0, 23.0], [2.0, 12.0, 13.0, 23.0]].map(|v| v.map(bf16::from_f32).to_vec());
        assert_eq!(got.unwrap(), want);
    });
}

/// The op runs after the work of other streams on the slice: because of cudarc's events, or because the caller names
/// the other stream by `after`.
#[test]
fn an_op_runs_after_other_streams_work_on_the_slice() {
    with_fake("an_op_runs_after_other_streams_work_on_the_slice", "", || {
        let got = builder().run_ranks(2, |pg| -> Result<Vec<f32>> {
            let (s, other) = (stream(pg.rank())?, stream(pg.rank())?);
            let mut x = cuda(s.alloc_zeros::<f32>(2))?;
            cuda(other.memcpy_htod(&[3f32, 4.0], &mut x))?;
            pg.all_reduce(on_device(&mut x), ReduceOp::Sum)?;
            // SAFETY: each op below runs after the copies before it, and ends before the slice is used again.
            #[allow(unsafe_code)]
            unsafe {
                s.context().disable_event_tracking();
            }
            cuda(other.memcpy_htod(&[5f32, 6.0], &mut x))?;
            pg.all_reduce(on_device(&mut x).after(&other), ReduceOp::Sum)?;
            let mut seen = fetched(&s, &x)?;
            // The slice's own stream need not be given to `after`.
            cuda(s.memcpy_htod(&[7f32, 8.0], &mut x))?;
            pg.all_reduce(on_device(&mut x), ReduceOp::Sum)?;
            seen.extend(fetched(&s, &x)?);
            Ok(seen)
        });
        assert_eq!(got.unwrap(), vec![vec![10.0, 12.0, 14.0, 16.0]; 2]);
    });
}

/// Captured work does not run, so no op can wait for it. The calls are rejected, and the capture succeeds.
#[test]
fn a_slice_of_a_stream_that_records_a_graph_is_refused() {
    with_fake("a_slice_of_a_stream_that_records_a_graph_is_refused", "", || {
        builder()
            .run_ranks(2, |pg| -> Result<()> {
                let (s, other) = (stream(pg.rank())?, stream(pg.rank())?);
                let (mut x, mut y) = (cuda(s.clone_htod(&[1f32; 2]))?, cuda(other.clone_htod(&[1f32; 2]))?);
                // After this barrier, no rank still makes the CUDA calls above, which would invalidate the other rank's
                // capture.
                pg.barrier()?;
                recording(s.cu_stream() as u64, || {
                    for refused in [
                        pg.all_reduce(on_device(&mut x), ReduceOp::Sum).map(drop),
                        pg.all_reduce(on_device(&mut y).after(&s), ReduceOp::Sum).map(drop),
                    ] {
                        let e = refused.expect_err("a graph");
                        assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{e}");
                        assert!(e.to_string().contains("is capturing a graph"), "{e}");
                    }
                });
                pg.barrier()?;
                pg.all_reduce(on_device(&mut x), ReduceOp::Sum)?;
                assert_eq!(fetched(&s, &x)?, [2.0; 2]);
                Ok(())
            })
            .unwrap();
    });
}

/// The caller may give the slice's own stream to `on_stream`. The op still runs after the work of other streams.
#[test]
fn the_slices_own_stream_may_be_given() {
    with_fake("the_slices_own_stream_may_be_given", "", || {
        let got = builder().run_ranks(2, |pg| -> Result<Vec<f32>> {
            let (s, other) = (stream(pg.rank())?, stream(pg.rank())?);
            let mut x = cuda(s.alloc_zeros::<f32>(2))?;
            cuda(other.memcpy_htod(&[3f32, 4.0], &mut x))?;
            let own = s.cu_stream() as u64;
            // SAFETY: `own` is the stream of the slices, and exists until the ops have ended. Without events, this test
            // orders the streams itself: `other` waits for `s`, and the second op waits for `other`.
            #[allow(unsafe_code)]
            unsafe {
                pg.run(op::all_reduce(on_device(&mut x), ReduceOp::Sum).on_stream(own))?;
                s.context().disable_event_tracking();
            }
            let mut y = cuda(s.alloc_zeros::<f32>(2))?;
            cuda(other.join(&s))?;
            cuda(other.memcpy_htod(&[5f32, 6.0], &mut y))?;
            // SAFETY: the same as above.
            #[allow(unsafe_code)]
            unsafe {
                pg.run(op::all_reduce(on_device(&mut y).after(&other), ReduceOp::Sum).on_stream(own))?;
            }
            Ok([fetched(&s, &x)?, fetched(&s, &y)?].concat())
        });
        assert_eq!(got.unwrap(), vec![vec![6.0, 8.0, 10.0, 12.0]; 2]);
    });
}

/// c10d cannot prevent cudarc's memory from being freed. So the call returns only when the device does not use the
/// memory any more.
#[test]
fn a_slice_comes_back_when_the_device_has_let_go() {
    with_fake("a_slice_comes_back_when_the_device_has_let_go", "hang=0,abort=slow", || {
        let seen = builder().run_ranks(2, |pg| -> Result<[f32; 2]> {
            let s = stream(pg.rank())?;
            let mut x = cuda(s.clone_htod(&[1f32, 2.0]))?;
            let (at, _) = x.device_ptr(&s);
            let call = op::all_reduce(on_device(&mut x), ReduceOp::Sum).timeout(SECOND / 2);
            let e = pg.run(call).map(drop).expect_err("the fault script lets the op hang");
            assert!(e.to_string().contains("did not end in time"), "{e}");
            // SAFETY: the fake's device memory is host memory, and the slice still exists.
            #[allow(unsafe_code)]
            let seen = unsafe { (at as *const [f32; 2]).read_volatile() };
            Ok(seen)
        });
        // When the fake's launch is aborted, it sets all bits of its output, which gives NaN. The NaNs were there when
        // the call returned, so the call has waited for the abort.
        assert!(seen.unwrap().iter().flatten().all(|v| v.is_nan()));
    });
}
