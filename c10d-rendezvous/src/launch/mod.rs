//! The process launcher: starts the ranks of a job on this host, hosts their store, and tells which of them failed first
//! and how.

mod child;
mod environment;
mod guardian;
mod input;
mod job;
mod lines;
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
pub use report::{Captured, Exit, Failure, JobReport, Success};

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
    /// Is kept for the [`JobReport`], the last 16 MiB of each.
    Captured,
    /// Standard input and output are pipes for the caller ([`Job::take_stdin`], [`Job::take_stdout`]); standard error goes
    /// as under [`Prefixed`](Output::Prefixed).
    Piped,
}

/// Which ranks get the launcher's standard input; the others find theirs empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// None.
    #[default]
    None,
    /// Rank 0.
    Rank0,
    /// All of this host, each the whole of it. It goes as fast as the slowest of them reads.
    All,
}

/// Most ranks on one host, and most hosts.
pub const MOST_RANKS: u32 = 1 << 14;
/// See [`MOST_RANKS`].
pub const MOST_HOSTS: u32 = 1 << 16;

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
    stdin: Stdin,
    keep_going: bool,
    success: Success,
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
            stdin: Stdin::default(),
            keep_going: false,
            success: Success::default(),
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
    pub fn rdzv(mut self, endpoint: impl Into<String>) -> Launch {
        self.rdzv = Some(endpoint.into());
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

    /// Which ranks get this process's standard input; none unless set. Under [`Output::Piped`] it is the caller's.
    pub fn stdin(mut self, stdin: Stdin) -> Launch {
        self.stdin = stdin;
        self
    }

    /// Which ranks must end well; all unless set. Any other choice makes the others go on when a rank fails.
    pub fn success(mut self, success: Success) -> Launch {
        self.success = success;
        self.keep_going |= success != Success::All;
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

    /// Ends the job after this time, as by SIGTERM to this process; [`run`](Launch::run) then gives an error. Without it,
    /// a job may run as long as its ranks do.
    pub fn timeout(mut self, timeout: Duration) -> Launch {
        self.timeout = Some(timeout);
        self
    }

    /// Launches the ranks and waits for their end. What became of them is in the report; an error means that nothing was
    /// run, or that the time limit passed.
    ///
    /// Signals to this process are passed on. After SIGINT and SIGTERM the ranks have the grace time, then they are
    /// killed; a second SIGINT, a second later or more, kills them at once. SIGHUP (unless this process ignores it),
    /// SIGUSR1, SIGUSR2 and SIGWINCH mean what the ranks make of them. When nobody reads the ranks' output any more, they
    /// are ended.
    pub fn run(mut self) -> Result<JobReport> {
        self.forward_signals = true;
        let (timeout, grace) = (self.timeout, self.grace);
        let job = self.spawn()?;
        match timeout {
            Some(timeout) => job.wait_or_end(deadline_after(timeout), grace),
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
        for (what, number, most) in [("ranks on a host", self.ranks, MOST_RANKS), ("hosts", self.nodes, MOST_HOSTS)] {
            if number > most {
                return Err(Error::invalid(format!("launch: {number} {what}; the limit is {most}")));
            }
        }
        if self.nodes > 1 && self.rdzv.is_none() {
            return Err(Error::invalid("launch: several hosts need the host:port of the store on host 0 (--rdzv)"));
        }
        child::check_program(&self.program)?;
        let node = Node::meet(&self)?;
        let ranks = (0..self.ranks).map(|local| self.rank_plan(&node, local)).collect();
        let plan = Plan {
            ranks,
            output: self.output,
            stdin: self.stdin,
            keep_going: self.keep_going,
            success: self.success,
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
