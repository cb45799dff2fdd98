//! The protocol of a measurement, independent of the measured op and of the clock.
//!
//! If the budget is a time, a calibration runs first, which is also the warm-up. Then the batches of back-to-back ops
//! run. The time of a batch is that of its slowest rank. All ranks get this time, so all ranks compute the same number
//! of iterations and batches.

use std::time::Duration;

/// The number of batches for one point (one op at one size).
const BATCHES: usize = 5;
/// The largest number of iterations of a batch whose size is calibrated.
const MOST_ITERATIONS: u64 = 200_000;
/// If all batches of a point would take more seconds than this, each batch has one iteration.
const LONG_POINT: f64 = 4.0;
/// If an op takes more seconds than this, there is only one batch.
const LONG_OP: f64 = 0.8;
/// If calibration finds that an op takes more seconds than this, larger sizes of the op are left out.
const TOO_SLOW: f64 = 1.0;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Budget {
    /// The time of all batches together. The time of calibration is not included.
    Time(Duration),
    /// Exactly this many iterations. No calibration is run.
    Iterations(u64),
}

/// The result, in seconds per op.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) median: f64,
    pub(super) min: f64,
    /// Whether the op is so slow that larger sizes are left out.
    pub(super) too_slow: bool,
    /// The number of timed iterations in all batches.
    pub(super) iterations: u64,
}

/// Measures an op. `batch(n)` runs `n` ops after a barrier and returns the time of the slowest rank, in seconds.
pub(super) fn measure<E>(budget: Budget, mut batch: impl FnMut(u64) -> Result<f64, E>) -> Result<Timing, E> {
    let (plan, per_op) = match budget {
        Budget::Time(budget) => {
            let (iterations, per_op) = calibrate(budget.as_secs_f64() / BATCHES as f64, &mut batch)?;
            let long = iterations as f64 * BATCHES as f64 * per_op > LONG_POINT;
            let batches = if per_op > LONG_OP { 1 } else { BATCHES };
            (vec![if long { 1 } else { iterations }; batches], per_op)
        }
        Budget::Iterations(n) => (share(n), 0.0),
    };
    let mut times = Vec::with_capacity(plan.len());
    for iterations in &plan {
        times.push(batch(*iterations)? / *iterations as f64);
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    let min = times.first().copied().unwrap_or(f64::NAN);
    Ok(Timing { median, min, too_slow: per_op > TOO_SLOW, iterations: plan.iter().sum() })
}

/// Runs larger and larger batches until one takes at least `per_batch / 2` seconds or has [`MOST_ITERATIONS`]. Returns
/// the number of iterations that take about `per_batch` seconds, and the seconds of one iteration.
fn calibrate<E>(per_batch: f64, batch: &mut impl FnMut(u64) -> Result<f64, E>) -> Result<(u64, f64), E> {
    let mut n = 1;
    loop {
        let elapsed = batch(n)?;
        if elapsed >= per_batch * 0.5 || n >= MOST_ITERATIONS {
            let per_op = elapsed / n as f64;
            let least = if elapsed > 2.0 { 1 } else { 2 };
            return Ok((((per_batch / per_op) as u64).max(least).min(MOST_ITERATIONS), per_op));
        }
        let wanted = if elapsed > 0.0 { (n as f64 * per_batch * 0.6 / elapsed) as u64 } else { n * 8 };
        n = wanted.clamp(n + 1, n * 8);
    }
}

/// Divides `n` iterations into at most [`BATCHES`] batches.
fn share(n: u64) -> Vec<u64> {
    let batches = (BATCHES as u64).min(n);
    (0..batches).map(|k| n * (k + 1) / batches - n * k / batches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures an op of constant cost. Returns the timing and the iterations of the batches.
    fn constant(budget: Budget, cost: f64) -> (Timing, Vec<u64>) {
        let mut batches = Vec::new();
        let timing = measure::<()>(budget, |n| {
            batches.push(n);
            Ok(n as f64 * cost)
        });
        (timing.unwrap(), batches)
    }

    #[test]
    fn batches_fill_the_budget() {
        for cost in [1e-7, 3e-6, 1e-4, 1e-3] {
            let (timing, batches) = constant(Budget::Time(Duration::from_millis(250)), cost);
            let timed = &batches[batches.len() - BATCHES..];
            assert_eq!(timed.iter().sum::<u64>(), timing.iterations);
            let spent = timing.iterations as f64 * cost;
            let capped = timed[0] == MOST_ITERATIONS;
            assert!((0.2..=0.26).contains(&spent) || capped, "{cost}: {spent}");
            assert!((timing.median / cost - 1.0).abs() < 1e-9 && (timing.min / cost - 1.0).abs() < 1e-9);
            assert!(batches.len() - BATCHES <= 10, "{batches:?}");
        }
    }

    #[test]
    fn slow_ops_get_few_iterations() {
        let budget = Budget::Time(Duration::from_millis(250));
        assert_eq!(constant(budget, 0.1).1, [1, 2, 2, 2, 2, 2]);
        assert_eq!(constant(budget, 0.5).1, [1, 1, 1, 1, 1, 1]);
        assert_eq!(constant(budget, 0.9).1, [1, 1]);
        assert_eq!(constant(budget, 3.0).1, [1, 1]);
        assert!(constant(budget, 3.0).0.too_slow && !constant(budget, 0.9).0.too_slow);
    }

    #[test]
    fn exactly_the_given_iterations_are_run() {
        for n in 1..=40 {
            let (timing, batches) = constant(Budget::Iterations(n), 1e-6);
            assert_eq!(timing.iterations, n);
            assert_eq!(batches.iter().sum::<u64>(), n);
            assert!(batches.len() <= BATCHES && batches.iter().all(|b| *b > 0));
        }
    }

    #[test]
    fn median_and_minimum_are_of_the_batches() {
        let mut costs = [5.0, 1.0, 4.0, 2.0, 3.0].into_iter();
        let timing = measure::<()>(Budget::Iterations(5), |_| Ok(costs.next().unwrap())).unwrap();
        assert_eq!((timing.median, timing.min), (3.0, 1.0));
    }
}
