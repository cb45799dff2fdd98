//! `c10d plugins`, and plugins in `c10d info`.
#![cfg(feature = "plugins")]

mod common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ended, is_running, run, start, start_with, until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn directory() -> TempDir {
    let all = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("c10d-plugins-").permissions(all).tempdir().unwrap()
}

/// A plugin from one of c10d-privateuse's C files.
fn plugin(dir: &Path, name: &str, source: &str, words: &[&str]) -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../c10d-privateuse");
    let to = dir.join(format!("libc10d_{name}.so"));
    let out = Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-pthread", "-I"])
        .arg(home.join("include"))
        .arg(format!("-DNAME=\"{name}\""))
        .args(words)
        .arg(home.join("tests/c").join(source))
        .arg("-o")
        .arg(&to)
        .output()
        .expect("these tests need a C compiler, cc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// (name of the file, verdict, rule) of each row.
fn rows(json: &Value) -> Vec<(String, String, String)> {
    let row = |r: &Value| {
        let file = Path::new(r["path"].as_str().unwrap()).file_name().unwrap().to_string_lossy().into_owned();
        (file, r["verdict"].as_str().unwrap().to_owned(), r["rule"].as_str().unwrap_or("").to_owned())
    };
    json.as_array().unwrap().iter().map(row).collect()
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ended.stdout, ended.stderr))
}

#[test]
fn check_survives_whatever_a_plugin_does_while_it_is_loaded() {
    let dir = directory();
    plugin(dir.path(), "good", "sum.c", &[]);
    plugin(dir.path(), "crashes", "ends.c", &["-DHOW=__builtin_trap()"]);
    plugin(dir.path(), "exits", "ends.c", &["-DHOW=_exit(0)"]);
    plugin(dir.path(), "spins", "ends.c", &["-DHOW=for(;;)"]);
    std::fs::write(dir.path().join("libc10d_text.so"), "text").unwrap();
    std::fs::set_permissions(dir.path().join("libc10d_text.so"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(dir.path().join("README"), "not a plugin's name").unwrap();
    let ended = run(&["plugins", "check", "--json", text(dir.path())]);
    assert!(!ended.status.success());
    let row = |name: &str, verdict: &str, rule: &str| (format!("libc10d_{name}.so"), verdict.into(), rule.into());
    let want = [
        row("crashes", "refused", "crash"),
        row("exits", "refused", "crash"),
        row("good", "loaded", ""),
        row("spins", "refused", "crash"),
        row("text", "refused", "not-elf"),
    ];
    assert_eq!(rows(&json(&ended)), want);
    assert!(ended.stdout.contains("longer than 5 s") && ended.stdout.contains("signal"), "{}", ended.stdout);
}

#[test]
fn check_passes_what_is_good_and_fails_on_nothing() {
    let dir = directory();
    let good = plugin(dir.path(), "good", "sum.c", &[]);
    let ended = run(&["plugins", "check", text(&good)]);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("good 0.1, ABI 1.2: collectives"), "{}", ended.stdout);
    let none = dir.path().join("none");
    std::fs::create_dir(&none).unwrap();
    assert!(!run(&["plugins", "check", text(&none)]).status.success());
    assert!(!run(&["plugins", "check", text(&dir.path().join("absent.so"))]).status.success());
}

#[test]
fn list_runs_none_of_their_code() {
    let dir = directory();
    let canary = dir.path().join("canary");
    plugin(dir.path(), "sings", "bad.c", &[&format!("-DCANARY=\"{}\"", canary.display())]);
    let ended = run(&["plugins", "list", "--json", text(dir.path())]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let list = json(&ended);
    assert_eq!(rows(&list), [("libc10d_sings.so".into(), "passed".into(), String::new())]);
    assert_eq!((list[0]["name"].as_str(), list[0]["abi"].as_str()), (Some("sings"), Some("1.2")));
    assert!(!canary.exists());
    assert!(run(&["plugins", "check", text(dir.path())]).status.success());
    assert!(canary.exists(), "the canary works");
}

#[test]
fn variables_bring_plugins_into_info_with_every_decision() {
    let dir = directory();
    plugin(dir.path(), "first", "sum.c", &[]);
    plugin(dir.path(), "second", "sum.c", &[]);
    std::fs::write(dir.path().join("libc10d_text.so"), "text").unwrap();
    std::fs::set_permissions(dir.path().join("libc10d_text.so"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let place = ("C10D_PLUGIN_PATH", text(dir.path()));
    let info = |env: &[(&str, &str)]| json(&start_with(&["info", "--json"], env).end());
    let backends = |info: &Value| {
        let named = |b: &Value| b["name"].as_str().unwrap().to_owned();
        info["backends"].as_array().unwrap().iter().map(named).collect::<Vec<_>>()
    };
    assert_eq!(info(&[])["plugins"], Value::Array(Vec::new()));

    let all = info(&[place]);
    let row = |name: &str, verdict: &str, rule: &str| (format!("libc10d_{name}.so"), verdict.into(), rule.into());
    let want = [row("first", "loaded", ""), row("second", "loaded", ""), row("text", "refused", "not-elf")];
    assert_eq!(rows(&all["plugins"]), want);
    assert!(["first", "second"].iter().all(|name| backends(&all).contains(&(*name).to_owned())));
    let served = all["registrations"].as_array().unwrap().iter().filter(|r| r["backend"] == "first").count();
    assert!(served == 0 || !cfg!(feature = "gloo-like"), "a plugin does not take the CPU from what is built in");

    let denied = info(&[place, ("C10D_PLUGINS", "^second,nobody")]);
    assert_eq!(rows(&denied["plugins"])[1], row("second", "skipped", "filter"));
    let warned = denied["plugins"].as_array().unwrap().iter().any(|r| r["detail"].as_str().unwrap().contains("nobody"));
    assert!(warned && !backends(&denied).contains(&"second".into()), "{denied}");
    let allowed = info(&[place, ("C10D_PLUGINS", "second")]);
    assert_eq!(rows(&allowed["plugins"])[0], row("first", "skipped", "filter"));
    assert!(backends(&allowed).contains(&"second".into()));

    let people = start_with(&["info"], &[place]).end();
    assert!(people.stdout.contains("Plugins") && people.stdout.contains("not-elf"), "{}", people.stdout);
}

#[test]
fn a_privileged_process_believes_no_variable() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make a program that runs as somebody else");
        return;
    }
    let dir = directory();
    plugin(dir.path(), "tempting", "sum.c", &[]);
    let program = dir.path().join("c10d");
    std::fs::copy(env!("CARGO_BIN_EXE_c10d"), &program).unwrap();
    let set_id = || {
        chown(&program, Some(65534), None)?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755))
    };
    if let Err(e) = set_id() {
        eprintln!("skipped: cannot make a set-id program here: {e}");
        return;
    }
    let out = Command::new(&program)
        .args(["info", "--json"])
        .env("C10D_PLUGIN_PATH", dir.path())
        .env("C10D_PLUGINS", "tempting")
        .output()
        .unwrap();
    let info: Value = serde_json::from_slice(&out.stdout).unwrap();
    if !rows(&info["plugins"]).iter().any(|r| r.2 == "privileged") && no_set_id(dir.path()) {
        eprintln!("skipped: set-id programs mean nothing on this file system");
        return;
    }
    let row = |name: &str| (name.to_owned(), "skipped".to_owned(), "privileged".to_owned());
    assert_eq!(rows(&info["plugins"]), [row("C10D_PLUGIN_PATH"), row("C10D_PLUGINS")]);
}

