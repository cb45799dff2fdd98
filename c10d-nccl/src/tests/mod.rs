//! Tests of the backend with libraries that only log the calls (`mock`). The tests in `tests/` use libraries that do
//! the work (`fake/`).

mod aborts;
mod dialects;
mod lacks;
mod log;
pub(crate) mod mock;
mod real;
mod roots;
