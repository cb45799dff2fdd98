//! The sample plugins, built as their vendors would.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A sample under `c10d-privateuse/vendors`.
#[derive(Clone, Copy)]
pub(crate) enum Sample {
    CDevice,
    CCollectives,
}

impl Sample {
    const ALL: [Sample; 2] = [Sample::CDevice, Sample::CCollectives];

    fn name(self) -> &'static str {
        match self {
            Sample::CDevice => "c-device",
            Sample::CCollectives => "c-collectives",
        }
    }

    /// Where it is, once built.
    pub(crate) fn file(self) -> PathBuf {
        directory().join(format!("libc10d_{}.so", self.name()))
    }
}

/// The directory into which the plugins are dropped; each test program has its own.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"))
}

/// Builds them all.
pub(crate) fn build() {
    std::fs::create_dir_all(directory()).expect("cargo's folder for tests takes another folder");
    for sample in Sample::ALL {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../c10d-privateuse/vendors").join(sample.name());
        let mut out = std::ffi::OsString::from("OUT=");
        out.push(directory());
        let make = Command::new("make").arg("-C").arg(source).arg(out).output().expect("make is there");
        assert!(make.status.success(), "{}", String::from_utf8_lossy(&make.stderr));
    }
}
