//! Makes a test program of suites, with one test per case.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::processes::SUITE;
use crate::suite::{Ranks, Suite};

type World = OnceLock<Result<BTreeMap<String, Result<(), String>>, String>>;

/// Locked while a group whose ranks are threads uses this process's devices.
static DEVICES: Mutex<()> = Mutex::new(());

impl Suite {
    /// The main function of a test program (`harness = false`). It lists and runs every case as one test, and accepts
    /// the arguments of `cargo test`.
    ///
    /// The first test of a world runs all cases of that world.
    pub fn main(self, ranks: Ranks) -> ExitCode {
        self.serve_rank();
        conclude(self.trials("", ranks))
    }

    fn trials(self, prefix: &str, ranks: Ranks) -> Result<Vec<Trial>, String> {
        let cases = self.cases().map_err(|e| format!("{prefix}the backend cannot be used: {e}"))?;
        let suite = Arc::new(self);
        let worlds: BTreeMap<u32, Arc<World>> = suite.worlds.iter().map(|w| (*w, Arc::default())).collect();
        let mut trials = Vec::new();
        for case in cases {
            let (suite, world) = (suite.clone(), worlds[&case.world].clone());
            let name = case.to_string();
            trials.push(Trial::test(format!("{prefix}{name}"), move || {
                let run = || {
                    // Only one group at a time uses the devices. Otherwise ops of two groups might wait for each
                    // other's device.
                    let _alone = suite.shares_devices(ranks).then(|| DEVICES.lock());
                    let outcomes = suite.run(ranks, case.world).map_err(|e| e.to_string())?;
                    Ok(outcomes.into_iter().map(|outcome| (outcome.name, outcome.result)).collect())
                };
                let outcomes = world.get_or_init(run).as_ref().map_err(|e| Failed::from(e.clone()))?;
                let result = outcomes.get(&name).cloned().unwrap_or_else(|| Err("not run".into()));
                result.map_err(Failed::from)
            }));
        }
        Ok(trials)
    }
}

/// Several suites and other tests as one test program (`harness = false`).
#[derive(Default)]
#[must_use = "a program does nothing until `main`"]
pub struct Program {
    suites: Vec<(String, Suite, Ranks)>,
    trials: Vec<Trial>,
}

impl Program {
    /// Adds a suite. Its cases are named `name/case`, so `cargo test name/` runs only these.
    pub fn suite(mut self, name: &str, suite: Suite, ranks: Ranks) -> Program {
        self.suites.push((name.to_owned(), suite.environment(SUITE, name), ranks));
        self
    }

    /// Adds other tests.
    pub fn trials(mut self, trials: impl IntoIterator<Item = Trial>) -> Program {
        self.trials.extend(trials);
        self
    }

    /// If this process was started as a rank of a suite, runs that rank and ends the process; otherwise does nothing.
    /// [`main`](Program::main) calls this method. A program that does other work before `main` must call this method
    /// before that work.
    pub fn serve_rank(&self) {
        let Ok(name) = std::env::var(SUITE) else { return };
        if let Some((_, suite, _)) = self.suites.iter().find(|(n, ..)| *n == name) {
            suite.serve_rank();
        }
    }

    /// Lists and runs every case and every other test. It accepts the arguments of `cargo test`.
    pub fn main(self) -> ExitCode {
        self.serve_rank();
        let mut trials = self.trials;
        for (name, suite, ranks) in self.suites {
            match suite.trials(&format!("{name}/"), ranks) {
                Ok(cases) => trials.extend(cases),
                Err(why) => return conclude(Err(why)),
            }
        }
        conclude(Ok(trials))
    }
}

fn conclude(trials: Result<Vec<Trial>, String>) -> ExitCode {
    match trials {
        Ok(mut trials) => {
            let mut arguments = Arguments::from_args();
            trials.sort_by(|a, b| a.name().cmp(b.name()));
            if !arguments.list {
                trials = in_turn(trials);
            }
            // More tests run at once than there are cores, because most tests wait for other processes.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            arguments.test_threads = arguments.test_threads.or(Some(2 * cores));
            libtest_mimic::run(&arguments, trials).exit_code()
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Orders the trials: the first trial of each group, then the second of each, and so on. A group has the trials whose
/// names share the first two parts. In this order, the test threads do not all wait for the same world.
fn in_turn(trials: Vec<Trial>) -> Vec<Trial> {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    let mut placed: Vec<(usize, Trial)> = Vec::new();
    for trial in trials {
        let group: Vec<&str> = trial.name().splitn(3, '/').take(2).collect();
        let size = sizes.entry(group.join("/")).or_default();
        placed.push((*size, trial));
        *size += 1;
    }
    placed.sort_by_key(|(turn, _)| *turn);
    placed.into_iter().map(|(_, trial)| trial).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_of_different_groups_alternate() {
        let names = ["a/1/x", "a/1/y", "a/1/z", "a/2/x", "b/only", "b/other", "c"];
        let trials = names.map(|name| Trial::test(name, || Ok(())));
        let order: Vec<String> = in_turn(trials.into()).iter().map(|trial| trial.name().to_owned()).collect();
        assert_eq!(order, ["a/1/x", "a/2/x", "b/only", "b/other", "c", "a/1/y", "a/1/z"]);
    }
}
