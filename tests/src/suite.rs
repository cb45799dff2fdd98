//! The suite: what is tested, and how the ranks' results are combined.

use std::ffi::OsString;
use std::time::Duration;

use c10d_core::backend::{Capabilities, Provider};
use c10d_core::{Builder, Device, Error, OpKind, ProcessGroup, Result};

use crate::case::Case;
use crate::cases::{Selection, Space, cases};
use crate::device::RankDevice;
use crate::processes;
use crate::run::{Verdict, run};

/// Whether ranks are threads or processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranks {
    /// Ranks are threads of this process.
    Threads,
    /// Ranks are processes: this program is started again for each rank of a world. See [`Suite::arguments`].
    Processes,
}

/// The suite for one backend.
#[derive(Clone)]
#[must_use = "a suite does nothing until it is run"]
pub struct Suite {
    providers: Vec<&'static Provider>,
    backend: String,
    device: Option<String>,
    hints: Vec<(String, String)>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) arguments: Option<Vec<OsString>>,
    pub(crate) worlds: Vec<u32>,
    chunk: usize,
    selection: Selection,
    pub(crate) timeout: Duration,
}

/// The result of one case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The case, e.g. `w4/all_reduce/bf16/sum/chunk+1/owned`.
    pub name: String,
    /// If the case failed, what was wrong and on which rank.
    pub result: Result<(), String>,
}

/// How often, at most, a world is started again after a case in which its group failed.
const RESTARTS: usize = 8;

