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
    let trained = train(&pg, &data, Buckets::AsTheyComplete)?;
    let afterwards = train(&pg, &data, Buckets::AfterBackward)?;

    let mut of_rank_0 = trained.model.parameters();
    pg.broadcast(&mut of_rank_0, 0)?;
    if of_rank_0 != trained.model.parameters() || of_rank_0 != afterwards.model.parameters() {
        return Err("parameters differ between ranks, or between runs".into());
    }
    if pg.rank() == 0 {
        report(&pg, &data, &trained, &afterwards)?;
    }
    pg.shutdown()?;
    Ok(())
}

/// When a bucket of gradients goes on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buckets {
    /// While the backward pass computes the next ones.
    AsTheyComplete,
    /// When the backward pass is over.
    AfterBackward,
}

struct Trained {
    model: Model,
    /// Mean over the batches of each epoch.
    losses: Vec<f64>,
    /// Time per step in which this rank did nothing but communicate.
    communicating: Duration,
}

/// Trains on every rank's share of the same batches, whatever the number of ranks.
fn train(pg: &ProcessGroup, data: &Data, buckets: Buckets) -> Result<Trained, Box<dyn Error>> {
    let mut rng = Rng(SEED);
    let mut model = Model::new(&mut rng);
    let (mut losses, mut communicating, mut steps) = (Vec::new(), Duration::ZERO, 0);
    let mut order: Vec<&Digit> = data.train.iter().collect();
    let mut empty = vec![Vec::new(); BUCKETS];
    for _ in 0..EPOCHS {
        rng.shuffle(&mut order);
        let mut loss = [0.0];
        for batch in order.chunks(BATCH) {
            let mine: Vec<&Digit> =
                batch.iter().copied().skip(pg.rank() as usize).step_by(pg.size() as usize).collect();
            let (mut works, mut held) = (Vec::with_capacity(BUCKETS), Vec::new());
            let send = |gradient| pg.start(op::all_reduce(gradient, ReduceOp::Sum));
            loss[0] += model.backward(&mine, 1.0 / batch.len() as f64, &mut empty, |gradient| match buckets {
                Buckets::AsTheyComplete => works.push(send(gradient)),
                Buckets::AfterBackward => held.push(gradient),
            });
            let start = Instant::now();
            works.extend(held.into_iter().map(send));
            let gradients = works.into_iter().map(|work| work.wait()).collect::<Result<Vec<_>, _>>()?;
            communicating += start.elapsed();
            for (k, gradient) in gradients.into_iter().enumerate() {
                model.descend(k, &gradient, RATE);
                empty.push(gradient);
            }
            steps += 1;
        }
        pg.all_reduce(&mut loss, ReduceOp::Sum)?;
        losses.push(loss[0] / order.chunks(BATCH).len() as f64);
    }
    Ok(Trained { model, losses, communicating: communicating / steps })
}

/// Prints what came out, and compares it with what one rank makes of the same batches.
fn report(pg: &ProcessGroup, data: &Data, trained: &Trained, afterwards: &Trained) -> Result<(), Box<dyn Error>> {
    for (epoch, loss) in trained.losses.iter().enumerate().filter(|(epoch, _)| epoch % 5 == 0 || epoch + 1 == EPOCHS) {
        println!("epoch {:>2}: loss {loss:.4}", epoch + 1);
    }
    let accuracy = trained.model.accuracy(&data.test);
    println!("test accuracy {:.2} % on {} digits", accuracy * 100.0, data.test.len());

    let (exposed, all) = (trained.communicating, afterwards.communicating);
    let hidden = 1.0 - (exposed.as_secs_f64() / all.as_secs_f64()).min(1.0);
    println!(
        "communication after backward {all:.1?} per step, of which {exposed:.1?} are left when it runs beside it:"
    );
    println!("{:.0} % of it are hidden behind backward", hidden * 100.0);

    let reference = train(&c10d::builder().name("alone").build()?, data, Buckets::AfterBackward)?;
    let pairs = trained.model.parameters().into_iter().zip(reference.model.parameters());
    let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |a: f64, b| if a >= b { a } else { b });
    println!("parameters of {} ranks and of one rank differ by at most {apart:.1e}", pg.size());

    // Not `apart > TOLERANCE`: NaN must not pass.
    let agree = apart <= TOLERANCE;
    if !agree {
        return Err(format!("they may differ by {TOLERANCE:e}").into());
    }
    if accuracy <= WANTED_ACCURACY {
        return Err(format!("the accuracy should be above {} %", WANTED_ACCURACY * 100.0).into());
    }
    Ok(())
}
