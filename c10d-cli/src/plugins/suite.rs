//! `c10d plugins test`: the conformance suite on a plugin.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use c10d::backend::{Provider, Registry};
use c10d::plugins::Verdict;
use c10d::{DispatchKey, builtin};
use c10d_conformance::{Ranks, Selection, Suite};

use super::check::checked;
use super::{File, Limit, SUITE_VERB, child, one, print_rows};
use crate::Outcome;

/// Every rank is a process of this host.
const MOST_RANKS: i64 = c10d::launch::MOST_RANKS as i64;

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// World sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 4], value_parser = clap::value_parser!(u32).range(1..=MOST_RANKS))]
    worlds: Vec<u32>,
    /// Every combination, not just a cover of them.
    #[arg(long)]
    full: bool,
    /// The CPU backend through which a device without collectives of its own is tried.
    #[arg(long, value_name = "BACKEND")]
    through: Option<String>,
}

pub(super) fn test(path: &Path, limit: Limit, options: &Options) -> Outcome {
    let rows = checked(path, limit)?;
    print_rows(&rows, false)?;
    let mut good = !rows.is_empty() && !rows.iter().any(|row| row.is(Verdict::Refused));
    for row in rows.iter().filter(|row| row.is(Verdict::Loaded)) {
        let worlds: Vec<String> = options.worlds.iter().map(u32::to_string).collect();
        let mut words: Vec<OsString> = vec![SUITE_VERB.into(), row.path.clone().into()];
        words.extend(["--worlds".into(), worlds.join(",").into()]);
        words.extend(options.full.then(|| "--full".into()));
        words.extend(options.through.iter().flat_map(|through| ["--through".into(), through.into()]));
        good &= child::succeeds(words)?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The suite's process, and, told so by a variable, each of its ranks.
pub(crate) fn suite(file: &File) -> Outcome {
    let report = one(&file.path)?.load();
    let [plugin] = report.providers[..] else {
        return Err(report.decisions.first().map_or("nothing was loaded".into(), ToString::to_string).into());
    };
    let suites = suites(plugin, &file.options)?;
    if suites.is_empty() {
        let decision = report.decisions.first().map_or(String::new(), ToString::to_string);
        return Err(format!("nothing to test: no kind of memory is the plugin's to serve here ({decision})").into());
    }
    let Some(part) = file.part else { return parts(suites.len()) };
    let Named { title, suite } = suites.into_iter().nth(part).ok_or("there is no such part")?;
    suite.serve_rank();
    let mut out = std::io::stdout();
    writeln!(out, "\n{title}")?;
    let mut good = true;
    for world in &file.options.worlds {
        let outcomes = suite.run(Ranks::Processes, *world)?;
        let failed: Vec<_> = outcomes.iter().filter(|o| o.result.is_err()).collect();
        writeln!(out, "world {world}: {} cases, {} failed", outcomes.len(), failed.len())?;
        for outcome in &failed {
            let why = outcome.result.as_ref().err().map_or("", String::as_str);
            writeln!(out, "  {}: {}", outcome.name, why.replace('\n', "\n    "))?;
        }
        good &= failed.is_empty() && !outcomes.is_empty();
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each suite in a process of its own, which the ranks are started from.
fn parts(count: usize) -> Outcome {
    let mut good = true;
    for part in 0..count {
        good &= child::succeeds(std::env::args_os().skip(1).chain(["--part".into(), part.to_string().into()]))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The CPU backend that a group would take.
fn preferred(providers: &[&'static Provider]) -> Result<&'static str, Box<dyn std::error::Error>> {
    let registry = Registry::collect(providers)?;
    let mut able = registry.backends().map(|(r, _)| r);
    let found = able.find(|r| r.keys.contains(&DispatchKey::Cpu) && (r.probe)().is_ok());
    found.map(|r| r.name).ok_or_else(|| "no CPU backend is linked through which a device could be tried".into())
}

struct Named {
    title: String,
    suite: Suite,
}

/// One suite for each kind of memory on which the plugin works.
fn suites(plugin: &'static Provider, options: &Options) -> Result<Vec<Named>, Box<dyn std::error::Error>> {
    let mut providers = builtin().to_vec();
    providers.push(plugin);
    let selection = if options.full { Selection::Full } else { Selection::from_env() };
    let base = |map: &str| Suite::new(&providers).backend(map).worlds(&options.worlds).selection(selection);
    let mut out = Vec::new();
    for backend in plugin.backends.iter().filter(|b| b.keys.contains(&DispatchKey::Cpu)) {
        let title = format!("{} on host memory", backend.name);
        out.push(Named { title, suite: base(&format!("cpu:{}", backend.name)) });
    }
    for device in plugin.devices {
        let own = plugin.backends.iter().find(|b| b.keys.contains(&device.key)).map(|b| b.name);
        let through = match (own, &options.through) {
            (Some(own), None) => own.to_owned(),
            (_, Some(through)) => through.clone(),
            (None, None) => preferred(&providers)?.to_owned(),
        };
        let suite = base(&format!("{}:{through}", device.name)).device(device.name);
        out.push(Named { title: format!("device {} through {through}", device.name), suite });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use c10d::backend::{DeviceRegistration, Registration};
    use c10d::{Error, ErrorKind};

    use super::*;

    /// A plugin with collectives for one kind of device, and the device.
    macro_rules! plugin {
        ($device:literal, $key:expr) => {{
            static PLUGIN: Provider = Provider {
                source: "acme",
                backends: &[Registration {
                    name: "acme",
                    keys: &[$key],
                    priority: 10,
                    probe: &|| Ok(()),
                    create: &|_| Err(Error::new(ErrorKind::Device, "it is pretended")),
                }],
                devices: &[DeviceRegistration {
                    name: $device,
                    key: $key,
                    open: &|| Err(Error::new(ErrorKind::Device, "it is pretended")),
                }],
                ..Provider::EMPTY
            };
            &PLUGIN
        }};
    }

    #[test]
    fn a_device_is_tried_through_the_collectives_that_serve_it() {
        let options = Options { worlds: vec![1], full: false, through: None };
        let titles = |plugin| -> Vec<String> {
            suites(plugin, &options).unwrap().into_iter().map(|named| named.title).collect()
        };
        assert_eq!(titles(plugin!("cuda", DispatchKey::Cuda)), ["device cuda through acme"]);
        assert_eq!(titles(plugin!("acme", DispatchKey::PrivateUse1)), ["device acme through acme"]);
    }
}
