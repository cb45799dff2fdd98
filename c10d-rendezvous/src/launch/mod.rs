//! The process launcher: starts the ranks of a job on this host, hosts their store, and tells which of them failed first
//! and how.

mod child;
mod environment;
mod guardian;
mod job;
mod nodes;
mod output;
mod report;
mod requests;
mod signals;
mod supervisor;

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use c10d_core::store::deadline_after;
use c10d_core::{Error, Result};

pub use job::{Job, Signal};
pub use report::{Captured, Exit, Failure, Report};

use child::RankPlan;
use nodes::Node;
use supervisor::Plan;

/// What becomes of the ranks' standard output and error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Goes line by line to the launcher's own, each line with its rank in front.
    #[default]
    Prefixed,
    /// The ranks write to the launcher's own directly. Errors then cannot quote a rank's last lines.
    Inherit,
    /// Is kept for the [`Report`], the last 16 MiB of each.
    Captured,
    /// Standard input and output are pipes for the caller ([`Job::take_stdin`], [`Job::take_stdout`]); standard error goes
    /// as under [`Prefixed`](Output::Prefixed).
    Piped,
}

type PerRank<T> = Box<dyn Fn(u32) -> T + Send>;

/// A job to be launched: a program, and how many ranks of it.
///
/// Ranks find torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, ..), so that `init("env://")` and
/// PyTorch's `init_process_group` find each other through the launcher's store. When a rank fails, the others get SIGTERM
/// and, after a grace time, SIGKILL. No rank outlives the launcher.
///
/// ```no_run
/// use c10d_rendezvous::launch::Launch;
/// let report = Launch::new("./app", ["--epochs", "3"]).ranks(4).run()?;
/// std::process::exit(report.exit_code());
/// # #[allow(unreachable_code)]
/// # Ok::<(), c10d_core::Error>(())
/// ```
pub struct Launch {
    program: OsString,
    args: Vec<OsString>,
    ranks: u32,
    nodes: u32,
    node_rank: u32,
    rdzv: Option<String>,
    env: Vec<(OsString, OsString)>,
    per_rank_env: Option<PerRank<Vec<(OsString, OsString)>>>,
    wrapper: Option<PerRank<Vec<OsString>>>,
    output: Output,
    keep_going: bool,
    forward_signals: bool,
    grace: Duration,
    join_timeout: Duration,
    timeout: Option<Duration>,
}

impl Launch {
    /// `program` is looked up as a shell would.
    pub fn new<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Launch {
        Launch {
            program: program.as_ref().into(),
            args: args.into_iter().map(|arg| arg.as_ref().into()).collect(),
            ranks: 1,
            nodes: 1,
            node_rank: 0,
            rdzv: None,
            env: Vec::new(),
            per_rank_env: None,
            wrapper: None,
            output: Output::default(),
            keep_going: false,
            forward_signals: false,
            grace: Duration::from_secs(5),
            join_timeout: Duration::from_secs(300),
            timeout: None,
        }
    }

    /// Ranks on this host; every host has the same number.
    pub fn ranks(mut self, n: u32) -> Launch {
        self.ranks = n;
        self
    }

    /// Hosts in all; each runs a launcher with its own [`node_rank`](Launch::node_rank) and the same
    /// [`rdzv`](Launch::rdzv).
    pub fn nnodes(mut self, n: u32) -> Launch {
        self.nodes = n;
        self
    }

    /// Which of the hosts this is; host 0 serves the store.
    pub fn node_rank(mut self, node: u32) -> Launch {
        self.node_rank = node;
        self
    }

    /// `host:port` of the store on host 0. Without it, one host uses a free port of its loopback address.
    pub fn rdzv(mut self, place: impl Into<String>) -> Launch {
        self.rdzv = Some(place.into());
        self
    }

    /// A variable for every rank.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Launch {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Variables that differ by rank; they win over all others.
    pub fn per_rank_env(mut self, f: impl Fn(u32) -> Vec<(OsString, OsString)> + Send + 'static) -> Launch {
        self.per_rank_env = Some(Box::new(f));
        self
    }

    /// Words to put before program and arguments, by rank: `numactl`, `ip netns exec`, a debugger. Empty: none.
    pub fn per_rank_wrapper(mut self, f: impl Fn(u32) -> Vec<OsString> + Send + 'static) -> Launch {
        self.wrapper = Some(Box::new(f));
        self
    }

    /// What becomes of output.
    pub fn output(mut self, output: Output) -> Launch {
        self.output = output;
        self
    }

    /// A failing rank does not end the others.
    pub fn keep_going(mut self) -> Launch {
        self.keep_going = true;
        self
    }

    /// Time between SIGTERM and SIGKILL; 5 s unless set.
    pub fn grace(mut self, grace: Duration) -> Launch {
        self.grace = grace;
        self
    }

    /// How long the launchers of several hosts look for each other; 300 s unless set.
    pub fn join_timeout(mut self, timeout: Duration) -> Launch {
        self.join_timeout = timeout;
        self
    }

    /// Ends the job by force after this time. Without it, a job may run as long as its ranks do.
    pub fn timeout(mut self, timeout: Duration) -> Launch {
        self.timeout = Some(timeout);
        self
    }

    /// Launches the ranks and waits for their end. SIGINT, SIGTERM and SIGHUP to this process go to the ranks; a second
    /// one kills them. An error means that nothing was run; what became of the ranks is in the report.
    pub fn run(mut self) -> Result<Report> {
        self.forward_signals = true;
        let timeout = self.timeout;
        let job = self.spawn()?;
        match timeout {
            Some(timeout) => job.wait(deadline_after(timeout)),
            None => job.join(),
        }
    }

    /// Launches the ranks and gives a handle to them; dropping it kills them.
    pub fn spawn(self) -> Result<Job> {
        if self.ranks == 0 || self.nodes == 0 {
            return Err(Error::invalid("launch: there must be at least one rank and one host"));
        }
        if self.node_rank >= self.nodes {
            let (node, nodes) = (self.node_rank, self.nodes);
            return Err(Error::invalid(format!("launch: host {node} of {nodes}; hosts are 0 to {}", nodes - 1)));
        }
        if self.nodes > 1 && self.rdzv.is_none() {
            return Err(Error::invalid("launch: several hosts need the host:port of the store on host 0 (--rdzv)"));
        }
        if self.ranks.checked_mul(self.nodes).is_none() {
            return Err(Error::invalid(format!("launch: {} ranks on {} hosts are too many", self.ranks, self.nodes)));
        }
        child::check_program(&self.program)?;
        let node = Node::meet(&self)?;
        let ranks = (0..self.ranks).map(|local| self.rank_plan(&node, local)).collect();
        let plan = Plan {
            ranks,
            output: self.output,
            keep_going: self.keep_going,
            forward_signals: self.forward_signals,
            grace: self.grace,
        };
        Job::start(plan, node)
    }

    fn rank_plan(&self, node: &Node, local: u32) -> RankPlan {
        let rank = self.node_rank * self.ranks + local;
        let mut argv = self.wrapper.as_ref().map_or_else(Vec::new, |wrapper| wrapper(rank));
        argv.push(self.program.clone());
        argv.extend(self.args.iter().cloned());
        let mut env = environment::of_rank(self, node, local);
        env.extend(self.env.iter().cloned());
        env.extend(self.per_rank_env.as_ref().map_or_else(Vec::new, |f| f(rank)));
        RankPlan { rank, argv, env }
    }
}
