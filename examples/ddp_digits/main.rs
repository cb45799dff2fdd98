//! Trains a classifier on four processes. They divide each batch, and all-reduce their gradients while they compute
//! more gradients.
//!
//! Start it by `cargo run --release --example ddp_digits`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

#[path = "../common/mod.rs"]
mod common;
mod data;
mod model;
mod reduction;
mod rng;

use std::error::Error;
use std::time::Instant;

use c10d::{ProcessGroup, ReduceOp};
use data::{Data, Digit};
use model::{BUCKETS, Model};
use reduction::{OpTimes, Reduction};
use rng::Rng;

const SEED: u64 = 7;
const EPOCHS: usize = 30;
/// The number of digits per step, on all ranks together.
const BATCH: usize = 128;
const RATE: f64 = 0.5;
/// The allowed difference between the parameters and those of a run with one rank.
const TOLERANCE: f64 = 1e-9;
const WANTED_ACCURACY: f64 = 0.95;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let data = data::load(&mut Rng(SEED))?;
    let trained = train(&pg, &data)?;

    let mut of_rank_0 = trained.model.parameters();
    pg.broadcast(&mut of_rank_0, 0)?;
    if of_rank_0 != trained.model.parameters() {
        return Err("the ranks' parameters differ".into());
    }
    if pg.rank() == 0 {
        report(&pg, &data, &trained)?;
    }
    pg.shutdown()?;
    Ok(())
}

struct Trained {
    model: Model,
    /// The mean loss over the batches of each epoch.
    losses: Vec<f64>,
    steps: u32,
    /// The time of this rank's all-reduces.
    times: OpTimes,
}

/// Trains on this rank's share of each batch.
fn train(pg: &ProcessGroup, data: &Data) -> c10d::Result<Trained> {
    let mut rng = Rng(SEED);
    let mut model = Model::new(&mut rng);
    let (mut losses, mut times, mut steps) = (Vec::new(), OpTimes::default(), 0);
    let mut order: Vec<&Digit> = data.train.iter().collect();
    let mut empty = vec![Vec::new(); BUCKETS];
    for _ in 0..EPOCHS {
        rng.shuffle(&mut order);
        let mut loss = [0.0];
        for batch in order.chunks(BATCH) {
            let mine: Vec<&Digit> =
                batch.iter().copied().skip(pg.rank() as usize).step_by(pg.size() as usize).collect();
            let mut reductions = Vec::with_capacity(BUCKETS);
            loss[0] += model.backward(&mine, 1.0 / batch.len() as f64, &mut empty, |gradient| {
                reductions.push(Reduction::start(pg, gradient));
            });
            for (k, gradient) in times.wait(reductions, Instant::now())?.into_iter().enumerate() {
                model.descend(k, &gradient, RATE);
                empty.push(gradient);
            }
            steps += 1;
        }
        pg.all_reduce(&mut loss, ReduceOp::Sum)?;
        losses.push(loss[0] / order.chunks(BATCH).len() as f64);
    }
    Ok(Trained { model, losses, steps, times })
}

/// Prints the result, and compares it with the result of one rank for the same batches.
fn report(pg: &ProcessGroup, data: &Data, trained: &Trained) -> Result<(), Box<dyn Error>> {
    for (epoch, loss) in trained.losses.iter().enumerate().filter(|(epoch, _)| epoch % 5 == 0 || epoch + 1 == EPOCHS) {
        println!("epoch {:>2}: loss {loss:.4}", epoch + 1);
    }
    let accuracy = trained.model.accuracy(&data.test);
    println!("test accuracy {:.2} % on {} digits", accuracy * 100.0, data.test.len());

    let OpTimes { total, hidden } = trained.times;
    let share = 100.0 * hidden.as_secs_f64() / total.as_secs_f64();
    println!("communication: {:.0?} per step, {share:.0} % of it hidden behind backward", total / trained.steps);

    let reference = train(&c10d::builder().name("alone").build()?, data)?;
    let pairs = trained.model.parameters().into_iter().zip(reference.model.parameters());
    let apart: Vec<f64> = pairs.map(|(a, b)| (a - b).abs()).collect();
    let most = apart.iter().copied().fold(0.0, f64::max);
    println!("parameters of {} ranks and of one rank differ by at most {most:.1e}", pg.size());

    if !apart.iter().all(|difference| *difference <= TOLERANCE) {
        return Err(format!("the parameters may differ by at most {TOLERANCE:e}").into());
    }
    if accuracy <= WANTED_ACCURACY {
        return Err(format!("the accuracy must be above {} %", WANTED_ACCURACY * 100.0).into());
    }
    Ok(())
}
