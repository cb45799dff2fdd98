//! Small exchanges on non-blocking sockets while joining: each ends at the deadline, or when the join has failed.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recv, recvmsg, send, sendmsg,
    socket_with,
};

/// How often a wait looks whether the join has failed meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(50);
const BACKLOG: i32 = 1024;

/// Why an exchange did not happen.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The deadline passed.
    Late,
    /// The join has failed elsewhere.
    Stopped,
    /// The other end closed.
    Closed,
    /// The system's word.
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
            Trouble::Os(e) => write!(f, "{}", std::io::Error::from(*e)),
        }
    }
}

/// How long to wait, and for whom to stop.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) deadline: Instant,
    /// Whether the join has failed.
    pub(super) stop: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// A moment of waiting for the descriptor.
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

    /// Does something that may have to wait.
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

    /// Sends one byte: 1 and a descriptor, or 0 and none.
    pub(super) fn offer(&self, fd: &impl AsFd, descriptor: Option<&impl AsFd>) -> Result<(), Trouble> {
        let rights: Vec<_> = descriptor.iter().map(|d| d.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let byte = [u8::from(descriptor.is_some())];
        self.until(fd, PollFlags::OUT, || {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&rights)) {
                return Err(Errno::NOMEM);
            }
            sendmsg(fd, &[IoSlice::new(&byte)], &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Receives what the peer offers. A descriptor that found no place here (limit reached) counts as none.
    pub(super) fn accept_offer(&self, fd: &impl AsFd) -> Result<Option<OwnedFd>, Trouble> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut byte = [0];
        let (n, descriptor) = self.until(fd, PollFlags::IN, || {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(fd, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptors = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            Ok((got.bytes, descriptors.next().and_then(|mut rights| rights.next())))
        })?;
        match (n, byte) {
            (0, _) => Err(Trouble::Closed),
            (_, [1]) => Ok(descriptor),
            _ => Ok(None),
        }
    }
}

pub(super) fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() }
}

fn stream() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// A socket under this abstract name: it has no file, and goes with its last descriptor.
pub(super) fn listen_unix(name: &str) -> Result<OwnedFd, Errno> {
    let socket = stream()?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to an abstract name. Refused: nobody has it here.
pub(super) fn dial_unix(name: &str, patience: &Patience<'_>) -> Result<OwnedFd, Trouble> {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let socket = stream()?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // The listener's queue is full; a UNIX socket cannot be polled for its room.
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
