//! The facade's entry points.

use c10d_core::{Builder, ProcessGroup, Result};

use crate::builtin;

/// Returns a builder of a [`ProcessGroup`]. The builder knows the linked backends, the init methods and the loader of
/// plugins.
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

/// Runs `body` once per rank in one group of `size` ranks, each on its own thread, and returns the results in rank
/// order. This function calls [`Builder::run_ranks`] on [`builder`].
///
/// # Errors
///
/// The error of the lowest rank whose `body` returned an error, or the error of [`Builder::build`] if the group could
/// not be made.
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
