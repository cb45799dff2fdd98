//! Makes a table. Without a root, each set of ranks that share memory fills its own table. With a root, only the root
//! fills the table, and each set gets a copy of it.

use std::marker::PhantomData;
use std::ops::DerefMut;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use c10d_core::host::{HostId, number};
use c10d_core::shm::{Address, Fresh, Inbox, Sealed, deliver};
use c10d_core::{Error, ErrorKind, ProcessGroup, Result, op};

use super::claim::Claim;
use super::{FillResult, SharedTable};
use crate::agree::{Failure, agree, together};
use crate::plain::{Plain, plain};
use crate::within::Within;

const TABLE: &str = "shared table";
/// The largest alignment that an element type may have: the size of a page.
const ALIGNED: usize = 4096;

/// Makes a table. Every rank calls this function.
pub(super) fn make<T: Plain>(
    pg: &ProcessGroup,
    timeout: Option<Duration>,
    len: usize,
    root: Option<u32>,
    fill: impl FnOnce(&mut [T]) -> FillResult,
) -> Result<SharedTable<T>> {
    let within = Within::new(pg, timeout);
    let inbox = Inbox::open();
    let claim = |inbox: &Inbox| Claim::new::<T>(inbox.address(), len, root);
    let said = inbox.as_ref().map(|inbox| claim(inbox).to_bytes()).map_err(|e| e.clone().into());
    let claims: Vec<Claim> = agree(&within, TABLE, said)?.iter().map(Claim::from_bytes).collect();
    let inbox = inbox?;
    compare(&within, &claim(&inbox), &claims)?;
    let bytes = size::<T>(pg, len, root).map_err(|e| within.ended(e))?;

    let sharers = Sharers::new(&claims, pg.rank(), root);
    let leads = sharers.leader == pg.rank();
    let mut fresh = None;
    let filled = || -> Result<(), Failure> {
        if leads {
            let memory = fresh.insert(Fresh::new(bytes.max(1))?);
            if root.is_none_or(|root| root == pg.rank()) {
                call(fill, elements(memory, bytes))?;
            }
        }
        Ok(())
    };
    together(&within, TABLE, filled())?;
    if let Some(root) = root
        && sharers.leaders.len() > 1
    {
        let table = fresh.as_mut().map(|memory| elements::<T>(memory, bytes));
        together(&within, TABLE, spread(&within, &sharers.leaders, root, table))?;
    }
    let sealed = fresh.map(Fresh::seal).transpose();
    together(&within, TABLE, sealed.as_ref().map_err(Error::clone).and_then(|sealed| sharers.give(sealed.as_ref())))?;

    let mapped = sealed.and_then(|sealed| match sealed {
        Some(own) => own.map(),
        None => Sealed::from_peer(inbox.take()?, bytes.max(1)).map_err(|e| e.guilty([sharers.leader]))?.map(),
    });
    together(&within, TABLE, mapped.as_ref().map(drop).map_err(Error::clone))?;
    Ok(SharedTable { memory: Arc::new(mapped?), len, elements: PhantomData })
}

/// Broadcasts the root's table to the leaders of the other sets. All ranks call this function; only leaders have a
/// `table`.
fn spread<T: Plain>(within: &Within<'_>, leaders: &[u32], root: u32, table: Option<&mut [T]>) -> Result {
    let group = within.pg.new_group_within(leaders, within.left())?;
    let from = leaders.iter().position(|leader| *leader == root);
    if let (Some(group), Some(from), Some(table)) = (group, from, table) {
        group.run(op::broadcast(plain(table), from as u32).timeout(within.left()))?;
    }
    Ok(())
}

/// This rank's set of ranks that share memory, and the leader of each set. Only a leader makes memory, and passes it to
/// the other ranks of its set.
struct Sharers {
    /// The ranks that get the memory from this rank, with their inboxes; empty if this rank is not a leader.
    followers: Vec<(u32, Address)>,
    /// The leader of this rank's set.
    leader: u32,
    /// The leader of each set.
    leaders: Vec<u32>,
}

