//! Invalid tensors, types that NCCL does not reduce, and ranks whose calls differ: all ranks get an error with the
//! reason.

use c10d_core::Status;

use super::*;

/// If one rank's tensor is invalid, the errors of all ranks name this rank and the reason, and the group can still be
/// used.
#[test]
fn wrong_indices() {
    with_fake("wrong_indices", "", || {
        let cases: [(Vec<i64>, bool, &str); 5] = [
            (vec![1, -1], false, "index -1 of entry 1"),
            (vec![1, 50], false, "index 50 of entry 1 is not within 0..50, dimension 0"),
            (vec![2, 1], true, "marked as coalesced, but the coordinates of entry 1"),
            (vec![1, 1], true, "marked as coalesced, but the coordinates of entry 1"),
            (vec![i64::MAX, i64::MIN], false, "of entry 0"),
        ];
        for groups in [builder(), with_cpu()] {
            let told = groups.run_ranks(3, |pg| {
                for (indices, coalesced, words) in &cases {
                    let indices = if pg.rank() == 1 { indices.clone() } else { vec![0, 1] };
                    let tensor = Coo::new([50], 1, indices, vec![1f32, 2.0])?;
                    let tensor = if *coalesced { tensor.assume_coalesced() } else { tensor };
                    let e = pg.all_reduce(sent(&tensor, pg.rank()), ReduceOp::Sum).unwrap_err();
                    let report = e.report();
                    assert_eq!((&report.kind, &report.guilty[..]), (&ErrorKind::InvalidArgument, &[1][..]), "{e}");
                    assert!(report.status == Status::Rejected && report.what.contains(words), "{e}");
                    let sum = Coo::new([50], 1, vec![7], vec![1f32])?;
                    let sum = fetched::<f32>(&pg.all_reduce(sent(&sum, pg.rank()), ReduceOp::Sum)?);
                    assert_eq!((sum.indices(), sum.values()), (&[7i64][..], &[3f32][..]));
                }
                // The coordinates (2, 10) are outside the second dimension, although their key, 2 * 10 + 10, is that of
                // the valid coordinates (3, 0).
                let place = if pg.rank() == 1 { vec![1, 2, 3, 10] } else { vec![0, 1, 2, 3] };
                let tensor = Coo::new([5, 10], 2, place, vec![1f32, 2.0])?;
                let e = pg.all_reduce(sent(&tensor, pg.rank()), ReduceOp::Sum).unwrap_err();
                assert!(e.report().what.contains("index 10 of entry 1 is not within 0..10, dimension 1"), "{e}");
                pg.shutdown()
            });
            told.unwrap();
        }
    });
}

/// If one rank's call differs, all ranks get a mismatch.
fn differs<T: Element, U: Element>(field: &str, groups: Builder, odd: (Coo<T>, ReduceOp), rest: (Coo<U>, ReduceOp)) {
    let errors = groups.run_ranks(3, |pg| {
        let done = match pg.rank() {
            1 => pg.all_reduce(sent(&odd.0, 1), over_present(odd.1)),
            rank => pg.all_reduce(sent(&rest.0, rank), over_present(rest.1)),
        };
        Ok(done.unwrap_err())
    });
    for (rank, e) in errors.unwrap().iter().enumerate() {
        assert!(matches!(e.kind(), ErrorKind::Mismatch { field: f, .. } if *f == field), "rank {rank}: {e}");
        assert!(!e.report().guilty.is_empty(), "rank {rank}: {e}");
    }
}

#[test]
fn ranks_that_disagree() {
    with_fake("ranks_that_disagree", "", || {
        let row = |shape: [usize; 2]| Coo::new(shape, 1, vec![3], vec![1f32; shape[1]]).unwrap();
        let one = || Coo::new([9], 1, vec![3], vec![1i32]).unwrap();
        let wide = || Coo::new([9], 1, vec![3], vec![1f64]).unwrap();
        for groups in [builder, with_cpu] {
            differs("shape", groups(), (row([50, 2]), ReduceOp::Sum), (row([50, 3]), ReduceOp::Sum));
            differs("dtype", groups(), (wide(), ReduceOp::Sum), (one(), ReduceOp::Sum));
            differs("reduce_op", groups(), (one(), ReduceOp::Max), (one(), ReduceOp::Min));
        }
    });
}

/// A rank that learns of a mismatch after the others also names the right rank: no rank fails until all ranks know of
/// the mismatch.
#[test]
fn the_last_rank_to_learn_of_a_mismatch_names_the_right_rank() {
    with_fake("the_last_rank_to_learn_of_a_mismatch_names_the_right_rank", "rank=2,behind=0", || {
        let guilty = with_cpu().run_ranks(3, |pg| {
            let mine = Coo::new([if pg.rank() == 1 { 8 } else { 9 }], 1, vec![3], vec![1f32])?;
            Ok(pg.all_reduce(sent(&mine, pg.rank()), ReduceOp::Sum).unwrap_err().report().guilty.to_vec())
        });
        assert_eq!(guilty.unwrap(), [vec![1], vec![0, 2], vec![1]]);
    });
}

/// Reductions that NCCL does not have, and sizes for which no GPU has enough memory.
#[test]
fn unsupported_types_and_too_large_results_are_errors() {
    with_fake("unsupported_types_and_too_large_results_are_errors", "", || {
        builder()
            .run_ranks(2, |pg| {
                let e =
                    pg.all_reduce(sent(&Coo::new([9], 1, vec![3], vec![2u16])?, pg.rank()), ReduceOp::Sum).unwrap_err();
                assert!(*e.kind() == ErrorKind::Unsupported && e.to_string().contains("sum of u16"), "{e}");
                // The coordinates are known, and no rank has an entry, so only the memory of the result is large.
                let known = AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some((0..64).collect()));
                for (row, words) in [
                    (1usize << 56, "more than any GPU has"),
                    (1 << 50, "OUT_OF_MEMORY"),
                    (1 << 50, "(limit: its memory, 85899345920 bytes"),
                ] {
                    let pg = pg.new_group(&[0, 1])?.unwrap();
                    let none = Coo::new([64, row], 1, vec![], Vec::<f32>::new())?;
                    let e = pg.all_reduce(sent(&none, pg.rank()), known.clone()).unwrap_err();
                    assert!(*e.kind() == ErrorKind::Resource && e.to_string().contains("64 entries"), "{e}");
                    assert!(e.to_string().contains(words), "{e}");
                }
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn invalid_keys_of_a_peer_are_rejected() {
    // The second launch of a call (number 1) gathers the keys.
    with_fake("invalid_keys_of_a_peer_are_rejected", "rank=1,garble=1", || {
        let errors = builder().run_ranks(3, |pg| {
            let mine = sent(&Coo::new([9], 1, vec![3, 4], vec![2f32, 1.0])?, pg.rank());
            Ok(pg.all_reduce(mine, ReduceOp::Sum).unwrap_err())
        });
        for e in errors.unwrap() {
            assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Protocol, &[1][..]), "{e}");
        }
    });
}

#[test]
fn without_kernels_all_ranks_get_the_cause() {
    with_fake("without_kernels_all_ranks_get_the_cause", "driver=11080", || {
        let errors = builder().run_ranks(2, |pg| {
            let mine = sent(&Coo::new([9], 1, vec![3], vec![2f32])?, pg.rank());
            Ok(pg.all_reduce(mine, ReduceOp::Sum).unwrap_err())
        });
        for e in errors.unwrap() {
            assert!(*e.kind() == ErrorKind::Unsupported && e.to_string().contains("11080"), "{e}");
        }
    });
}
