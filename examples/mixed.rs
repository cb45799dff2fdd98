//! The Rust rank of a job that also has ranks in Python: see `examples/mixed/train.py`.
//!
//! The last rank serves the data: at each step it scatters a batch to the trainers, takes part in the sum of their
//! gradients, and sums their losses. After that, it runs every op in the group of all ranks, and in a group with one
//! trainer.

use std::time::Duration;

use c10d::{Coo, ProcessGroup, ReduceOp, Root, op};

const STEPS: usize = 20;
/// The number of rows of a batch.
const ROWS: usize = 16;
/// The number of values in a row: four inputs and the target.
const WIDTH: usize = 5;

fn main() -> c10d::Result<()> {
    // The timeout is long, because ranks in Python first import PyTorch.
    let pg = c10d::builder().init("env://").timeout(Duration::from_secs(600)).build()?;
    let (me, n) = (pg.rank(), pg.size());
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut first = 0.0;
    for step in 0..STEPS {
        let batches: Vec<Vec<f32>> = (0..n)
            .map(|_| {
                let row = |x: [f32; 4]| [x[0], x[1], x[2], x[3], x[0] - 2.0 * x[1] + 0.5 * x[3]];
                (0..ROWS).flat_map(|_| row([next(), next(), next(), next()])).collect()
            })
            .collect();
        pg.scatter(Root::Me(batches), &mut [0f32; ROWS * WIDTH])?;
        // This call sums the trainers' gradients. This rank contributes zeros.
        pg.all_reduce(&mut [0f32; WIDTH - 1], ReduceOp::Sum)?;
        let mut loss = [0f32];
        pg.reduce(&mut loss, ReduceOp::Sum, me)?;
        if step == 0 {
            first = loss[0];
        }
        println!("rust rank {me}: step {step}, loss {:.5}", loss[0] / (n - 1) as f32);
        if step + 1 == STEPS {
            assert!(loss[0] < first / 2.0, "the loss did not halve: it was {first}, and is {}", loss[0]);
        }
    }
    every_op(&pg)?;
    // The Python ranks make this group by `new_group([0, server])`. PyTorch names their first group "1".
    let env = c10d::init("env://", Duration::from_secs(60))?;
    let small = c10d::builder().name("1").rank(1).size(2).store(env.store).build()?;
    every_op(&small)?;
    println!("rust rank {me}: every op agrees with Python's ranks");
    Ok(())
}

