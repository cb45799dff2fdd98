//! The messages to and from one peer.

use std::collections::VecDeque;

use super::message::{Header, Incoming, Outgoing, PartialHeader};
use super::ticket::Ticket;
use crate::link::Link;

pub(super) struct Peer {
    pub(super) link: Link,
    pub(super) outgoing: VecDeque<(Ticket, Outgoing)>,
    pub(super) partial: PartialHeader,
    /// The header of a message for whose bytes there is no room.
    pub(super) held: Option<Header>,
    pub(super) incoming: Option<(Ticket, Incoming)>,
    /// Whether the connection ended after a complete message.
    pub(super) ended: bool,
    /// Messages that no receive has asked for, in order of arrival.
    pub(super) kept: VecDeque<(Header, Vec<u8>)>,
    pub(super) kept_bytes: usize,
}

impl Peer {
    pub(super) fn new(link: Link) -> Peer {
        Peer {
            link,
            outgoing: VecDeque::new(),
            partial: PartialHeader::default(),
            held: None,
            incoming: None,
            ended: false,
            kept: VecDeque::new(),
            kept_bytes: 0,
        }
    }

    /// Whether no message from the peer is partly received or kept.
    #[inline]
    pub(super) fn is_between_messages(&self) -> bool {
        self.kept.is_empty() && self.incoming.is_none() && self.held.is_none() && self.partial.is_empty()
    }

    /// Takes the first kept message with this tag.
    pub(super) fn take_kept(&mut self, tag: u32) -> Option<(Header, Vec<u8>)> {
        let at = self.kept.iter().position(|(header, _)| header.tag() == tag)?;
        let (header, bytes) = self.kept.remove(at)?;
        self.kept_bytes -= bytes.len();
        Some((header, bytes))
    }
}
