//! Cards. A card describes the process of one rank: its host, MPI library, cores, space in `/dev/shm` and rank in MPI's
//! world. The ranks of a group exchange their cards before they make the group's communicator.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use c10d_core::backend::GroupInit;
use c10d_core::cores::Cores;
use c10d_core::process::PerProcess;
use c10d_core::{Error, ErrorKind, Phase, Result};

use crate::mpi::Library;
use crate::room::{ALONE, Room, room};

/// The rank of a process in MPI's world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorldRank {
    /// The name of the world: the session of the group for which MPI was started, or `the launcher's` or `the
    /// program's` if the launcher or the program started MPI.
    pub(crate) world: String,
    pub(crate) rank: u32,
    pub(crate) size: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Card {
    /// A random id of the process.
    process: String,
    /// The host: a text that is equal for ranks that can share memory.
    host: String,
    library: String,
    cores: Cores,
    /// The free and the needed space in `/dev/shm`; `None` if the space need not be checked (see [`room`]).
    room: Option<Room>,
    /// The process's rank in MPI's world; `None` if MPI is not started yet.
    world_rank: Option<WorldRank>,
}

/// The data that each rank computes from all cards. They are the same on all ranks.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// For each rank, the number that identifies its host. Hosts are numbered in the order of their first rank.
    pub(crate) hosts: Vec<u32>,
    /// The cores that each rank's process may use.
    cores: Vec<Cores>,
    /// For each rank of the group, its rank in the common MPI world; `None` if MPI is not started yet.
    pub(crate) world_ranks: Option<Vec<u32>>,
}

impl Card {
    pub(crate) fn of_process(library: &Library, world_rank: Option<WorldRank>) -> Card {
        let (process, host, version) = (process_id().to_owned(), host(), library.version.clone());
        Card { process, host, library: version, cores: Cores::here(), room: room(library), world_rank }
    }

    fn to_text(&self) -> String {
        let world_rank =
            self.world_rank.as_ref().map_or(String::new(), |p| format!("{} {} {}", p.rank, p.size, p.world));
        let cores: String = self.cores.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let room = self.room.map_or(String::new(), |room| format!("{} {}", room.left, room.needed));
        format!("{}\n{}\n{}\n{cores}\n{room}\n{world_rank}", self.process, self.host, self.library)
    }

    /// Reads another rank's card. Returns `None` if the text is not a card.
    fn parse(text: &[u8]) -> Option<Card> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.split('\n').map(str::to_owned);
        let (process, host, library) = (lines.next()?, lines.next()?, lines.next()?);
        let cores = lines.next()?;
        let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let cores = Cores::from_bytes(&cores.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?)?;
        let room = match lines.next()?.as_str() {
            "" => None,
            room => {
                let (left, needed) = room.split_once(' ')?;
                Some(Room { left: left.parse().ok()?, needed: needed.parse().ok()? })
            }
        };
        let world_rank = match lines.next()?.as_str() {
            "" => None,
            world_rank => {
                let mut words = world_rank.splitn(3, ' ');
                let (rank, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Some(WorldRank { rank, size, world: words.next()?.to_owned() })
            }
        };
        Some(Card { process, host, library, cores, room, world_rank })
    }
}

impl Agreed {
    /// Returns the number of ranks on the host of a rank, including the rank itself.
    pub(crate) fn local_ranks(&self, rank: u32) -> usize {
        let host = self.hosts.get(rank as usize);
        self.hosts.iter().filter(|other| Some(*other) == host).count()
    }

    /// Returns whether the host of a rank has more ranks than cores that these ranks may use.
    pub(crate) fn is_oversubscribed(&self, rank: u32) -> bool {
        let host = self.hosts.get(rank as usize);
        let local = self.hosts.iter().zip(&self.cores).filter(|(other, _)| Some(*other) == host);
        self.local_ranks(rank) > Cores::together(local.map(|(_, cores)| cores))
    }
}

/// Exchanges the cards, and checks that the ranks can form one MPI world.
pub(crate) fn agree(init: &GroupInit, mine: &Card) -> Result<Agreed> {
    let key = |rank: u32| format!("card/{rank}");
    init.store.set(&key(init.rank), mine.to_text().as_bytes(), init.deadline)?;
    let keys: Vec<String> = (0..init.size).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let texts = init.store.multi_get(&keys, init.deadline).map_err(|e| {
        let soon = Instant::now() + Duration::from_millis(500);
        let absent = (0..).zip(&keys).filter(|(_, key)| init.store.check(&[key], soon).is_ok_and(|there| !there));
        let absent: Vec<u32> = absent.map(|(rank, _)| rank).collect();
        let what = "ranks did not reach the start of MPI";
        Error::new(ErrorKind::Timeout, what).guilty(absent).phase(Phase::Rendezvous).caused_by(e)
    })?;
    let card = |(rank, text): (u32, &Vec<u8>)| {
        let what = "the rank's description of its MPI process cannot be read";
        let unclear = || Error::new(ErrorKind::Protocol, what).guilty([rank]);
        Card::parse(text).ok_or_else(unclear)
    };
    fit(&(0..).zip(&texts).map(card).collect::<Result<Vec<Card>>>()?)
}

