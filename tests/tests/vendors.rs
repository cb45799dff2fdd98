//! The suite over the sample plugins.

mod samples;

use std::process::ExitCode;

use c10d_conformance::{Ranks, Selection, Suite};
use c10d_core::backend::Provider;
use c10d_privateuse::{Search, Verdict};
use libtest_mimic::{Arguments, Failed, Trial};
use samples::{Sample, directory};

/// The variable that says which form a rank uses.
const FORM: &str = "C10D_VENDORS_FORM";

/// How the plugin is found.
#[derive(Clone, Copy)]
enum Lookup {
    ByPath,
    InDirectory,
}

/// One sample that is loaded in one way, with its tensors in one place.
struct Form {
    name: &'static str,
    sample: Sample,
    lookup: Lookup,
    map: &'static str,
    device: Option<&'static str>,
}

const WORLDS: &[u32] = &[1, 2, 3, 4];

#[rustfmt::skip]
const FORMS: &[Form] = &[
    Form { name: "c-device", sample: Sample::CDevice, lookup: Lookup::ByPath, map: "c-device:gloo-like", device: Some("c-device") },
    Form { name: "c-device/directory", sample: Sample::CDevice, lookup: Lookup::InDirectory, map: "c-device:gloo-like", device: Some("c-device") },
    Form { name: "c-collectives/cpu", sample: Sample::CCollectives, lookup: Lookup::ByPath, map: "cpu:c-collectives", device: None },
    Form { name: "c-collectives/cpu/directory", sample: Sample::CCollectives, lookup: Lookup::InDirectory, map: "cpu:c-collectives", device: None },
    Form { name: "c-collectives/device", sample: Sample::CCollectives, lookup: Lookup::ByPath, map: "c-collectives:c-collectives", device: Some("c-collectives") },
    Form { name: "c-collectives/staged", sample: Sample::CCollectives, lookup: Lookup::InDirectory, map: "cpu:c-collectives,c-collectives:gloo-like", device: Some("c-collectives") },
    Form { name: "c-collectives/cuda", sample: Sample::CCuda, lookup: Lookup::ByPath, map: "cpu:c-cuda,cuda:c-cuda", device: Some("cuda") },
    Form { name: "guarded", sample: Sample::Guarded, lookup: Lookup::ByPath, map: "guarded:gloo-like", device: Some("guarded") },
    Form { name: "guarded-reduces", sample: Sample::Reduces, lookup: Lookup::ByPath, map: "guarded-reduces:gloo-like", device: Some("guarded-reduces") },
    Form { name: "guarded/directory", sample: Sample::Guarded, lookup: Lookup::InDirectory, map: "guarded:gloo-like", device: Some("guarded") },
];

impl Form {
    /// Returns the world sizes. For a plugin that another form loads by its path, one world is enough, except with
    /// `C10D_SUITE=full`.
    fn worlds(&self) -> &'static [u32] {
        let again = self.name.ends_with("/directory") && Selection::from_env() == Selection::Cover;
        if again { &[2] } else { WORLDS }
    }

    fn providers(&self) -> Result<Vec<&'static Provider>, String> {
        let search = match self.lookup {
            Lookup::ByPath => Search::new().file(self.sample.file()),
            Lookup::InDirectory => Search::new().directory(directory()),
        };
        let report = search.load();
        if report.providers.is_empty() || report.decisions.iter().any(|d| d.verdict != Verdict::Loaded) {
            return Err(report.decisions.iter().map(|d| format!("{d}\n")).collect());
        }
        Ok(c10d::builtin().iter().chain(&report.providers).copied().collect())
    }

    fn suite(&self) -> Result<Suite, String> {
        let suite = Suite::new(&self.providers()?).backend(self.map).worlds(WORLDS).environment(FORM, self.name);
        Ok(match self.device {
            Some(device) => suite.device(device).hint("staged.chunk", "65536"),
            None => suite,
        })
    }

    fn run(&self, ranks: Ranks, world: u32) -> Result<(), Failed> {
        let outcomes = self.suite()?.run(ranks, world).map_err(|e| e.to_string())?;
        let wrong: Vec<String> =
            outcomes.iter().filter_map(|o| o.result.as_ref().err().map(|e| format!("{}: {e}", o.name))).collect();
        match outcomes.is_empty() || !wrong.is_empty() {
            true => Err(format!("{} of {} cases: {}", wrong.len(), outcomes.len(), wrong.join("\n")).into()),
            false => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(FORM) {
        let form = FORMS.iter().find(|form| form.name == name);
        match form.ok_or(format!("no form {name:?}")).and_then(Form::suite) {
            Ok(suite) => suite.serve_rank(),
            Err(e) => eprintln!("{e}"),
        }
        return ExitCode::FAILURE;
    }
    samples::build(&[Sample::CDevice, Sample::CCollectives, Sample::CCuda, Sample::Guarded, Sample::Reduces]);
    let mut trials = Vec::new();
    for form in FORMS {
        for world in form.worlds() {
            for (name, ranks) in [("threads", Ranks::Threads), ("processes", Ranks::Processes)] {
                trials.push(Trial::test(format!("{}/{name}/w{world}", form.name), move || form.run(ranks, *world)));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