impl Suite {
    /// Makes a suite with these providers, which must include the backend.
    pub fn new(providers: &[&'static Provider]) -> Suite {
        Suite {
            providers: providers.to_vec(),
            backend: String::new(),
            device: None,
            hints: Vec::new(),
            environment: Vec::new(),
            arguments: None,
            worlds: vec![1, 2, 3, 4, 5, 8],
            chunk: 64 << 10,
            selection: Selection::from_env(),
            timeout: Duration::from_secs(20),
        }
    }

    /// Sets the backend, as a backend map such as `"cpu:acme"`.
    pub fn backend(mut self, map: &str) -> Suite {
        self.backend = map.to_owned();
        self
    }

    /// Puts the tensors on the devices with this name, for which the backend map must have a backend. By default they
    /// are in host memory.
    pub fn device(mut self, name: &str) -> Suite {
        self.device = Some(name.to_owned());
        self
    }

    /// Sets a hint for the backend.
    pub fn hint(mut self, name: &str, value: &str) -> Suite {
        self.hints.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets an environment variable for ranks that are processes.
    pub fn environment(mut self, name: &str, value: &str) -> Suite {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the arguments of ranks that are processes. The default is this program's own arguments. If the suite is run
    /// by one of several tests of a program, that test passes its own name here, such as `["tests::suite", "--exact",
    /// "--nocapture"]`, and calls [`serve_rank`](Suite::serve_rank) first.
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Suite {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the world sizes. The default is 1, 2, 3, 4, 5 and 8.
    pub fn worlds(mut self, worlds: &[u32]) -> Suite {
        self.worlds = worlds.to_vec();
        self
    }

    /// Sets the size in bytes from which the backend divides transfers, so that sizes just below and above are tested.
    /// The default is 64 KiB.
    pub fn chunk(mut self, bytes: usize) -> Suite {
        self.chunk = bytes.max(64);
        self
    }

    /// Sets which cases are run. The default comes from the environment.
    pub fn selection(mut self, selection: Selection) -> Suite {
        self.selection = selection;
        self
    }

    /// Sets the timeout of each op, and of making each group. The default is 20 s.
    pub fn timeout(mut self, timeout: Duration) -> Suite {
        self.timeout = timeout;
        self
    }

    pub(crate) fn shares_devices(&self, ranks: Ranks) -> bool {
        matches!(ranks, Ranks::Threads) && self.device.is_some()
    }

    pub(crate) fn rank_device(&self, rank: u32) -> Result<Option<RankDevice>> {
        let open = |name: &String| RankDevice::of(&self.providers, name, rank, self.timeout);
        self.device.as_ref().map(open).transpose()
    }

    pub(crate) fn builder(&self) -> Builder {
        let builder = Builder::new().providers(&self.providers).backend(&self.backend).timeout(self.timeout);
        self.hints.iter().fold(builder, |builder, (name, value)| builder.hint(name, value))
    }

    /// Returns every case of all worlds.
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        let alone = self.builder().build()?;
        let device = self.rank_device(0)?.map_or(Device::CPU, |device| device.device());
        let (_, capabilities) = alone.backend_of(device)?;
        let missing: Vec<OpKind> =
            OpKind::ALL.iter().copied().filter(|op| !op.row().keys.contains(device.key())).collect();
        let declared = Capabilities { ops: capabilities.ops.without(&missing), ..*capabilities };
        let space = Space { worlds: &self.worlds, chunk: self.chunk, selection: self.selection };
        Ok(cases(&declared, &space))
    }

    pub(crate) fn cases_of(&self, world: u32) -> Result<Vec<Case>> {
        Ok(self.cases()?.into_iter().filter(|case| case.world == world).collect())
    }

    /// Runs all cases of one world.
    ///
    /// # Errors
    /// The error of making a group, if the backend cannot be used at all. Failures of cases are in the outcomes.
    pub fn run(&self, ranks: Ranks, world: u32) -> Result<Vec<Outcome>> {
        let cases = self.cases_of(world)?;
        let mut outcomes = Vec::new();
        for _ in 0..=RESTARTS {
            let begin = outcomes.len();
            if begin == cases.len() {
                break;
            }
            let verdicts = match ranks {
                Ranks::Threads => self.in_threads(world, &cases[begin..]),
                Ranks::Processes => processes::run(self, world, begin),
            };
            judge(&cases[begin..], &verdicts, &mut outcomes);
        }
        for case in &cases[outcomes.len()..] {
            let result = Err("not run: too many cases ended the group".to_owned());
            outcomes.push(Outcome { name: case.to_string(), result });
        }
        Ok(outcomes)
    }

    fn in_threads(&self, world: u32, cases: &[Case]) -> Vec<Verdicts> {
        let body = |pg: ProcessGroup| {
            let mut verdicts = Vec::new();
            let device = self.rank_device(pg.rank())?;
            run(&pg, cases, device.as_ref(), |_, verdict| verdicts.push(verdict));
            Ok(Verdicts { verdicts, end: String::new() })
        };
        match self.builder().run_ranks(world, body) {
            Ok(all) => all,
            Err(e) => no_group(world, &e),
        }
    }
}

/// The results of one rank, and the reason why the rank gave no more results.
pub(crate) struct Verdicts {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) end: String,
}

pub(crate) fn no_group(world: u32, error: &Error) -> Vec<Verdicts> {
    (0..world).map(|_| Verdicts { verdicts: Vec::new(), end: error.to_string() }).collect()
}

/// Makes the outcomes of the cases, up to the first case in which the group failed.
fn judge(cases: &[Case], ranks: &[Verdicts], outcomes: &mut Vec<Outcome>) {
    for (i, case) in cases.iter().enumerate() {
        let mut faults = Vec::new();
        let mut over = false;
        for (rank, said) in ranks.iter().enumerate() {
            match said.verdicts.get(i) {
                Some(Verdict::Passed(_)) => {}
                Some(Verdict::Wrong(what)) => faults.push(format!("rank {rank}: {what}")),
                Some(Verdict::Failed(what)) => {
                    faults.push(format!("rank {rank}: {what}"));
                    over = true;
                }
                None => {
                    faults.push(format!("rank {rank}: gave no result; {}", said.end));
                    over = true;
                }
            }
        }
        if faults.is_empty() && same_everywhere(case.op) {
            let digests: Vec<_> = ranks.iter().map(|said| said.verdicts.get(i)).collect();
            if digests.iter().any(|d| *d != digests[0]) {
                faults.push(format!("the ranks have different bits: {digests:?}"));
            }
        }
        let result = if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) };
        outcomes.push(Outcome { name: case.to_string(), result });
        if over {
            return;
        }
    }
}

fn same_everywhere(op: OpKind) -> bool {
    matches!(op, OpKind::AllReduce | OpKind::AllReduceCoalesced)
}
