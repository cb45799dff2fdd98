//! Makes bad plugins.

use std::path::{Path, PathBuf};

use c10d_privateuse::Rule;
use tempfile::TempDir;

use crate::common;

/// One bad plugin. `make` makes the plugin at the path, or returns the reason why this machine cannot make it.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
    pub(crate) make: fn(&Lab, &Path) -> Result<(), String>,
}

pub(crate) struct Lab {
    dir: TempDir,
    /// A good plugin from which bad ones are made. It makes the canary (a file) when any of its code runs.
    base: Vec<u8>,
    /// The beginning of the plugins' names. Names must be unique in the process.
    pub(crate) prefix: &'static str,
}

impl Lab {
    pub(crate) fn new(prefix: &'static str) -> Lab {
        let dir = common::directory();
        std::fs::create_dir(dir.path().join("junk")).unwrap();
        std::fs::set_permissions(dir.path().join("junk"), common::mode(0o755)).unwrap();
        let mut lab = Lab { dir, base: Vec::new(), prefix };
        let base = lab.dir.path().join("base.so");
        lab.compile(&base, &[&format!("NAME=\"{prefix}base\"")], &[]);
        lab.base = std::fs::read(base).unwrap();
        lab
    }

    /// Returns a path beside the directory of bad plugins.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn junk(&self) -> PathBuf {
        self.place("junk")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.place("canary")
    }

    pub(crate) fn base(&self) -> Vec<u8> {
        self.base.clone()
    }

    /// Compiles `bad.c` with these definitions and compiler options.
    pub(crate) fn compile(&self, to: &Path, definitions: &[&str], words: &[&str]) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/bad.c");
        let mut all = vec!["-D_GNU_SOURCE".into(), format!("-DCANARY=\"{}\"", self.canary().display())];
        all.push(format!("-I{}", common::include().display()));
        if !words.contains(&"-c") && !words.contains(&"-pie") {
            all.push("-shared".into());
        }
        all.push("-fPIC".into());
        all.extend(definitions.iter().map(|d| format!("-D{d}")));
        all.extend([source.display().to_string(), "-o".into(), to.display().to_string()]);
        all.extend(words.iter().map(ToString::to_string));
        common::cc(all);
        std::fs::set_permissions(to, common::mode(0o755)).unwrap();
    }

    pub(crate) fn write(&self, to: &Path, bytes: &[u8]) {
        std::fs::write(to, bytes).unwrap();
        std::fs::set_permissions(to, common::mode(0o755)).unwrap();
    }

    pub(crate) fn patched(&self, to: &Path, at: usize, with: &[u8]) {
        let mut bytes = self.base();
        bytes[at..at + with.len()].copy_from_slice(with);
        self.write(to, &bytes);
    }

    /// Returns the offset of the program header with this type in the base.
    pub(crate) fn header(&self, kind: u32) -> usize {
        let b = &self.base;
        let table = u64::from_le_bytes(b[32..40].try_into().unwrap()) as usize;
        let count = usize::from(u16::from_le_bytes([b[56], b[57]]));
        (0..count).map(|i| table + 56 * i).find(|at| b[*at..at + 4] == kind.to_le_bytes()).unwrap()
    }

    /// Returns the offset of the entry's symbol in the base. In the base's first segment, addresses are equal to
    /// offsets in the file.
    pub(crate) fn entry(&self) -> usize {
        let number =
            |at: usize, len: usize| self.base[at..at + len].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let (symbols, strings) = (number(self.tag(6), 8), number(self.tag(5), 8));
        let is_it = |at: &usize| self.base[strings + number(*at, 4)..].starts_with(b"c10d_plugin_v1\0");
        (symbols..strings).step_by(24).find(is_it).unwrap()
    }

    /// Returns the offset of this tag's value in the dynamic section of the base.
    pub(crate) fn tag(&self, tag: u64) -> usize {
        let at = self.header(2);
        let number = |at: usize| u64::from_le_bytes(self.base[at..at + 8].try_into().unwrap());
        let (begin, size) = (number(at + 8) as usize, number(at + 32) as usize);
        (begin..begin + size).step_by(16).find(|at| number(*at) == tag).unwrap() + 8
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
