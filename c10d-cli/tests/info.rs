//! `c10d info`: a row for each of the 60 pairs of op and dispatch key that the registry declares (58 dense, 2 sparse),
//! with the kernel and backend that a group would use.

use crate::common;

use std::collections::BTreeSet;

use common::{run, start, start_with};
use serde_json::Value;

#[test]
fn json_has_a_row_for_each_op_and_dispatch_key() {
    let ended = run(&["info", "--json"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let info: Value = serde_json::from_str(&ended.stdout).unwrap();
    let rows = info["registrations"].as_array().unwrap();
    assert_eq!(rows.len(), 60);
    let pairs: BTreeSet<(&str, &str)> =
        rows.iter().map(|row| (row["op"].as_str().unwrap(), row["key"].as_str().unwrap())).collect();
    assert_eq!(pairs.len(), 60);
    for row in rows {
        let fields: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(fields.len(), 5);
        let whole = row["source"].is_string() && row["backend"].is_string();
        assert_eq!(row["why"].is_null(), whole, "{row}");
    }
    let backends = info["backends"].as_array().unwrap();
    let ours = backends.iter().find(|b| b["name"] == "gloo-like");
    if cfg!(feature = "gloo-like") {
        let ours = ours.unwrap();
        assert_eq!((&ours["source"], &ours["available"]), (&"c10d-gloo-like".into(), &true.into()));
        assert_eq!(ours["devices"], serde_json::json!(["cpu"]));
        let served = rows.iter().filter(|row| row["key"] == "CPU" && row["backend"] == "gloo-like").count();
        assert_eq!(served, 20);
    } else {
        assert!(ours.is_none());
    }
}

/// A pair of backends, such as `gloo-like+mpi`, needs both.
#[test]
fn a_pair_of_backends_is_available_only_if_both_are() {
    let ended = start_with(&["info", "--json"], &[("C10D_MPI_LIB", "/nowhere/libmpi_abi.so.1")]).end();
    assert!(ended.status.success(), "{}", ended.stderr);
    let info: Value = serde_json::from_str(&ended.stdout).unwrap();
    let backends = info["backends"].as_array().unwrap();
    let backend = |name: &str| backends.iter().find(|b| b["name"] == name).unwrap();
    for pair in backends.iter().filter(|b| b["name"].as_str().unwrap().contains('+')) {
        let mut parts = pair["name"].as_str().unwrap().split('+').map(backend);
        let missing = parts.find(|part| part["available"] == false);
        assert_eq!(pair["available"], missing.is_none(), "{pair}");
        assert_eq!(pair["why"], missing.map_or(Value::Null, |part| part["why"].clone()));
    }
    for mpi in backends.iter().filter(|b| b["name"].as_str().unwrap().contains("mpi")) {
        let why = mpi["why"].as_str().unwrap();
        assert!(why.contains("/nowhere/libmpi_abi.so.1") && why.contains("pip install mpich"), "{mpi}");
    }
}

#[test]
fn the_table_has_a_line_for_each_op() {
    let ended = run(&["info"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    for op in c10d::OpKind::ALL {
        assert!(ended.stdout.lines().any(|line| line.split_whitespace().next() == Some(op.name())), "{op}");
    }
    assert!(ended.stdout.contains("Registrations: 60"));
}

#[test]
fn a_closed_reader_is_no_error() {
    for args in [&["info"][..], &["info", "--json"]] {
        let mut running = start(args);
        running.stop_reading();
        let ended = running.end();
        assert!(ended.status.success() && ended.stderr.is_empty(), "{args:?}: {}", ended.stderr);
    }
}
