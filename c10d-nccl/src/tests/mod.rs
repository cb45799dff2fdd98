//! The backend over libraries that only write down what they are asked for (`mock`). One that does it is `fake/`, for
//! `tests/`.

mod dialects;
mod log;
pub(crate) mod mock;
mod real;
mod roots;
