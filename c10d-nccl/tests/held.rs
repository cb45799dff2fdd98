//! Tests of sparse calls that end at their deadline while the device may still use their memory. The fake ends the
//! process if memory is freed before an event has shown that the device has finished with it.

use crate::common;

use std::time::{Duration, Instant};

use c10d_core::{DeviceCoo, ErrorKind, ProcessGroup, ReduceOp, Result, op};
use common::driver::{Gate, is_allocated};
use common::{SECOND, builder, cuda, on, place, with_fake};

/// The timeout of the calls that cannot end in time.
const SHORT: Duration = Duration::from_millis(700);

/// Makes a sparse call on this stream. The call does not end in time, and drops its tensor. Returns the addresses of
/// the tensor's memory.
fn given_up(pg: &ProcessGroup, stream: u64) -> Result<[u64; 2]> {
    let (mut indices, mut values) = (on(pg.rank(), &[3i64, 4]), on(pg.rank(), &[2f32, 1.0]));
    let places = [place(&mut indices), place(&mut values)].map(|place| place.base as u64);
    let tensor = DeviceCoo::new([9], 1, indices, values)?;
    // SAFETY: the stream belongs to this device and is not destroyed.
    #[allow(unsafe_code)]
    let call = unsafe { op::all_reduce(tensor, ReduceOp::Sum).on_stream(stream) };
    let e = pg.run(call.timeout(SHORT)).map(drop).expect_err("the device does not finish").error;
    assert_eq!(*e.kind(), ErrorKind::Timeout, "{e}");
    Ok(places)
}

/// Waits until the call's thread has freed the tensor.
fn wait_for_the_free(places: [u64; 2]) {
    let begun = Instant::now();
    while places.iter().any(|at| is_allocated(*at)) {
        assert!(begun.elapsed() < 60 * SECOND, "never freed");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The call's work runs after the gate, which is earlier on the stream. So the device reads the tensor only after the
/// call has ended at its deadline.
#[test]
fn a_tensor_stays_until_it_was_read() {
    with_fake("a_tensor_stays_until_it_was_read", "freed=ends", || {
        builder()
            .run_ranks(1, |pg| {
                let stream = cuda().create_stream(0)?;
                let gate = Gate::on(stream);
                let places = given_up(&pg, stream)?;
                assert!(places.iter().all(|at| is_allocated(*at)), "the stream has not read it yet");
                gate.open();
                wait_for_the_free(places);
                Ok(())
            })
            .unwrap();
    });
}

/// The third launch of NCCL in a sparse call (number 2) reduces the rows. It hangs, so NCCL uses the rows for ever.
#[test]
fn memory_is_kept_if_an_abort_never_ends() {
    with_fake("memory_is_kept_if_an_abort_never_ends", "freed=ends,hang=2,abort=hang", || {
        builder().run_ranks(2, |pg| given_up(&pg, 0).map(wait_for_the_free)).unwrap();
    });
}
