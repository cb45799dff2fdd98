//! Converts objects to bytes and back, and defines the header that a rank sends before the objects.

use std::any::Any;
use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest number of bytes of a text about an object: the name of its type, or why it cannot be sent.
pub(super) const TEXT: usize = 1000;

/// What a rank sends to the others before its objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// The hash of the name of the object's type.
    pub(super) identity: u64,
    /// The length of the rank's object, or of the largest of its objects, in bytes.
    pub(super) length: u64,
    /// The length of the rank's text about its object, in bytes.
    pub(super) text: u64,
    /// Whether the object cannot be sent. If so, the text says why.
    pub(super) failed: bool,
    /// The largest number of bytes that the rank accepts.
    pub(super) limit: u64,
}

/// The number of `u64` values in a header.
pub(super) const NUMBERS: usize = 5;

impl Header {
    pub(super) fn to_numbers(self) -> [u64; NUMBERS] {
        [self.identity, self.length, self.text, u64::from(self.failed), self.limit]
    }

    pub(super) fn from_numbers([identity, length, text, failed, limit]: [u64; NUMBERS]) -> Header {
        Header { identity, length, text, failed: failed != 0, limit }
    }
}

/// The objects that a rank sends, as bytes, or the reason why they cannot be sent.
pub(super) struct Outgoing {
    pub(super) bytes: Vec<Vec<u8>>,
    pub(super) text: String,
    pub(super) failed: bool,
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

impl Outgoing {
    /// Makes the value for a rank that has no object.
    pub(super) fn nothing<T>() -> Outgoing {
        Outgoing { bytes: Vec::new(), text: bounded(type_name::<T>().to_owned()), failed: false, panic: None }
    }

    /// Makes the value for a rank whose object cannot be sent, with the reason.
    pub(super) fn failed(why: String) -> Outgoing {
        Outgoing { bytes: Vec::new(), text: bounded(why), failed: true, panic: None }
    }

    /// Serializes the objects. Errors and panics of the types' own code are caught here.
    pub(super) fn of<'a, T: Serialize + 'a>(objects: impl IntoIterator<Item = &'a T>) -> Outgoing {
        let encode = || objects.into_iter().map(postcard::to_stdvec).collect::<postcard::Result<Vec<_>>>();
        // After a panic the half-written bytes are dropped.
        match catch_unwind(AssertUnwindSafe(encode)) {
            Ok(Ok(bytes)) => Outgoing { bytes, ..Outgoing::nothing::<T>() },
            Ok(Err(e)) => Outgoing::failed(format!("{} cannot be serialized: {e}", type_name::<T>())),
            Err(panic) => {
                let why = format!("the serialization of {} panicked", type_name::<T>());
                Outgoing { panic: Some(panic), ..Outgoing::failed(why) }
            }
        }
    }

    pub(super) fn header<T>(&self, limit: usize) -> Header {
        let length = self.bytes.iter().map(Vec::len).max().unwrap_or_default() as u64;
        let (text, failed) = (self.text.len() as u64, self.failed);
        Header { identity: identity::<T>(), length, text, failed, limit: limit as u64 }
    }
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((object, [])) => Ok(object),
        Ok((_, rest)) => Err(format!("{} bytes are left over", rest.len())),
        Err(e) => Err(e.to_string()),
    }
}

/// Returns the FNV-1a hash of the type's name, which is the same in all processes of one program.
fn identity<T>() -> u64 {
    let name = type_name::<T>().bytes();
    name.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn bounded(mut text: String) -> String {
    let end = (0..=TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_the_object_and_texts_are_bounded() {
        let out = Outgoing::of([&(7u32, "seven".to_owned())]);
        assert!(!out.failed && out.panic.is_none());
        let mut bytes = out.bytes[0].clone();
        assert_eq!(decode::<(u32, String)>(&bytes), Ok((7, "seven".into())));
        bytes.push(0);
        assert_eq!(decode::<(u32, String)>(&bytes), Err("1 bytes are left over".into()));
        assert!(decode::<(u32, String)>(&bytes[..3]).is_err());
        // The length of a vector of 2^60 elements, without the elements.
        assert!(decode::<Vec<u64>>(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]).is_err());
        assert_eq!(bounded("ä".repeat(TEXT)).len(), TEXT);
        assert_ne!(identity::<u32>(), identity::<i32>());
        let header = out.header::<(u32, String)>(99);
        assert_eq!(format!("{:?}", Header::from_numbers(header.to_numbers())), format!("{header:?}"));
    }
}
