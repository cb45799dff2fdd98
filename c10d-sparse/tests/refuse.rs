//! Tests that invalid tensors and calls are rejected.

use crate::common;

use c10d_core::options::{Absent, AllReduceOptions};
use c10d_core::{Coo, Element, ErrorKind, ReduceOp, Status};
use common::world;

fn one() -> Coo<f32> {
    Coo::new([9, 2], 1, vec![3], vec![1.0, 2.0]).unwrap()
}

#[test]
fn lengths_must_match_the_shape() {
    for (shape, sparse_dim, indices, values) in [
        (vec![9], 0, 0, 0),
        (vec![9], 2, 2, 1),
        (vec![], 1, 1, 1),
        (vec![9, 9], 2, 3, 1),
        (vec![9, 2], 1, 2, 3),
        (vec![usize::MAX, 2, 2], 2, 0, 0),
        (vec![2, usize::MAX, 2], 1, 0, 0),
    ] {
        let e = Coo::new(shape.clone(), sparse_dim, vec![0; indices], vec![0u8; values]).unwrap_err();
        assert_eq!(*e.kind(), ErrorKind::InvalidArgument, "{shape:?}: {e}");
    }
}

#[test]
fn operations_that_are_undefined_for_sparse_tensors_are_rejected() {
    fn refused<T: Element>(t: &Coo<T>, options: AllReduceOptions, words: &str) {
        let e = world(1, |pg| pg.all_reduce(t.clone(), options.clone()).map(drop)).unwrap_err();
        assert_eq!((e.kind(), e.status()), (&ErrorKind::InvalidArgument, Status::Rejected), "{e}");
        assert!(e.to_string().contains(words), "{e}");
    }
    for op in [ReduceOp::Min, ReduceOp::Max, ReduceOp::Product] {
        refused(&one(), op.into(), "Absent::Ignored");
    }
    for op in [ReduceOp::Avg, ReduceOp::PreMulSum(2.0)] {
        refused(&one(), AllReduceOptions::new(op).with_absent(Absent::Ignored), "sparse tensors can be reduced by sum");
    }
    refused(
        &Coo::new([9], 1, vec![3], vec![1i32]).unwrap(),
        ReduceOp::Bor.into(),
        "sparse tensors can be reduced by \
        sum",
    );
    let complex = Coo::new([9], 1, vec![3], vec![num_complex::Complex32::new(1.0, 2.0)]).unwrap();
    refused(&complex, AllReduceOptions::new(ReduceOp::Max).with_absent(Absent::Ignored), "not defined");
    let known = |indices: &[i64], op| AllReduceOptions::new(op).with_sparse_indices(Some(indices.into()));
    refused(&one(), known(&[3], ReduceOp::Max).with_absent(Absent::Ignored), "sums only");
    refused(&one(), known(&[3, 2], ReduceOp::Sum), "sorted");
    refused(&one(), known(&[4], ReduceOp::Sum), "not among the indices");
}

#[test]
fn one_rank_reduces_alone_and_an_absent_device_is_unsupported() {
    let group = common::builder();
    let results = group.run_ranks(1, |pg| {
        let sum = pg.all_reduce(one(), ReduceOp::Sum)?;
        assert_eq!((sum.indices(), sum.values()), (&[3i64][..], &[1f32, 2.0][..]));
        Ok(pg.backend(c10d_core::DispatchKey::SparseCuda).unwrap_err())
    });
    assert_eq!(*results.unwrap()[0].kind(), ErrorKind::Unsupported);
}
