//! Which ranks can share memory.
//!
//! Segments are passed over abstract UNIX sockets, and those are seen within one network namespace of one running
//! kernel: that, and not a host name, is the identity. Two containers with a network each are two hosts; two containers
//! on the host's network are one. A different user (or user namespace) is a different host too, because the check of
//! the peer's user would refuse it.

use std::os::unix::fs::MetadataExt;

use super::wire::Reader;

/// A namespace: the device and inode of its file under `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Namespace {
    device: u64,
    inode: u64,
}

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
        let nowhere = Namespace { device: 0, inode: 0 };
        let (boot, net) = known.unwrap_or((alone, nowhere));
        // Without user namespaces in the kernel, the user id alone tells users apart.
        let user = namespace("/proc/self/ns/user").unwrap_or(nowhere);
        HostId { boot, net, user, uid: rustix::process::geteuid().as_raw() }
    }

    /// Whether both see the same network, so that loopback connects them, be they allowed to share memory or not.
    pub(crate) fn shares_network(&self, other: &HostId) -> bool {
        self.boot == other.boot && self.net == other.net
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
        assert!(a.shares_network(&other_user));
        assert!(!a.shares_network(&other_net) && !a.shares_network(&other_kernel));
    }
}
