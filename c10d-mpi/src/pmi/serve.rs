//! The thread that answers the library's PMI requests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::sync::Mutex;
use c10d_core::{Error, Result, Store};

use super::wire::{Ask, MAX_KEY, MAX_LINE, MAX_VALUE, Pairs, pack, parse};

/// How long a barrier of PMI after the first one may take, even if the deadline of MPI's start is earlier.
const LATE: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(crate) struct Progress {
    /// The round of the running barrier, and the error if it has failed.
    waits: Mutex<Option<(u32, Option<Error>)>>,
}

impl Progress {
    pub(crate) fn waiting(&self) -> Option<(u32, Option<Error>)> {
        self.waits.lock().clone()
    }
}

/// Returns the store key of a rank's values in a round. The rounds are the barriers of PMI, counted from 0.
fn key(round: u32, rank: u32) -> String {
    format!("{round}/{rank}")
}

/// Returns the ranks that have not reached a round.
pub(crate) fn absent(store: &dyn Store, size: u32, round: u32, until: Instant) -> Vec<u32> {
    (0..size).filter(|rank| store.check(&[&key(round, *rank)], until).is_ok_and(|there| !there)).collect()
}

/// Answers the PMI requests of one process's library.
pub(crate) struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) rank: u32,
    pub(crate) size: u32,
    /// The name of this set of MPI processes (PMI's `kvsname`). It is unique on all hosts of these processes.
    pub(crate) name: String,
    /// The text that shows which ranks share a host.
    pub(crate) mapping: String,
    /// The deadline of MPI's start.
    pub(crate) deadline: Instant,
    pub(crate) progress: Arc<Progress>,
}

impl Server {
    /// Answers until the library closes the socket. The library may still ask for barriers when the process ends, so
    /// the server does not stop earlier.
    pub(crate) fn run(self, socket: UnixStream) {
        if let Err(e) = self.answer(socket) {
            tracing::debug!(target: "c10d", "the library's PMI connection ended: {e}");
        }
    }

