//! `c10d perf --tune`, and the tables that it writes.

use crate::common;

use std::fs;

use common::{run, start_with};
use serde_json::Value;

const HEAD: &str = "format = \"c10d-gloo-like tuning 1\"\n";

/// Measures an all-reduce of 64 KiB over shared memory with this tuning table.
fn perf(table: &str) -> common::Ended {
    let args =
        ["perf", "--ops", "all_reduce", "--transport", "shm", "--bytes", "64K", "--iters", "2", "--format", "json"];
    start_with(&args, &[("C10D_TUNING", table)]).end()
}

fn algorithm(ended: &common::Ended) -> String {
    assert!(ended.status.success(), "{}", ended.stderr);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    json["rows"][0]["algorithm"].as_str().unwrap().to_owned()
}

#[test]
fn groups_use_the_tuned_table() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("table.toml");
    let name = file.to_str().unwrap();
    // The rule for 7 to 9 ranks stays in the file, since the run has two ranks.
    let other = "{ op = \"all_reduce\", fabric = \"shm\", ranks = [7, 9], algorithm = \"ring\" }";
    fs::write(&file, format!("{HEAD}rules = [{other}]\n")).unwrap();
    let tune =
        ["perf", "--transport", "shm", "--ops", "all_reduce,barrier", "--bytes", "64,64K", "--iters", "2", "--tune"];
    let ended = run(&[&tune[..], &[name]].concat());
    assert!(ended.status.success(), "{}", ended.stderr);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(other), "{text}");
    let rules = |op: &str| text.lines().filter(|l| l.contains(op) && l.contains("ranks = [2, 2]")).collect::<Vec<_>>();
    let last = rules("\"all_reduce\"").last().unwrap().to_string();
    assert!(!last.contains("up_to") && rules("\"barrier\"").len() == 1, "{text}");
    assert!(last.contains(&format!("algorithm = {:?}", algorithm(&perf(name)))), "{text}");
    // A second run replaces the rules for two ranks.
    assert!(run(&[&tune[..], &[name]].concat()).status.success());
    let again = fs::read_to_string(&file).unwrap();
    assert_eq!(again.lines().filter(|l| l.contains("\"barrier\"")).count(), 1, "{again}");
}

#[test]
fn a_rule_decides_and_a_bad_file_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t");
    let name = file.to_str().unwrap();
    let with = |rule: &str| {
        fs::write(&file, format!("{HEAD}rules = [\n{rule}\n]\n")).unwrap();
        perf(name)
    };
    let rule = "{ op = \"all_reduce\", fabric = \"shm\", ranks = [2, 2], algorithm = \"ring\" }";
    assert_eq!(algorithm(&with(rule)), "ring");
    // The ranks share memory, so a rule for TCP has no effect.
    assert_eq!(algorithm(&with(&rule.replace("shm", "tcp"))), algorithm(&perf(" ")));
    let ended = with(&rule.replace("ring", "wheel"));
    assert!(!ended.status.success());
    let says = format!("tuning file {name}, line 3: unknown algorithm \"wheel\" of all_reduce");
    assert!(ended.stderr.contains(&says), "{}", ended.stderr);
}

#[test]
fn ranks_with_different_tables_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    for (rank, algorithm) in [("0", "ring"), ("1", "tree")] {
        let rule = format!("{{ op = \"all_reduce\", fabric = \"shm\", ranks = [2, 2], algorithm = \"{algorithm}\" }}");
        fs::write(dir.path().join(rank), format!("{HEAD}rules = [{rule}]\n")).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_c10d");
    let dir = dir.path().to_str().unwrap();
    let script = format!("C10D_TUNING={dir}/$RANK exec {program} perf --ops barrier --iters 1");
    let ended = run(&["run", "-n", "2", "--", "sh", "-c", &script]);
    assert!(!ended.status.success());
    let (first, second) = (format!("file {dir}/0 ("), format!("file {dir}/1 ("));
    let named = |line: &str| line.contains("the tuning table is") && line.contains(&first) && line.contains(&second);
    assert!(ended.stderr.lines().any(named), "{}", ended.stderr);
}

#[test]
fn simulated_times_respect_lower_bounds_and_invalid_clusters_are_rejected() {
    let simulate = |args: &[&str]| run(&[&["perf", "--simulate"], args].concat());
    // In each round of a barrier, the number of ranks whose messages have reached a rank (directly or through others)
    // doubles. So a barrier of 1024 ranks needs 10 rounds.
    let ended =
        simulate(&["256x4", "--ops", "all_reduce,all_to_all_single,barrier", "--bytes", "64K", "--format", "json"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["op"].as_str().unwrap()).collect();
    assert_eq!(names, ["all_reduce", "all_to_all_single", "barrier"]);
    assert_eq!((&rows[2]["rounds"], &rows[2]["rounds_bound"]), (&10.into(), &10.into()));
    assert_eq!(rows[1]["sent"], 1023 * 64);
    for row in rows {
        assert!(row["time_us"].as_f64().unwrap() >= row["bound_us"].as_f64().unwrap(), "{row}");
        assert!(row["sent"].as_u64().unwrap() >= row["sent_bound"].as_u64().unwrap(), "{row}");
    }
    let ended = simulate(&["1x4", "--ops", "broadcast", "--bytes", "1M", "--compare", "--format", "csv"]);
    assert!(ended.status.success() && ended.stdout.lines().count() > 4, "{}", ended.stderr);
    for (args, says) in [
        (&["8193x8"][..], "the limit is 65536 ranks"),
        (&["4"], "write e.g. 1024x8"),
        (&["0x4"], "write e.g. 1024x8"),
        (&["2x2", "--ops", "send_recv"], "not simulated"),
        (&["2x2", "--network", "0"], "above 0"),
        (&["2x2", "-n", "4"], "--ranks"),
    ] {
        let ended = simulate(args);
        assert!(ended.status.code() == Some(2) && ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }
}
