//! Ops with random shapes and splits, whose results are compared with the definitions of the ops.

use crate::jobs;

use c10d::{ReduceOp, Root, op};
use proptest::prelude::*;

/// Returns the values that rank `from` sends to rank `to`, or contributes to a list.
fn values(from: usize, to: usize, len: usize) -> Vec<i32> {
    (0..len).map(|i| (from * 1_000_000 + to * 10_000 + i) as i32).collect()
}

/// Generates a square matrix of lengths, of which many are 0.
fn lengths() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let len = prop_oneof![3 => Just(0usize), 4 => 1usize..20, 2 => 100usize..3000, 1 => 15_000usize..20_000];
    (1usize..=5).prop_flat_map(move |n| prop::collection::vec(prop::collection::vec(len.clone(), n), n))
}

/// Returns how many elements rank `me` sends to each rank (its row), and receives from each rank (its column).
fn splits(matrix: &[Vec<usize>], me: usize) -> (Vec<usize>, Vec<usize>) {
    (matrix[me].clone(), matrix.iter().map(|row| row[me]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exchanges_work_with_any_splits(matrix in lengths()) {
        let n = matrix.len();
        c10d::run_ranks(n as u32, |pg| {
            let me = pg.rank() as usize;
            let (to, from) = splits(&matrix, me);
            let want: Vec<Vec<i32>> = (0..n).map(|r| values(r, me, from[r])).collect();
            let inputs: Vec<Vec<i32>> = (0..n).map(|r| values(me, r, to[r])).collect();

            let outputs: Vec<Vec<i32>> = from.iter().map(|len| vec![0; *len]).collect();
            let (_, outputs) = pg.all_to_all(inputs.clone(), outputs)?;
            assert_eq!(outputs, want);

            let output = vec![0; from.iter().sum()];
            let call = op::all_to_all_single(inputs.concat(), output).splits(&to, &from);
            assert_eq!(pg.run(call)?.1, want.concat());
            Ok(())
        }).unwrap();
    }

    #[test]
    fn lists_work_with_any_lengths(matrix in lengths(), root in 0u32..5) {
        let n = matrix.len();
        let root = root % n as u32;
        let lens = &matrix[0];
        c10d::run_ranks(n as u32, |pg| {
            let me = pg.rank() as usize;
            let is_root = pg.rank() == root;
            let mine = values(me, 0, lens[me]);
            let all: Vec<Vec<i32>> = (0..n).map(|r| values(r, 0, lens[r])).collect();
            let empty = || lens.iter().map(|len| vec![0i32; *len]).collect::<Vec<_>>();

            assert_eq!(pg.all_gather(&mine, empty())?.1, all);

            let at = if is_root { Root::Me(empty()) } else { Root::At(root) };
            let gathered = pg.gather(&mine, at)?.1;
            assert_eq!(gathered, is_root.then(|| all.clone()));

            let at = if is_root { Root::Me(all.clone()) } else { Root::At(root) };
            assert_eq!(pg.scatter(at, vec![0; lens[me]])?.1, mine);

            let inputs: Vec<Vec<i32>> = (0..n).map(|r| values(me, r, lens[r])).collect();
            let mut sum = values(0, me, lens[me]);
            for r in 1..n {
                sum.iter_mut().zip(values(r, me, lens[me])).for_each(|(a, b)| *a += b);
            }
            assert_eq!(pg.reduce_scatter(inputs, vec![0; lens[me]], ReduceOp::Sum)?.1, sum);
            Ok(())
        }).unwrap();
    }

    #[test]
    fn reductions_work_with_any_length(n in 1u32..=5, lens in prop::collection::vec(0usize..70_000, 1..4)) {
        c10d::run_ranks(n, |pg| {
            let me = pg.rank() as usize;
            let input = |r: usize, len: usize| values(r, 0, len);
            let want: Vec<Vec<i32>> = lens
                .iter()
                .map(|len| (0..*len).map(|i| (0..n as usize).map(|r| (r * 1_000_000 + i) as i32).sum()).collect())
                .collect();
            let bufs: Vec<Vec<i32>> = lens.iter().map(|len| input(me, *len)).collect();
            assert_eq!(pg.all_reduce_coalesced(bufs.clone(), ReduceOp::Sum)?, want);
            let works: Vec<_> = bufs.into_iter().map(|b| pg.start(op::all_reduce(b, ReduceOp::Sum))).collect();
            for (work, want) in works.into_iter().zip(&want) {
                assert_eq!(work.wait()?, *want);
            }
            Ok(())
        }).unwrap();
    }
}

#[test]
fn all_of_this_works_over_tcp() {
    jobs::again_over_tcp("all_of_this_works_over_tcp");
}
