//! The first bytes on every connection between two ranks, in both directions.

use super::wire::Reader;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// Messages about health, for the life of the group. A UNIX socket first carries descriptors: of the processes, and
    /// of the segments if there are any.
    Control = 0,
    /// Payload of collectives.
    Collective = 1,
    /// Payload of point-to-point ops.
    PointToPoint = 2,
}

/// The sender, the receiver, the group, the session and the purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) purpose: Purpose,
    pub(crate) session: [u8; 16],
    /// [`hash`](super::wire::hash) of the group's name.
    pub(crate) group: u64,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

const MAGIC: [u8; 5] = [0xC1, b'c', b'1', b'0', b'd'];
const VERSION: u8 = 3;
const MAC: usize = 32;

impl Handshake {
    /// The number of bytes on the wire. The last 32 bytes, now zero, are reserved for a message authentication code.
    pub(crate) const SIZE: usize = MAGIC.len() + 3 + 16 + 8 + 4 + 4 + MAC;

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = Vec::with_capacity(Self::SIZE);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.purpose as u8, 0]);
        out.extend_from_slice(&self.session);
        out.extend_from_slice(&self.group.to_le_bytes());
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.to.to_le_bytes());
        let mut bytes = [0; Self::SIZE];
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    /// Reads a handshake. An error says what is wrong with it.
    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Result<Handshake, &'static str> {
        let mut r = Reader(bytes);
        let short = "too short";
        if r.array() != Some(MAGIC) {
            return Err("not a rank of this library");
        }
        if r.u8() != Some(VERSION) {
            return Err("another version of the handshake");
        }
        let purpose = match r.u8() {
            Some(0) => Purpose::Control,
            Some(1) => Purpose::Collective,
            Some(2) => Purpose::PointToPoint,
            _ => return Err("unknown purpose"),
        };
        r.u8().ok_or(short)?;
        Ok(Handshake {
            purpose,
            session: r.array().ok_or(short)?,
            group: r.u64().ok_or(short)?,
            from: r.u32().ok_or(short)?,
            to: r.u32().ok_or(short)?,
        })
    }

    /// Returns the handshake with which the other end answers.
    pub(crate) fn answer(self) -> Handshake {
        Handshake { from: self.to, to: self.from, ..self }
    }

    /// Checks a handshake that rank `me` of this group and session received. Returns why the handshake is invalid, if
    /// it is.
    pub(crate) fn objection(&self, session: &[u8; 16], group: u64, me: u32, size: u32) -> Option<&'static str> {
        if self.session != *session {
            Some("a rank of another run (session)")
        } else if self.group != group {
            Some("a rank of another group")
        } else if self.to != me {
            Some("a connection to another rank")
        } else if self.from <= me || self.from >= size {
            Some("a rank that does not dial this one")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_round_trip_and_bad_ones_are_refused() {
        let h = Handshake { purpose: Purpose::Collective, session: [3; 16], group: 77, from: 5, to: 2 };
        let bytes = h.to_bytes();
        assert_eq!(Handshake::from_bytes(&bytes), Ok(h));
        assert_eq!(h.answer().answer(), h);
        for (at, value) in [(0, b'G'), (5, 1), (6, 3)] {
            let mut bad = bytes;
            bad[at] = value;
            assert!(Handshake::from_bytes(&bad).is_err(), "byte {at}");
        }
        assert_eq!(h.objection(&[3; 16], 77, 2, 6), None);
        assert!(h.objection(&[4; 16], 77, 2, 6).is_some());
        assert!(h.objection(&[3; 16], 78, 2, 6).is_some());
        assert!(h.objection(&[3; 16], 77, 1, 6).is_some());
        assert!(h.objection(&[3; 16], 77, 2, 5).is_some());
        assert!(Handshake { from: 2, ..h }.objection(&[3; 16], 77, 2, 6).is_some());
    }
}
