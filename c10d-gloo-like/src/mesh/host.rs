//! Which ranks can share memory.
//!
//! Segments are passed over abstract UNIX sockets, and those are seen within one network namespace of one running
//! kernel: that, and not a host name, is the identity. Two containers with a network each are two hosts; two containers
//! on the host's network are one, whatever else they have for themselves: process ids, mounts and System V's memory play
//! no part. A different user (or user namespace, where the same number may be another user) is a different host too,
//! because the check of the peer's user would refuse it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::PidfdFlags;

use super::wire::Reader;

/// A namespace: the device and inode of its file under `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Namespace {
    device: u64,
    inode: u64,
}

const NOWHERE: Namespace = Namespace { device: 0, inode: 0 };

/// Equal on two ranks exactly if they can share memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostId {
    boot: [u8; 16],
    net: Namespace,
    user: Namespace,
    uid: u32,
}

impl HostId {
    /// This process's. Where the system does not say (no `/proc`), `alone`, random, makes the process a host of its own.
    pub(crate) fn here(alone: [u8; 16]) -> HostId {
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|text| parse_boot_id(&text));
        let known = boot.zip(namespace("/proc/self/ns/net"));
        if known.is_none() {
            tracing::warn!(
                "/proc does not tell boot id and network namespace: this process shares memory with no other"
            );
        }
        let (boot, net) = known.unwrap_or((alone, NOWHERE));
        // Without user namespaces in the kernel, the user id alone tells users apart.
        let user = namespace("/proc/self/ns/user").unwrap_or(NOWHERE);
        HostId { boot, net, user, uid: rustix::process::geteuid().as_raw() }
    }

    /// Whether /proc did not tell.
    fn is_unknown(&self) -> bool {
        self.net == NOWHERE
    }

    /// Whether both see the same network, so that loopback connects them, be they allowed to share memory or not; `None`:
    /// one of them does not know.
    pub(crate) fn shares_network(&self, other: &HostId) -> Option<bool> {
        let same = self.boot == other.boot && self.net == other.net;
        if same || !(self.is_unknown() || other.is_unknown()) { Some(same) } else { None }
    }

    /// Why the two cannot share memory, as what is said of both; `None`: they can.
    pub(crate) fn apart(&self, other: &HostId) -> Option<String> {
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

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.boot);
        for n in [self.net.device, self.net.inode, self.user.device, self.user.inode] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.uid.to_le_bytes());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Option<HostId> {
        Some(HostId {
            boot: r.array()?,
            net: Namespace { device: r.u64()?, inode: r.u64()? },
            user: Namespace { device: r.u64()?, inode: r.u64()? },
            uid: r.u32()?,
        })
    }
}

/// This process, for others to watch; `None` for kernels before 5.3, which have no such descriptors.
pub(super) fn own_process() -> Result<Option<OwnedFd>, Errno> {
    match rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(e @ (Errno::MFILE | Errno::NFILE)) => Err(e),
        Err(e) => {
            tracing::debug!("peers watch this process by its connections alone: {e}");
            Ok(None)
        }
    }
}

/// Numbers hosts in order of their first rank.
pub(crate) fn number(hosts: &[HostId]) -> Vec<u32> {
    let mut seen: Vec<HostId> = Vec::new();
    hosts
        .iter()
        .map(|host| match seen.iter().position(|h| h == host) {
            Some(n) => n as u32,
            None => {
                seen.push(*host);
                seen.len() as u32 - 1
            }
        })
        .collect()
}

fn namespace(path: &str) -> Option<Namespace> {
    // Follows the link: the inode is the namespace's own.
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
        let here = HostId::here([1; 16]);
        assert_eq!(here, HostId::here([2; 16]));
        let mut out = Vec::new();
        here.put(&mut out);
        assert_eq!(HostId::read(&mut Reader(&out)), Some(here));
        assert_eq!(HostId::read(&mut Reader(&out[1..])), None);
    }

    #[test]
    fn what_tells_hosts_apart() {
        let ns = |inode| Namespace { device: 4, inode };
        let a = HostId { boot: [7; 16], net: ns(1), user: ns(2), uid: 0 };
        let other_net = HostId { net: ns(9), ..a };
        let other_user = HostId { uid: 1000, ..a };
        let other_kernel = HostId { boot: [8; 16], ..a };
        assert_eq!(number(&[a, other_net, a, other_user, other_kernel, other_net]), [0, 1, 0, 2, 3, 1]);
        let blind = HostId { boot: [9; 16], net: NOWHERE, ..a };
        assert_eq!(a.shares_network(&other_user), Some(true));
        assert!([other_net, other_kernel].iter().all(|b| a.shares_network(b) == Some(false)));
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
