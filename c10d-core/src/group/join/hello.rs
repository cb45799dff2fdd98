//! The hello of a rank: a key in the store whose value describes the rank and the group.

use std::time::Duration;

use crate::process::random;
use crate::{Error, ErrorKind, Result};

pub(super) type Nonce = [u8; 16];

const VERSION: u32 = 4;

/// The hello of a rank. Version, size and members must be the same on all ranks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hello {
    pub(super) nonce: Nonce,
    pub(super) version: u32,
    pub(super) size: u32,
    /// A counter of heartbeats, which grows while the rank waits. If the counter in a hello does not grow, the hello is
    /// of an earlier run.
    pub(super) beat: u32,
    /// The time between two heartbeats in milliseconds.
    pub(super) every: u32,
    /// The ids of the members: their numbers in the group that the builder made. Empty for that group itself.
    pub(super) members: Vec<u32>,
    /// The backends that the rank could use, as [`agree`](super::agree) writes them.
    pub(super) offers: String,
}

impl Hello {
    pub(super) fn new(size: u32, members: &[u32], every: Duration, offers: String) -> Result<Hello> {
        let every = every.as_millis().try_into().unwrap_or(u32::MAX);
        let (nonce, members) = (nonce()?, members.to_vec());
        Ok(Hello { nonce, version: VERSION, size, beat: 0, every, members, offers })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.nonce.to_vec();
        out.extend(self.version.to_le_bytes());
        for word in [self.size, self.beat, self.every] {
            out.extend(word.to_le_bytes());
        }
        out.extend((self.members.len() as u32).to_le_bytes());
        self.members.iter().for_each(|m| out.extend(m.to_le_bytes()));
        out.extend(self.offers.as_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Hello> {
        let (nonce, rest) = bytes.split_first_chunk::<16>()?;
        let (words, _) = rest.as_chunks::<4>();
        let word = |i: usize| words.get(i).map(|w| u32::from_le_bytes(*w));
        let (version, size) = (word(0)?, word(1)?);
        let offers = String::new();
        let mut hello = Hello { nonce: *nonce, version, size, beat: 0, every: 0, members: Vec::new(), offers };
        if version == VERSION {
            (hello.beat, hello.every) = (word(2)?, word(3)?);
            let members = word(4)? as usize;
            let offers = rest.get(20..)?.get(members.checked_mul(4)?..)?;
            hello.members = (0..members).map_while(|i| word(5 + i)).collect();
            hello.offers = String::from_utf8_lossy(offers).into_owned();
        }
        Some(hello)
    }

    /// Checks that `theirs`, the encoded hello of `rank`, describes the same group.
    pub(super) fn agrees(&self, theirs: &[u8], rank: u32) -> Result {
        let Some(theirs) = Hello::decode(theirs) else {
            let what = "the entry of the guilty rank in the store cannot be read; check that all ranks have the same \
                version of c10d";
            return Err(Error::new(ErrorKind::Rendezvous, what).guilty([rank]));
        };
        let (field, mine, theirs) = if theirs.version != self.version {
            ("version", self.version.to_string(), theirs.version.to_string())
        } else if theirs.members != self.members {
            ("members", format!("{:?}", self.members), format!("{:?}", theirs.members))
        } else if theirs.size != self.size {
            ("world_size", self.size.to_string(), theirs.size.to_string())
        } else {
            return Ok(());
        };
        let what = "the ranks describe the group differently";
        Err(Error::new(ErrorKind::Mismatch { field, mine, theirs }, what).guilty([rank]))
    }
}

/// Returns the nonce of an encoded hello. Heartbeats change the hello, but not its nonce.
pub(super) fn nonce_of(hello: &[u8]) -> &[u8] {
    hello.get(..16).unwrap_or(hello)
}

pub(super) fn nonce() -> Result<Nonce> {
    random()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_random() {
        let ids: Vec<u128> = (0..64).map(|_| u128::from_le_bytes(nonce().unwrap())).collect();
        assert_eq!(ids.iter().fold(0, |bits, id| bits | id), u128::MAX);
        assert_eq!(ids.iter().fold(u128::MAX, |bits, id| bits & id), 0);
        assert!((1..ids.len()).all(|i| !ids[..i].contains(&ids[i])));
    }

    #[test]
    fn a_hello_is_read_back_and_names_the_differing_field() {
        let a = Hello::new(3, &[4, 5, 6], Duration::from_millis(70), "cpu=x\n".to_owned()).unwrap();
        assert_eq!(Hello::decode(&a.encode()), Some(a.clone()));
        assert!(a.agrees(&Hello { nonce: nonce().unwrap(), ..a.clone() }.encode(), 1).is_ok());
        let field = |theirs: Hello| match a.agrees(&theirs.encode(), 2).unwrap_err().kind() {
            ErrorKind::Mismatch { field, .. } => *field,
            other => other.name(),
        };
        assert_eq!(field(Hello { version: 99, ..a.clone() }), "version");
        assert_eq!(field(Hello { size: 2, members: vec![4, 5], ..a.clone() }), "members");
        assert_eq!(field(Hello { size: 4, ..a.clone() }), "world_size");
        assert_eq!(a.agrees(b"too short", 1).unwrap_err().report().guilty, [1]);
    }
}
