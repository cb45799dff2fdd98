//! Buffers of a group: memory of a rank that the others of its host can read.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use c10d_core::host::HostId;
use c10d_core::process::{Token, token};
use c10d_core::shm::{ADDRESS, Address, Inbox, Window, admit, deliver};
use c10d_core::{Buf, BufMut, Element, Error, ErrorKind, ProcessGroup, Result, Span};

use crate::agree::{agree, together};
use crate::plain::Plain;
use crate::within::Within;

const BUFFER: &str = "buffer of the group";
/// A page. Nothing that is mapped is aligned to more.
const ALIGNED: usize = 4096;

/// A `Vec` in all but growth, of which the other ranks of the host read in place what an op moves, where a `Vec`'s elements
/// are copied into memory between them. [`GroupMemory::alloc`] makes it; ops take it, or slices of it, as any buffer.
///
/// Nobody else can write it. Dropped as any value, whatever the others do; they give back their view of it when they next
/// make or drop one. A forked child does not have it: to look at it there is a panic.
pub struct GroupBuf<T> {
    memory: Window,
    len: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T: Plain> Deref for GroupBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // It begins with a page, and no element is aligned to more.
        bytemuck::cast_slice(&self.memory[..self.len * size_of::<T>()])
    }
}

impl<T: Plain> DerefMut for GroupBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.memory[..bytes])
    }
}

impl<T: Plain> fmt::Debug for GroupBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupBuf({} of {})", self.len, T::IDENTITY)
    }
}

// SAFETY: the memory is mapped until the value is dropped, and does not move with it.
unsafe impl<T: Plain + Element> Buf for GroupBuf<T> {
    fn span(&mut self) -> Span {
        Span::host(self.as_mut_ptr(), self.len)
    }
}
// SAFETY: sole ownership; peers only read, and what they read is what an op sends them.
unsafe impl<T: Plain + Element> BufMut for GroupBuf<T> {}

// SAFETY: as above, for as long as the borrow lasts.
unsafe impl<T: Plain + Element> Buf for &mut GroupBuf<T> {
    fn span(&mut self) -> Span {
        Span::host(self.as_mut_ptr(), self.len)
    }
}
// SAFETY: an exclusive borrow.
unsafe impl<T: Plain + Element> BufMut for &mut GroupBuf<T> {}

// SAFETY: as above; it is not written.
unsafe impl<T: Plain + Element> Buf for &GroupBuf<T> {
    fn span(&mut self) -> Span {
        Span::host(self.as_ptr().cast_mut(), self.len)
    }
}

/// Memory from the group, for large buffers that ops use again and again.
///
/// ```
/// use c10d::{GroupMemory, ReduceOp};
/// # fn main() -> c10d::Result<()> {
/// c10d::run_ranks(2, |pg| {
///     let mut gradient = pg.alloc::<f32>(1 << 20)?;
///     gradient.fill(1.0);
///     pg.all_reduce(&mut gradient, ReduceOp::Sum)?;
///     assert!(gradient.iter().all(|x| *x == 2.0));
///     Ok(())
/// })?;
/// # Ok(()) }
/// ```
pub trait GroupMemory {
    /// A buffer of `len` zeros, which each rank has for itself. All ranks call it; their lengths may differ.
    ///
    /// It pays over `gloo-like` inside a host, from some 100 KiB on; elsewhere it is a buffer as any other. Ops of any group
    /// of the same ranks, or of some of them, use it so. A rank may give a buffer of the group, and another a `Vec`.
    ///
    /// # Errors
    /// On all ranks, which are in step, and the group goes on: [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if no
    /// memory can be so large on a rank, [`Resource`](crate::ErrorKind::Resource) naming the ranks that ran out of memory or
    /// descriptors. Else as of [`all_gather_into`](ProcessGroup::all_gather_into).
    fn alloc<T: Plain>(&self, len: usize) -> Result<GroupBuf<T>>;
}

impl GroupMemory for ProcessGroup {
    fn alloc<T: Plain>(&self, len: usize) -> Result<GroupBuf<T>> {
        let within = Within::new(self, None);
        let own = begin::<T>(len);
        let said = own.as_ref().map_err(Error::clone).and_then(|(inbox, memory)| Claim::bytes(inbox, memory));
        let claims = agree(&within, BUFFER, said.map_err(Into::into))?;
        let claims: Vec<Claim> = claims.iter().map(Claim::read).collect();
        let (inbox, memory) = own?;

        let here = claims[self.rank() as usize].host;
        let others =
            (0u32..).zip(&claims).filter(|(rank, claim)| *rank != self.rank() && here.can_share_memory(&claim.host));
        let others: Vec<(u32, &Claim)> = others.collect();
        let given = others.iter().try_for_each(|(rank, claim)| {
            deliver(&claim.inbox, memory.fd()).map_err(|e| match e.kind() {
                // What ran out is this rank's.
                ErrorKind::Resource => e,
                _ => e.guilty([*rank]),
            })
        });
        together(&within, BUFFER, given)?;
        let taken = others.iter().try_for_each(|_| {
            // In whatever order they came.
            admit(inbox.take()?, |key| others.iter().find(|(_, claim)| claim.key == key).map(|(_, claim)| claim.len))
        });
        together(&within, BUFFER, taken)?;
        memory.open_to(others.iter().map(|(_, claim)| claim.process).collect());
        Ok(GroupBuf { memory, len, elements: PhantomData })
    }
}

fn begin<T: Plain>(len: usize) -> Result<(Inbox, Window)> {
    let (size, name) = (size_of::<T>(), T::IDENTITY);
    if size == 0 || align_of::<T>() > ALIGNED {
        let what = format!("there is no buffer of {name}: its size is {size}, its alignment {}", align_of::<T>());
        return Err(Error::invalid(what));
    }
    let bytes = len.checked_mul(size).filter(|bytes| *bytes <= isize::MAX as usize);
    let bytes = bytes.ok_or_else(|| Error::invalid(format!("no memory can have {len} elements of {size} bytes")))?;
    Ok((Inbox::open()?, Window::new(bytes)?))
}

/// What a rank says of its buffer.
struct Claim {
    host: HostId,
    inbox: Address,
    process: Token,
    key: u64,
    len: u64,
}

const CLAIM: usize = HostId::SIZE + ADDRESS + size_of::<Token>() + 16;

impl Claim {
    fn bytes(inbox: &Inbox, memory: &Window) -> Result<[u8; CLAIM]> {
        let numbers = [memory.key(), memory.len() as u64].map(u64::to_le_bytes);
        let (host, address, process) = (HostId::here().to_bytes(), inbox.address(), token()?);
        let mut bytes = [&host[..], &address, &process, numbers.as_flattened()].into_iter().flatten();
        Ok(std::array::from_fn(|_| bytes.next().copied().unwrap_or_default()))
    }

    fn read(bytes: &[u8; CLAIM]) -> Claim {
        fn part<const N: usize>(bytes: &[u8; CLAIM], at: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes[at + i])
        }
        let at = [0, HostId::SIZE, HostId::SIZE + ADDRESS, CLAIM - 16, CLAIM - 8];
        Claim {
            host: HostId::from_bytes(&part(bytes, at[0])),
            inbox: part(bytes, at[1]),
            process: part(bytes, at[2]),
            key: u64::from_le_bytes(part(bytes, at[3])),
            len: u64::from_le_bytes(part(bytes, at[4])),
        }
    }
}
