//! Memory that ranks of a host share. It consists of memfds: files without a name, whose descriptors ranks pass over
//! UNIX sockets.
//!
//! One rank fills [`Fresh`] memory and makes it [`Sealed`]. From then on no process can write to it, and each rank that
//! has the descriptor can map it. A [`Window`] is memory that its rank writes and that its peers read in place. An
//! [`Inbox`] receives descriptors.

mod credentials;
mod headroom;
mod inbox;
mod memfd;
mod sealed;
mod window;

pub use credentials::{is_same_user, peer_process, peer_user};
pub use headroom::headroom;
pub use inbox::{ADDRESS, Address, Inbox, deliver};
pub use memfd::{check_room, memfd, reserve};
pub use sealed::{Fresh, Mapped, Sealed};
pub use window::{Key, PeerWindow, Place, Window, admit, find, place};