impl Sharers {
    fn new(claims: &[Claim], rank: u32, root: Option<u32>) -> Sharers {
        let hosts: Vec<HostId> = claims.iter().map(|claim| claim.host).collect();
        let places = number(&hosts, HostId::can_share_memory);
        let of = |place: u32| (0u32..).zip(&places).filter(move |(_, p)| **p == place).map(|(rank, _)| rank);
        // The root is the leader of its own set. The leader of any other set is its first rank.
        let lead = |place: u32| of(place).find(|rank| Some(*rank) == root).or(of(place).next()).unwrap_or(rank);
        let here = places[rank as usize];
        let leader = lead(here);
        let others = of(here).filter(|other| leader == rank && *other != rank);
        Sharers {
            followers: others.map(|other| (other, claims[other as usize].inbox)).collect(),
            leader,
            leaders: (0..=places.iter().copied().max().unwrap_or_default()).map(lead).collect(),
        }
    }

    /// Passes the descriptor of this rank's memory, if it has any, to its followers.
    fn give(&self, memory: Option<&Sealed>) -> Result {
        let Some(memory) = memory else { return Ok(()) };
        self.followers.iter().try_for_each(|(rank, inbox)| {
            deliver(inbox, memory.fd()).map_err(|e| match e.kind() {
                // This rank ran out of the resource, so no other rank is guilty.
                ErrorKind::Resource => e,
                _ => e.guilty([*rank]),
            })
        })
    }
}

/// Returns an error if any rank asks for a different table than this rank.
fn compare(within: &Within<'_>, mine: &Claim, all: &[Claim]) -> Result {
    let differ: Vec<(u32, ErrorKind)> =
        (0u32..).zip(all).filter_map(|(rank, theirs)| Some((rank, mine.differs(theirs)?))).collect();
    let Some((_, kind)) = differ.first() else { return Ok(()) };
    let error = Error::new(kind.clone(), "all ranks of a shared table must give the same length, type and root");
    Err(within.ended(error.guilty(differ.iter().map(|(rank, _)| *rank))))
}

/// Returns the size of the table in bytes, or an error if such a table is impossible. All ranks get the same result,
/// because their arguments were compared before.
fn size<T: Plain>(pg: &ProcessGroup, len: usize, root: Option<u32>) -> Result<usize> {
    let (size, name) = (size_of::<T>(), T::IDENTITY);
    if size == 0 || align_of::<T>() > ALIGNED {
        let align = align_of::<T>();
        let what = format!(
            "a shared table cannot have elements of {name} (size {size}, alignment {align}): \
             the size must not be 0, and the alignment at most {ALIGNED}"
        );
        return Err(Error::invalid(what));
    }
    if let Some(root) = root.filter(|root| *root >= pg.size()) {
        return Err(Error::invalid(format!("root {root} is not a rank of a group of {}", pg.size())));
    }
    let bytes = len.checked_mul(size).filter(|bytes| *bytes <= isize::MAX as usize);
    bytes.ok_or_else(|| Error::invalid(format!("no memory can hold {len} elements of {size} bytes")))
}

fn elements<T: Plain>(memory: &mut Fresh, bytes: usize) -> &mut [T] {
    // A mapping begins at a page boundary, and `size` rejects larger alignments.
    bytemuck::cast_slice_mut(&mut memory.deref_mut()[..bytes])
}

/// Calls the closure that fills the table, and catches its panic.
fn call<T>(fill: impl FnOnce(&mut [T]) -> FillResult, table: &mut [T]) -> Result<(), Failure> {
    // After a panic no other rank sees the table.
    match catch_unwind(AssertUnwindSafe(|| fill(table))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => {
            let mut error = Error::new(ErrorKind::Aborted, format!("the closure that fills the table failed: {e}"));
            error.report_mut().source = Some(Arc::from(e));
            Err(error.into())
        }
        Err(panic) => Err(Failure::Panic(panic)),
    }
}
