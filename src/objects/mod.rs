//! Collectives and messages of objects: values of any type that serde can serialize and deserialize.

mod agree;
mod codec;
mod message;

use std::any::type_name;
use std::panic::resume_unwind;
use std::time::Duration;

use c10d_core::{Error, ErrorKind, ProcessGroup, Result, Root, op};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plain::PlainBuf;
use crate::within::Within;
use agree::{OBJECTS, agree};
use codec::{Outgoing, decode};

/// A group with options for objects. [`ObjectCollectives::objects`] makes it. It has the methods of
/// [`ObjectCollectives`].
#[derive(Clone, Copy, Debug)]
pub struct Objects<'a> {
    pg: &'a ProcessGroup,
    limit: usize,
    timeout: Option<Duration>,
}

impl Objects<'_> {
    /// Sets the largest number of bytes of an object. The default is 64 MiB. The size of an object is checked before
    /// memory is allocated. In a collective, the smallest limit of all ranks applies.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Objects { limit, ..self }
    }

    /// Sets how long a whole call may take. The default is the group's timeout.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Objects { timeout: Some(timeout), ..self }
    }

    fn within(&self) -> Within<'_> {
        Within::new(self.pg, self.timeout)
    }
}

/// Collectives and messages of objects: structs, strings, maps and other types that serde can serialize. Objects are
/// sent in the format of the crate postcard over the group's CPU backend. For slices of numbers, the ops of
/// [`ProcessGroup`] are faster. Ranks in Python cannot take part, because Python sends pickles.
///
/// All ranks must pass or expect the same type. Ranks compare only the type's name, so two different types of one name
/// are not found. [`Objects::limit`] limits the bytes from peers before memory is allocated. Do not use recursive types
/// where peers are not trusted: reading an object of such a type may overflow the stack.
///
/// All methods have the errors of the ops, and the following ones. After one of these, no rank waits for another, and
/// the group can still be used.
///
/// - [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if an object cannot be serialized or is larger than the
///   limit, or if the root of `scatter_object` does not give one object per rank. The error names the ranks of these
///   objects. In a collective all ranks get the error. With a message, both ranks get the error; if the object exceeds
///   only the receiver's limit, only the receiver gets it.
/// - [`Mismatch`](crate::ErrorKind::Mismatch) of `type` if ranks use different types. The error names the ranks that
///   use another type than this rank. In a collective all ranks get the error; with a message, only the receiver gets
///   it.
/// - [`Protocol`](crate::ErrorKind::Protocol) if an object cannot be deserialized. Only the ranks that deserialize this
///   object get the error.
///
/// If the serialization panics, the other ranks get an error. After that, the method panics on this rank.
///
/// ```
/// use c10d::{ObjectCollectives, Root};
/// # use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Report {
///     host: String,
///     losses: Vec<f32>,
/// }
///
/// # fn main() -> c10d::Result<()> {
/// c10d::run_ranks(3, |pg| {
///     let mine = Report { host: format!("node{}", pg.rank()), losses: vec![0.5; pg.rank() as usize] };
///     let all = pg.all_gather_object(&mine)?;
///     assert_eq!((&*all[2].host, all[2].losses.len()), ("node2", 2));
///
///     let root = if pg.rank() == 1 { Root::Me("chosen".to_owned()) } else { Root::At(1) };
///     let name: String = pg.objects().limit(1 << 10).broadcast_object(root)?;
///     assert_eq!(name, "chosen");
///     Ok(())
/// })?;
/// # Ok(()) }
/// ```
pub trait ObjectCollectives {
    /// Returns this group as an [`Objects`], on which options can be set before one of the methods below is called.
    fn objects(&self) -> Objects<'_>;

    /// Gathers one object from each rank. All ranks get all objects, in rank order.
    fn all_gather_object<T: Serialize + DeserializeOwned>(&self, mine: &T) -> Result<Vec<T>> {
        let objects = self.objects();
        let within = objects.within();
        let mut out = Outgoing::of([mine]);
        let lengths = objects.agree::<T>(&within, &mut out)?;
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
        let outputs = all.iter_mut().map(|bytes| PlainBuf::reduced_by(bytes, OBJECTS)).collect();
        within.run(op::all_gather(only(&out), outputs))?;
        read(&within, &all)
    }

    /// Sends the root's object to all ranks. The root passes `Root::Me(object)`, the others `Root::At(root)`.
    fn broadcast_object<T: Serialize + DeserializeOwned>(&self, root: Root<T>) -> Result<T> {
        let objects = self.objects();
        let within = objects.within();
        let (mut out, mine, at) = match root {
            Root::Me(object) => (Outgoing::of([&object]), Some(object), objects.pg.rank()),
            Root::At(rank) => (Outgoing::nothing::<T>(), None, is_rank(objects.pg, rank)?),
        };
        let lengths = objects.agree::<T>(&within, &mut out)?;
        let mut bytes = out.bytes.into_iter().next().unwrap_or_else(|| vec![0; lengths[at as usize]]);
        within.run(op::broadcast(PlainBuf::reduced_by(&mut bytes, OBJECTS), at))?;
        match mine {
            Some(object) => Ok(object),
            None => decode(&bytes).map_err(|why| within.ended(no_object::<T>(at, &why))),
        }
    }

