//! Data-parallel training: four processes share each batch, and all-reduce their gradients while they still compute.
//!
//! `cargo run --release --example ddp_digits`, or under `c10d run -n 4 --`, torchrun, mpirun or srun.

#[path = "../common/mod.rs"]
mod common;
mod data;
mod model;
mod rng;

use std::error::Error;
use std::time::{Duration, Instant};

use c10d::{ProcessGroup, ReduceOp, op};
use data::{Data, Digit};
use model::{BUCKETS, Model};
use rng::Rng;

const SEED: u64 = 7;
const EPOCHS: usize = 30;
/// Digits per step, on all ranks together.
const BATCH: usize = 128;
const RATE: f64 = 0.5;
/// How far the parameters may be from those of one rank alone.
const TOLERANCE: f64 = 1e-9;
const WANTED_ACCURACY: f64 = 0.95;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let data = data::load(&mut Rng(SEED))?;
    let trained = train(&pg, &data)?;
    let alone = communication_alone(&pg, &trained)?;

    let mut of_rank_0 = trained.model.parameters();
    pg.broadcast(&mut of_rank_0, 0)?;
    if of_rank_0 != trained.model.parameters() {
        return Err("the ranks' parameters differ".into());
    }
    if pg.rank() == 0 {
        report(&pg, &data, &trained, alone)?;
    }
    pg.shutdown()?;
    Ok(())
}

struct Trained {
    model: Model,
    /// Mean over the batches of each epoch.
    losses: Vec<f64>,
    /// Lengths of the buckets, in the order in which they are ready.
    buckets: Vec<usize>,
    steps: u32,
    /// Time in which this rank did nothing but wait for gradients.
    exposed: Duration,
}

/// Trains on every rank's share of the same batches, whatever the number of ranks.
fn train(pg: &ProcessGroup, data: &Data) -> Result<Trained, Box<dyn Error>> {
    let mut rng = Rng(SEED);
    let model = Model::new(&mut rng);
    let mut t = Trained { model, losses: Vec::new(), buckets: Vec::new(), steps: 0, exposed: Duration::ZERO };
    let mut order: Vec<&Digit> = data.train.iter().collect();
    let mut empty = vec![Vec::new(); BUCKETS];
    for _ in 0..EPOCHS {
        rng.shuffle(&mut order);
        let mut sum = [0.0];
        for batch in order.chunks(BATCH) {
            let mine: Vec<&Digit> =
                batch.iter().copied().skip(pg.rank() as usize).step_by(pg.size() as usize).collect();
            let mut works = Vec::with_capacity(BUCKETS);
            // Each bucket is on its way while the next one is computed.
            sum[0] += t.model.backward(&mine, 1.0 / batch.len() as f64, &mut empty, |gradient| {
                works.push(pg.start(op::all_reduce(gradient, ReduceOp::Sum)));
            });
            t.buckets.clear();
            for (k, work) in works.into_iter().enumerate() {
                let start = Instant::now();
                let gradient = work.wait()?;
                t.exposed += start.elapsed();
                t.model.descend(k, &gradient, RATE);
                t.buckets.push(gradient.len());
                empty.push(gradient);
            }
            t.steps += 1;
        }
        pg.all_reduce(&mut sum, ReduceOp::Sum)?;
        t.losses.push(sum[0] / order.chunks(BATCH).len() as f64);
    }
    Ok(t)
}

/// How long a step's all-reduces take when nothing else is done.
fn communication_alone(pg: &ProcessGroup, trained: &Trained) -> c10d::Result<Duration> {
    let mut times = Vec::new();
    let mut buckets: Vec<Vec<f64>> = trained.buckets.iter().map(|len| vec![0.0; *len]).collect();
    for _ in 0..100 {
        pg.barrier()?;
        let start = Instant::now();
        let works: Vec<_> = buckets.drain(..).map(|bucket| pg.start(op::all_reduce(bucket, ReduceOp::Sum))).collect();
        for work in works {
            buckets.push(work.wait()?);
        }
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// Prints what came out, and compares it with what one rank makes of the same batches.
fn report(pg: &ProcessGroup, data: &Data, trained: &Trained, alone: Duration) -> Result<(), Box<dyn Error>> {
    for (epoch, loss) in trained.losses.iter().enumerate().filter(|(epoch, _)| epoch % 5 == 0 || epoch + 1 == EPOCHS) {
        println!("epoch {:>2}: loss {loss:.4}", epoch + 1);
    }
    let accuracy = trained.model.accuracy(&data.test);
    println!("test accuracy {:.2} % on {} digits", accuracy * 100.0, data.test.len());

    let exposed = trained.exposed / trained.steps;
    let hidden = 1.0 - (exposed.as_secs_f64() / alone.as_secs_f64()).min(1.0);
    println!(
        "communication: {alone:.1?} per step by itself, of which {exposed:.1?} were waited for: {:.0} % hidden behind backward",
        hidden * 100.0
    );

    let reference = train(&c10d::builder().name("alone").build()?, data)?;
    let pairs = trained.model.parameters().into_iter().zip(reference.model.parameters());
    let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |a: f64, b| if a >= b { a } else { b });
    println!("parameters of {} ranks and of one rank differ by at most {apart:.1e}", pg.size());

    if !(apart <= TOLERANCE) {
        return Err(format!("they may differ by {TOLERANCE:e}").into());
    }
    if accuracy <= WANTED_ACCURACY {
        return Err(format!("the accuracy should be above {} %", WANTED_ACCURACY * 100.0).into());
    }
    Ok(())
}
