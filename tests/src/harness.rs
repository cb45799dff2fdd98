//! The suite as a test program: one trial per case.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::suite::{Ranks, Suite};

type World = OnceLock<Result<BTreeMap<String, Result<(), String>>, String>>;

impl Suite {
    /// Is a whole test program (`harness = false`): lists and runs every case as a test of its own, takes the arguments
    /// of `cargo test`.
    ///
    /// The first test of a world runs all of that world.
    pub fn main(self, ranks: Ranks) -> ExitCode {
        self.serve_rank();
        let arguments = Arguments::from_args();
        let cases = match self.cases() {
            Ok(cases) => cases,
            Err(e) => {
                eprintln!("the backend cannot be had: {e}");
                return ExitCode::FAILURE;
            }
        };
        let suite = Arc::new(self);
        let worlds: BTreeMap<u32, Arc<World>> = suite.worlds.iter().map(|w| (*w, Arc::default())).collect();
        let mut trials = Vec::new();
        for case in cases {
            let (suite, world) = (suite.clone(), worlds[&case.world].clone());
            let name = case.to_string();
            trials.push(Trial::test(name.clone(), move || {
                let run = || {
                    let outcomes = suite.run(ranks, case.world).map_err(|e| e.to_string())?;
                    Ok(outcomes.into_iter().map(|outcome| (outcome.name, outcome.result)).collect())
                };
                let outcomes = world.get_or_init(run).as_ref().map_err(|e| Failed::from(e.clone()))?;
                let result = outcomes.get(&name).cloned().unwrap_or_else(|| Err("not run".into()));
                result.map_err(Failed::from)
            }));
        }
        trials.sort_by(|a, b| a.name().cmp(b.name()));
        libtest_mimic::run(&arguments, trials).exit_code()
    }
}
