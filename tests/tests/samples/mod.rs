//! Builds the sample plugins, those in C as their vendors would build them.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A sample plugin, under `c10d-privateuse/vendors`; `Reduces` and `Rooted` are under `c10d-privateuse/tests`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sample {
    CDevice,
    CCollectives,
    /// `CCollectives` with a device of the type CUDA.
    CCuda,
    /// The guarded device in Rust, with `export_device!`.
    Guarded,
    /// `Guarded` with reductions on the device.
    Reduces,
    /// A plugin of the tests: collectives in which no rank waits for a rank from which it receives nothing.
    Rooted,
}

impl Sample {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sample::CDevice => "c-device",
            Sample::CCollectives | Sample::CCuda => "c-collectives",
            Sample::Guarded => "guarded_plugin",
            Sample::Reduces => "reduces_plugin",
            Sample::Rooted => "rooted",
        }
    }

    /// The path of the built file.
    pub(crate) fn file(self) -> PathBuf {
        self.directory().join(format!("libc10d_{}.so", self.name()))
    }

    /// The directory of the file. `CCuda` has its own, because its file has the same name as `CCollectives`.
    fn directory(self) -> PathBuf {
        if let Sample::CCuda = self { directory().join("cuda") } else { directory() }
    }
}

/// The directory for the plugins. Each test program has its own.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"))
}

/// Builds the plugins and puts them into the directory, once in this process.
pub(crate) fn build(samples: &[Sample]) {
    static BUILT: Mutex<BTreeSet<Sample>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().expect("no earlier build has failed");
    for sample in samples {
        if !built.insert(*sample) {
            continue;
        }
        std::fs::create_dir_all(sample.directory()).expect("a folder can be made in cargo's folder for tests");
        match sample {
            Sample::Guarded | Sample::Reduces => in_rust(*sample),
            Sample::Rooted => for_tests(*sample),
            _ => in_c(*sample),
        }
    }
}

fn in_c(sample: Sample) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../c10d-privateuse/vendors").join(sample.name());
    let mut out = std::ffi::OsString::from("OUT=");
    out.push(sample.directory());
    let mut make = Command::new("make");
    make.arg("-C").arg(source).arg(out);
    if let Sample::CCuda = sample {
        make.arg(r#"CFLAGS=-O2 -g -DDEVICE_TYPE=C10D_DEVICE_CUDA -DNAME='"c-cuda"'"#);
    }
    succeed(&mut make);
}

/// Builds the plugin from a C file of c10d-privateuse's tests.
fn for_tests(sample: Sample) {
    let privateuse = Path::new(env!("CARGO_MANIFEST_DIR")).join("../c10d-privateuse");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-O1", "-shared", "-fPIC", "-I"]).arg(privateuse.join("include"));
    cc.arg(privateuse.join("tests/c").join(sample.name()).with_extension("c")).arg("-o").arg(sample.file());
    succeed(&mut cc);
}

/// Copies the plugin, which cargo has built beside this program.
fn in_rust(sample: Sample) {
    let program = std::env::current_exe().expect("the program has a path");
    let _ = std::fs::remove_file(sample.file());
    let built = program.with_file_name(sample.file().file_name().expect("a sample is a file"));
    std::fs::copy(built, sample.file()).expect("cargo built the plugin");
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
