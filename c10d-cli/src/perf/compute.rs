//! A computation of adjustable length, and the share of an op's time that this computation hides.

use std::hint::black_box;
use std::time::Instant;

/// Computes this many units. The computation uses no memory, so it competes with the op only for the processor.
pub(super) fn compute(units: u64) {
    let mut x = 1u64;
    for i in 0..units {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
    }
}

/// Returns the number of units that this thread computes in this many seconds.
pub(super) fn units(seconds: f64) -> u64 {
    const PROBE: u64 = 1 << 14;
    let probe = || {
        let start = Instant::now();
        compute(PROBE);
        start.elapsed().as_secs_f64()
    };
    // Interruptions only make a probe slower, so the fastest probe is the most accurate.
    let fastest = (0..5).map(|_| probe()).fold(f64::INFINITY, f64::min);
    (seconds / fastest * PROBE as f64) as u64
}

/// Returns the share of an op's time that a computation hides. The share is 1 if op and computation together took no
/// longer than the computation alone, and 0 if they took as long as one after the other. All times are in seconds.
pub(super) fn hidden(op: f64, computation: f64, both: f64) -> f64 {
    if op > 0.0 { (1.0 - (both - computation) / op).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hidden_share_is_between_none_and_all() {
        for (both, share) in [(1.0, 1.0), (1.5, 0.5), (2.0, 0.0), (3.0, 0.0), (0.5, 1.0)] {
            assert_eq!(hidden(1.0, 1.0, both), share);
        }
        assert_eq!(hidden(0.0, 0.0, 1.0), 0.0);
    }
}
