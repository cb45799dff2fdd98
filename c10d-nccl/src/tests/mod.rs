//! The backend over libraries that only write down what they are asked for (`mock`), and over some that do it
//! (`executing`).

mod dialects;
mod executing;
mod log;
pub(crate) mod mock;
mod real;
mod roots;
