//! The first data that a rank sends to the others: its host, and the table that it asks for.

use c10d_core::ErrorKind;
use c10d_core::host::HostId;
use c10d_core::shm::{ADDRESS, Address};
use c10d_core::text::harmless;

use crate::plain::Plain;

/// The maximum length of a type's name in errors, in bytes. Types are compared by a hash of the whole name.
const NAME: usize = 120;
/// The size of a claim in bytes.
pub(super) const CLAIM: usize = HostId::SIZE + ADDRESS + 8 + 8 + 8 + 8 + 1 + NAME;

/// The table that a rank asks for, and the rank's host.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) host: HostId,
    pub(super) inbox: Address,
    len: u64,
    size: u64,
    /// The rank whose table all ranks get; `u64::MAX` if each set of ranks that share memory fills its own table.
    root: u64,
    hash: u64,
    name_len: u8,
    name: [u8; NAME],
}

impl Claim {
    pub(super) fn new<T: Plain>(inbox: Address, len: usize, root: Option<u32>) -> Claim {
        let text = T::IDENTITY;
        let end = (0..=NAME.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        let mut name = [0; NAME];
        name[..end].copy_from_slice(&text.as_bytes()[..end]);
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Claim {
            host: HostId::here(),
            inbox,
            len: len as u64,
            size: size_of::<T>() as u64,
            root: root.map_or(u64::MAX, u64::from),
            hash,
            name_len: end as u8,
            name,
        }
    }

    pub(super) fn to_bytes(self) -> [u8; CLAIM] {
        let numbers = [self.len, self.size, self.root, self.hash].map(u64::to_le_bytes);
        let parts = [&self.host.to_bytes()[..], &self.inbox, numbers.as_flattened(), &[self.name_len], &self.name];
        let mut bytes = parts.into_iter().flatten().copied();
        std::array::from_fn(|_| bytes.next().unwrap_or_default())
    }

    pub(super) fn from_bytes(bytes: &[u8; CLAIM]) -> Claim {
        let mut at = 0;
        let mut take = |n: usize| {
            at += n;
            &bytes[at - n..at]
        };
        fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
            std::array::from_fn(|i| bytes[i])
        }
        Claim {
            host: HostId::from_bytes(&part(take(HostId::SIZE))),
            inbox: part(take(ADDRESS)),
            len: u64::from_le_bytes(part(take(8))),
            size: u64::from_le_bytes(part(take(8))),
            root: u64::from_le_bytes(part(take(8))),
            hash: u64::from_le_bytes(part(take(8))),
            name_len: take(1)[0],
            name: part(take(NAME)),
        }
    }

    fn type_name(&self) -> String {
        let name = &self.name[..usize::from(self.name_len).min(NAME)];
        format!("{} ({} bytes)", harmless(&String::from_utf8_lossy(name), NAME), self.size)
    }

    fn root_name(&self) -> String {
        if self.root == u64::MAX { "one on each host".to_owned() } else { self.root.to_string() }
    }

    /// Returns the first difference between the two tables, or `None` if they agree.
    pub(super) fn differs(&self, theirs: &Claim) -> Option<ErrorKind> {
        let (field, mine, theirs) = if (self.hash, self.size) != (theirs.hash, theirs.size) {
            ("type", self.type_name(), theirs.type_name())
        } else if self.len != theirs.len {
            ("count", self.len.to_string(), theirs.len.to_string())
        } else if self.root != theirs.root {
            ("root", self.root_name(), theirs.root_name())
        } else {
            return None;
        };
        Some(ErrorKind::Mismatch { field, mine, theirs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_keeps_a_claim_and_differences_are_named() {
        let of = |len, root| Claim::new::<u32>([7; ADDRESS], len, root);
        let claim = of(1000, Some(3));
        let read = Claim::from_bytes(&claim.to_bytes());
        assert_eq!(read.to_bytes(), claim.to_bytes());
        assert!(read.host == claim.host && read.inbox == claim.inbox && claim.differs(&read).is_none());
        let named = |other: &Claim| match claim.differs(other) {
            Some(ErrorKind::Mismatch { field, mine, theirs }) => format!("{field}: {mine}, {theirs}"),
            other => format!("{other:?}"),
        };
        assert_eq!(named(&of(999, Some(3))), "count: 1000, 999");
        assert_eq!(named(&of(1000, Some(1))), "root: 3, 1");
        assert_eq!(named(&of(1000, None)), "root: 3, one on each host");
        assert_eq!(named(&Claim::new::<f64>([7; ADDRESS], 1000, Some(3))), "type: u32 (4 bytes), f64 (8 bytes)");
    }
}
