//! The builder of core, with what is linked here.

use c10d_core::{Builder, ProcessGroup, Result};

use crate::builtin;

/// Makes a [`ProcessGroup`]: a builder that knows the linked backends, the init methods and the loader of plugins.
///
/// ```no_run
/// # fn main() -> c10d::Result<()> {
/// let pg = c10d::builder().init("env://").build()?;
/// println!("rank {} of {}", pg.rank(), pg.size());
/// # Ok(()) }
/// ```
pub fn builder() -> Builder {
    Builder::new().providers(builtin())
}

/// Runs `body` once per rank, each on a thread of its own, in one group of `size` ranks over the linked backends; gives
/// the results in rank order. It is [`Builder::run_ranks`] of [`builder`].
///
/// ```
/// # fn main() -> c10d::Result<()> {
/// let sums = c10d::run_ranks(4, |pg| {
///     let mut x = vec![pg.rank() as f32; 8];
///     pg.all_reduce(&mut x, c10d::ReduceOp::Sum)?;
///     Ok(x[0])
/// })?;
/// assert_eq!(sums, [6.0; 4]);
/// # Ok(()) }
/// ```
pub fn run_ranks<T: Send>(size: u32, body: impl Fn(ProcessGroup) -> Result<T> + Sync) -> Result<Vec<T>> {
    builder().run_ranks(size, body)
}
