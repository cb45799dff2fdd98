//! Loads the digits, and divides them into a training set and a test set.

use crate::rng::Rng;

/// The number of pixels of an image.
pub(crate) const PIXELS: usize = 64;
/// The number of different digits.
pub(crate) const CLASSES: usize = 10;

/// An image and its digit.
pub(crate) struct Digit {
    /// The pixels, between 0 and 1.
    pub(crate) pixels: [f64; PIXELS],
    pub(crate) class: usize,
}

/// The training set and the test set.
pub(crate) struct Data {
    pub(crate) train: Vec<Digit>,
    pub(crate) test: Vec<Digit>,
}

/// Loads the digits. 80 % of them are for training; the choice and the order depend only on `rng`.
pub(crate) fn load(rng: &mut Rng) -> Result<Data, String> {
    let mut train = Vec::new();
    for (i, line) in include_str!("digits.csv").lines().enumerate() {
        train.push(parse(line).ok_or_else(|| format!("digits.csv, line {}: {line:?}", i + 1))?);
    }
    rng.shuffle(&mut train);
    let test = train.split_off(train.len() * 4 / 5);
    Ok(Data { train, test })
}

fn parse(line: &str) -> Option<Digit> {
    let mut fields = line.split(',');
    let mut pixels = [0.0; PIXELS];
    for pixel in &mut pixels {
        *pixel = fields.next()?.parse::<f64>().ok()? / 16.0;
    }
    let class = fields.next()?.parse().ok()?;
    (class < CLASSES && fields.next().is_none()).then_some(Digit { pixels, class })
}
