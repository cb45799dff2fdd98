//! The launchers of several hosts. They agree on the job, and end it together.

mod id;
mod link;
mod listener;
mod watch;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use c10d_core::store::deadline_after;
use c10d_core::{Error, ErrorKind, Phase, PrefixStore, Result, Store};

use super::options::Topology;
use super::report::JobReport;
use super::requests::Requests;
use crate::{ServerOptions, TcpStore, TcpStoreServer};

use id::random_id;
use link::{Link, plain};
use listener::{LaunchListener, enter};
use watch::Watch;

/// The time limit for finding out which hosts are missing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other hosts may take to end after a failure, in addition to the grace time.
const ENDING: Duration = Duration::from_secs(10);
/// The key under which host 0 publishes its port and token.
const SIGN: &str = "link";

/// What the launcher of this host knows about the job's hosts.
pub(super) struct Node {
    /// The host name or address of the store that the ranks get.
    pub(super) host: String,
    pub(super) port: u16,
    /// The id of this launch.
    pub(super) run_id: String,
    _server: Option<Served>,
    /// The connections to the other hosts, until `watch` takes them.
    links: Vec<Link>,
    watch: Option<Watched>,
    node: u32,
    /// How long the other hosts may run after the job has failed; `None`: without limit.
    patience: Option<Duration>,
}

/// The store, if this host serves it.
enum Served {
    Alone(#[expect(dead_code, reason = "serves until it is dropped")] TcpStoreServer),
    ForAll(#[expect(dead_code, reason = "serves until it is dropped")] TcpStore),
}

struct Watched {
    requests: Arc<Requests>,
    ended: Receiver<()>,
}

impl Node {
    /// Serves or finds the store, and waits for the launchers of the other hosts. After a failure, the other hosts may
    /// run for `patience` and 10 s more; `None`: without limit.
    pub(super) fn meet(topology: &Topology, patience: Option<Duration>) -> Result<Node> {
        let deadline = deadline_after(topology.join_timeout);
        let Some(rdzv) = &topology.rdzv else {
            let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
            let server = TcpStoreServer::bind(any, ServerOptions::default())?;
            return Node::alone("127.0.0.1".into(), server);
        };
        let (host, port) = rdzv
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
            .filter(|(host, port)| !host.is_empty() && (*port > 0 || topology.nodes == 1))
            .ok_or_else(|| Error::invalid(format!("launch: {rdzv:?} is not host:port")))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if topology.nodes == 1 {
            return Node::alone(host.clone(), crate::init::serve(&host, port, deadline)?);
        }
        let node = topology.node_rank;
        let (store, served, listener) = if node == 0 {
            let server = crate::init::serve(&host, port, deadline)?;
            let listener =
                LaunchListener::open(server.local_addr().ip(), random_id()? + &random_id()?).map_err(cannot_listen)?;
            let store = TcpStore::hosting(server, deadline)?;
            (store.clone(), Some(Served::ForAll(store)), Some(listener))
        } else {
            (TcpStore::connect(&host, port, deadline)?, None, None)
        };
        let hosts = Hosts { store: PrefixStore::new("c10d-launch", Arc::new(store)), node, nodes: topology.nodes };
        if let Some(listener) = &listener {
            hosts.store.set(SIGN, listener.sign().map_err(cannot_listen)?.as_bytes(), deadline)?;
        }
        hosts.agree(topology.ranks, deadline)?;
        let (links, run_id) = match listener {
            Some(listener) => {
                let run_id = random_id()?;
                (listener.admit(topology.nodes, &run_id, deadline)?, run_id)
            }
            None => {
                let sign = hosts.store.get(SIGN, deadline)?;
                let (link, run_id) = enter(&host, &String::from_utf8_lossy(&sign), node, deadline)?;
                (vec![link], run_id)
            }
        };
        let patience = patience.map(|patience| patience.saturating_add(ENDING));
        Ok(Node { host, port, run_id, _server: served, links, watch: None, node, patience })
    }

    fn alone(host: String, server: TcpStoreServer) -> Result<Node> {
        let port = server.local_addr().port();
        let (run_id, server) = (random_id()?, Some(Served::Alone(server)));
        Ok(Node { host, port, run_id, _server: server, links: Vec::new(), watch: None, node: 0, patience: None })
    }

    /// Starts a thread that reports failures on this host to the other hosts, and their failures to the supervisor.
    pub(super) fn watch(&mut self, requests: &Arc<Requests>) -> io::Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        let links = std::mem::take(&mut self.links);
        let watch = Watch { node: self.node, links, requests: requests.clone() };
        let (end, ended) = sync_channel(1);
        std::thread::Builder::new().name("c10d-launch-watch".into()).spawn(move || {
            watch.run();
            let _ = end.send(());
        })?;
        self.watch = Some(Watched { requests: requests.clone(), ended });
        Ok(())
    }

    /// Reports to the other hosts that all ranks of this host have ended. The host that serves the store also waits for
    /// the other hosts.
    pub(super) fn finish(&self, mut report: JobReport, deadline: Option<Instant>) -> JobReport {
        let Some(watch) = &self.watch else { return report };
        watch.requests.done();
        let patience = if report.exit_code() == 0 { None } else { self.patience };
        match patience.map(deadline_after).into_iter().chain(deadline).min() {
            Some(deadline) => drop(watch.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()))),
            None => drop(watch.ended.recv()),
        }
        if report.failure.is_none() && report.elsewhere.is_none() {
            report.elsewhere = watch.requests.take().elsewhere;
        }
        report
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.requests.over();
            let _ = watch.ended.recv_timeout(Duration::from_secs(1));
        }
    }
}

