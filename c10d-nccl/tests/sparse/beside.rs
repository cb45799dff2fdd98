//! Sparse calls beside other work on the device.

use std::sync::Barrier;

use c10d_core::DispatchKey;

use super::*;

/// Dense and sparse calls in different orders on different ranks, with and without a CPU backend.
#[test]
fn beside_dense() {
    with_fake("beside_dense", "", || {
        for groups in [builder(), with_cpu()] {
            groups
                .run_ranks(3, |pg| {
                    assert_eq!(pg.backend(DispatchKey::SparseCuda)?, "nccl");
                    let mut dense = on(pg.rank(), &[1f32; 1000]);
                    let sparse = || sent(&Coo::new([9], 1, vec![3], vec![2f32]).unwrap(), pg.rank());
                    let sum = if pg.rank() == 1 {
                        pg.all_reduce(&mut dense, ReduceOp::Sum)?;
                        pg.all_reduce(sparse(), ReduceOp::Sum)?
                    } else {
                        let work = pg.start(op::all_reduce(sparse(), ReduceOp::Sum));
                        // Both orders are correct. The pause makes it likely that the sparse call is first.
                        std::thread::sleep(SECOND / 20);
                        pg.all_reduce(&mut dense, ReduceOp::Sum)?;
                        work.wait()?
                    };
                    assert_eq!(fetched::<f32>(&sum).values(), [6.0]);
                    assert_eq!(dense.to_vec::<f32>(60 * SECOND)?, [3.0; 1000]);
                    pg.shutdown()
                })
                .unwrap();
        }
    });
}

/// The call runs after the earlier work on the caller's stream. The fake reports races.
#[test]
fn a_sparse_call_runs_after_the_callers_stream() {
    with_fake("a_sparse_call_runs_after_the_callers_stream", "", || {
        let got = builder().run_ranks(2, |pg| {
            let (cuda, index) = (common::cuda(), pg.rank() as u16);
            let stream = cuda.create_stream(index)?;
            let (mut indices, mut values) = (on(pg.rank(), &[0i64; 2]), on(pg.rank(), &[0f32; 2]));
            let (keys, numbers) = ([7i64, 3], [1f32, 2.0]);
            let (to_indices, to_values) = (common::place(&mut indices), common::place(&mut values));
            let tensor = DeviceCoo::new([9], 1, indices, values)?;
            // SAFETY: the host memory exists until the call has ended, which is after both copies; the stream is not
            // destroyed.
            #[allow(unsafe_code)]
            let sum = unsafe {
                cuda.copy_in(index, stream, to_indices, keys.as_ptr().cast(), 16)?;
                cuda.copy_in(index, stream, to_values, numbers.as_ptr().cast(), 8)?;
                pg.run(op::all_reduce(tensor, ReduceOp::Sum).on_stream(stream))?
            };
            Ok(fetched::<f32>(&sum))
        });
        for sum in got.unwrap() {
            assert_eq!((sum.indices(), sum.values()), (&[3i64, 7][..], &[4f32, 2.0][..]));
        }
    });
}

/// The call is rejected, and the capture is not invalidated. All ranks learn the reason, and the group can still be
/// used.
#[test]
fn a_stream_that_records_a_graph_is_refused() {
    with_fake("a_stream_that_records_a_graph_is_refused", "", || {
        let ready = Barrier::new(2);
        builder()
            .run_ranks(2, |pg| {
                let mut mine = sent(&Coo::new([9], 1, vec![3], vec![2f32])?, pg.rank());
                let stream = common::cuda().create_stream(pg.rank() as u16)?;
                // Rank 1 captures in CUDA's global mode: during the capture, the other threads of the test may not
                // allocate device memory. So both ranks make their tensors before.
                ready.wait();
                let e = if pg.rank() == 1 {
                    // SAFETY: the stream belongs to this device and is not destroyed.
                    #[allow(unsafe_code)]
                    let call = unsafe { op::all_reduce(&mut mine, ReduceOp::Sum).on_stream(stream) };
                    common::driver::recording(stream, || pg.run(call).map(drop).map_err(c10d_core::Error::from))
                } else {
                    pg.all_reduce(&mut mine, ReduceOp::Sum).map(drop)
                };
                ready.wait();
                let e = e.unwrap_err();
                assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::InvalidArgument, &[1][..]), "{e}");
                assert!(e.report().what.contains("the stream is capturing a graph"), "{e}");
                let sum = fetched::<f32>(&pg.all_reduce(mine, ReduceOp::Sum)?);
                assert_eq!((sum.indices(), sum.values()), (&[3i64][..], &[4f32][..]));
                Ok(())
            })
            .unwrap();
    });
}

/// If the launch of a CUDA kernel hangs, the error says in time which part of the call hangs, and the peers learn on
/// which rank it hangs.
#[test]
fn a_launch_that_hangs_is_named() {
    with_fake("a_launch_that_hangs_is_named", "rank=1,kernel=20", || {
        let errors = with_cpu().run_ranks(2, |pg| {
            let mine = || sent(&Coo::new([9], 1, vec![3], vec![2f32]).unwrap(), pg.rank());
            pg.all_reduce(mine(), ReduceOp::Sum)?;
            // The other rank learns of the hang long before its own deadline.
            let call = op::all_reduce(mine(), ReduceOp::Sum).timeout(SECOND * if pg.rank() == 1 { 1 } else { 100 });
            let begun = Instant::now();
            let e = pg.start(call).wait().unwrap_err().error;
            assert!(begun.elapsed() < 20 * SECOND);
            Ok(e)
        });
        let errors = errors.unwrap();
        assert!(*errors[1].kind() == ErrorKind::Timeout, "{}", errors[1]);
        assert!(errors.iter().all(|e| e.to_string().contains("CUDA has not returned from")), "{errors:?}");
        assert_eq!(errors[0].report().guilty, [1], "{}", errors[0]);
    });
}
