//! Calls that a rank rejects because its tensor or stream is not valid. Nothing of such a call is sent to other ranks,
//! and NCCL never pairs another rank's call with a later call of this rank.

use crate::common;

use c10d_core::device::DeviceBuffer;
use c10d_core::{Buf, BufMut, DType, Device, ErrorKind, ProcessGroup, ReduceOp, Result, Span, op};
use common::{builder, on, place, with_cpu, with_fake};

/// Four floats that are declared to be on this device, whatever device they are really on.
struct SaidToBeOn(u16, DeviceBuffer);

// SAFETY: the memory exists, and only the value uses it. The backend must detect that it belongs to another device.
#[allow(unsafe_code)]
unsafe impl Buf for SaidToBeOn {
    fn span(&mut self) -> Span {
        Span::new(place(&mut self.1).base, 0, 4, DType::F32, Device::cuda(self.0))
    }
}
// SAFETY: the same as for `Buf`.
#[allow(unsafe_code)]
unsafe impl BufMut for SaidToBeOn {}

fn reduce(pg: &ProcessGroup) -> Result {
    let mut x = on(pg.rank(), &[1f32; 4]);
    pg.all_reduce(&mut x, ReduceOp::Sum).map(drop)
}

#[test]
fn a_tensor_of_another_device_is_rejected() {
    with_fake("a_tensor_of_another_device_is_rejected", "", || {
        let done = with_cpu().run_ranks(2, |pg| {
            let mut elsewhere = on(7, &[1f32; 4]);
            let e = pg.all_reduce(&mut elsewhere, ReduceOp::Sum).expect_err("another device");
            assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{e}");
            assert!(e.to_string().contains("but the tensor is on cuda:7; choose the device"), "{e}");
            let liar = SaidToBeOn(pg.rank() as u16, on(7, &[1f32; 4]));
            let e = pg.all_reduce(liar, ReduceOp::Sum).map(drop).expect_err("another device");
            assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{e}");
            assert!(e.to_string().contains(&format!("given as cuda:{}, but it is on cuda:7", pg.rank())), "{e}");
            // No rank sent anything, so the group can still be used.
            reduce(&pg)
        });
        done.unwrap();
    });
}

#[test]
fn a_stream_of_another_device_is_rejected() {
    with_fake("a_stream_of_another_device_is_rejected", "", || {
        let done = with_cpu().run_ranks(2, |pg| {
            let other = common::cuda().create_stream(7)?;
            let mut x = on(pg.rank(), &[1f32; 4]);
            // SAFETY: the stream is not destroyed. The backend must detect that it belongs to another device.
            #[allow(unsafe_code)]
            let call = unsafe { op::all_reduce(&mut x, ReduceOp::Sum).on_stream(other) };
            let e = pg.run(call).map(drop).expect_err("another device").error;
            assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{e}");
            reduce(&pg)
        });
        done.unwrap();
    });
}

/// Rank 1 rejects its first call. If `said` is true, the reason is the device that its span names. Otherwise the reason
/// is that the driver reports another device than the span. Then both ranks call the same all-reduce. It is rank 1's
/// second call and rank 0's first, so it fails. Returns the kinds of this rank's errors.
fn one_refuses(pg: &ProcessGroup, said: bool) -> Vec<ErrorKind> {
    let mut kinds = Vec::new();
    if pg.rank() == 1 {
        let elsewhere = SaidToBeOn(if said { 7 } else { 1 }, on(7, &[1f32; 4]));
        let e = pg.all_reduce(elsewhere, ReduceOp::Sum).map(drop).expect_err("another device");
        kinds.push(e.kind().clone());
    }
    kinds.push(reduce(pg).expect_err("the ranks are not at the same call").kind().clone());
    kinds
}

#[test]
fn a_rejected_call_is_a_mismatch_on_the_other_ranks() {
    with_fake("a_rejected_call_is_a_mismatch_on_the_other_ranks", "", || {
        for said in [true, false] {
            let kinds = with_cpu().run_ranks(2, |pg| Ok(one_refuses(&pg, said))).unwrap();
            assert_eq!(kinds[1][0], ErrorKind::InvalidArgument);
            assert!(matches!(kinds[0][0], ErrorKind::Mismatch { field: "seq", .. }), "{kinds:?}");
        }
    });
}

#[test]
fn a_rejected_call_fails_the_group_if_calls_are_not_compared() {
    with_fake("a_rejected_call_fails_the_group_if_calls_are_not_compared", "", || {
        for said in [true, false] {
            let kinds = builder().run_ranks(2, |pg| Ok(one_refuses(&pg, said))).unwrap();
            assert_eq!(kinds[1], [ErrorKind::InvalidArgument, ErrorKind::InvalidArgument]);
        }
    });
}
