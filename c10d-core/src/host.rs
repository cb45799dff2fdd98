//! Which ranks are on one host, and which can share memory. These are different questions.
//!
//! A host is a running kernel, including all of its containers. Memory is shared through segments that are passed over
//! abstract UNIX sockets, which are visible within one network namespace. So two containers with separate networks are
//! on one host but cannot share memory. Two containers on the host's network can share memory, even if their process
//! ids, mounts and System V memory are separate. Processes of different users cannot, nor can processes in different
//! user namespaces, where the same number may be another user, since the check of the peer's user would refuse it.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::process::{PerProcess, random};

/// A namespace: the device and inode of its file under `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Namespace {
    device: u64,
    inode: u64,
}

const NOWHERE: Namespace = Namespace { device: 0, inode: 0 };

/// Where a process runs, as ranks tell each other. Two ranks can share memory if and only if their values are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId {
    boot: [u8; 16],
    net: Namespace,
    user: Namespace,
    uid: u32,
}

impl HostId {
    /// The number of bytes on the wire.
    pub const SIZE: usize = 52;

    /// The value of this process. If the system does not tell (there is no `/proc`), the process counts as a host of
    /// its own.
    pub fn here() -> HostId {
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|text| parse_boot_id(&text));
        let known = boot.zip(namespace("/proc/self/ns/net"));
        if known.is_none() {
            tracing::warn!(
                "/proc does not tell boot id and network namespace: this process shares memory with no other"
            );
        }
        let (boot, net) = known.unwrap_or_else(|| (alone(), NOWHERE));
        // On a kernel without user namespaces, the user id alone tells users apart.
        let user = namespace("/proc/self/ns/user").unwrap_or(NOWHERE);
        HostId { boot, net, user, uid: rustix::process::geteuid().as_raw() }
    }

    /// Whether /proc did not tell.
    fn is_unknown(&self) -> bool {
        self.net == NOWHERE
    }

    /// Whether both are on one host, even if they cannot share memory; `None`: one of them does not know.
    pub fn is_same_host(&self, other: &HostId) -> Option<bool> {
        let same = self.boot == other.boot;
        if same || !(self.is_unknown() || other.is_unknown()) { Some(same) } else { None }
    }

    /// Whether the two can share memory.
    pub fn can_share_memory(&self, other: &HostId) -> bool {
        self == other
    }

    /// Whether both are in the same network namespace, so that loopback connects them, even if they cannot share
    /// memory; `None`: one of them does not know.
    pub fn shares_network(&self, other: &HostId) -> Option<bool> {
        let same = self.boot == other.boot && self.net == other.net;
        if same || !(self.is_unknown() || other.is_unknown()) { Some(same) } else { None }
    }

    /// Why the two cannot share memory, as a phrase that follows "they"; `None`: they can.
    pub fn apart(&self, other: &HostId) -> Option<String> {
        if self == other {
            None
        } else if self.is_unknown() || other.is_unknown() {
            Some("may be on different hosts (/proc does not tell; is it mounted?)".into())
        } else if self.boot != other.boot {
            Some("are on different hosts".into())
        } else if self.net != other.net {
            Some("are in different network namespaces of one host".into())
        } else if self.user != other.user {
            Some("are in different user namespaces, where a user id does not tell who somebody is".into())
        } else {
            Some(format!("run as different users (user ids {} and {})", self.uid, other.uid))
        }
    }

    /// The wire form, little endian.
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

    /// Reads the wire form. Any bytes can be read.
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

/// A value that no other process has, in place of a boot id.
fn alone() -> [u8; 16] {
    static TOKEN: PerProcess<OnceLock<[u8; 16]>> = PerProcess::new();
    *TOKEN.get().get_or_init(|| {
        random().unwrap_or_else(|_| {
            // Another process on this host has another process id.
            let mut token = [0; 16];
            token[..4].copy_from_slice(&std::process::id().to_le_bytes());
            token
        })
    })
}

/// Numbers the sets of processes for which `together` is true, such as hosts, in the order of their first ranks.
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
    // `metadata` follows the link, so the inode is that of the namespace.
    let meta = std::fs::metadata(path).ok()?;
    Some(Namespace { device: meta.dev(), inode: meta.ino() })
}

/// The 16 bytes of a boot id as the kernel writes it (`01234567-89ab-...`).
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
    fn boot_ids() {
        let id = parse_boot_id("3f2a0c11-89ab-4def-8123-456789abcdef\n").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0x3f, 0x2a, 0xef));
        assert_eq!(parse_boot_id("3f2a0c11-89ab-4def-8123-456789abcde"), None);
        assert_eq!(parse_boot_id("not an id"), None);
        assert_eq!(parse_boot_id(""), None);
    }

    #[test]
    fn the_same_process_is_one_host_and_the_wire_keeps_it() {
        let here = HostId::here();
        assert_eq!(here, HostId::here());
        assert_eq!(HostId::from_bytes(&here.to_bytes()), here);
        assert_eq!(alone(), alone());
    }

    #[test]
    fn what_tells_hosts_apart() {
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
            (blind, "/proc does not tell"),
        ] {
            assert!(a.apart(&b).is_some_and(|text| text.contains(why)), "{:?}", a.apart(&b));
        }
        assert_eq!(a.apart(&a), None);
    }
}
