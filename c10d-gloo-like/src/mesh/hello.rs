//! The record that each rank publishes in the store: its host, its process and its settings, and how it can be reached.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use c10d_core::cores::Cores;
use c10d_core::host::HostId;
use c10d_core::{Error, ErrorKind, Phase, Result, Store};

use super::addr;
use super::wire::{Reader, put_text};
use super::wiring::{Transport, Tuning};

/// The version of the protocol. It must be equal on all ranks, since algorithms and layouts may change with every
/// release.
pub(super) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/10");
const MAGIC: [u8; 4] = *b"c10m";
const NAME: usize = 64;
/// The largest number of bytes of the name of a tuning file.
const FILE: usize = 256;

/// The record of one rank.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hello {
    pub(crate) host: HostId,
    pub(crate) cores: Cores,
    pub(crate) pid: u32,
    /// A random value of the process, by which ranks that are its threads recognise each other.
    pub(crate) process: [u8; 16],
    pub(crate) transport: Transport,
    pub(crate) size: u32,
    pub(crate) tuning: Tuning,
    /// The abstract name of the rank's UNIX socket; empty if it has none.
    pub(crate) unix: String,
    /// The addresses at which the rank listens, never the wildcard address.
    pub(crate) tcp: Vec<SocketAddr>,
}

impl Hello {
    /// Returns the record's bytes. The version comes first, so that an error can name a rank of another version.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        put_text(&mut out, VERSION, NAME);
        out.extend_from_slice(&self.host.to_bytes());
        let cores = self.cores.to_bytes();
        out.push(cores.len() as u8);
        out.extend_from_slice(&cores);
        out.extend_from_slice(&self.pid.to_le_bytes());
        out.extend_from_slice(&self.process);
        out.push(self.transport as u8);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.tuning.hash.to_le_bytes());
        put_text(&mut out, &self.tuning.file, FILE);
        put_text(&mut out, &self.unix, NAME);
        out.push(self.tcp.len().min(addr::MAX) as u8);
        for a in self.tcp.iter().take(addr::MAX) {
            match a.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend_from_slice(&ip.octets());
                }
            }
            out.extend_from_slice(&a.port().to_le_bytes());
        }
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8], me: u32, from: u32) -> Result<Hello> {
        let mut r = Reader(bytes);
        let refuse = |what: String| Error::new(ErrorKind::Rendezvous, what).guilty([from]).phase(Phase::Rendezvous);
        let garbled = || refuse(format!("rank {from} published a record that cannot be decoded"));
        if r.array() != Some(MAGIC) {
            return Err(garbled());
        }
        let version = r.text(NAME).ok_or_else(garbled)?;
        if version != VERSION {
            return Err(refuse(format!(
                "rank {me} runs version {VERSION} and rank {from} runs version {version}: use one version on all ranks"
            )));
        }
        Hello::read(r).ok_or_else(garbled)
    }

    fn read(mut r: Reader<'_>) -> Option<Hello> {
        let mut hello = Hello {
            host: HostId::from_bytes(&r.array()?),
            cores: {
                let len = r.u8()?.into();
                Cores::from_bytes(r.bytes(len)?)?
            },
            pid: r.u32()?,
            process: r.array()?,
            transport: Transport::from_code(r.u8()?)?,
            size: r.u32()?,
            tuning: Tuning { hash: r.u64()?, file: r.text(FILE)? },
            unix: r.text(NAME)?,
            tcp: Vec::new(),
        };
        let n = usize::from(r.u8()?);
        if n > addr::MAX {
            return None;
        }
        for _ in 0..n {
            let ip: IpAddr = match r.u8()? {
                4 => r.array::<4>()?.into(),
                6 => r.array::<16>()?.into(),
                _ => return None,
            };
            if ip.is_unspecified() {
                return None;
            }
            hello.tcp.push(SocketAddr::new(ip, r.u16()?));
        }
        r.end()?;
        Some(hello)
    }
}

pub(super) fn key(rank: u32) -> String {
    format!("mesh/{rank}")
}

/// Publishes this rank's record, calls `wait`, and returns all records in rank order. `wait` returns when all ranks
/// have published their records, or with an error.
pub(crate) fn exchange(
    store: &dyn Store,
    mine: &Hello,
    me: u32,
    deadline: Instant,
    wait: impl FnOnce() -> Result,
) -> Result<Vec<Hello>> {
    let record = mine.to_bytes();
    let stored = store.compare_set(&key(me), &[], &record, deadline).map_err(|e| e.phase(Phase::Rendezvous))?;
    if stored != record {
        let other = Hello::from_bytes(&stored, me, me).map_or(String::new(), |h| format!(" (process {})", h.pid));
        return Err(Error::new(
            ErrorKind::Rendezvous,
            format!("another process{other} has joined as rank {me}: give each process a rank of its own"),
        )
        .guilty([me])
        .phase(Phase::Rendezvous));
    }
    wait()?;
    let records = gather(store, key, mine.size, deadline, "did not join")?;
    let mut all = Vec::with_capacity(records.len());
    for (from, bytes) in (0..).zip(&records) {
        let hello = Hello::from_bytes(bytes, me, from)?;
        let differs = |what: &str, ours: &str, theirs: &str| {
            Error::new(
                ErrorKind::Rendezvous,
                format!("{what} is {ours} on rank {me} and {theirs} on rank {from}: use the same value on all ranks"),
            )
            .guilty([from])
            .phase(Phase::Rendezvous)
        };
        if hello.size != mine.size {
            return Err(differs("the group's size", &mine.size.to_string(), &hello.size.to_string()));
        }
        if hello.transport != mine.transport {
            return Err(differs("the transport", mine.transport.name(), hello.transport.name()));
        }
        if hello.tuning.hash != mine.tuning.hash {
            return Err(differs("the tuning table", &mine.tuning.words(), &hello.tuning.words()));
        }
        all.push(hello);
    }
    Ok(all)
}

