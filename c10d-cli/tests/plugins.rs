//! `c10d plugins`, and plugins in `c10d info`.
#![cfg(feature = "plugins")]

use crate::common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ended, is_running, run, start, start_with, until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A time limit in seconds that loading a plugin never reaches, even on a slow machine.
const LONG: &str = "300";

fn directory() -> TempDir {
    let all = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("c10d-plugins-").permissions(all).tempdir().unwrap()
}

/// Builds a plugin from one of c10d-privateuse's C files.
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

/// Returns the name of the file, the verdict and the rule of each row.
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
    std::fs::write(dir.path().join("libc10d_text.so"), "text").unwrap();
    std::fs::set_permissions(dir.path().join("libc10d_text.so"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(dir.path().join("README"), "not a plugin's name").unwrap();
    let ended = run(&["plugins", "check", "--json", "--load-timeout", LONG, text(dir.path())]);
    assert!(!ended.status.success());
    let row = |name: &str, verdict: &str, rule: &str| (format!("libc10d_{name}.so"), verdict.into(), rule.into());
    let want = [
        row("crashes", "refused", "crash"),
        row("exits", "refused", "crash"),
        row("good", "loaded", ""),
        row("text", "refused", "not-elf"),
    ];
    assert_eq!(rows(&json(&ended)), want);
    assert!(ended.stdout.contains("signal"), "{}", ended.stdout);
    // This plugin is checked alone: on a busy machine, the good plugin could exceed the limit of 1 s.
    let spins = plugin(dir.path(), "spins", "ends.c", &["-DHOW=for(;;)"]);
    let ended = run(&["plugins", "check", "--json", "--load-timeout", "1", text(&spins)]);
    assert!(!ended.status.success());
    assert_eq!(rows(&json(&ended)), [row("spins", "refused", "crash")]);
    assert!(ended.stdout.contains("longer than 1 s"), "{}", ended.stdout);
}

#[test]
fn check_passes_good_plugins_and_fails_if_there_is_none() {
    let dir = directory();
    let good = plugin(dir.path(), "good", "sum.c", &[]);
    let ended = run(&["plugins", "check", "--load-timeout", LONG, text(&good)]);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("good 0.1, ABI 1.2: collectives"), "{}", ended.stdout);
    let none = dir.path().join("none");
    std::fs::create_dir(&none).unwrap();
    assert!(!run(&["plugins", "check", text(&none)]).status.success());
    assert!(!run(&["plugins", "check", text(&dir.path().join("absent.so"))]).status.success());
}

#[test]
fn files_that_the_group_can_write_are_rejected_with_advice() {
    let dir = directory();
    let good = plugin(dir.path(), "good", "sum.c", &[]);
    for place in [good.as_path(), dir.path()] {
        let mode = |mode| std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o775);
        let ended = run(&["plugins", "check", "--json", "--load-timeout", LONG, text(&good)]);
        assert!(!ended.status.success());
        let detail = json(&ended)[0]["detail"].as_str().unwrap().to_owned();
        for says in [text(place), "mode 0775", "chmod go-w", "umask 0002"] {
            assert!(detail.contains(says), "no {says:?} in {detail}");
        }
        mode(0o755);
    }
}

