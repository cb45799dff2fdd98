//! Memory that ranks of a host share: memfds, which have no name and leave nothing behind, and whose descriptors go from
//! rank to rank over UNIX sockets.
//!
//! [`Fresh`] memory is filled by one rank, [`Sealed`] so that nobody can write it any more, and then mapped by all who have
//! its descriptor. An [`Inbox`] is where descriptors come to.

mod credentials;
mod headroom;
mod inbox;
mod memfd;
mod sealed;

pub use credentials::{is_same_user, peer_user};
pub use headroom::headroom;
pub use inbox::{ADDRESS, Address, Inbox, deliver};
pub use memfd::{check_room, memfd, reserve};
pub use sealed::{Fresh, Mapped, Sealed};
