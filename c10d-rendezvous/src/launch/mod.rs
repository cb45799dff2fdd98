//! The process launcher. It starts the ranks of a job on this host, serves their store, and reports which rank failed
//! first and how.

mod child;
mod environment;
mod guardian;
mod input;
mod job;
mod lines;
mod nodes;
mod options;
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
pub use options::{Output, Stdin};
pub use report::{Captured, Exit, Failure, JobReport, Success};

use child::RankPlan;
use nodes::Node;
use options::Topology;
use supervisor::Plan;

/// The largest number of ranks on one host.
pub const MOST_RANKS: u32 = 1 << 14;
/// The largest number of hosts.
pub const MOST_HOSTS: u32 = 1 << 16;

type PerRank<T> = Box<dyn Fn(u32) -> T + Send>;

/// The settings of a job: a program, its arguments, and the number of ranks.
///
/// The ranks get torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, ..), so ranks that call
/// `init("env://")` or PyTorch's `init_process_group` find each other through the launcher's store. When a rank fails,
/// the others get SIGTERM and, after a grace time, SIGKILL. No rank outlives the launcher.
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
    topology: Topology,
    env: Vec<(OsString, OsString)>,
    per_rank_env: Option<PerRank<Vec<(OsString, OsString)>>>,
    wrapper: Option<PerRank<Vec<OsString>>>,
    output: Output,
    stdin: Stdin,
    keep_going: bool,
    success: Success,
    forward_signals: bool,
    grace: Duration,
    timeout: Option<Duration>,
}

impl Launch {
    /// Makes a job of one rank. `program` is looked up in `PATH`, as a shell does.
    pub fn new<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Launch {
        Launch {
            program: program.as_ref().into(),
            args: args.into_iter().map(|arg| arg.as_ref().into()).collect(),
            topology: Topology { ranks: 1, nodes: 1, node_rank: 0, rdzv: None, join_timeout: Duration::from_secs(300) },
            env: Vec::new(),
            per_rank_env: None,
            wrapper: None,
            output: Output::default(),
            stdin: Stdin::default(),
            keep_going: false,
            success: Success::default(),
            forward_signals: false,
            grace: Duration::from_secs(5),
            timeout: None,
        }
    }

    /// Sets the number of ranks on this host. The number must be the same on every host.
    pub fn ranks(mut self, n: u32) -> Launch {
        self.topology.ranks = n;
        self
    }

    /// Sets the total number of hosts. Each host runs a launcher with its own [`node_rank`](Launch::node_rank) and the
    /// same [`rdzv`](Launch::rdzv).
    pub fn nnodes(mut self, n: u32) -> Launch {
        self.topology.nodes = n;
        self
    }

    /// Sets the number of this host, from 0. Host 0 serves the store.
    pub fn node_rank(mut self, node: u32) -> Launch {
        self.topology.node_rank = node;
        self
    }

    /// Sets `host:port` of the store on host 0. Jobs on one host need no `rdzv`: without it, the store uses a free port
    /// of the loopback address.
    pub fn rdzv(mut self, endpoint: impl Into<String>) -> Launch {
        self.topology.rdzv = Some(endpoint.into());
        self
    }

    /// Sets an environment variable of every rank.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Launch {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets variables that differ between ranks: `f` gets a rank and returns the rank's variables, which override all
    /// other variables.
    pub fn per_rank_env(mut self, f: impl Fn(u32) -> Vec<(OsString, OsString)> + Send + 'static) -> Launch {
        self.per_rank_env = Some(Box::new(f));
        self
    }

    /// Sets a command that is put before the program and its arguments, such as `numactl`, `ip netns exec` or a
    /// debugger. `f` gets a rank and returns the words of the rank's command. An empty list means no command.
    pub fn per_rank_wrapper(mut self, f: impl Fn(u32) -> Vec<OsString> + Send + 'static) -> Launch {
        self.wrapper = Some(Box::new(f));
        self
    }

    /// Sets where the output goes.
    pub fn output(mut self, output: Output) -> Launch {
        self.output = output;
        self
    }

