//! Libraries that the loader rejects: small libraries in C, compiled here. Without a C compiler, these tests are
//! skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use c10d_core::{Builder, ErrorKind};

const CHILD: &str = "C10D_TEST_LOADER";
/// The source of a library that has only the function that the loader calls before it looks for the other functions.
const ABI: &str = "int MPI_Abi_get_version(int *major, int *minor) { *major = MAJOR; *minor = MINOR; return RESULT; }";

/// Compiles a library with this name. Its `MPI_Abi_get_version` gives the first two numbers of `version`, and returns
/// the third. Returns `None` if there is no compiler.
fn library(name: &str, version: [i32; 3]) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", std::process::id(), version[0]));
    std::fs::create_dir_all(&folder).unwrap();
    let (source, file) = (folder.join("mpi.c"), folder.join(name));
    std::fs::write(&source, ABI).unwrap();
    let mut command = Command::new("cc");
    for (macro_name, value) in ["MAJOR", "MINOR", "RESULT"].into_iter().zip(version) {
        command.arg(format!("-D{macro_name}={value}"));
    }
    let made = command.args(["-shared", "-fPIC", "-o"]).arg(&file).arg(&source).stderr(Stdio::inherit()).status();
    match made {
        Ok(status) => {
            assert!(status.success(), "the compiler cannot compile {name}");
            Some(file)
        }
        Err(e) => {
            println!("skipped: there is no C compiler ({e})");
            None
        }
    }
}

/// Makes a group with this library, and returns the error.
fn refusal(file: &Path) -> String {
    let providers = &[&c10d_mpi::PROVIDER, &c10d_gloo_like::PROVIDER];
    let builder = Builder::new().providers(providers).backend("cpu:mpi").timeout(Duration::from_secs(10));
    let e = builder.hint("mpi.lib", file.to_str().unwrap()).run_ranks(2, |_| Ok(())).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::Unsupported, "{e}");
    e.to_string()
}

#[test]
fn a_library_without_the_functions_is_refused() {
    let Some(file) = library("libstub.so", [1, 0, 0]) else { return };
    let said = refusal(&file);
    for words in ["libstub.so", "lacks MPI_Initialized", "MPI_Isend_c", "MPI_Test"] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn another_version_of_the_abi_is_refused() {
    for (version, words) in
        [([2, 0, 0], "is of version 2.0"), ([-1, -1, 0], "is of version -1.-1"), ([0, 9, 1], "version 0.9")]
    {
        let Some(file) = library("libstub.so", version) else { return };
        let said = refusal(&file);
        assert!(said.contains(words) && said.contains("1 is needed"), "{said}");
    }
}

/// The child process has one MPI library from its start, by `LD_PRELOAD`, and tries to load a second one.
#[test]
fn a_second_library_is_refused() {
    if let Some(file) = std::env::var_os(CHILD) {
        println!("said: {}", refusal(Path::new(&file)));
        return;
    }
    let (Some(other), Some(file)) = (library("libmpi.so.12", [3, 0, 0]), library("libstub.so", [4, 0, 0])) else {
        return;
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["loader::a_second_library_is_refused", "--exact", "--nocapture"]);
    let output = command.env(CHILD, &file).env("LD_PRELOAD", &other).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for words in ["said: ", "another MPI library, ", "libmpi.so.12, is in this process already"] {
        assert!(said.contains(words), "{said}");
    }
}