#[test]
fn list_runs_no_code_of_plugins() {
    let dir = directory();
    let canary = dir.path().join("canary");
    plugin(dir.path(), "sings", "bad.c", &[&format!("-DCANARY=\"{}\"", canary.display())]);
    let ended = run(&["plugins", "list", "--json", text(dir.path())]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let list = json(&ended);
    assert_eq!(rows(&list), [("libc10d_sings.so".into(), "passed".into(), String::new())]);
    assert_eq!((list[0]["name"].as_str(), list[0]["abi"].as_str()), (Some("sings"), Some("1.2")));
    assert!(!canary.exists());
    assert!(run(&["plugins", "check", "--load-timeout", LONG, text(dir.path())]).status.success());
    assert!(canary.exists(), "loading the plugin must create this file");
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
    assert!(served == 0 || !cfg!(feature = "gloo-like"), "a plugin must not replace the built-in CPU backend");

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
fn a_privileged_process_ignores_the_variables() {
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
        eprintln!("skipped: this file system ignores the set-user-ID bit");
        return;
    }
    let row = |name: &str| (name.to_owned(), "skipped".to_owned(), "privileged".to_owned());
    assert_eq!(rows(&info["plugins"]), [row("C10D_PLUGIN_PATH"), row("C10D_PLUGINS")]);
    // The standard directories (the user's and the program's), which are requested here, are not trusted either.
    let out =
        Command::new(&program).args(["plugins", "list", "--json"]).env("XDG_DATA_HOME", dir.path()).output().unwrap();
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(rows(&list), [row("plugins"), row("plugins")], "{list}");
}

/// Builds the same plugin into each of these directories.
fn everywhere(name: &str, places: &[PathBuf]) {
    for place in places {
        std::fs::create_dir_all(place).unwrap();
        plugin(place, name, "sum.c", &[]);
    }
}

/// Returns the plugin directories of a program in `dir/bin`: the directory in `C10D_PLUGIN_PATH`, the user's directory,
/// and the program's directory.
fn places(dir: &Path) -> [PathBuf; 3] {
    ["path", "data/c10d/plugins", "lib/c10d/plugins"].map(|place| dir.join(place))
}

#[test]
fn directories_are_looked_through_in_their_order() {
    let dir = directory();
    let places = places(dir.path());
    everywhere("same", &places);
    let program = dir.path().join("bin/c10d");
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_c10d"), &program).unwrap();
    let found = |args: &[&str], env: &[(&str, &Path)]| {
        let mut command = Command::new(&program);
        command.args(args).env_remove("XDG_DATA_HOME").env("HOME", dir.path()).envs(env.iter().copied());
        let out = command.output().unwrap();
        let said: Value = serde_json::from_slice(&out.stdout).unwrap();
        let rows = if args[0] == "info" { said["plugins"].clone() } else { said };
        let row = |r: &Value| {
            let place = Path::new(r["path"].as_str().unwrap()).parent().unwrap().to_owned();
            (place, r["verdict"].as_str().unwrap().to_owned(), r["rule"].as_str().unwrap_or("").to_owned())
        };
        rows.as_array().unwrap().iter().map(row).collect::<Vec<_>>()
    };
    let first = |place: &Path, verdict: &str| (place.to_owned(), verdict.to_owned(), String::new());
    let later = |place: &Path| (place.to_owned(), "refused".to_owned(), "name".to_owned());
    let [path, user, own] = &places;
    let data = dir.path().join("data");
    let (path_is, data_is) = (("C10D_PLUGIN_PATH", path.as_path()), ("XDG_DATA_HOME", data.as_path()));

    let all = [first(path, "loaded"), later(user), later(own)];
    assert_eq!(found(&["info", "--json"], &[path_is, data_is]), all);
    // The directories in the variable are searched in order.
    let both = std::env::join_paths([own, path]).unwrap();
    let turned = [first(own, "loaded"), later(path), later(user)];
    let found_twice = found(&["info", "--json"], &[("C10D_PLUGIN_PATH", Path::new(&both)), data_is]);
    assert_eq!(found_twice[..3], turned);
    // Without the variable, the standard directories are used only on request.
    assert_eq!(found(&["info", "--json"], &[data_is]), []);
    assert_eq!(found(&["plugins", "list", "--json"], &[data_is]), [first(user, "passed"), later(own)]);
    // Without `XDG_DATA_HOME`, the directory below the home directory is used.
    let home = dir.path().join(".local/share/c10d/plugins");
    everywhere("same", std::slice::from_ref(&home));
    assert_eq!(found(&["plugins", "list", "--json"], &[]), [first(&home, "passed"), later(own)]);
}

/// The variable in which [`again`] passes the directory of the test's files to the new process.
const LAID_OUT: &str = "C10D_TEST_LAID_OUT";

/// Runs the test of this name again, in a separate process with these variables.
fn again(test: &str, dir: &Path, env: &[(&str, &Path)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("plugins::{test}"), "--nocapture"]).env(LAID_OUT, dir).envs(env.iter().copied());
    let out = command.output().unwrap();
    let said = [&out.stdout[..], &out.stderr[..]].map(String::from_utf8_lossy).join("\n");
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

/// Runs an all-reduce of `[1, 1]` on one rank. The result shows which plugin ran it: a plugin built with `WRONG`
/// returns `[2, 1]`, and a plugin built with `ADDRESS` returns the address of the numbers that it got. The flag says
/// whether the result is the address of the caller's numbers.
fn sum_by(builder: c10d::Builder, name: &str) -> c10d::Result<([f32; 2], bool)> {
    let pg = builder.backend(&format!("cpu:{name}")).build()?;
    let mut x = [1f32; 2];
    pg.all_reduce(&mut x, c10d::ReduceOp::Sum)?;
    let at = x.iter().rev().fold(0, |at, half| at << 32 | half.to_bits() as usize);
    Ok((x, at == x.as_ptr() as usize))
}

#[test]
fn a_builder_has_files_first_then_its_directories_then_the_variables() {
    const THIS: &str = "a_builder_has_files_first_then_its_directories_then_the_variables";
    const WRONG: [f32; 2] = [2.0, 1.0];
    let dir = match std::env::var_os(LAID_OUT) {
        None => {
            let dir = directory();
            let [path, ..] = places(dir.path());
            let (file, own) = (dir.path().join("file"), dir.path().join("own"));
            for place in [&path, &file, &own] {
                std::fs::create_dir(place).unwrap();
            }
            plugin(&file, "one", "sum.c", &["-DMODE=WRONG"]);
            everywhere("one", &[own.clone(), path.clone()]);
            plugin(&own, "two", "sum.c", &["-DMODE=WRONG"]);
            everywhere("two", std::slice::from_ref(&path));
            plugin(&own, "where", "sum.c", &["-DMODE=ADDRESS"]);
            plugin(&own, "bad", "ends.c", &["-DHOW=", "-DNAME=\"BAD\""]);
            return again(THIS, dir.path(), &[("C10D_PLUGIN_PATH", &path)]);
        }
        Some(dir) => PathBuf::from(dir),
    };
    let (file, own) = (dir.join("file/libc10d_one.so"), dir.join("own"));
    let builder = || c10d::builder().plugin(&file).plugin_directory(&own);
    assert_eq!(sum_by(builder(), "one").unwrap().0, WRONG, "a file comes before directories");
    assert_eq!(sum_by(builder(), "two").unwrap().0, WRONG, "a builder's directories come before the variable's");
    assert!(!sum_by(builder(), "where").unwrap().1);
    assert!(sum_by(builder().trust_plugin("where"), "where").unwrap().1, "a trusted plugin gets the caller's memory");
    // A rejected plugin is left out if it was found in a directory, but is an error for a builder that requests it.
    let bad = own.join("libc10d_bad.so");
    let e = builder().plugin(&bad).build().map(drop).unwrap_err();
    assert_eq!((e.kind(), e.status()), (&c10d::ErrorKind::Plugin, c10d::Status::Rejected), "{e}");
    assert!(e.to_string().contains(text(&bad)) && e.to_string().contains("note"), "{e}");
}

#[test]
fn a_builder_uses_the_standard_directories_on_request() {
    const THIS: &str = "a_builder_uses_the_standard_directories_on_request";
    if std::env::var_os(LAID_OUT).is_none() {
        let dir = directory();
        let [_, user, _] = places(dir.path());
        everywhere("standard", &[user]);
        return again(THIS, dir.path(), &[("XDG_DATA_HOME", &dir.path().join("data"))]);
    }
    let e = sum_by(c10d::builder(), "standard").unwrap_err();
    assert!(e.to_string().contains("standard"), "{e}");
    assert_eq!(sum_by(c10d::builder().plugins(), "standard").unwrap().0, [1.0; 2]);
}

/// Whether this system ignores the set-user-ID bit of a program in this directory.
fn no_set_id(dir: &Path) -> bool {
    let id = dir.join("id");
    let made = std::fs::copy("/usr/bin/id", &id).and_then(|_| chown(&id, Some(65534), None));
    let made = made.and_then(|()| std::fs::set_permissions(&id, std::fs::Permissions::from_mode(0o4755)));
    let out = made.and_then(|()| Command::new(&id).arg("-u").output());
    out.map_or(true, |out| out.stdout.trim_ascii() != b"65534")
}

/// Checks that the suite passes in worlds from 1 to this size, with cases in each.
fn passes(args: &[&str], worlds: u32) {
    let ended = run(args);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    for world in 1..=worlds {
        let line = ended.stdout.lines().find(|line| line.starts_with(&format!("world {world}: "))).unwrap();
        assert!(line.ends_with(" 0 failed") && !line.contains(": 0 cases"), "{line}");
    }
}

/// Copies the library of a plugin package to a plugin file with this name. Cargo built the library beside this program,
/// since the tests depend on the package.
#[cfg(feature = "gloo-like")]
fn rust_plugin(dir: &Path, library: &str, name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let to = dir.join(format!("libc10d_{name}.so"));
    std::fs::copy(program.with_file_name(format!("lib{library}.so")), &to).unwrap();
    to
}

#[test]
#[cfg(feature = "gloo-like")]
fn test_passes_a_backend_in_rust() {
    let dir = directory();
    passes(
        &[
            "plugins",
            "test",
            "--load-timeout",
            LONG,
            text(&rust_plugin(dir.path(), "c10d_elsewhere_plugin", "elsewhere")),
        ],
        4,
    );
}

#[test]
#[cfg(feature = "gloo-like")]
fn a_device_is_said_to_reduce_only_if_it_does() {
    let dir = directory();
    for (library, name, reduces) in
        [("c10d_guarded_plugin", "guarded", false), ("c10d_reduces_plugin", "guarded-reduces", true)]
    {
        let ended = run(&["plugins", "check", "--load-timeout", LONG, text(&rust_plugin(dir.path(), library, name))]);
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.stdout.contains("; the device reduces"), reduces, "{}", ended.stdout);
        assert!(!ended.stdout.contains("device that reduces"), "{}", ended.stdout);
    }
}