/// The part of the store through which the launchers find each other.
struct Hosts {
    store: PrefixStore,
    node: u32,
    nodes: u32,
}

impl Hosts {
    /// Checks that there is exactly one launcher for every host, and that all have the same settings.
    fn agree(&self, ranks: u32, deadline: Instant) -> Result {
        let wrong = |what: String| Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous);
        let mine = format!("{ranks} {} {}", self.nodes, random_id()?);
        let key = |node: u32| format!("host/{node}");
        if self.store.compare_set(&key(self.node), b"", mine.as_bytes(), deadline)? != mine.as_bytes() {
            let node = self.node;
            return Err(wrong(format!("two launchers have the number of host {node}: give each its own --node-rank")));
        }
        let keys: Vec<String> = (0..self.nodes).map(key).collect();
        let found = self.store.multi_get(&keys.iter().map(String::as_str).collect::<Vec<_>>(), deadline);
        let found = found.map_err(|e| {
            let soon = Instant::now() + LOOK_TIMEOUT;
            let missing = |node: &u32| matches!(self.store.check(&[&key(*node)], soon), Ok(false));
            let missing: Vec<u32> = (0..self.nodes).filter(missing).collect();
            // If no host is known to be missing, the store itself is gone.
            if missing.is_empty() {
                e
            } else {
                wrong(format!("no launcher was started on hosts {missing:?} of {}", self.nodes)).caused_by(e)
            }
        })?;
        for (node, other) in found.iter().enumerate() {
            let other = String::from_utf8_lossy(other);
            let mut words = other.split(' ').map(str::parse::<u32>);
            let (Some(Ok(their_ranks)), Some(Ok(their_nodes))) = (words.next(), words.next()) else {
                return Err(wrong(format!(
                    "the launcher on host {node} published invalid settings: {:?}",
                    plain(&other)
                )));
            };
            if (their_ranks, their_nodes) != (ranks, self.nodes) {
                return Err(wrong(format!(
                    "host {node} launches {their_ranks} ranks on each of {their_nodes} hosts, but host {} launches {ranks} \
                     on each of {}",
                    self.node, self.nodes
                )));
            }
        }
        Ok(())
    }
}

fn cannot_listen(e: io::Error) -> Error {
    Error::new(ErrorKind::Resource, "host 0 cannot listen for the launchers of the other hosts").caused_by(e)
}
