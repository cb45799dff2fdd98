//! `c10d info` of a program that is built with the feature `nccl` and finds a simulated libnccl (the fake).

mod common;
mod settings;

use common::start_with;
use serde_json::Value;

// This import only makes cargo build the fake.
use c10d_fake_nccl as _;

#[test]
fn the_library_is_shown_with_its_path_and_version() {
    let exe = std::env::current_exe().unwrap();
    let built = exe.ancestors().skip(1).take(2).map(|dir| dir.join("libc10d_fake_nccl.so"));
    let fake = built.into_iter().find(|file| file.exists()).expect("the fake was built beside the tests");
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().canonicalize().unwrap().join("libnccl.so.2");
    std::fs::copy(fake, &library).unwrap();
    let path = library.to_str().unwrap();
    let env = [("C10D_NCCL_LIB", path), ("C10D_FAKE_NCCL", "version=22907")];

    let ended = start_with(&["info", "--json"], &env).end();
    assert!(ended.status.success(), "{}", ended.stderr);
    let info: Value = serde_json::from_str(&ended.stdout).unwrap();
    let nccl = info["libraries"].as_array().unwrap().iter().find(|l| l["name"] == "nccl").unwrap();
    assert_eq!((&nccl["path"], &nccl["version"]), (&path.into(), &"2.29.7".into()), "{nccl}");

    let people = start_with(&["info"], &env).end().stdout;
    assert!(people.contains(path) && people.contains("2.29.7"), "{people}");
}