/// Whether a set-id program runs as its starter here.
fn no_set_id(dir: &Path) -> bool {
    let id = dir.join("id");
    let made = std::fs::copy("/usr/bin/id", &id).and_then(|_| chown(&id, Some(65534), None));
    let made = made.and_then(|()| std::fs::set_permissions(&id, std::fs::Permissions::from_mode(0o4755)));
    let out = made.and_then(|()| Command::new(&id).arg("-u").output());
    out.map_or(true, |out| out.stdout.trim_ascii() != b"65534")
}

/// The suite passes in worlds 1 to this one, with cases in each.
fn passes(args: &[&str], worlds: u32) {
    let ended = run(args);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    for world in 1..=worlds {
        let line = ended.stdout.lines().find(|line| line.starts_with(&format!("world {world}: "))).unwrap();
        assert!(line.ends_with(" 0 failed") && !line.contains(": 0 cases"), "{line}");
    }
}

/// A plugin package of the workspace, as the plugin of this name.
#[cfg(feature = "gloo-like")]
fn rust_plugin(dir: &Path, package: &str, name: &str) -> PathBuf {
    // The folder that other packages' tests use, too: cargo sees to it that one builds at a time.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "-p", package, "--target-dir"]).arg(&target);
    let out = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let to = dir.join(format!("libc10d_{name}.so"));
    std::fs::copy(target.join("debug").join(format!("lib{}.so", package.replace('-', "_"))), &to).unwrap();
    to
}

#[test]
#[cfg(feature = "gloo-like")]
fn test_passes_a_backend_in_rust() {
    let dir = directory();
    passes(&["plugins", "test", text(&rust_plugin(dir.path(), "c10d-elsewhere-plugin", "elsewhere"))], 4);
}

#[test]
#[cfg(feature = "gloo-like")]
fn test_passes_a_device_in_rust() {
    let dir = directory();
    passes(&["plugins", "test", text(&rust_plugin(dir.path(), "c10d-guarded-plugin", "guarded"))], 4);
}

#[test]
fn test_runs_the_suite_and_finds_what_is_wrong() {
    let dir = directory();
    passes(&["plugins", "test", "--worlds", "1,2", text(&plugin(dir.path(), "good", "sum.c", &[]))], 2);
    let wrong = plugin(dir.path(), "wrong", "sum.c", &["-DMODE=WRONG"]);
    let ended = run(&["plugins", "test", "--worlds", "2", text(&wrong)]);
    assert!(!ended.status.success());
    assert!(ended.stdout.contains("w2/all_reduce/f32/sum/"), "{}", ended.stdout);
}

/// The processes that descend from this one and have the word in the file of /proc.
fn descendants(of: u32, file: &str, word: &str) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let is_of = |pid: u32| std::iter::successors(parent(pid), |pid| parent(*pid)).any(|pid| pid == of);
    let has = |pid: u32| {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(word)
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| is_of(*pid) && has(*pid)).collect()
}

#[test]
fn nothing_outlives_check_and_test() {
    let dir = directory();
    // One hangs while it is loaded, and has a process of its own; with the other each rank hangs.
    let loading = plugin(dir.path(), "loading", "ends.c", &["-DHOW=fork();for(;;)pause()"]);
    let working = plugin(dir.path(), "working", "sum.c", &["-DMODE=HANG_IN_SUBMIT"]);
    let check = ["plugins", "check", text(&loading)];
    let test = ["plugins", "test", "--worlds", "2", text(&working)];
    for (args, file, word) in [(&check[..], "cmdline", "plugins-load"), (&test, "environ", "C10D_CONFORMANCE_RANK")] {
        let running = start(args);
        until("two processes hang", || descendants(running.pid(), file, word).len() == 2);
        let all = descendants(running.pid(), "cmdline", "");
        running.signal(Signal::KILL);
        for pid in all {
            until("all are gone", || !is_running(pid));
        }
    }
}