#[test]
#[cfg(feature = "gloo-like")]
fn test_passes_a_device_in_rust() {
    let dir = directory();
    passes(
        &["plugins", "test", "--load-timeout", LONG, text(&rust_plugin(dir.path(), "c10d_guarded_plugin", "guarded"))],
        4,
    );
}

#[test]
fn test_runs_the_suite_and_finds_what_is_wrong() {
    let dir = directory();
    passes(
        &[
            "plugins",
            "test",
            "--load-timeout",
            LONG,
            "--worlds",
            "1,2",
            text(&plugin(dir.path(), "good", "sum.c", &[])),
        ],
        2,
    );
    let wrong = plugin(dir.path(), "wrong", "sum.c", &["-DMODE=WRONG"]);
    let ended = run(&["plugins", "test", "--load-timeout", LONG, "--worlds", "2", text(&wrong)]);
    assert!(!ended.status.success());
    assert!(ended.stdout.contains("w2/all_reduce/f32/sum/"), "{}", ended.stdout);
}

/// Builds the device `acme.c` of docs/backends.md, with one statement replaced.
fn walk_device(dir: &Path, name: &str, from: &str, to: &str) -> PathBuf {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backends.md")).unwrap();
    let source = page.split("```c acme.c\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(source.matches(from).count(), 1, "{from}");
    let file = dir.join(format!("{name}.c"));
    std::fs::write(&file, source.replace(from, to)).unwrap();
    plugin(dir, name, text(&file), &[])
}

#[test]
#[cfg(feature = "gloo-like")]
fn test_of_a_broken_device_is_short_and_ends_in_a_summary() {
    let dir = directory();
    let test = |device: &Path| run(&["plugins", "test", "--load-timeout", LONG, "--worlds", "2,3", text(device)]);
    // Copies from the device transfer nothing, so no op can work, and no case is run.
    let deaf = walk_device(dir.path(), "acme", "memcpy(to, (const char *)of + at, n);", "");
    let ended = test(&deaf);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stdout.contains("of 1 bytes that were copied to the device and back, byte 0 was sent as 1"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("world"), "{}", ended.stdout);
    assert!(ended.stdout.lines().last().unwrap().starts_with("summary: device acme through gloo-like: failed"));
    // The device ignores offsets in buffers: many cases fail, and only some of them are shown.
    std::fs::remove_file(&deaf).unwrap();
    let ended = test(&walk_device(dir.path(), "acme", "memcpy((char *)to + at, of, n);", "memcpy(to, of, n);"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains("copies to the device and back: ok\nworld 2: "), "{}", ended.stdout);
    let last = ended.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("summary: device acme through gloo-like: ") && last.ends_with("; not tried: worlds 3"),
        "{last}"
    );
    assert!(ended.stdout.contains("more for the same reason"), "{}", ended.stdout);
    assert!(ended.stdout.lines().count() < 40, "{}", ended.stdout);
}

/// Returns the descendants of process `of` whose file `file` in /proc contains `word`.
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
    // One plugin hangs while it is loaded, and forks before that. The other plugin hangs in the first op of each rank.
    let loading = plugin(dir.path(), "loading", "ends.c", &["-DHOW=fork();for(;;)pause()"]);
    let working = plugin(dir.path(), "working", "sum.c", &["-DMODE=HANG_IN_SUBMIT"]);
    let check = ["plugins", "check", "--load-timeout", LONG, text(&loading)];
    let test = ["plugins", "test", "--load-timeout", LONG, "--worlds", "2", text(&working)];
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
