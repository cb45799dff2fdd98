//! Builds plugins from C and Rust.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Makes a directory to which only this user can write.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("c10d-plugins-").permissions(mode(0o700)).tempdir().unwrap()
}

pub(crate) fn mode(bits: u32) -> std::fs::Permissions {
    std::fs::Permissions::from_mode(bits)
}

pub(crate) fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// Compiles a C file of `tests/c` into a plugin, with these definitions.
pub(crate) fn plugin(source: &str, to: &Path, definitions: &[&str]) -> PathBuf {
    plugin_against(&include(), source, to, definitions)
}

/// Like `plugin`, with the header in this directory.
pub(crate) fn plugin_against(header: &Path, source: &str, to: &Path, definitions: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(source);
    let definitions = definitions.iter().map(|d| format!("-D{d}"));
    let include = format!("-I{}", header.display());
    let words = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread"];
    let words = words.iter().map(ToString::to_string).chain(definitions).chain([include]);
    let words = words.chain([source.display().to_string(), "-o".into(), to.display().to_string()]);
    cc(words.collect::<Vec<_>>());
    std::fs::set_permissions(to, mode(0o755)).unwrap();
    to.to_owned()
}

pub(crate) fn cc<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) {
    let out = Command::new("cc").args(words).output().expect("these tests need a C compiler, cc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Builds a plugin of `sum.c` with this mode and name. Further definitions may follow the mode.
pub(crate) fn sum(dir: &Path, name: &str, mode: &str) -> PathBuf {
    let definitions = [format!("NAME=\"{name}\""), format!("MODE={mode}")];
    let definitions: Vec<&str> = definitions.iter().flat_map(|d| d.split_whitespace()).collect();
    plugin("sum.c", &dir.join(format!("libc10d_{name}.so")), &definitions)
}

/// Returns the path of a plugin package's library. Cargo has built the library, in the directory of this program.
pub(crate) fn rust_plugin(library: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.with_file_name(format!("lib{library}.so"))
}
