//! The digits, shuffled and split.

use crate::rng::Rng;

/// Pixels of an image.
pub(crate) const PIXELS: usize = 64;
/// Kinds of digits.
pub(crate) const CLASSES: usize = 10;

/// An image and what it shows.
pub(crate) struct Digit {
    /// Between 0 and 1.
    pub(crate) pixels: [f64; PIXELS],
    pub(crate) class: usize,
}

/// What to learn from, and what to be asked afterwards.
pub(crate) struct Data {
    pub(crate) train: Vec<Digit>,
    pub(crate) test: Vec<Digit>,
}

/// The checked-in digits: 80 % to learn from, in an order that depends on `rng` alone.
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
