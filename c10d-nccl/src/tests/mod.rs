//! Tests of the backend with libraries that only write down the calls (`mock`). The tests in `tests/` use a library
//! that does the work (`fake/`).

mod dialects;
mod lacks;
mod log;
pub(crate) mod mock;
mod real;
mod roots;
