//! The backend over libraries that only write down what they are asked for.

mod dialects;
mod log;
mod mock;
mod real;
mod roots;
