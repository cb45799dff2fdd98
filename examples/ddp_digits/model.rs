//! A classifier with one hidden layer, and its gradients in buckets.

use crate::data::{CLASSES, Digit, PIXELS};
use crate::rng::Rng;

const HIDDEN: usize = 128;
/// The number of buckets of the hidden layer's gradient.
const HIDDEN_BUCKETS: usize = 4;
/// The number of all buckets. The first is the gradient of the output layer.
pub(crate) const BUCKETS: usize = 1 + HIDDEN_BUCKETS;
const BUCKET_ROWS: usize = HIDDEN / HIDDEN_BUCKETS;

/// The weights: a row for each unit. The last element of a row is the bias.
pub(crate) struct Model {
    hidden: Vec<[f64; PIXELS + 1]>,
    output: Vec<[f64; HIDDEN + 1]>,
}

impl Model {
    pub(crate) fn new(rng: &mut Rng) -> Model {
        let mut model = Model { hidden: vec![[0.0; PIXELS + 1]; HIDDEN], output: vec![[0.0; HIDDEN + 1]; CLASSES] };
        model.hidden.iter_mut().flat_map(|row| &mut row[..PIXELS]).for_each(|w| *w = rng.signed() / 4.0);
        model.output.iter_mut().flat_map(|row| &mut row[..HIDDEN]).for_each(|w| *w = rng.signed() / 8.0);
        model
    }

    /// Returns the activations of the hidden units and the probability of each class.
    fn forward(&self, digit: &Digit) -> ([f64; HIDDEN], [f64; CLASSES]) {
        let hidden = std::array::from_fn(|j| affine(&self.hidden[j], &digit.pixels).tanh());
        let scores: [f64; CLASSES] = std::array::from_fn(|c| affine(&self.output[c], &hidden));
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        let exp = scores.map(|s| (s - highest).exp());
        let sum: f64 = exp.iter().sum();
        (hidden, exp.map(|e| e / sum))
    }

    /// Computes the loss and the gradients of these digits, multiplied by `weight`, and returns the loss. Calls `ready`
    /// with each bucket of the gradient as soon as it is complete. The buckets reuse the vectors in `empty`.
    pub(crate) fn backward(
        &self,
        digits: &[&Digit],
        weight: f64,
        empty: &mut Vec<Vec<f64>>,
        mut ready: impl FnMut(Vec<f64>),
    ) -> f64 {
        let mut loss = 0.0;
        let (mut hiddens, mut output_errors) = (Vec::new(), Vec::new());
        for digit in digits {
            let (hidden, mut error) = self.forward(digit);
            loss -= error[digit.class].ln() * weight;
            error[digit.class] -= 1.0;
            hiddens.push(hidden);
            output_errors.push(error.map(|e| e * weight));
        }

        let mut bucket = zeroed(empty, CLASSES * (HIDDEN + 1));
        for (hidden, error) in hiddens.iter().zip(&output_errors) {
            for (row, e) in bucket.chunks_mut(HIDDEN + 1).zip(error) {
                add_scaled(row, *e, hidden);
            }
        }
        ready(bucket);

        for first in (0..HIDDEN).step_by(BUCKET_ROWS) {
            let mut bucket = zeroed(empty, BUCKET_ROWS * (PIXELS + 1));
            for ((digit, hidden), error) in digits.iter().zip(&hiddens).zip(&output_errors) {
                for (j, row) in (first..).zip(bucket.chunks_mut(PIXELS + 1)) {
                    let back: f64 = error.iter().zip(&self.output).map(|(e, weights)| e * weights[j]).sum();
                    add_scaled(row, back * (1.0 - hidden[j] * hidden[j]), &digit.pixels);
                }
            }
            ready(bucket);
        }
        loss
    }

    /// Moves the parameters of bucket `k` against their gradient.
    pub(crate) fn descend(&mut self, k: usize, gradient: &[f64], rate: f64) {
        let weights: &mut [f64] = match k {
            0 => self.output.as_flattened_mut(),
            k => self.hidden[(k - 1) * BUCKET_ROWS..k * BUCKET_ROWS].as_flattened_mut(),
        };
        weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= rate * g);
    }

    pub(crate) fn parameters(&self) -> Vec<f64> {
        [self.hidden.as_flattened(), self.output.as_flattened()].concat()
    }

    /// Returns the fraction of the digits that are classified correctly.
    pub(crate) fn accuracy(&self, digits: &[Digit]) -> f64 {
        let right = |digit: &&Digit| {
            let (_, likely) = self.forward(digit);
            likely.iter().all(|p| *p <= likely[digit.class])
        };
        digits.iter().filter(right).count() as f64 / digits.len() as f64
    }
}

/// Returns the weighted sum of `inputs`, plus the bias.
fn affine(row: &[f64], inputs: &[f64]) -> f64 {
    let (bias, weights) = (row[inputs.len()], &row[..inputs.len()]);
    weights.iter().zip(inputs).map(|(w, x)| w * x).sum::<f64>() + bias
}

fn add_scaled(row: &mut [f64], by: f64, inputs: &[f64]) {
    row.iter_mut().zip(inputs).for_each(|(g, x)| *g += by * x);
    row[inputs.len()] += by;
}

fn zeroed(empty: &mut Vec<Vec<f64>>, len: usize) -> Vec<f64> {
    let mut buffer = empty.pop().unwrap_or_default();
    buffer.clear();
    buffer.resize(len, 0.0);
    buffer
}
