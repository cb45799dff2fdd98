//! A program whose ranks continue after one of them has died, under a launcher that does not end them.
#![cfg(feature = "gloo-like")]

use crate::common::{outside, run};

#[test]
fn the_example_goes_on_without_the_rank_that_dies() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/survivors.rs");
    let example = std::fs::read_to_string(example).unwrap();
    let built = outside(&[("src/main.rs", &example)], &[]);
    assert!(built.built, "{}", built.said);
    let program = built.program.to_str().unwrap();
    let options = ["--keep-going", "--success", "survivors"];
    let ended = run(&[&["run", "-n", "4"], &options[..], &["--", program]].concat());
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    for rank in 0..3 {
        let line = format!("[{rank}] rank {rank} did 10 steps, at the end as rank {rank} of 3");
        assert!(ended.stdout.lines().any(|l| l == line), "{}{}", ended.stdout, ended.stderr);
    }
    assert!(ended.stderr.contains("rank 3 was killed by signal 6"), "{}", ended.stderr);
    // Without `--keep-going`, the launcher ends all ranks.
    let ended = run(&["run", "-n", "4", "--", program]);
    assert_eq!(ended.status.code(), Some(128 + 6), "{}{}", ended.stdout, ended.stderr);
}
