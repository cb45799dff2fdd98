//! The walks of docs/backends.md. A walk is a section with files and commands. The test makes the files and then runs
//! the commands, both exactly as written.
#![cfg(all(feature = "plugins", feature = "gloo-like"))]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::outside_env;

/// A walk has fewer lines than this, from its heading to the next heading: text, code and empty lines.
const MOST_LINES: usize = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

struct Block {
    language: String,
    /// The name of the file, if the block is the content of a file.
    file: Option<String>,
    text: String,
}

/// Returns the code blocks of the section with this heading, and the number of lines until the next heading.
fn walk(heading: &str) -> (Vec<Block>, usize) {
    let text = std::fs::read_to_string(root().join("docs/backends.md")).unwrap();
    let section = text.split("\n## ").find(|s| s.lines().next() == Some(heading)).expect(heading);
    let mut blocks = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let (language, file) = info.split_once(' ').map_or((info, None), |(l, f)| (l, Some(f.to_owned())));
        let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        blocks.push(Block { language: language.to_owned(), file, text: text.join("\n") + "\n" });
    }
    // The empty line before the next heading is also counted.
    (blocks, section.lines().count() + 1)
}

/// Checks that code of a walk has the default format of rustfmt, which readers use.
fn formatted(file: &Path) {
    match Command::new("rustfmt").args(["--check", "--edition", "2024"]).arg(file).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout)),
        Err(e) => eprintln!("skipped: {file:?} is not checked by rustfmt: {e}"),
    }
}

/// Follows these walks in one new directory.
fn follow(headings: &[&str]) {
    let dir =
        tempfile::Builder::new().prefix("c10d-walk-").permissions(std::fs::Permissions::from_mode(0o755)).tempdir();
    let dir = dir.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_c10d")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut runs = false;
    for heading in headings {
        let (blocks, lines) = walk(heading);
        assert!(lines < MOST_LINES, "{heading}: {lines} lines");
        for block in blocks {
            if let Some(file) = &block.file {
                let file = dir.path().join(file);
                let home = file.parent().unwrap();
                std::fs::create_dir_all(home).unwrap();
                if file.ends_with("Cargo.toml") {
                    // Nothing is downloaded here: the dependencies are those with which this checkout was built.
                    std::fs::copy(root().join("Cargo.lock"), home.join("Cargo.lock")).unwrap();
                }
                std::fs::write(&file, &block.text).unwrap();
                if block.language == "rust" {
                    formatted(&file);
                }
                continue;
            }
            assert_eq!(block.language, "sh");
            runs = true;
            let out = Command::new("bash")
                .args(["-euo", "pipefail", "-c", &format!("umask 002\n{}", block.text)])
                .current_dir(dir.path())
                .env("C10D", root())
                .env("XDG_DATA_HOME", dir.path().join("data"))
                .env("PATH", &path)
                .envs(outside_env())
                .output()
                .unwrap();
            let said = [&out.stdout[..], &out.stderr[..]].map(String::from_utf8_lossy).join("\n");
            assert!(out.status.success(), "{heading}: {}\n{said}", block.text);
        }
    }
    assert!(runs, "{headings:?} run nothing");
}

#[test]
fn a_plugin_in_c_works_as_documented() {
    follow(&["A plugin in C"]);
}

#[test]
fn a_vendors_crate_a_program_and_a_plugin_in_rust_work_as_documented() {
    follow(&["A vendor's crate", "A program that uses it", "A plugin in Rust", "A program that uses a plugin"]);
}
