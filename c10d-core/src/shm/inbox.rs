//! Passing descriptors from rank to rank.
//!
//! The receiver opens an inbox. The sender connects to it, and puts the descriptor into the queue of the socket. Then
//! the receiver takes the descriptor. No function here waits for the other rank, so the ranks must tell each other by
//! other messages when a step is done.

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

/// The length of an [`Address`] in bytes.
pub const ADDRESS: usize = 16;
/// The random address of an inbox. It is not secret.
pub type Address = [u8; ADDRESS];

/// A socket that receives descriptors from ranks of the same user. Its name is in the abstract namespace, so no file is
/// left when it is dropped.
pub struct Inbox {
    /// First field: dropped before the descriptor is closed.
    _private: Private,
    socket: OwnedFd,
    address: Address,
}

impl Inbox {
    /// Opens an empty inbox.
    ///
    /// # Errors
    /// `Resource` if a limit is reached; the error has the limit and its value.
    pub fn open() -> Result<Inbox> {
        let address = random()?;
        let listening = || {
            let socket = socket()?;
            bind(&socket, &place(&address)?)?;
            listen(&socket, 64)?;
            Ok(socket)
        };
        let socket = listening().map_err(|e: Errno| {
            Error::new(ErrorKind::Resource, "cannot open a UNIX socket to receive shared memory from peers")
                .caused_by(e)
        })?;
        Ok(Inbox { _private: Private::new(&socket), socket, address })
    }

    /// Returns the address at which peers can [`deliver`] descriptors.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Takes the oldest descriptor in the inbox.
    ///
    /// # Errors
    /// `Resource` if this process has reached its limit on descriptors; `Protocol` if the inbox is empty.
    pub fn take(&self) -> Result<OwnedFd> {
        let lost = |e| Error::new(ErrorKind::Protocol, "the peer passed no descriptor of shared memory").caused_by(e);
        loop {
            let from = match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                other => other.map_err(lost)?,
            };
            // A process of any user can connect.
            if is_same_user(&from) {
                return receive(&from).map_err(lost);
            }
        }
    }
}

/// Puts a descriptor into the inbox at this address.
///
/// # Errors
/// `Resource` if a limit on descriptors is reached; `Protocol` if the inbox does not exist or belongs to another user.
pub fn deliver(to: &Address, fd: BorrowedFd<'_>) -> Result {
    let failed =
        |e| Error::new(ErrorKind::Protocol, "cannot pass a descriptor of shared memory to the peer").caused_by(e);
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
    // If a descriptor would exceed this process's limit, the kernel drops it and sets CTRUNC.
    came.next().ok_or(if flags.contains(ReturnFlags::CTRUNC) { Errno::MFILE } else { Errno::NOMSG })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_are_taken_in_order_until_the_inbox_is_empty() {
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