    /// Gathers one object from each rank at the root, which gets them in rank order. The other ranks get `None`.
    fn gather_object<T: Serialize + DeserializeOwned>(&self, mine: &T, root: u32) -> Result<Option<Vec<T>>> {
        let objects = self.objects();
        let within = objects.within();
        is_rank(objects.pg, root)?;
        let mut out = Outgoing::of([mine]);
        let lengths = objects.agree::<T>(&within, &mut out)?;
        if objects.pg.rank() != root {
            let at: Root<Vec<PlainBuf<Vec<u8>>>> = Root::At(root);
            return within.run(op::gather(only(&out), at)).map(|_| None);
        }
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
        let outputs = all.iter_mut().map(|bytes| PlainBuf::reduced_by(bytes, OBJECTS)).collect();
        within.run(op::gather(only(&out), Root::Me(outputs)))?;
        read(&within, &all).map(Some)
    }

    /// Sends each rank one of the root's objects: rank i gets the i-th. The root passes `Root::Me(objects)` with one
    /// object per rank, the others `Root::At(root)`.
    fn scatter_object<T: Serialize + DeserializeOwned>(&self, root: Root<Vec<T>>) -> Result<T> {
        let objects = self.objects();
        let within = objects.within();
        let (me, n) = (objects.pg.rank(), objects.pg.size() as usize);
        let (mut out, at) = match &root {
            Root::Me(all) if all.len() == n => (Outgoing::of(all), me),
            Root::Me(all) => (Outgoing::failed(format!("there are {} objects for {n} ranks", all.len())), me),
            Root::At(rank) => (Outgoing::nothing::<T>(), is_rank(objects.pg, *rank)?),
        };
        let largest = objects.agree::<T>(&within, &mut out)?;
        let is_root = matches!(root, Root::Me(_));
        let lengths: Vec<[u64; 1]> = out.bytes.iter().map(|bytes| [bytes.len() as u64]).collect();
        let mut length = [0u64];
        let from = match is_root {
            true => Root::Me(lengths.iter().map(|length| PlainBuf::reduced_by(length, OBJECTS)).collect()),
            false => Root::At(at),
        };
        within.run(op::scatter(from, PlainBuf::reduced_by(&mut length, OBJECTS)))?;
        // The largest length is in the root's header, and is within the limit.
        let length = (length[0] as usize).min(largest[at as usize]);
        let mut bytes = vec![0u8; length];
        let from = match is_root {
            true => Root::Me(out.bytes.iter().map(|bytes| PlainBuf::reduced_by(bytes, OBJECTS)).collect()),
            false => Root::At(at),
        };
        within.run(op::scatter(from, PlainBuf::reduced_by(&mut bytes, OBJECTS)))?;
        match root {
            Root::Me(all) => {
                all.into_iter().nth(me as usize).ok_or_else(|| no_object::<T>(me, "the root has no object for itself"))
            }
            Root::At(_) => decode(&bytes).map_err(|why| within.ended(no_object::<T>(at, &why))),
        }
    }

    /// Sends an object to rank `to`, which must receive an object with the same tag. Objects with one tag arrive in
    /// order. On each of the two ranks, only one thread at a time may use a tag for objects, because an object consists
    /// of several messages.
    fn send_object<T: Serialize>(&self, object: &T, to: u32, tag: u32) -> Result {
        let objects = self.objects();
        let mut out = Outgoing::of([object]);
        let panic = out.panic.take();
        let sent = message::send::<T>(&objects.within(), out, objects.limit, to, tag);
        match panic {
            Some(panic) => resume_unwind(panic),
            None => sent,
        }
    }

    /// Receives an object that rank `from` sent with this tag.
    fn recv_object<T: DeserializeOwned>(&self, from: u32, tag: u32) -> Result<T> {
        let objects = self.objects();
        message::recv(&objects.within(), objects.limit, Some(from), tag).map(|(object, _)| object)
    }

    /// Receives an object from the first rank that sends one with this tag. Returns the object and the sender's rank.
    fn recv_any_object<T: DeserializeOwned>(&self, tag: u32) -> Result<(T, u32)> {
        let objects = self.objects();
        message::recv(&objects.within(), objects.limit, None, tag)
    }
}

impl ObjectCollectives for ProcessGroup {
    fn objects(&self) -> Objects<'_> {
        Objects { pg: self, limit: 64 << 20, timeout: None }
    }
}

impl ObjectCollectives for Objects<'_> {
    fn objects(&self) -> Objects<'_> {
        *self
    }
}

impl Objects<'_> {
    /// Calls [`agree`], then resumes a panic of the serialization.
    fn agree<T>(&self, within: &Within<'_>, out: &mut Outgoing) -> Result<Vec<usize>> {
        let agreed = agree::<T>(within, out, self.limit);
        match out.panic.take() {
            Some(panic) => resume_unwind(panic),
            None => agreed,
        }
    }
}

/// Returns the bytes of the only object of this rank, or no bytes if the rank has no object.
fn only(out: &Outgoing) -> PlainBuf<&[u8]> {
    PlainBuf::reduced_by(out.bytes.first().map_or(&[], Vec::as_slice), OBJECTS)
}

/// Reads the objects of all ranks from their bytes.
fn read<T: DeserializeOwned>(within: &Within<'_>, all: &[Vec<u8>]) -> Result<Vec<T>> {
    let object = |(rank, bytes): (u32, &Vec<u8>)| decode(bytes).map_err(|why| no_object::<T>(rank, &why));
    (0u32..).zip(all).map(object).collect::<Result<_>>().map_err(|e| within.ended(e))
}

fn no_object<T>(rank: u32, why: &str) -> Error {
    let what = format!("the object of rank {rank} cannot be read as {}: {why}", type_name::<T>());
    Error::new(ErrorKind::Protocol, what).guilty([rank])
}

fn is_rank(pg: &ProcessGroup, rank: u32) -> Result<u32> {
    if rank < pg.size() {
        return Ok(rank);
    }
    Err(Error::invalid(format!("root {rank} is not a rank of a group of {}", pg.size())))
}
