//! Which ranks are on one host, and which of these can share memory.
//!
//! A host is a running operating-system kernel, including all of its containers. Ranks can share memory if they have
//! the same host, network namespace, user and user namespace. Descriptors pass over abstract UNIX sockets, which belong
//! to a network namespace, and a receiver accepts descriptors only from its own user. So containers on the host's
//! network can share memory, even if their process ids, mounts and System V memory are separate.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::process::{PerProcess, random};

/// A Linux namespace, identified by the device and inode of its file under `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Namespace {
    device: u64,
    inode: u64,
}

const NOWHERE: Namespace = Namespace { device: 0, inode: 0 };

/// Where a process runs. Two ranks can share memory if and only if their values are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId {
    boot: [u8; 16],
    net: Namespace,
    user: Namespace,
    uid: u32,
}

impl HostId {
    /// The length of the wire form in bytes.
    pub const SIZE: usize = 52;

    /// Returns the value of this process. If the value cannot be read (there is no `/proc`), the process counts as a
    /// host of its own.
    pub fn here() -> HostId {
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|text| parse_boot_id(&text));
        let known = boot.zip(namespace("/proc/self/ns/net"));
        if known.is_none() {
            tracing::warn!(
                "boot id and network namespace cannot be read from /proc: this process cannot share memory with other \
                    processes"
            );
        }
        let (boot, net) = known.unwrap_or_else(|| (alone(), NOWHERE));
        // Linux without user namespaces has no such file.
        let user = namespace("/proc/self/ns/user").unwrap_or(NOWHERE);
        HostId { boot, net, user, uid: rustix::process::geteuid().as_raw() }
    }

    /// Returns whether the boot id and the network namespace are unknown.
    fn is_unknown(&self) -> bool {
        self.net == NOWHERE
    }

    /// Returns whether the two processes are on one host. `None` if that is unknown.
    pub fn is_same_host(&self, other: &HostId) -> Option<bool> {
        let same = self.boot == other.boot;
        if same || !(self.is_unknown() || other.is_unknown()) { Some(same) } else { None }
    }

    /// Returns whether the two processes can share memory.
    pub fn can_share_memory(&self, other: &HostId) -> bool {
        self == other
    }

    /// Returns whether the two processes are in one network namespace. Such processes reach each other over loopback,
    /// even if they cannot share memory. `None` if that is unknown.
    pub fn shares_network(&self, other: &HostId) -> Option<bool> {
        let same = self.boot == other.boot && self.net == other.net;
        if same || !(self.is_unknown() || other.is_unknown()) { Some(same) } else { None }
    }

    /// Returns why the two processes cannot share memory, as a phrase that follows "they". `None` if they can.
    pub fn apart(&self, other: &HostId) -> Option<String> {
        if self == other {
            None
        } else if self.is_unknown() || other.is_unknown() {
            Some(
                "may be on different hosts (boot id or network namespace of one is unknown; is its /proc mounted?)"
                    .into(),
            )
        } else if self.boot != other.boot {
            Some("are on different hosts".into())
        } else if self.net != other.net {
            Some("are in different network namespaces of one host".into())
        } else if self.user != other.user {
            Some("are in different user namespaces, so their user ids cannot be compared".into())
        } else {
            Some(format!("run as different users (user ids {} and {})", self.uid, other.uid))
        }
    }

    /// Returns the wire form. Numbers are little endian.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..16].copy_from_slice(&self.boot);
        let numbers = [self.net.device, self.net.inode, self.user.device, self.user.inode];
        for (n, to) in numbers.iter().zip(out[16..48].chunks_exact_mut(8)) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        out[48..].copy_from_slice(&self.uid.to_le_bytes());
        out
    }

    /// Reads the wire form. Every sequence of bytes is valid.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> HostId {
        fn part<const N: usize>(bytes: &[u8; HostId::SIZE], at: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes[at + i])
        }
        let number = |at| u64::from_le_bytes(part(bytes, at));
        HostId {
            boot: part(bytes, 0),
            net: Namespace { device: number(16), inode: number(24) },
            user: Namespace { device: number(32), inode: number(40) },
            uid: u32::from_le_bytes(part(bytes, 48)),
        }
    }
}

