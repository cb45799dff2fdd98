//! Tests of the plugin's code that runs before any group is made: its entry and its probe function.

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use c10d_core::{Builder, ErrorKind};
use c10d_privateuse::{Rule, Search, Verdict};

/// The time limit for the entry and the probe function.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs a body on a new thread, and fails if it does not return.
fn returns<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    std::thread::spawn(move || done.send(body()));
    wait.recv_timeout(Duration::from_secs(60)).expect("this must return")
}

#[test]
fn the_entry_of_a_refused_plugin_is_called_once() {
    let dir = common::directory();
    let calls = dir.path().join("calls");
    let file = common::sum(dir.path(), "refused", &format!("REFUSED GATE=\"{}\"", calls.display()));
    let search = Search::new().file(file);
    let (first, again) = (search.load(), search.load());
    assert_eq!(first.decisions[0].rule, Some(Rule::Table), "{}", first.decisions[0]);
    assert_eq!(again.decisions[0].to_string(), first.decisions[0].to_string());
    assert_eq!(std::fs::read_to_string(calls).unwrap(), "x", "the entry must be called once");
    let elsewhere = common::directory();
    let other = common::sum(elsewhere.path(), "refused", "HONEST");
    assert_eq!(Search::new().file(other).load().decisions[0].verdict, Verdict::Loaded);
}

#[test]
fn an_entry_that_hangs_is_refused() {
    let first = returns(|| {
        let dir = common::directory();
        let search = Search::new().patience(PATIENCE).file(common::sum(dir.path(), "hangs-in-entry", "HANG_IN_ENTRY"));
        let first = search.load().decisions.remove(0);
        assert_eq!(search.load().decisions[0].to_string(), first.to_string());
        first
    });
    assert_eq!(first.rule, Some(Rule::Crash), "{first}");
    assert!(first.detail.contains("hangs-in-entry") && first.detail.contains("entry: it did not return"), "{first}");
}

#[test]
fn a_probe_that_hangs_is_named() {
    let errors = returns(|| {
        let dir = common::directory();
        let search = Search::new().patience(PATIENCE);
        let report = search.file(common::sum(dir.path(), "hangs-in-probe", "HANG_IN_PROBE")).load();
        // The plugin was not requested by name, so its probe function is called.
        let builder = Builder::new().providers(&report.providers);
        [builder.clone(), builder].map(|builder| builder.build().unwrap().barrier().unwrap_err())
    });
    for e in errors {
        assert_eq!(*e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.to_string().contains("hangs-in-probe") && e.to_string().contains("probe: it did not return"), "{e}");
    }
}
