//! Descriptors from rank to rank.
//!
//! Nobody waits here: whoever is to get a descriptor listens first, whoever gives it connects and leaves it in the
//! listener's queue, and then it can be taken. That each has done its part the ranks tell each other by other means.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recvmsg, sendmsg, socket_with,
};

use super::credentials::is_same_user;
use crate::process::{Private, random};
use crate::{Error, ErrorKind, Result};

/// Length of an [`Address`].
pub const ADDRESS: usize = 16;
/// Where an inbox is: random bytes. They are no secret.
pub type Address = [u8; ADDRESS];

/// Where descriptors of ranks of the same user come to. It has no file, and goes with its owner.
pub struct Inbox {
    /// First, so that it ends before the descriptor is closed.
    _private: Private,
    socket: OwnedFd,
    address: Address,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// `Resource`, with what ran out and its limit.
    pub fn open() -> Result<Inbox> {
        let address = random()?;
        let listening = || {
            let socket = socket()?;
            bind(&socket, &place(&address)?)?;
            listen(&socket, 64)?;
            Ok(socket)
        };
        let socket = listening().map_err(|e: Errno| {
            Error::new(ErrorKind::Resource, "there can be no UNIX socket, by which memory comes from a peer")
                .caused_by(e)
        })?;
        Ok(Inbox { _private: Private::new(&socket), socket, address })
    }

    /// Where peers deliver.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Takes what was delivered before.
    ///
    /// # Errors
    /// `Resource` if this process can have no more descriptors; `Protocol` if nothing was delivered.
    pub fn take(&self) -> Result<OwnedFd> {
        let lost = |e| Error::new(ErrorKind::Protocol, "no shared memory came from the peer").caused_by(e);
        loop {
            let from = match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                other => other.map_err(lost)?,
            };
            // Anybody can connect, but nobody else's memory is taken.
            if is_same_user(&from) {
                return receive(&from).map_err(lost);
            }
        }
    }
}

/// Leaves a descriptor in the inbox at this address.
///
/// # Errors
/// `Resource` if a limit on descriptors is reached; `Protocol` if the inbox is not there, or is another user's.
pub fn deliver(to: &Address, fd: BorrowedFd<'_>) -> Result {
    let failed = |e| Error::new(ErrorKind::Protocol, "shared memory cannot be passed to the peer").caused_by(e);
    let socket = socket().map_err(failed)?;
    while let Err(e) = place(to).and_then(|place| connect(&socket, &place)) {
        if e != Errno::INTR {
            return Err(failed(e));
        }
    }
    if !is_same_user(&socket) {
        return Err(failed(Errno::PERM));
    }
    send(&socket, fd).map_err(failed)
}

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn place(address: &Address) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("c10d-memory-{:032x}", u128::from_be_bytes(*address)).as_bytes())
}

fn send(socket: &OwnedFd, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let rights = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&rights)) {
        return Err(Errno::NOMEM);
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(&[1])], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?.flags,
        }
    };
    let mut came = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    // The kernel drops those for which this process has no number left.
    came.next().ok_or(if flags.contains(ReturnFlags::CTRUNC) { Errno::MFILE } else { Errno::NOMSG })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_delivered_is_taken_in_order_and_there_is_no_more() {
        let inbox = Inbox::open().unwrap();
        assert_eq!(*inbox.take().unwrap_err().kind(), ErrorKind::Protocol);
        for i in 1..=3u8 {
            let mut file = File::from(super::super::memfd().unwrap());
            file.write_all(&[i]).unwrap();
            file.rewind().unwrap();
            deliver(&inbox.address(), file.as_fd()).unwrap();
        }
        for i in 1..=3u8 {
            let mut byte = [0];
            File::from(inbox.take().unwrap()).read_exact(&mut byte).unwrap();
            assert_eq!(byte, [i]);
        }
        assert_eq!(*inbox.take().unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn an_inbox_that_is_gone_gets_nothing() {
        let address = Inbox::open().unwrap().address();
        let file = File::from(super::super::memfd().unwrap());
        assert_eq!(*deliver(&address, file.as_fd()).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
