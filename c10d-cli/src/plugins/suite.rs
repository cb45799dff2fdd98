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
use super::failures::Failures;
use super::{File, Limit, SUITE_VERB, child, one, print_rows, round_trip};
use crate::Outcome;
use crate::say::plain;

/// The largest world size.
const MOST_RANKS: i64 = c10d::launch::MOST_RANKS as i64;

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// The world sizes to test.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 4], value_parser = clap::value_parser!(u32).range(1..=MOST_RANKS))]
    worlds: Vec<u32>,
    /// Run every combination of op, element type, reduce operation, size and form of call, instead of a selection in
    /// which each of these values occurs.
    #[arg(long)]
    full: bool,
    /// The CPU backend through which a device is tested. Default: the plugin's own collectives for the device, or else
    /// the CPU backend that a group would choose.
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

/// Runs the suites of a plugin, or, with `--part`, one of them. In a process that a suite started as a rank, runs that
/// rank.
pub(crate) fn suite(file: &File) -> Outcome {
    let report = one(&file.path)?.load();
    let [plugin] = report.providers[..] else {
        return Err(report.decisions.first().map_or("nothing was loaded".into(), ToString::to_string).into());
    };
    let suites = suites(plugin, &file.options)?;
    if suites.is_empty() {
        let decision = report.decisions.first().map_or(String::new(), ToString::to_string);
        return Err(format!(
            "nothing to test: the plugin serves no kind of memory that this program can test ({decision})"
        )
        .into());
    }
    let Some(part) = file.part else { return parts(suites.len()) };
    let named = suites.into_iter().nth(part).ok_or("there is no such part")?;
    named.suite.serve_rank();
    let good = tried(&named, plugin, &file.options)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a suite: for a device, first the copies to the device and back; then one world size after the other, until a
/// world size has failures or no case.
fn tried(named: &Named, plugin: &'static Provider, options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let Named { title, device, suite } = named;
    let mut out = std::io::stdout();
    writeln!(out, "\n{title}")?;
    if let Some(device) = device {
        if let Err(why) = round_trip::check(&[plugin], device) {
            writeln!(out, "copies to the device and back: {}", plain(&why))?;
            writeln!(out, "summary: {title}: failed; no case was run, since every op needs these copies")?;
            return Ok(false);
        }
        writeln!(out, "copies to the device and back: ok")?;
    }
    let (mut cases, mut failures) = (0, 0);
    let mut worlds = options.worlds.iter();
    for world in worlds.by_ref() {
        let outcomes = suite.run(Ranks::Processes, *world)?;
        let failed = outcomes.iter().filter_map(|o| Some((o.name.as_str(), o.result.as_ref().err()?.as_str())));
        let failed: Vec<_> = failed.collect();
        writeln!(out, "world {world}: {} cases, {} failed", outcomes.len(), failed.len())?;
        (cases, failures) = (cases + outcomes.len(), failures + failed.len());
        if !failed.is_empty() || outcomes.is_empty() {
            write!(out, "{}", plain_lines(&Failures::of(failed).to_string()))?;
            let left: Vec<String> = worlds.map(u32::to_string).collect();
            let left = if left.is_empty() { String::new() } else { format!("; not tried: worlds {}", left.join(", ")) };
            writeln!(out, "summary: {title}: {failures} of {cases} cases failed{left}")?;
            return Ok(false);
        }
    }
    writeln!(out, "summary: {title}: {cases} cases, all passed")?;
    Ok(true)
}

/// Makes the output of plugins and ranks safe to show on a terminal.
fn plain_lines(text: &str) -> String {
    text.lines().map(|line| plain(line) + "\n").collect()
}

/// Runs each suite in a process of its own, which starts the ranks.
fn parts(count: usize) -> Outcome {
    let mut good = true;
    for part in 0..count {
        good &= child::succeeds(std::env::args_os().skip(1).chain(["--part".into(), part.to_string().into()]))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the CPU backend that a group would choose.
fn preferred(providers: &[&'static Provider]) -> Result<&'static str, Box<dyn std::error::Error>> {
    let registry = Registry::collect(providers)?;
    let mut able = registry.backends().map(|(r, _)| r);
    let found = able.find(|r| r.keys.contains(&DispatchKey::Cpu) && (r.probe)().is_ok());
    found.map(|r| r.name).ok_or_else(|| "no CPU backend is linked through which the device could be tested".into())
}

struct Named {
    title: String,
    /// The plugin's device on which the suite runs.
    device: Option<&'static str>,
    suite: Suite,
}

/// Returns one suite for each of the plugin's backends for host memory, and one for each of its devices.
fn suites(plugin: &'static Provider, options: &Options) -> Result<Vec<Named>, Box<dyn std::error::Error>> {
    let mut providers = builtin().to_vec();
    providers.push(plugin);
    let selection = if options.full { Selection::Full } else { Selection::from_env() };
    let base = |map: &str| Suite::new(&providers).backend(map).worlds(&options.worlds).selection(selection);
    let mut out = Vec::new();
    for backend in plugin.backends.iter().filter(|b| b.keys.contains(&DispatchKey::Cpu)) {
        let title = format!("{} on host memory", backend.name);
        out.push(Named { title, device: None, suite: base(&format!("cpu:{}", backend.name)) });
    }
    for device in plugin.devices {
        let own = plugin.backends.iter().find(|b| b.keys.contains(&device.key)).map(|b| b.name);
        let through = match (own, &options.through) {
            (Some(own), None) => own.to_owned(),
            (_, Some(through)) => through.clone(),
            (None, None) => preferred(&providers)?.to_owned(),
        };
        let suite = base(&format!("{}:{through}", device.name)).device(device.name);
        let title = format!("device {} through {through}", device.name);
        out.push(Named { title, device: Some(device.name), suite });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use c10d::backend::{DeviceRegistration, Registration};
    use c10d::{Error, ErrorKind};

    use super::*;

    /// Makes a plugin with collectives for one kind of device, and with that device.
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
