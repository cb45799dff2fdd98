//! Paths and directories that cannot be trusted. Each entry runs its own search, and returns a wrong decision as its
//! error.

use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use c10d_privateuse::{Rule, Search};

use super::lab::{Entry, Lab, is_root};
use crate::common::mode;

pub(crate) fn entries() -> Vec<Entry> {
    let entry = |name, rule, make| Entry { name, rule, make };
    vec![
        entry("directory that everybody can write", Rule::Directory, |lab, to| in_directory(lab, to, 0o757)),
        entry("directory that a group can write", Rule::Directory, |lab, to| in_directory(lab, to, 0o775)),
        entry("file in a directory that others can write", Rule::Directory, |lab, to| {
            base(lab, to);
            std::fs::set_permissions(lab.junk(), mode(0o777)).unwrap();
            want(Search::new().file(to), Rule::Directory, "junk")
        }),
        entry("a parent that others can write", Rule::Directory, |lab, _| below(lab, 0o777)),
        entry("a sticky parent whose child others can write", Rule::Directory, |lab, _| {
            let (up, down) = (lab.place("up"), lab.place("up/down"));
            std::fs::create_dir_all(&down).unwrap();
            base(lab, &down.join("libc10d_it.so"));
            std::fs::set_permissions(&up, mode(0o1777)).unwrap();
            std::fs::set_permissions(&down, mode(0o777)).unwrap();
            // For root, the child is refused. For other users, the parent is refused, because it does not belong to
            // root.
            want(Search::new().directory(&down), Rule::Directory, "up")
        }),
        entry("a sticky directory in a sticky one", Rule::Directory, |lab, _| {
            if !is_root() {
                return Err("skipped: only root has sticky directories that are accepted".into());
            }
            let (up, down) = (lab.place("up"), lab.place("up/down"));
            std::fs::create_dir_all(&down).unwrap();
            base(lab, &down.join("libc10d_it.so"));
            std::fs::set_permissions(&up, mode(0o1777)).unwrap();
            std::fs::set_permissions(&down, mode(0o1777)).unwrap();
            want(Search::new().directory(&down), Rule::Directory, "down\"")
        }),
        entry("directory of another user", Rule::Directory, |lab, to| {
            if !is_root() {
                return Err("skipped: only root can give directories away".into());
            }
            base(lab, to);
            chown(lab.junk(), Some(65534), None).unwrap();
            want(Search::new().directory(lab.junk()), Rule::Directory, "65534")
        }),
        entry("a directory that is a link", Rule::Symlink, |lab, to| {
            base(lab, to);
            symlink(lab.junk(), lab.place("link")).unwrap();
            want(Search::new().directory(lab.place("link")), Rule::Symlink, "link")
        }),
        entry("a link in the middle of a path", Rule::Symlink, |lab, to| {
            base(lab, to);
            symlink(lab.junk(), lab.place("link")).unwrap();
            want(Search::new().file(lab.place("link/libc10d_it.so")), Rule::Symlink, "link")
        }),
        entry("a relative path", Rule::Path, |lab, to| {
            base(lab, to);
            want(Search::new().file("libc10d_it.so"), Rule::Path, "")
        }),
        entry("a relative directory", Rule::Path, |_, _| want(Search::new().directory("."), Rule::Path, "")),
        entry("an empty directory name", Rule::Path, |_, _| want(Search::new().directory(""), Rule::Path, "")),
        entry("a path with ..", Rule::Path, |lab, to| {
            base(lab, to);
            want(Search::new().file(lab.place("junk/../junk/libc10d_it.so")), Rule::Path, "contains `..`")
        }),
        entry("a file in place of a directory", Rule::Directory, |lab, to| {
            base(lab, to);
            want(Search::new().directory(to), Rule::Directory, "no directory")
        }),
        entry("a file that does not exist", Rule::Unreadable, |_, to| {
            want(Search::new().file(to), Rule::Unreadable, "libc10d_it.so")
        }),
        entry("a name that is built in", Rule::Name, |lab, to| {
            base(lab, to);
            let search = Search::new().taken(format!("{}base", lab.prefix), "c10d-somebody");
            want(search.file(to), Rule::Name, "c10d-somebody")
        }),
    ]
}

fn base(lab: &Lab, to: &Path) -> PathBuf {
    lab.write(to, &lab.base());
    to.to_owned()
}

/// Checks that a directory with these permissions is rejected.
fn in_directory(lab: &Lab, to: &Path, bits: u32) -> Result<(), String> {
    base(lab, to);
    std::fs::set_permissions(lab.junk(), mode(bits)).unwrap();
    want(Search::new().directory(lab.junk()), Rule::Directory, "junk")
}

/// Checks that a directory is rejected if its parent has these permissions.
fn below(lab: &Lab, bits: u32) -> Result<(), String> {
    let (up, down) = (lab.place("up"), lab.place("up/down"));
    std::fs::create_dir_all(&down).unwrap();
    std::fs::set_permissions(&down, mode(0o755)).unwrap();
    base(lab, &down.join("libc10d_it.so"));
    std::fs::set_permissions(&up, mode(bits)).unwrap();
    want(Search::new().directory(&down), Rule::Directory, "up\"")
}

/// Checks that there is one decision, that it is by this rule, and that it contains this text.
fn want(search: Search, rule: Rule, names: &str) -> Result<(), String> {
    let report = search.load();
    match &report.decisions[..] {
        [d] if d.rule == Some(rule) && d.detail.contains(names) && report.providers.is_empty() => Ok(()),
        other => Err(other.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}
