//! The walks of docs/backends.md, as they are written: their files, then their commands.
#![cfg(all(feature = "plugins", feature = "gloo-like"))]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a walk, from its heading to the next.
const MOST_LINES: usize = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

struct Block {
    language: String,
    /// The file that it is, where it is one.
    file: Option<String>,
    text: String,
}

/// The code blocks of the section with this heading; and how many lines the walk has, blocks and words.
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
    let of_code = blocks.iter().map(|b| b.text.lines().count()).sum();
    (blocks, of_code)
}

fn follow(headings: &[&str]) {
    let dir =
        tempfile::Builder::new().prefix("c10d-walk-").permissions(std::fs::Permissions::from_mode(0o755)).tempdir();
    let dir = dir.unwrap();
    // The packages are those of this checkout, and what they need is what it was built with.
    let packages = ["c10d", "c10d-core", "c10d-privateuse"];
    let patch = |p: &&str| {
        let path = if *p == "c10d" { root() } else { root().join(p) };
        format!("{p} = {{ path = {path:?} }}\n")
    };
    let patches: String = packages.iter().map(patch).collect();
    std::fs::create_dir(dir.path().join(".cargo")).unwrap();
    std::fs::write(dir.path().join(".cargo/config.toml"), format!("[patch.crates-io]\n{patches}")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_c10d")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for heading in headings {
        let (blocks, lines) = walk(heading);
        assert!(lines < MOST_LINES, "{heading}: {lines} lines");
        assert!(blocks.iter().any(|b| b.language == "sh"), "{heading} runs nothing");
        for block in blocks {
            if let Some(file) = &block.file {
                let file = dir.path().join(file);
                let home = file.parent().unwrap();
                std::fs::create_dir_all(home).unwrap();
                if file.ends_with("Cargo.toml") {
                    std::fs::copy(root().join("Cargo.lock"), home.join("Cargo.lock")).unwrap();
                }
                std::fs::write(&file, &block.text).unwrap();
                continue;
            }
            assert_eq!(block.language, "sh");
            let out = Command::new("bash")
                .args(["-euo", "pipefail", "-c", &format!("umask 022\n{}", block.text)])
                .current_dir(dir.path())
                .env("C10D", root())
                .env("PATH", &path)
                .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins"))
                .env("CARGO_NET_OFFLINE", "true")
                .output()
                .unwrap();
            let said = [&out.stdout[..], &out.stderr[..]].map(String::from_utf8_lossy).join("\n");
            assert!(out.status.success(), "{heading}: {}\n{said}", block.text);
        }
    }
}

#[test]
fn a_plugin_in_c() {
    follow(&["A plugin in C"]);
}

#[test]
fn a_vendors_crate_and_a_plugin_in_rust() {
    follow(&["A vendor's crate", "A plugin in Rust"]);
}