/// Checks the cards of all ranks, and computes an [`Agreed`] from them. All ranks get the same result or error.
fn fit(cards: &[Card]) -> Result<Agreed> {
    let unfit = |what: String| Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous);
    let mut processes = BTreeMap::new();
    for (rank, card) in (0u32..).zip(cards) {
        if let Some(first) = processes.insert(&card.process, rank) {
            return Err(unfit(format!(
                "MPI has one rank per process, but ranks {first} and {rank} of this group are in the same process. \
                 Start ranks as processes (c10d run, torchrun, mpiexec, srun), or use cpu:gloo-like"
            ))
            .guilty([first, rank]));
        }
    }
    let first = &cards[0];
    for (rank, card) in (0u32..).zip(cards) {
        if card.library != first.library {
            return Err(unfit(format!(
                "all ranks must load the same MPI library: rank 0 has {}, rank {rank} has {}",
                first.library, card.library
            ))
            .guilty([rank]));
        }
        let (mine, theirs) = (first.world_rank.as_ref().map(|p| &p.world), card.world_rank.as_ref().map(|p| &p.world));
        if mine != theirs {
            let words = |world: Option<&String>| world.map_or("not started".to_owned(), |w| format!("started ({w})"));
            return Err(unfit(format!(
                "a process is in one MPI world, but the worlds of these ranks differ: MPI of rank 0 is {}, MPI of \
                 rank {rank} is {}. Make one group of all ranks first, and all other groups by new_group",
                words(mine),
                words(theirs)
            ))
            .guilty([rank]));
        }
    }
    let mut started = BTreeMap::new();
    for (rank, card) in (0u32..).zip(cards) {
        let Some(at) = &card.world_rank else { continue };
        if let Some(first) = started.insert(at.rank, rank) {
            return Err(unfit(format!(
                "MPI was not started for these ranks together: ranks {first} and {rank} are both rank {} of {} in \
                 MPI's world. Use the library's own launcher, or let c10d start MPI through the group's store",
                at.rank, at.size
            ))
            .guilty([first, rank]));
        }
    }
    let mut hosts: Vec<&String> = Vec::new();
    let mut numbers = Vec::with_capacity(cards.len());
    for card in cards {
        let n = hosts.iter().position(|host| **host == card.host).unwrap_or_else(|| {
            hosts.push(&card.host);
            hosts.len() - 1
        });
        numbers.push(n as u32);
    }
    fits_into_memory(cards, &numbers)?;
    let world_ranks = cards.iter().map(|card| card.world_rank.as_ref().map(|p| p.rank)).collect();
    Ok(Agreed { hosts: numbers, cores: cards.iter().map(|card| card.cores.clone()).collect(), world_ranks })
}

/// Checks that there is enough space for MPI in the `/dev/shm` of each host, unless MPI is started already.
fn fits_into_memory(cards: &[Card], hosts: &[u32]) -> Result {
    if cards.iter().any(|card| card.world_rank.is_some()) {
        return Ok(());
    }
    for host in 0..=hosts.iter().copied().max().unwrap_or_default() {
        let here = || (0u32..).zip(cards).zip(hosts).filter(move |(_, of)| **of == host).map(|(card, _)| card);
        let ranks: Vec<u32> = here().map(|(rank, _)| rank).collect();
        let most = if ranks.len() == 1 { ALONE } else { u64::MAX };
        let rooms = || here().filter_map(|(_, card)| card.room);
        let needed: u64 = rooms().map(|room| room.needed.min(most)).fold(0, u64::saturating_add);
        // All ranks of a host have the same `/dev/shm`. They read its free space at different times, so the check uses
        // the smallest value.
        if let Some(left) = rooms().map(|room| room.left).min().filter(|left| *left < needed) {
            let what = format!(
                "/dev/shm has too little space for MPI: {left} bytes are left (limit: the size of this file system), \
                 and this host's ranks {ranks:?} need {needed}. Make it larger (docker run --shm-size, mount -o \
                 remount,size=..); Intel MPI does not use it if I_MPI_FABRICS is ofi"
            );
            return Err(Error::new(ErrorKind::Resource, what).phase(Phase::Rendezvous).guilty(ranks));
        }
    }
    Ok(())
}

fn process_id() -> &'static str {
    static ID: PerProcess<OnceLock<String>> = PerProcess::new();
    ID.get().get_or_init(|| {
        let mut random = [0u8; 16];
        // If no random bytes are available, the id consists of the process id and zeros.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let random: String = random.iter().map(|b| format!("{b:02x}")).collect();
        format!("{}-{random}", std::process::id())
    })
}