/// Waits for the value of every rank, and returns the values. An error names the ranks without a value at the deadline.
pub(super) fn gather(
    store: &dyn Store,
    key: impl Fn(u32) -> String,
    size: u32,
    deadline: Instant,
    missing: &str,
) -> Result<Vec<Vec<u8>>> {
    let keys: Vec<String> = (0..size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let error = match store.multi_get(&keys, deadline) {
        Ok(values) if values.len() == keys.len() => return Ok(values),
        Ok(values) => {
            let what = format!("the store gave {} values for {} keys", values.len(), keys.len());
            return Err(Error::new(ErrorKind::Store, what).phase(Phase::Rendezvous));
        }
        Err(error) => error,
    };
    // Find out which ranks are missing. The requests do not wait, but the store may be gone.
    let last = deadline.max(Instant::now()) + Duration::from_millis(100);
    let mut absent = Vec::new();
    for (rank, key) in (0..).zip(&keys) {
        match store.check(&[key], last) {
            Ok(true) => {}
            Ok(false) => absent.push(rank),
            Err(_) => return Err(error.phase(Phase::Rendezvous)),
        }
    }
    if absent.is_empty() || Instant::now() + Duration::from_millis(20) < deadline {
        return Err(error.phase(Phase::Rendezvous));
    }
    let names: Vec<String> = absent.iter().map(u32::to_string).collect();
    let word = if absent.len() == 1 { "rank" } else { "ranks" };
    Err(Error::new(ErrorKind::Rendezvous, format!("{word} {} of {size} {missing} in time", names.join(", ")))
        .guilty(absent)
        .phase(Phase::Rendezvous)
        .caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use c10d_core::HashStore;
    use c10d_core::store::deadline_after;

    fn hello() -> Hello {
        Hello {
            host: HostId::here(),
            cores: Cores::here(),
            pid: 7,
            process: [9; 16],
            transport: Transport::Auto,
            size: 3,
            tuning: Tuning { hash: 5, file: "/etc/a".into() },
            unix: "c10d-abc".into(),
            tcp: vec!["127.0.0.1:80".parse().unwrap(), "[fd00::1]:443".parse().unwrap()],
        }
    }

    #[test]
    fn hellos_round_trip_and_malformed_ones_are_refused() {
        let bytes = hello().to_bytes();
        assert_eq!(Hello::from_bytes(&bytes, 0, 1).unwrap(), hello());
        for cut in 0..bytes.len() {
            assert!(Hello::from_bytes(&bytes[..cut], 0, 1).is_err(), "{cut} bytes");
        }
        let wildcard = Hello { tcp: vec!["0.0.0.0:80".parse().unwrap()], ..hello() };
        assert!(Hello::from_bytes(&wildcard.to_bytes(), 0, 1).is_err());
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = hello().to_bytes();
        bytes[6] = b'9';
        let error = Hello::from_bytes(&bytes, 0, 1).unwrap_err();
        assert_eq!(error.report().guilty, [1]);
        let text = error.to_string();
        assert!(text.contains(VERSION) && text.contains(&VERSION.replacen('0', "9", 1)), "{text}");
    }

    #[test]
    fn absent_ranks_and_a_rank_that_joins_twice_are_named() {
        let store = HashStore::default();
        let soon = deadline_after(Duration::from_millis(50));
        store.set("mesh/1", &hello().to_bytes(), soon).unwrap();
        let error = exchange(&store, &hello(), 0, soon, || Ok(())).unwrap_err();
        assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Rendezvous, &[2][..]));
        let error = exchange(&store, &Hello { pid: 8, ..hello() }, 0, soon, || Ok(())).unwrap_err();
        assert!(error.to_string().contains("process 7"), "{error}");
    }

    #[test]
    fn contradictions_are_named() {
        let store = HashStore::default();
        let soon = deadline_after(Duration::from_secs(5));
        store.set("mesh/1", &hello().to_bytes(), soon).unwrap();
        store.set("mesh/2", &Hello { transport: Transport::Tcp, ..hello() }.to_bytes(), soon).unwrap();
        let error = exchange(&store, &hello(), 0, soon, || Ok(())).unwrap_err();
        assert_eq!(error.report().guilty, [2]);
        assert!(error.to_string().contains("auto on rank 0 and tcp on rank 2"), "{error}");
    }

    #[test]
    fn ranks_that_choose_by_different_tables_are_named_with_their_files() {
        let store = HashStore::default();
        let soon = deadline_after(Duration::from_secs(5));
        // Another file with the same choices is accepted.
        let same = Hello { tuning: Tuning { hash: 5, file: String::new() }, ..hello() };
        store.set("mesh/1", &same.to_bytes(), soon).unwrap();
        let other = Hello { tuning: Tuning { hash: 6, file: "/etc/b".into() }, ..hello() };
        store.set("mesh/2", &other.to_bytes(), soon).unwrap();
        let error = exchange(&store, &hello(), 0, soon, || Ok(())).unwrap_err();
        assert_eq!(error.report().guilty, [2]);
        let text = error.to_string();
        assert!(
            text.contains("file /etc/a (0000000000000005) on rank 0 and file /etc/b (0000000000000006) on rank 2"),
            "{text}"
        );
    }
}