    /// Sets which ranks get this process's standard input; no rank unless set. With [`Output::Piped`], the caller
    /// writes the input instead.
    pub fn stdin(mut self, stdin: Stdin) -> Launch {
        self.stdin = stdin;
        self
    }

    /// Sets which ranks must succeed; all unless set. With any choice other than [`Success::All`], the other ranks
    /// continue when a rank fails.
    pub fn success(mut self, success: Success) -> Launch {
        self.success = success;
        self.keep_going |= success != Success::All;
        self
    }

    /// Lets the other ranks continue when a rank fails.
    pub fn keep_going(mut self) -> Launch {
        self.keep_going = true;
        self
    }

    /// Sets the time between SIGTERM and SIGKILL; 5 s unless set.
    pub fn grace(mut self, grace: Duration) -> Launch {
        self.grace = grace;
        self
    }

    /// Sets how long the launchers of several hosts wait for each other; 300 s unless set.
    pub fn join_timeout(mut self, timeout: Duration) -> Launch {
        self.topology.join_timeout = timeout;
        self
    }

    /// Sets the time limit of [`run`](Launch::run); [`spawn`](Launch::spawn) ignores it. When the limit has passed, the
    /// job ends as if this process got SIGTERM, and `run` returns an error.
    pub fn timeout(mut self, timeout: Duration) -> Launch {
        self.timeout = Some(timeout);
        self
    }

    /// Launches the ranks and waits for their end. The result is an error if not all ranks could be started (those that
    /// were started have been ended), or if the time limit passed.
    ///
    /// Signals to this process are passed on to the ranks. After SIGINT and SIGTERM the ranks have the grace time, then
    /// they are killed; a second SIGINT, at least a second later, kills them at once. SIGHUP (unless this process
    /// ignores it), SIGUSR1, SIGUSR2 and SIGWINCH are only passed on, and each rank handles them in its own way. If
    /// nobody reads the ranks' output any more, the ranks are ended.
    pub fn run(mut self) -> Result<JobReport> {
        self.forward_signals = true;
        let (timeout, grace) = (self.timeout, self.grace);
        let job = self.spawn()?;
        match timeout {
            Some(timeout) => job.wait_or_end(deadline_after(timeout), grace),
            None => job.join(),
        }
    }

    /// Launches the ranks and returns their handle. Dropping the handle kills them.
    pub fn spawn(self) -> Result<Job> {
        let Topology { ranks, nodes, node_rank, ref rdzv, .. } = self.topology;
        if ranks == 0 || nodes == 0 {
            return Err(Error::invalid("launch: there must be at least one rank and one host"));
        }
        if node_rank >= nodes {
            let what =
                format!("launch: the number of this host is {node_rank}; with {nodes} hosts it is 0 to {}", nodes - 1);
            return Err(Error::invalid(what));
        }
        for (what, number, most) in [("ranks on a host", ranks, MOST_RANKS), ("hosts", nodes, MOST_HOSTS)] {
            if number > most {
                return Err(Error::invalid(format!("launch: {number} {what}; the limit is {most}")));
            }
        }
        if nodes > 1 && rdzv.is_none() {
            return Err(Error::invalid("launch: several hosts need the host:port of the store on host 0 (--rdzv)"));
        }
        let patience = if self.keep_going { None } else { Some(self.grace) };
        let node = Node::meet(&self.topology, patience)?;
        let ranks = (0..ranks).map(|local| self.rank_plan(&node, local)).collect();
        let plan = Plan {
            program: self.program,
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
        let rank = self.topology.rank(local);
        let mut argv = self.wrapper.as_ref().map_or_else(Vec::new, |wrapper| wrapper(rank));
        argv.push(self.program.clone());
        argv.extend(self.args.iter().cloned());
        let mut env = environment::of_rank(&self.topology, node, local);
        env.extend(self.env.iter().cloned());
        env.extend(self.per_rank_env.as_ref().map_or_else(Vec::new, |f| f(rank)));
        RankPlan { rank, argv, env }
    }
}
