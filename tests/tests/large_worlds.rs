//! Groups of 33 and 64 ranks, over threads.

use c10d::{ProcessGroup, ReduceOp, Result, Root};

fn every_family(pg: &ProcessGroup) -> Result {
    let (n, me) = (pg.size() as usize, pg.rank() as usize);
    let root = pg.size() / 2;
    for count in [0, 1, 13, 5000] {
        let mine: Vec<i64> = (0..count).map(|i| (me * 1_000_003 + i) as i64).collect();
        let of = |r: usize, i: usize| (r * 1_000_003 + i) as i64;
        let sums: Vec<i64> = (0..count).map(|i| (0..n).map(|r| of(r, i)).sum()).collect();

        let mut x = mine.clone();
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x, sums);

        let mut x = mine.clone();
        pg.reduce(&mut x, ReduceOp::Max, root)?;
        if pg.rank() == root {
            assert!((0..count).all(|i| x[i] == of(n - 1, i)));
        }

        let mut x = mine.clone();
        pg.broadcast(&mut x, root)?;
        assert!((0..count).all(|i| x[i] == of(root as usize, i)));

        let mut all = vec![0i64; count * n];
        pg.all_gather_into(&mine, &mut all)?;
        assert!((0..n).all(|r| (0..count).all(|i| all[r * count + i] == of(r, i))));

        let input: Vec<i64> = (0..count * n).map(|i| of(me, i)).collect();
        let mut part = vec![0i64; count];
        pg.reduce_scatter_into(&input, &mut part, ReduceOp::Sum)?;
        assert!((0..count).all(|i| part[i] == (0..n).map(|r| of(r, me * count + i)).sum::<i64>()));

        let mut swapped = vec![0i64; count * n];
        pg.all_to_all_single(&input, &mut swapped)?;
        assert!((0..n).all(|r| (0..count).all(|i| swapped[r * count + i] == of(r, me * count + i))));

        // Lists in which ranks have different lengths.
        let own = vec![me as u8; me % 5];
        let outs: Vec<Vec<u8>> = (0..n).map(|r| vec![0; r % 5]).collect();
        let (_, outs) = pg.all_gather(&own, outs)?;
        assert!((0..n).all(|r| outs[r] == vec![r as u8; r % 5]));
        let to = if pg.rank() == root { Root::Me(outs) } else { Root::At(root) };
        if let (_, Some(outs)) = pg.gather(&own, to)? {
            assert!((0..n).all(|r| outs[r] == vec![r as u8; r % 5]));
        }
    }
    pg.barrier()?;
    pg.monitored_barrier(c10d::options::Missing::All)
}

#[test]
fn every_family_works_with_33_ranks() {
    c10d::run_ranks(33, |pg| every_family(&pg)).unwrap();
}

#[test]
fn every_family_works_with_64_ranks() {
    c10d::run_ranks(64, |pg| every_family(&pg)).unwrap();
}

/// In large groups the order in which floats are summed depends on the algorithm, but not on the rank or the run.
#[test]
fn sums_are_the_same_bits_everywhere() {
    let run = || {
        c10d::run_ranks(33, |pg| {
            let mut out = Vec::new();
            for count in [3, 1000, 40_000] {
                let mut x: Vec<f32> = (0..count).map(|i| 1.0 / (1.0 + pg.rank() as f32 * 7.0 + i as f32)).collect();
                pg.all_reduce(&mut x, ReduceOp::Sum)?;
                out.extend(x.iter().map(|v| v.to_bits()));
            }
            Ok(out)
        })
        .unwrap()
    };
    let (first, second) = (run(), run());
    assert!(first.iter().all(|bits| *bits == first[0]), "ranks differ");
    assert_eq!(first, second, "runs differ");
}