/// Runs the ops in the order of `train.py`.
fn every_op(pg: &ProcessGroup) -> c10d::Result<()> {
    let (me, n) = (pg.rank(), pg.size());
    let all: Vec<f32> = (0..n).map(|r| r as f32).collect();
    let sum: f32 = all.iter().sum();
    let mine = || vec![me as f32; 2];
    let twice = |value: f32| vec![value; 2];
    let pairs = || vec![vec![0f32; 2]; n as usize];

    for root in [0, me] {
        let mut x = mine();
        pg.broadcast(&mut x, root)?;
        assert_eq!(x, twice(root as f32));
        let mut x = mine();
        pg.reduce(&mut x, ReduceOp::Sum, root)?;
        assert!(root != me || x == twice(sum));
        let (_, gathered) = pg.gather(mine(), if root == me { Root::Me(pairs()) } else { Root::At(root) })?;
        assert_eq!(gathered, (root == me).then(|| all.iter().map(|r| twice(*r)).collect::<Vec<_>>()));
        let lists = all.iter().map(|r| twice(*r)).collect();
        let mut x = twice(0.0);
        pg.scatter(if root == me { Root::Me(lists) } else { Root::At(root) }, &mut x)?;
        assert_eq!(x, mine());
    }
    let mut x = mine();
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    assert_eq!(x, twice(sum));
    let mut x = [me as i16; 3];
    pg.all_reduce(&mut x, ReduceOp::Max)?;
    assert_eq!(x, [(n - 1) as i16; 3]);
    // Each rank has an entry of its own, and all have entry 0.
    let sparse = Coo::new(vec![n as usize + 1], 1, vec![0, me as i64 + 1], vec![1f32, 2.0])?;
    let x = pg.run(op::all_reduce(sparse, ReduceOp::Sum))?;
    assert_eq!(x.indices(), (0..=n as i64).collect::<Vec<_>>());
    assert_eq!(x.values(), (0..=n).map(|i| if i == 0 { n as f32 } else { 2.0 }).collect::<Vec<_>>());
    let (_, lists) =
        pg.all_gather(vec![me as f32; me as usize + 1], (0..n).map(|r| vec![0f32; r as usize + 1]).collect())?;
    for (r, list) in lists.iter().enumerate() {
        assert_eq!(list, &vec![r as f32; r + 1]);
    }
    let mut flat = vec![0f32; 2 * n as usize];
    pg.all_gather_into(&mine(), &mut flat)?;
    assert_eq!(flat, all.iter().flat_map(|r| [*r, *r]).collect::<Vec<_>>());
    let mut part = vec![0f32; 2];
    pg.reduce_scatter(vec![vec![1f32; 2]; n as usize], &mut part, ReduceOp::Sum)?;
    assert_eq!(part, twice(n as f32));
    pg.reduce_scatter_into(&vec![1f32; 2 * n as usize], &mut part, ReduceOp::Sum)?;
    assert_eq!(part, twice(n as f32));
    let (_, outs) = pg.all_to_all(vec![mine(); n as usize], pairs())?;
    assert_eq!(outs, all.iter().map(|r| twice(*r)).collect::<Vec<_>>());
    let mut out = vec![0f32; n as usize];
    pg.all_to_all_single(&vec![me as f32; n as usize], &mut out)?;
    assert_eq!(out, all);
    // Each rank sends i + 1 elements to rank i.
    let (input, mut out) = (vec![me as f32; (n * (n + 1) / 2) as usize], vec![0f32; (n * (me + 1)) as usize]);
    let splits: Vec<usize> = (1..=n as usize).collect();
    pg.run(op::all_to_all_single(&input, &mut out).splits(&splits, &vec![me as usize + 1; n as usize]))?;
    assert_eq!(out, all.iter().flat_map(|r| vec![*r; me as usize + 1]).collect::<Vec<_>>());
    let pair = || vec![mine(), vec![me as f32; 3]];
    let sums = pg.all_reduce_coalesced(pair(), ReduceOp::Sum)?;
    assert_eq!(sums, [twice(sum), vec![sum; 3]]);
    let (_, rows) = pg.all_gather_coalesced(pair(), [2, 3].map(|len| vec![vec![0f32; len]; n as usize]).to_vec())?;
    let (_, flats) = pg.all_gather_into_coalesced(pair(), [2, 3].map(|len| vec![0f32; len * n as usize]).to_vec())?;
    for (i, len) in [2, 3].into_iter().enumerate() {
        assert_eq!(rows[i], all.iter().map(|r| vec![*r; len]).collect::<Vec<_>>());
        assert_eq!(flats[i], rows[i].concat());
    }
    let ones = [2, 3].map(|len| vec![1f32; len * n as usize]).to_vec();
    let (_, parts) = pg.reduce_scatter_into_coalesced(ones, vec![vec![0f32; 2], vec![0f32; 3]], ReduceOp::Sum)?;
    assert_eq!(parts, [twice(n as f32), vec![n as f32; 3]]);
    let (_, source) = pg.recv_any_source(&mut part, 3u32)?;
    assert_eq!((part.clone(), source), (twice(7.0), 0));
    pg.send(&twice(8.0), 0, 4u32)?;
    pg.recv(&mut part, 0, 5u32)?;
    assert_eq!(part, twice(9.0));
    pg.send(&twice(10.0), 0, 6u32)?;
    pg.monitored_barrier(c10d::options::Missing::All)?;
    pg.barrier()
}
