//! Large read-only arrays that the ranks of a host share.

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

/// The result of a closure that fills a table: `Ok(())`, or why the closure failed. The operator `?` converts any
/// error.
pub type FillResult = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

/// A read-only array, of which the ranks of a host share one copy. It dereferences to a slice. The methods of
/// [`SharedTables`] make a table.
///
/// No process can change a table, not even the process that made it. A clone shares the memory. A table can outlive its
/// group. The memory is freed when all ranks that share it have dropped the table and its clones. A forked child can
/// still read the table.
pub struct SharedTable<T> {
    memory: Arc<Mapped>,
    len: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T: Plain> Deref for SharedTable<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // A mapping begins at a page boundary, and `make` rejects elements with a larger alignment.
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

/// A group with options for tables. [`SharedTables::tables`] makes it. It has the methods of [`SharedTables`].
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    pg: &'a ProcessGroup,
    timeout: Option<Duration>,
}

impl Tables<'_> {
    /// Sets how long making a table may take, including filling it. The default is the group's timeout.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Tables { timeout: Some(timeout), ..self }
    }
}

/// Methods of a group that make tables, which the ranks of a host share. A table is for data that is computed or read
/// once, does not change, and is too large for one copy per rank: for example the roots of unity of a prover, or the
/// embedding of a model.
///
/// The methods work over every backend that has an `all_gather_into` of host memory; `share_from` also needs a
/// `broadcast` if not all ranks can share memory. All ranks must call the same method, with the same length, element
/// type and root. Ranks that can share memory share one copy of the table. Two ranks cannot share memory if they are on
/// different hosts, run as different users, or are in containers with different networks or user namespaces.
/// [`split_by_memory`](ProcessGroup::split_by_memory) makes a group for each set of ranks that can share memory. Tables
/// use large pages if the system allows them (`/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `advise` or a
/// stronger setting).
///
/// Besides the errors of the ops, a call has the errors below. If one of them occurs, every rank gets an error (a rank
/// whose closure panicked gets the panic instead), and the group can still be used.
///
/// - [`InvalidArgument`](crate::ErrorKind::InvalidArgument): no memory can have this size, the element type has a size
///   of 0 or an alignment above 4096, or the root is not a rank of the group.
/// - [`Mismatch`](crate::ErrorKind::Mismatch) of `count`, `type` or `root`: the ranks gave different arguments.
/// - [`Aborted`](crate::ErrorKind::Aborted): the closure returned an error or panicked on the named ranks. If it
///   panicked, the panic is resumed on that rank.
/// - [`Resource`](crate::ErrorKind::Resource): the named ranks do not have enough memory or descriptors. The error says
///   which limit was reached.
/// - [`Protocol`](crate::ErrorKind::Protocol): a rank could not pass the memory of the table to another rank.
///
/// ```
/// use c10d::SharedTables;
/// # fn main() -> c10d::Result<()> {
/// c10d::run_ranks(3, |pg| {
///     // Rank 0 computes the squares, and all three ranks can read them.
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
    /// Returns this group as a [`Tables`], on which options can be set before one of the methods below is called.
    fn tables(&self) -> Tables<'_>;

    /// Makes a table of `len` elements. In each set of ranks that share memory (usually the ranks of one host), the
    /// closure is called once: on the first rank of the set, on the thread that called this method. The closure gets a
    /// slice of zeros and fills it.
    fn share_on_host<T: Plain>(&self, len: usize, fill: impl FnOnce(&mut [T]) -> FillResult) -> Result<SharedTable<T>> {
        let Tables { pg, timeout } = self.tables();
        make(pg, timeout, len, None, fill)
    }

    /// Makes a table of `len` elements. The closure is called only on rank `root`. If not all ranks can share memory
    /// with the root, each set of ranks that share memory gets its own copy by a broadcast.
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
