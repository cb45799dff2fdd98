//! Suites as a test program: one trial per case.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::processes::SUITE;
use crate::suite::{Ranks, Suite};

type World = OnceLock<Result<BTreeMap<String, Result<(), String>>, String>>;

impl Suite {
    /// Is a whole test program (`harness = false`): lists and runs every case as a test of its own, takes the arguments
    /// of `cargo test`.
    ///
    /// The first test of a world runs all of that world.
    pub fn main(self, ranks: Ranks) -> ExitCode {
        self.serve_rank();
        conclude(self.trials("", ranks))
    }

    fn trials(self, prefix: &str, ranks: Ranks) -> Result<Vec<Trial>, String> {
        let cases = self.cases().map_err(|e| format!("{prefix}the backend cannot be had: {e}"))?;
        let suite = Arc::new(self);
        let worlds: BTreeMap<u32, Arc<World>> = suite.worlds.iter().map(|w| (*w, Arc::default())).collect();
        let mut trials = Vec::new();
        for case in cases {
            let (suite, world) = (suite.clone(), worlds[&case.world].clone());
            let name = case.to_string();
            trials.push(Trial::test(format!("{prefix}{name}"), move || {
                let run = || {
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

/// Several suites, and other trials, as one test program (`harness = false`). One program is linked once, and its suites
/// share the cores.
#[derive(Default)]
#[must_use = "a program does nothing until `main`"]
pub struct Program {
    suites: Vec<(String, Suite, Ranks)>,
    trials: Vec<Trial>,
}

impl Program {
    /// Adds a suite. Its cases are named `name/case`, so that `cargo test name/` runs them alone.
    pub fn suite(mut self, name: &str, suite: Suite, ranks: Ranks) -> Program {
        self.suites.push((name.to_owned(), suite.environment(SUITE, name), ranks));
        self
    }

    /// Adds trials of the program's own.
    pub fn trials(mut self, trials: impl IntoIterator<Item = Trial>) -> Program {
        self.trials.extend(trials);
        self
    }

    /// Plays a rank of a suite and ends the process, if this process was started for that; else does nothing. A program
    /// whose trials start it again for other parts calls this first; [`main`](Program::main) does so, too.
    pub fn serve_rank(&self) {
        let Ok(name) = std::env::var(SUITE) else { return };
        if let Some((_, suite, _)) = self.suites.iter().find(|(n, ..)| *n == name) {
            suite.serve_rank();
        }
    }

    /// Lists and runs every case and every other trial; takes the arguments of `cargo test`.
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
            trials.sort_by(|a, b| a.name().cmp(b.name()));
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