    fn answer(&self, mut socket: UnixStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(socket.try_clone()?);
        let mapping = format!("PMI_process_mapping {}", self.mapping);
        let mut known = Pairs::default();
        known.add(vec![mapping.into_bytes()]);
        let (mut put, mut round) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if (&mut lines).take(MAX_LINE as u64).read_line(&mut line)? == 0 {
                return Ok(());
            }
            let answer = match parse(line.trim_end_matches('\n')) {
                Some(Ask::Init) => "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1".to_owned(),
                Some(Ask::Maxes) => {
                    format!("cmd=maxes rc=0 kvsname_max=256 keylen_max={MAX_KEY} vallen_max={MAX_VALUE}")
                }
                Some(Ask::AppNumber) => "cmd=appnum rc=0 appnum=0".to_owned(),
                Some(Ask::UniverseSize) => format!("cmd=universe_size rc=0 size={}", self.size),
                Some(Ask::Name) => format!("cmd=my_kvsname rc=0 kvsname={}", self.name),
                Some(Ask::Get(key)) => match known.get(key) {
                    Some(value) => format!("cmd=get_result rc=0 value={value}"),
                    None => "cmd=get_result rc=1".to_owned(),
                },
                Some(Ask::Put(key, value)) => {
                    put.push((key.to_owned(), value.to_owned()));
                    "cmd=put_result rc=0".to_owned()
                }
                Some(Ask::Barrier) => {
                    if let Err(e) = self.barrier(round, &std::mem::take(&mut put), &mut known) {
                        // If the answer were an error, the library would end the process. So the library gets no
                        // answer, and the thread that waits for MPI's start returns an error at its deadline.
                        *self.progress.waits.lock() = Some((round, Some(e)));
                        let _ = lines.read_line(&mut line)?;
                        return Ok(());
                    }
                    round += 1;
                    "cmd=barrier_out rc=0".to_owned()
                }
                Some(Ask::Finalize) => "cmd=finalize_ack rc=0".to_owned(),
                Some(Ask::Abort) => continue,
                Some(Ask::Other(what)) => format!("cmd={what}_result rc=1"),
                None => "cmd=unknown rc=-1".to_owned(),
            };
            socket.write_all((answer + "\n").as_bytes())?;
        }
    }

    /// Runs a barrier: writes this rank's pairs as one value, and reads the values of all ranks in one request.
    fn barrier(&self, round: u32, put: &[(String, String)], known: &mut Pairs) -> Result {
        *self.progress.waits.lock() = Some((round, None));
        let until = self.deadline.max(Instant::now() + if round == 0 { Duration::ZERO } else { LATE });
        self.store.set(&key(round, self.rank), pack(put).as_bytes(), until)?;
        let keys: Vec<String> = (0..self.size).map(|rank| key(round, rank)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        known.add(self.store.multi_get(&keys, until)?);
        *self.progress.waits.lock() = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use c10d_core::{HashStore, PrefixStore};

    use super::*;

    struct Library(UnixStream, BufReader<UnixStream>);

    impl Library {
        fn ask(&mut self, line: &str) -> String {
            self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
            let mut answer = String::new();
            self.1.read_line(&mut answer).unwrap();
            answer.trim_end().to_owned()
        }
    }

    fn serve(store: &Arc<dyn Store>, rank: u32, size: u32, within: Duration) -> (Library, Arc<Progress>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let progress = Arc::<Progress>::default();
        let (name, mapping) = ("job".to_owned(), super::super::mapping(&vec![0; size as usize]));
        let deadline = Instant::now() + within;
        let server = Server { store: store.clone(), rank, size, name, mapping, deadline, progress: progress.clone() };
        std::thread::Builder::new().stack_size(128 << 10).spawn(move || server.run(ours)).unwrap();
        let reader = BufReader::new(theirs.try_clone().unwrap());
        (Library(theirs, reader), progress)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn two_ranks_exchange_values_in_a_barrier() {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        let ranks: Vec<_> = (0..2).map(|rank| serve(&store, rank, 2, MINUTE).0).collect();
        let texts = std::thread::scope(|s| {
            let talks = ranks.into_iter().enumerate().map(|(rank, mut library)| {
                s.spawn(move || {
                    let answer = library.ask("cmd=init pmi_version=1 pmi_subversion=1");
                    assert_eq!(answer, "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1");
                    assert_eq!(library.ask("cmd=get_my_kvsname"), "cmd=my_kvsname rc=0 kvsname=job");
                    assert_eq!(
                        library.ask("cmd=get kvsname=job key=PMI_process_mapping"),
                        "cmd=get_result rc=0 value=(vector,(0,1,2))"
                    );
                    assert_eq!(library.ask("cmd=get kvsname=job key=PMI_hwloc_xmlfile"), "cmd=get_result rc=1");
                    library.ask(&format!("cmd=put kvsname=job key=address-{rank} value=here {rank}"));
                    assert_eq!(library.ask("cmd=barrier_in"), "cmd=barrier_out rc=0");
                    let other = library.ask(&format!("cmd=get kvsname=job key=address-{}", 1 - rank));
                    assert_eq!(library.ask("cmd=barrier_in"), "cmd=barrier_out rc=0", "a second round");
                    assert_eq!(library.ask("cmd=spawn x=1"), "cmd=spawn_result rc=1");
                    assert_eq!(library.ask("cmd=finalize"), "cmd=finalize_ack rc=0");
                    other
                })
            });
            talks.collect::<Vec<_>>().into_iter().map(|talk| talk.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(texts, ["cmd=get_result rc=0 value=here 1", "cmd=get_result rc=0 value=here 0"]);
    }

    /// A thousand ranks run a barrier through a store, without MPI. Each rank makes two requests to the store.
    #[test]
    fn a_thousand_ranks_meet() {
        struct Counting(HashStore, AtomicUsize);
        let size = 1024;
        let counting = Arc::new(Counting(HashStore::new(), AtomicUsize::new(0)));
        let begin = Instant::now();
        std::thread::scope(|s| {
            let ranks: Vec<_> = (0..size)
                .map(|rank| {
                    let counting = counting.clone();
                    let run = move || {
                        let (name, progress, deadline) = ("job".to_owned(), Arc::default(), Instant::now() + MINUTE);
                        let store: Arc<dyn Store> = Arc::new(PrefixStore::new("pmi", Arc::new(counting.0.clone())));
                        let mapping = String::new();
                        let server = Server { store, rank, size, name, mapping, deadline, progress };
                        let mut known = Pairs::default();
                        let put = [(format!("-allgather-1-{rank}"), "0200B2C1C0000202".repeat(8))];
                        server.barrier(0, &put, &mut known).unwrap();
                        let found =
                            (0..size).filter(|rank| known.get(&format!("-allgather-1-{rank}")).is_some()).count();
                        counting.1.fetch_add(found, Ordering::Relaxed);
                    };
                    std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(s, run).unwrap()
                })
                .collect();
            ranks.into_iter().for_each(|rank| rank.join().unwrap());
        });
        let known = counting.1.load(Ordering::Relaxed);
        assert_eq!(known, (size * size) as usize, "each rank knows the address of each rank");
        let keys = counting.0.num_keys(Instant::now() + MINUTE).unwrap();
        assert_eq!(keys, u64::from(size), "one value per rank");
        assert!(begin.elapsed() < 5 * Duration::from_secs(10), "{:?}", begin.elapsed());
        println!("{size} ranks met in {:?}", begin.elapsed());
    }

    #[test]
    fn missing_ranks_of_a_barrier_are_known() {
        let store: Arc<dyn Store> = Arc::new(HashStore::new());
        let (mut library, progress) = serve(&store, 0, 3, Duration::from_millis(200));
        library.0.write_all(b"cmd=barrier_in\n").unwrap();
        let begin = Instant::now();
        while progress.waiting().is_none_or(|(_, failed)| failed.is_none()) {
            assert!(begin.elapsed() < MINUTE);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(absent(&*store, 3, 0, Instant::now() + MINUTE), [1, 2]);
        library.0.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(
            library.1.read_line(&mut String::new()).is_err(),
            "the server must not answer, since after an error the library would end the process"
        );
    }
}
