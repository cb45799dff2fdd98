//! The launchers of several hosts: they agree on the job, and end it together.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::store::deadline_after;
use c10d_core::{Error, ErrorKind, Phase, PrefixStore, Result, Store};

use super::Launch;
use super::report::Report;
use super::requests::Requests;
use crate::{ServerOptions, TcpStore, TcpStoreServer};

/// How often launchers look whether another failed, and how long one look may take.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the hosts may take to end after a failure.
const ENDING: Duration = Duration::from_secs(30);
const FAILED: &str = "failed";

/// This host's part in the job.
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
    /// Different for each launch.
    pub(super) run_id: String,
    /// Alone on one host, only the server is needed.
    _server: Option<TcpStoreServer>,
    peers: Option<Peers>,
}

struct Peers {
    store: Arc<PrefixStore>,
    node: u32,
    nodes: u32,
    patience: Duration,
    over: Arc<AtomicBool>,
}

impl Node {
    /// Serves or finds the store, and waits for the launchers of the other hosts.
    pub(super) fn meet(launch: &Launch) -> Result<Node> {
        let deadline = deadline_after(launch.join_timeout);
        let Some(rdzv) = &launch.rdzv else {
            let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
            let server = TcpStoreServer::bind(any, ServerOptions::default())?;
            return Node::alone("127.0.0.1".into(), server);
        };
        let (host, port) = rdzv
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
            .filter(|(host, port)| !host.is_empty() && (*port > 0 || launch.nodes == 1))
            .ok_or_else(|| Error::invalid(format!("launch: {rdzv:?} is not host:port")))?;
        // Variables carry addresses without brackets.
        let host = host.trim_matches(['[', ']']).to_owned();
        if launch.nodes == 1 {
            return Node::alone(host.clone(), crate::init::serve(&host, port, deadline)?);
        }
        let store = if launch.node_rank == 0 {
            TcpStore::hosting(crate::init::serve(&host, port, deadline)?, deadline)?
        } else {
            TcpStore::connect(&host, port, deadline)?
        };
        let peers = Peers {
            store: Arc::new(PrefixStore::new("c10d-launch", Arc::new(store))),
            node: launch.node_rank,
            nodes: launch.nodes,
            patience: launch.join_timeout,
            over: Arc::new(AtomicBool::new(false)),
        };
        let run_id = peers.agree(launch.ranks, deadline)?;
        Ok(Node { host, port, run_id, _server: None, peers: Some(peers) })
    }

    fn alone(host: String, server: TcpStoreServer) -> Result<Node> {
        let port = server.local_addr().port();
        Ok(Node { host, port, run_id: random_id()?, _server: Some(server), peers: None })
    }

    /// Tells the other hosts of a failure here, and the supervisor of a failure there.
    pub(super) fn watch(&mut self, requests: &Arc<Requests>) -> io::Result<()> {
        let Some(peers) = &self.peers else { return Ok(()) };
        let (store, over, requests, node) = (peers.store.clone(), peers.over.clone(), requests.clone(), peers.node);
        std::thread::Builder::new().name("c10d-launch-watch".into()).spawn(move || {
            while !over.load(Ordering::Acquire) {
                let deadline = Instant::now() + LOOK_TIMEOUT;
                let looked = match requests.take_failure() {
                    Some(what) => store.set(FAILED, format!("{what} (host {node})").as_bytes(), deadline),
                    None => store.check(&[FAILED], deadline).and_then(|failed| {
                        if failed {
                            let what = store.get(FAILED, deadline)?;
                            requests.failed_elsewhere(String::from_utf8_lossy(&what).into_owned());
                        }
                        Ok(())
                    }),
                };
                if let Err(e) = looked
                    && !over.load(Ordering::Acquire)
                {
                    requests.failed_elsewhere(format!("the launcher on host 0 cannot be reached any more: {e}"));
                    return;
                }
                std::thread::sleep(LOOK);
            }
        })?;
        Ok(())
    }

    /// Waits for the other hosts to be done too.
    pub(super) fn finish(&self, report: Report) -> Result<Report> {
        let Some(peers) = &self.peers else { return Ok(report) };
        let deadline = Instant::now() + LOOK_TIMEOUT;
        if let Some(failure) = &report.failure {
            let what = format!("rank {} {} (host {})", failure.exit.rank, failure.exit, peers.node);
            let _ = peers.store.compare_set(FAILED, b"", what.as_bytes(), deadline);
        }
        // The job is over here whatever the others' launchers still say.
        let told = peers.store.set(&done(peers.node), b"", deadline);
        if peers.node == 0 && told.is_ok() {
            // After a failure the others end at once or not at all.
            let patience = if report.exit_code() == 0 { peers.patience } else { peers.patience.min(ENDING) };
            let keys: Vec<String> = (0..peers.nodes).map(done).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let _ = peers.store.wait(&keys, deadline_after(patience));
        }
        Ok(report)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

impl Peers {
    /// All launchers are there, each once, and mean the same job; the job's id.
    fn agree(&self, ranks: u32, deadline: Instant) -> Result<String> {
        let wrong = |what: String| Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous);
        let mine = format!("{ranks} {} {}", self.nodes, random_id()?);
        let key = |node: u32| format!("host/{node}");
        if self.store.compare_set(&key(self.node), b"", mine.as_bytes(), deadline)? != mine.as_bytes() {
            return Err(wrong(format!("two launchers say that they are host {}", self.node)));
        }
        let keys: Vec<String> = (0..self.nodes).map(key).collect();
        let found = self.store.multi_get(&keys.iter().map(String::as_str).collect::<Vec<_>>(), deadline);
        let found = found.map_err(|e| {
            let soon = Instant::now() + LOOK_TIMEOUT;
            let missing = |node: &u32| matches!(self.store.check(&[&key(*node)], soon), Ok(false));
            let missing: Vec<u32> = (0..self.nodes).filter(missing).collect();
            wrong(format!("no launcher on hosts {missing:?} of {}", self.nodes)).source(e)
        })?;
        for (node, other) in found.iter().enumerate() {
            let other = String::from_utf8_lossy(other);
            let mut words = other.split(' ').map(str::parse::<u32>);
            let (Some(Ok(their_ranks)), Some(Ok(their_nodes))) = (words.next(), words.next()) else {
                return Err(wrong(format!("the launcher on host {node} says {other:?}")));
            };
            if (their_ranks, their_nodes) != (ranks, self.nodes) {
                return Err(wrong(format!(
                    "host {node} launches {their_ranks} ranks on each of {their_nodes} hosts, host {} {ranks} on each of {}",
                    self.node, self.nodes
                )));
            }
        }
        if self.node == 0 {
            self.store.set("run", random_id()?.as_bytes(), deadline)?;
        }
        Ok(String::from_utf8_lossy(&self.store.get("run", deadline)?).into_owned())
    }
}

fn done(node: u32) -> String {
    format!("done/{node}")
}

fn random_id() -> Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::new(ErrorKind::Resource, "the system gives no random numbers").source(e))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
