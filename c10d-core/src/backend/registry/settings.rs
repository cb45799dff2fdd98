//! The check for unknown settings: misspelt hints and variables cause a warning, once per process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::sync::Mutex;

use super::Registry;

/// The prefix of all variables of this project.
const OURS: &str = "C10D_";
/// The mark of variables for tests: a variable is not checked if its name contains this text after `C10D_`.
const TEST: &str = "TEST_";

/// Warns of hints and environment variables that nothing in this program reads.
pub(crate) fn check(registry: &Registry, hints: &BTreeMap<String, String>) {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unread = hints.keys().filter_map(|hint| registry.objection_to_hint(hint));
    for what in unread.chain(set.filter_map(|name| registry.objection_to_variable(&name))) {
        say_once(what);
    }
}

fn say_once(what: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock();
    if !said.contains(&what) {
        tracing::warn!(target: "c10d", "{what}");
        let _ = writeln!(std::io::stderr(), "c10d: {what}");
        said.insert(what);
    }
}

impl Registry {
    /// Returns a warning if nothing reads the hint. Hints of a backend or device that declares no hints are not
    /// checked.
    fn objection_to_hint(&self, hint: &str) -> Option<String> {
        let whose = hint.split('.').next().unwrap_or(hint);
        let known: Vec<&str> = self.hints().collect();
        let here = self.backends().map(|(r, _)| r.name).chain(self.devices().map(|(d, _)| d.name)).any(|n| n == whose);
        let declares = known.iter().any(|k| k.strip_prefix(whose).is_some_and(|rest| rest.starts_with('.')));
        if known.contains(&hint) || here && !declares {
            return None;
        }
        let why = if here || declares { "" } else { ", since this program has no backend of that name" };
        Some(format!("nothing reads the hint {hint:?}{why}{}", nearest(hint, &known)))
    }

    fn objection_to_variable(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(OURS)?;
        let known: Vec<&str> = self.variables().collect();
        if known.contains(&name) || rest.contains(TEST) {
            return None;
        }
        Some(format!("nothing in this program reads the variable {name:?}{}", nearest(name, &known)))
    }
}

/// Returns a suggestion of the most similar known name, or an empty text if no name is similar.
fn nearest(name: &str, known: &[&str]) -> String {
    let found = known.iter().map(|k| (distance(name, k), *k)).min();
    let near = found.filter(|(distance, k)| *distance <= (k.len().max(name.len()) / 4).max(2));
    near.map_or(String::new(), |(_, k)| format!("; do you mean {k:?}?"))
}

/// Returns the edit distance: how many letters must be inserted, removed or changed to turn one name into the other,
/// ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Provider;

    static DECLARES: Provider = Provider {
        source: "acme",
        devices: &[crate::backend::DeviceRegistration {
            name: "acme",
            key: crate::DispatchKey::PrivateUse1,
            open: &|| Err(crate::Error::unsupported("none")),
        }],
        hints: &["acme.transport", "acme.device"],
        variables: &["C10D_ACME_LIB"],
        ..Provider::EMPTY
    };
    static SILENT: Provider = Provider {
        source: "quiet",
        devices: &[crate::backend::DeviceRegistration {
            name: "quiet",
            key: crate::DispatchKey::PrivateUse1,
            open: &|| Err(crate::Error::unsupported("none")),
        }],
        ..Provider::EMPTY
    };

    #[test]
    fn unknown_settings_are_reported_with_the_nearest_name() {
        let registry = Registry::collect(&[&DECLARES, &SILENT]).unwrap();
        for hint in ["acme.transport", "acme.device", "quiet.whatever", "staged.chunk"] {
            assert_eq!(registry.objection_to_hint(hint), None, "{hint}");
        }
        for (hint, near) in [
            ("acme.transprt", Some("acme.transport")),
            ("ACME.device", Some("acme.device")),
            ("staged.chunks", Some("staged.chunk")),
            ("acme.frobnicate", None),
            ("transport", None),
            ("other.thing", None),
        ] {
            let what = registry.objection_to_hint(hint).unwrap();
            assert!(what.contains(&format!("{hint:?}")), "{what}");
            assert_eq!(what.contains("do you mean"), near.is_some(), "{what}");
            assert!(near.is_none_or(|near| what.contains(&format!("{near:?}"))), "{what}");
        }
        for name in ["C10D_ACME_LIB", "C10D_TEST_ANYTHING", "C10D_ACME_TEST_X", "HOME", "c10d_x"] {
            assert_eq!(registry.objection_to_variable(name), None, "{name}");
        }
        let what = registry.objection_to_variable("C10D_ACME_LIBS").unwrap();
        assert!(what.contains("\"C10D_ACME_LIBS\"") && what.contains("do you mean \"C10D_ACME_LIB\"?"), "{what}");
        assert!(!registry.objection_to_variable("C10D_QUITE_ANOTHER_THING").unwrap().contains("mean"));
    }

    #[test]
    fn distance_counts_the_changed_letters() {
        for (a, b, n) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("Tcp", "tcp", 0), ("ab", "ba", 2)] {
            assert_eq!((distance(a, b), distance(b, a)), (n, n), "{a} {b}");
        }
    }
}
