//! Large read-only arrays, one copy for all ranks of a host.

mod agree;
mod claim;
mod make;

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use c10d_core::shm::Mapped;
use c10d_core::{ProcessGroup, Result};

use crate::plain::Plain;
use make::make;

/// What a closure says that fills a table: `Ok(())`, or why it could not. Any error converts by `?`.
pub type FillResult = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

/// A read-only array of which a host has one copy, whatever the number of its ranks; [`SharedTables`] makes it. A slice in
/// all but name.
///
/// Nobody can change it, its makers included. Cheap to clone; it outlives its group, and the memory is freed when the last
/// rank of the host has dropped it. A forked child can go on reading.
pub struct SharedTable<T> {
    memory: Arc<Mapped>,
    len: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T: Plain> Deref for SharedTable<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // A mapping begins with a page, and no element is aligned to more.
        bytemuck::cast_slice(&self.memory[..self.len * size_of::<T>()])
    }
}

impl<T: Plain> AsRef<[T]> for SharedTable<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> Clone for SharedTable<T> {
    fn clone(&self) -> SharedTable<T> {
        SharedTable { memory: self.memory.clone(), len: self.len, elements: PhantomData }
    }
}

impl<T: Plain> fmt::Debug for SharedTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTable({} of {})", self.len, T::IDENTITY)
    }
}

/// A group, with the options of its tables: [`SharedTables::tables`] makes one, and it has the same methods.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    pg: &'a ProcessGroup,
    timeout: Option<Duration>,
}

impl Tables<'_> {
    /// How long the making of a table may take, the filling included, instead of the group's timeout.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Tables { timeout: Some(timeout), ..self }
    }
}

/// Tables that the ranks of a host share: what is computed or read once, is too large to have once per rank, and does not
/// change, such as a prover's roots of unity or a model's embedding. What `MPI_Win_allocate_shared` is used for, in safe Rust.
///
/// Works over every backend that has an `all_gather_into` of host memory, whatever its transport. Ranks share what they can:
/// those that cannot share memory ([`split_by_memory`](ProcessGroup::split_by_memory) says who can), because they are on
/// another host, run as another user or in a container with a network of its own, have a copy of their own. All ranks call
/// it, with the same length and type. Large pages are used where the system has them (`advise` or more in
/// `/sys/kernel/mm/transparent_hugepage/shmem_enabled`).
///
/// Errors, for all, beside those of the ops: all ranks get one, they are in step, and the group goes on.
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if no memory can be so large or its elements have no bytes;
/// [`Mismatch`](crate::ErrorKind::Mismatch) of `count`, `type` or `root`; [`Aborted`](crate::ErrorKind::Aborted) naming the
/// ranks whose closure failed or panicked, where the panic goes on when the others know; [`Resource`](crate::ErrorKind::Resource)
/// naming the ranks that ran out of memory or descriptors, and of how many.
///
/// ```
/// use c10d::SharedTables;
/// # fn main() -> c10d::Result<()> {
/// c10d::run_ranks(3, |pg| {
///     // Rank 0 computes them, and three ranks have them.
///     let squares = pg.share_on_host(1000, |squares| {
///         squares.iter_mut().zip(0u64..).for_each(|(square, i)| *square = i * i);
///         Ok(())
///     })?;
///     assert_eq!(squares[30], 900);
///     Ok(())
/// })?;
/// # Ok(()) }
/// ```
pub trait SharedTables {
    /// This group, to set options of tables.
    fn tables(&self) -> Tables<'_>;

    /// A table of `len` elements, which the first rank of those that share memory fills: the closure is called there, on
    /// this thread, with zeros. On several hosts it is called on each.
    fn share_on_host<T: Plain>(&self, len: usize, fill: impl FnOnce(&mut [T]) -> FillResult) -> Result<SharedTable<T>> {
        let Tables { pg, timeout } = self.tables();
        make(pg, timeout, len, None, fill)
    }

    /// A table of `len` elements, which the root fills: the closure is called there alone. Other hosts get its elements by a
    /// broadcast between one rank of each, in a group that is made for it.
    fn share_from<T: Plain>(
        &self,
        root: u32,
        len: usize,
        fill: impl FnOnce(&mut [T]) -> FillResult,
    ) -> Result<SharedTable<T>> {
        let Tables { pg, timeout } = self.tables();
        make(pg, timeout, len, Some(root), fill)
    }
}

impl SharedTables for ProcessGroup {
    fn tables(&self) -> Tables<'_> {
        Tables { pg: self, timeout: None }
    }
}

impl SharedTables for Tables<'_> {
    fn tables(&self) -> Tables<'_> {
        *self
    }
}