/// Returns a text that is equal for processes whose MPI libraries can share memory: processes on the same running
/// operating system, with the same network namespace, `/dev/shm` and user.
fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let number = |path: &str| std::fs::metadata(path).map_or((0, 0), |m| (m.dev(), m.ino()));
    let (boot, net, shm) = (read("/proc/sys/kernel/random/boot_id"), number("/proc/self/ns/net"), number("/dev/shm"));
    if boot.is_empty() {
        // Without a boot id, nothing shows that this process can share memory with any other.
        return process_id().to_owned();
    }
    format!("{boot} {net:?} {shm:?} {}", rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::SHARED;

    fn card(process: &str, host: &str, library: &str, world_rank: Option<(&str, u32)>) -> Card {
        let world_rank = world_rank.map(|(world, rank)| WorldRank { world: world.to_owned(), rank, size: 9 });
        let (process, host, library) = (process.to_owned(), host.to_owned(), library.to_owned());
        Card { process, host, library, cores: Cores::here(), room: None, world_rank }
    }

    #[test]
    fn a_card_is_read_as_it_was_written() {
        for world_rank in [None, Some(("the launcher's", 3))] {
            for room in [None, Some(Room { left: 65536, needed: 7 })] {
                let card = Card { room, ..card("17-ab", "boot 1 2", "MPICH 5", world_rank) };
                assert_eq!(Card::parse(card.to_text().as_bytes()), Some(card));
            }
        }
        for text in [
            &b""[..],
            b"a\nb\nc\n0000000001",
            b"a\nb\nc\n0000000001\nx\n",
            b"a\nb\nc\n0000000001\n\nx",
            b"a\nb\nc\n0000000001\n\n1 2",
            b"a\nb\nc\n00\n\n",
            b"a\nb\nc\nxx\n\n",
            b"\xff\nb\nc\n0000000001\n\n",
        ] {
            assert_eq!(Card::parse(text), None);
        }
    }

    #[test]
    fn cards_give_the_hosts_and_the_world_ranks() {
        let agreed = fit(&[card("a", "x", "M", None), card("b", "y", "M", None), card("c", "x", "M", None)]).unwrap();
        assert_eq!((agreed.hosts, agreed.world_ranks), (vec![0, 1, 0], None));
        let started = |world, rank| Some((world, rank));
        let agreed = fit(&[card("a", "x", "M", started("w", 2)), card("b", "x", "M", started("w", 0))]).unwrap();
        assert_eq!(agreed.world_ranks, Some(vec![2, 0]));
    }

    #[test]
    fn a_host_with_too_little_shared_memory_is_an_error() {
        let on = |process, host, left, world_rank| {
            let room = Some(Room { left, needed: SHARED });
            Card { room, ..card(process, host, "M", world_rank) }
        };
        let three = |left, world_rank: fn(u32) -> Option<(&'static str, u32)>| {
            let first = on("a", "x", ALONE, world_rank(0));
            fit(&[first, on("b", "y", left, world_rank(1)), on("c", "y", 2 * SHARED, world_rank(2))])
        };
        let e = three(2 * SHARED - 1, |_| None).unwrap_err();
        assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Resource, &[1, 2][..]), "{e}");
        assert!(e.to_string().contains("/dev/shm has too little space for MPI: 16777215 bytes are left"), "{e}");
        three(2 * SHARED, |_| None).unwrap();
        // MPI is started, so it has already allocated its shared memory.
        three(0, |rank| Some(("w", rank))).unwrap();
        assert_eq!(fit(&[on("a", "x", ALONE - 1, None)]).unwrap_err().report().guilty, [0]);
    }

    #[test]
    fn ranks_that_are_bound_to_different_cores_do_not_oversubscribe_their_host() {
        let on = |host, core: u8| {
            let cores = Cores::from_bytes(&[255, 255, 255, 255, 1 << core]).unwrap();
            Card { cores, ..card(&format!("{host}{core}"), host, "M", None) }
        };
        let agreed = fit(&[on("x", 0), on("y", 0), on("x", 1)]).unwrap();
        assert_eq!((agreed.local_ranks(0), agreed.local_ranks(1)), (2, 1));
        assert!(!agreed.is_oversubscribed(0) && !agreed.is_oversubscribed(1));
        let both = [on("x", 1), Card { process: "other".into(), ..on("x", 1) }];
        assert!(fit(&both).unwrap().is_oversubscribed(1));
    }

    #[test]
    fn ranks_that_cannot_form_a_world_are_named() {
        let cases: [(Card, Card, &[u32], &str); 5] = [
            (
                card("a", "x", "M", Some(("w", 0))),
                card("b", "x", "M", Some(("w", 0))),
                &[0, 1],
                "not started for these",
            ),
            (card("a", "x", "M", None), card("a", "x", "M", None), &[0, 1], "one rank per process"),
            (card("a", "x", "M", None), card("b", "x", "I", None), &[1], "the same MPI library"),
            (card("a", "x", "M", Some(("w", 0))), card("b", "x", "M", None), &[1], "one MPI world"),
            (card("a", "x", "M", Some(("w", 0))), card("b", "x", "M", Some(("v", 1))), &[1], "new_group"),
        ];
        for (a, b, guilty, words) in cases {
            let e = fit(&[a, b]).unwrap_err();
            assert!(e.report().guilty == guilty && e.to_string().contains(words), "{e}");
        }
    }
}
