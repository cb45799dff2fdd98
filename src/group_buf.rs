//! Buffers of a group: memory of one rank that the other ranks of its host can read.
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
/// The largest alignment that an element type may have: the size of a page.
const ALIGNED: usize = 4096;

/// A buffer of fixed length in memory that the other ranks of the host can read. In an op on this buffer, these ranks
/// read the elements in place instead of copying them. [`GroupMemory::alloc`] makes such a buffer.
///
/// The buffer dereferences to a slice. Ops accept the buffer, and slices of it, like any other buffer. No other process
/// can write to the buffer. The buffer can be dropped at any time. The other ranks unmap its memory when they next make
/// or drop a buffer of this kind. Reading or writing the buffer in a forked child panics.
pub struct GroupBuf<T> {
    memory: Window,
    len: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T: Plain> Deref for GroupBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // The elements begin at a page boundary. `begin` rejects element types with a larger alignment.
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

// SAFETY: the memory stays mapped until the value is dropped, and does not move when the value is moved.
unsafe impl<T: Plain + Element> Buf for GroupBuf<T> {
    fn span(&mut self) -> Span {
        Span::host(self.as_mut_ptr(), self.len)
    }
}
// SAFETY: the value owns the memory. Peers have it mapped read-only, and read only the bytes that an op sends them.
unsafe impl<T: Plain + Element> BufMut for GroupBuf<T> {}

// SAFETY: the borrowed value keeps the memory mapped for as long as the borrow lasts.
unsafe impl<T: Plain + Element> Buf for &mut GroupBuf<T> {
    fn span(&mut self) -> Span {
        Span::host(self.as_mut_ptr(), self.len)
    }
}
// SAFETY: the borrow is exclusive.
unsafe impl<T: Plain + Element> BufMut for &mut GroupBuf<T> {}

// SAFETY: as above. There is no `BufMut` for a shared borrow, so ops only read the memory.
unsafe impl<T: Plain + Element> Buf for &GroupBuf<T> {
    fn span(&mut self) -> Span {
        Span::host(self.as_ptr().cast_mut(), self.len)
    }
}

/// Allocates buffers of a group, for large data that many ops use.
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
    /// Allocates this rank's buffer of `len` elements, all zero. All ranks of the group must call this; their lengths
    /// and element types may differ.
    ///
    /// Over `gloo-like`, ops between ranks of one host are faster with such a buffer from about 100 KiB on. Between
    /// hosts, and over other backends, it behaves like any other buffer. Ops of another group read the buffer in place,
    /// too, if all ranks of that group are in this group. In one op, some ranks may pass such a buffer and others a
    /// `Vec`.
    ///
    /// # Errors
    /// If a rank gets one of these errors, all ranks get an error, and the group can still be used:
    ///
    /// - [`InvalidArgument`](crate::ErrorKind::InvalidArgument) on the rank that caused it, if `len` elements do not
    ///   fit into the address space, if `T` has a size of 0, or if its alignment is larger than a page (4096 bytes).
    ///   The other ranks get [`Aborted`](crate::ErrorKind::Aborted), which names that rank and has the text of its
    ///   error.
    /// - [`Resource`](crate::ErrorKind::Resource) if ranks do not have enough memory or descriptors. On the other
    ///   ranks, the error names these ranks.
    /// - [`Protocol`](crate::ErrorKind::Protocol) if a rank could not pass its memory to another rank.
    ///
    /// Other errors are those of [`all_gather_into`](ProcessGroup::all_gather_into).
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
                // This rank ran out of the resource, so no other rank is guilty.
                ErrorKind::Resource => e,
                _ => e.guilty([*rank]),
            })
        });
        together(&within, BUFFER, given)?;
        let taken = others.iter().try_for_each(|_| {
            // The windows arrive in any order. The key of a window is in the claim of its owner.
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
        let align = align_of::<T>();
        let what = format!(
            "a buffer of the group cannot have elements of {name} (size {size}, alignment {align}): \
             the size must not be 0, and the alignment at most {ALIGNED}"
        );
        return Err(Error::invalid(what));
    }
    let bytes = len.checked_mul(size).filter(|bytes| *bytes <= isize::MAX as usize);
    let bytes = bytes.ok_or_else(|| Error::invalid(format!("no memory can hold {len} elements of {size} bytes")))?;
    Ok((Inbox::open()?, Window::new(bytes)?))
}

/// What a rank tells the others about its buffer.
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
