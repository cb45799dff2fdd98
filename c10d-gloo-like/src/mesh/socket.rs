//! Sends and receives small data on non-blocking sockets during a join, until the deadline or the failure of the join.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use c10d_core::Error;
use c10d_core::process::Private;
use c10d_core::shm::peer_user;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recv, recvmsg,
    send, sendmsg, socket_with,
};

/// How often a wait checks whether the join has failed.
pub(super) const LOOK: Duration = Duration::from_millis(50);
const BACKLOG: i32 = 1024;

/// A connection or listener. Forked children do not keep it open: it ends with this process.
#[derive(Debug)]
pub(super) struct Socket {
    /// First field: dropped before the descriptor is closed.
    private: Private,
    fd: OwnedFd,
}

impl Socket {
    pub(super) fn into_fd(self) -> OwnedFd {
        drop(self.private);
        self.fd
    }
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Socket {
        Socket { private: Private::new(&fd), fd }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The deadline passed.
    Late,
    /// The join has failed for another reason.
    Stopped,
    /// The other end closed the connection.
    Closed,
    /// The other end belongs to another user.
    Stranger(u32),
    /// The peer's memory cannot be mapped here.
    Unmapped(Error),
    /// An error of the system.
    Os(Errno),
}

impl From<Errno> for Trouble {
    fn from(e: Errno) -> Trouble {
        match e {
            Errno::CONNRESET | Errno::PIPE => Trouble::Closed,
            e => Trouble::Os(e),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Late => f.write_str("no answer in time"),
            Trouble::Stopped => f.write_str("the join has failed"),
            Trouble::Closed => f.write_str("it closed the connection"),
            Trouble::Stranger(user) => write!(
                f,
                "its socket belongs to another user (user id {user}, here {})",
                rustix::process::geteuid().as_raw()
            ),
            Trouble::Unmapped(e) => write!(f, "{e}"),
            Trouble::Os(e) => write!(f, "{}", std::io::Error::from(*e)),
        }
    }
}

/// The time limit of a wait, and the condition that stops it.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) deadline: Instant,
    /// Whether the join has failed.
    pub(super) stop: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// Waits until the descriptor is ready, for at most 50 ms. Returns an error if the join has failed or the deadline
    /// has passed.
    fn wait(&self, fd: &impl AsFd, flags: PollFlags) -> Result<(), Trouble> {
        if (self.stop)() {
            return Err(Trouble::Stopped);
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Late);
        }
        match poll(&mut [PollFd::new(fd, flags)], Some(&timespec(left.min(LOOK)))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Repeats a non-blocking operation while the system reports that it would block.
    fn until<T>(
        &self,
        fd: &impl AsFd,
        flags: PollFlags,
        mut f: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Trouble> {
        loop {
            match f() {
                Err(Errno::AGAIN) => self.wait(fd, flags)?,
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    pub(super) fn write_all(&self, fd: &impl AsFd, mut bytes: &[u8]) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            let n = self.until(fd, PollFlags::OUT, || send(fd, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    pub(super) fn read_exact(&self, fd: &impl AsFd, bytes: &mut [u8]) -> Result<(), Trouble> {
        let mut got = 0;
        while got < bytes.len() {
            match self.until(fd, PollFlags::IN, || recv(fd, &mut bytes[got..], RecvFlags::empty()))?.0 {
                0 => return Err(Trouble::Closed),
                n => got += n,
            }
        }
        Ok(())
    }

    /// Sends the descriptors that are present, and a byte with a bit for each of them.
    pub(super) fn offer(&self, fd: &impl AsFd, offers: [Option<BorrowedFd<'_>>; 2]) -> Result<(), Trouble> {
        let rights: Vec<_> = offers.iter().flatten().copied().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let byte = [u8::from(offers[0].is_some()) | u8::from(offers[1].is_some()) << 1];
        self.until(fd, PollFlags::OUT, || {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&rights)) {
                return Err(Errno::NOMEM);
            }
            sendmsg(fd, &[IoSlice::new(&byte)], &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Receives the descriptors that the peer sent with [`Patience::offer`].
    pub(super) fn accept_offer(&self, fd: &impl AsFd) -> Result<[Option<OwnedFd>; 2], Trouble> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut byte = [0];
        let (n, descriptors) = self.until(fd, PollFlags::IN, || {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(fd, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let descriptors = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            let descriptors = descriptors.flatten().collect::<Vec<OwnedFd>>();
            // The operating system drops descriptors for which this process has no number left.
            if got.flags.contains(ReturnFlags::CTRUNC) { Err(Errno::MFILE) } else { Ok((got.bytes, descriptors)) }
        })?;
        if n == 0 {
            return Err(Trouble::Closed);
        }
        let mut descriptors = descriptors.into_iter();
        Ok([1, 2].map(|bit| if byte[0] & bit != 0 { descriptors.next() } else { None }))
    }
}

pub(super) fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() }
}

fn stream() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Makes a listening socket with this abstract name. The socket has no file, and disappears with its last descriptor.
pub(super) fn listen_unix(name: &str) -> Result<Socket, Errno> {
    let socket = Socket::from(stream()?);
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the socket with this abstract name. The error is `ECONNREFUSED` if no socket with this name listens on
/// this host. Nothing is sent to a socket of another user, and the error names the user.
pub(super) fn dial_unix(name: &str, patience: &Patience<'_>) -> Result<Socket, Trouble> {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let socket = Socket::from(stream()?);
    loop {
        match connect(&socket, &address) {
            Ok(()) => match peer_user(&socket)? {
                user if user == rustix::process::geteuid().as_raw() => return Ok(socket),
                user => return Err(Trouble::Stranger(user)),
            },
            // The listener's queue is full, and a UNIX socket cannot be polled until there is room.
            Err(Errno::AGAIN | Errno::INTR) => {
                if (patience.stop)() {
                    return Err(Trouble::Stopped);
                }
                if Instant::now() >= patience.deadline {
                    return Err(Trouble::Late);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e.into()),
        }
    }
}