/// Returns a value that no other process has, as a substitute for an unknown boot id.
fn alone() -> [u8; 16] {
    static TOKEN: PerProcess<OnceLock<[u8; 16]>> = PerProcess::new();
    *TOKEN.get().get_or_init(|| {
        random().unwrap_or_else(|_| {
            let mut token = [0; 16];
            token[..4].copy_from_slice(&std::process::id().to_le_bytes());
            token
        })
    })
}

/// Divides processes into sets, such as hosts, and returns the number of each process's set. `together` says whether
/// two processes are in the same set. Sets are numbered in the order of their first processes.
pub fn number(all: &[HostId], together: impl Fn(&HostId, &HostId) -> bool) -> Vec<u32> {
    let mut first: Vec<&HostId> = Vec::new();
    let number = |host| match first.iter().position(|seen| together(seen, host)) {
        Some(n) => n as u32,
        None => {
            first.push(host);
            first.len() as u32 - 1
        }
    };
    all.iter().map(number).collect()
}

fn namespace(path: &str) -> Option<Namespace> {
    // `metadata` follows the symbolic link to the namespace.
    let meta = std::fs::metadata(path).ok()?;
    Some(Namespace { device: meta.dev(), inode: meta.ino() })
}

/// Returns the 16 bytes of a boot id as Linux writes it (`01234567-89ab-...`).
fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16))
        .map(|d| d.map(|d| d as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() != 32 { None } else { bytes.try_into().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_ids_are_parsed() {
        let id = parse_boot_id("3f2a0c11-89ab-4def-8123-456789abcdef\n").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0x3f, 0x2a, 0xef));
        assert_eq!(parse_boot_id("3f2a0c11-89ab-4def-8123-456789abcde"), None);
        assert_eq!(parse_boot_id("not an id"), None);
        assert_eq!(parse_boot_id(""), None);
    }

    #[test]
    fn a_process_has_one_host_id_that_is_read_back() {
        let here = HostId::here();
        assert_eq!(here, HostId::here());
        assert_eq!(HostId::from_bytes(&here.to_bytes()), here);
        assert_eq!(alone(), alone());
    }

    #[test]
    fn hosts_differ_by_boot_id_and_memory_by_namespaces_and_user() {
        let ns = |inode| Namespace { device: 4, inode };
        let a = HostId { boot: [7; 16], net: ns(1), user: ns(2), uid: 0 };
        let other_net = HostId { net: ns(9), ..a };
        let other_user = HostId { uid: 1000, ..a };
        let other_kernel = HostId { boot: [8; 16], ..a };
        let all = [a, other_net, a, other_user, other_kernel, other_net];
        assert_eq!(number(&all, HostId::can_share_memory), [0, 1, 0, 2, 3, 1]);
        assert_eq!(number(&all, |a, b| a.is_same_host(b) == Some(true)), [0, 0, 0, 0, 1, 0]);
        let of_host = [other_net, other_user].map(|b| (a.is_same_host(&b), a.can_share_memory(&b)));
        assert_eq!(of_host, [(Some(true), false); 2]);
        assert_eq!((a.is_same_host(&other_kernel), a.can_share_memory(&a)), (Some(false), true));
        let blind = HostId { boot: [9; 16], net: NOWHERE, ..a };
        assert_eq!(a.shares_network(&other_user), Some(true));
        assert!([other_net, other_kernel].iter().all(|b| a.shares_network(b) == Some(false)));
        assert_eq!(a.is_same_host(&blind), None);
        assert_eq!((a.shares_network(&blind), blind.shares_network(&blind)), (None, Some(true)));
        let other_namespace = HostId { user: ns(3), uid: 1000, ..a };
        for (b, why) in [
            (other_net, "different network namespaces"),
            (other_user, "different users (user ids 0 and 1000)"),
            (other_namespace, "different user namespaces"),
            (other_kernel, "different hosts"),
            (blind, "is its /proc mounted?"),
        ] {
            assert!(a.apart(&b).is_some_and(|text| text.contains(why)), "{:?}", a.apart(&b));
        }
        assert_eq!(a.apart(&a), None);
    }
}
