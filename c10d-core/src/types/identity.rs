//! Names of a program's own element types and operations. Ranks compare them through fingerprints.

use std::fmt;
use std::sync::OnceLock;

/// The names that this process has used: a hash table with linear probing. A filled slot never changes.
static NAMES: [OnceLock<Name>; 1024] = [const { OnceLock::new() }; 1024];

#[derive(Debug, PartialEq)]
struct Name {
    of: &'static str,
    by: &'static str,
    bytes: u32,
    hash: u32,
}

/// The identity of an element type that is not a [`DType`](super::DType), and of the operation, if any, that reduces
/// it. Such elements are sent as bytes. If two ranks have different identities in one call, both get a
/// [`Mismatch`](crate::ErrorKind::Mismatch) whose field is `type`. The error of a rank names the other's identity only
/// if the rank has used that identity itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(u16);

impl Identity {
    /// Returns the identity of the type `of` with elements of `bytes` bytes, reduced by the operation `by` (empty for
    /// calls that only move data). `None` if `bytes` is 0 or more than `u32::MAX`, or if the process has used 1024
    /// other identities.
    pub fn new(of: &'static str, bytes: usize, by: &'static str) -> Option<Identity> {
        let hash = hash(of, bytes, by);
        let name = Name { of, by, bytes: u32::try_from(bytes).ok().filter(|n| *n > 0)?, hash };
        (0..NAMES.len()).map(|step| (hash as usize).wrapping_add(step) % NAMES.len()).find_map(|at| {
            let there = NAMES[at].get_or_init(|| Name { ..name });
            (*there == name).then_some(Identity(at as u16 + 1))
        })
    }

    /// Returns the identity with this hash, if this process has used it.
    pub(crate) fn of_hash(hash: u32) -> Option<Identity> {
        let at = NAMES.iter().position(|name| name.get().is_some_and(|name| name.hash == hash))?;
        Some(Identity(at as u16 + 1))
    }

    /// Returns the code of an identity in a span. 0 means no identity.
    pub(crate) fn code(of: Option<Identity>) -> u16 {
        of.map_or(0, |identity| identity.0)
    }

    #[inline]
    pub(crate) fn from_code(code: u16) -> Option<Identity> {
        (code != 0).then_some(Identity(code))
    }

    fn name(self) -> Option<&'static Name> {
        NAMES.get(usize::from(self.0).wrapping_sub(1)).and_then(OnceLock::get)
    }

    /// Returns the size of an element in bytes.
    pub fn bytes(self) -> usize {
        self.name().map_or(1, |name| name.bytes as usize)
    }

    /// Returns the hash that ranks compare. It is the same in all processes and never 0.
    pub(crate) fn hash(self) -> u32 {
        self.name().map_or(0, |name| name.hash)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(Name { of, by: "", .. }) => f.write_str(of),
            Some(Name { of, by, .. }) => write!(f, "{of} by {by}"),
            None => f.write_str("unknown"),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// Returns the FNV-1a hash of the type's name, its size and the operation's name. The result is never 0.
fn hash(of: &str, bytes: usize, by: &str) -> u32 {
    let size = (bytes as u64).to_le_bytes();
    let all = of.bytes().chain([0]).chain(by.bytes()).chain([0]).chain(size);
    all.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ_by_name_size_and_operation() {
        let a = Identity::new("test::A/1", 8, "").unwrap();
        assert_eq!(Identity::new("test::A/1", 8, ""), Some(a));
        assert_eq!((a.to_string(), a.bytes()), ("test::A/1".into(), 8));
        assert_eq!(Identity::of_hash(a.hash()), Some(a));
        assert_eq!(Identity::from_code(Identity::code(Some(a))), Some(a));
        assert_eq!(Identity::code(None), 0);
        let others = [("test::A/2", 8, ""), ("test::A/1", 4, ""), ("test::A/1", 8, "max"), ("test::A/1max", 8, "")];
        for (of, bytes, by) in others {
            let b = Identity::new(of, bytes, by).unwrap();
            assert!(a != b && a.hash() != b.hash(), "{a:?} and {b:?}");
        }
        assert_eq!(Identity::new("test::A/1", 8, "max").unwrap().to_string(), "test::A/1 by max");
        assert_eq!(Identity::new("test::Nothing", 0, ""), None);
    }
}
