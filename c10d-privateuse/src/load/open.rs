//! Loads files that passed the checks.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::trust::{TrustedDir, TrustedFile};
use crate::abi;
use crate::host::Hosted;
use crate::refusal::{Refusal, Rule};

type Entry = unsafe extern "C" fn(*const abi::Host) -> *const abi::Plugin;

/// Loads the file permanently, and returns its entry.
///
/// The system's loader gets a path that begins with the descriptor of the checked directory (`/proc/self/fd/..`). So
/// nobody can redirect the loader to another directory, and `$ORIGIN` still finds the plugin's own libraries.
pub(super) fn open(dir: &TrustedDir, name: &OsStr, file: &TrustedFile) -> Result<Entry, Refusal> {
    // The descriptor stays open, because the loader may need `$ORIGIN` again whenever the plugin loads a library.
    let fd = dir.fd().try_clone_to_owned();
    let fd = fd.map_err(|e| Refusal::new(Rule::Link, format!("cannot keep {:?} open: {e}", dir.path())))?;
    let path: PathBuf = ["/proc/self/fd".as_ref(), fd.as_raw_fd().to_string().as_ref(), name].iter().collect();
    unchanged(dir, name, file)?;
    // SAFETY: this runs the plugin's constructors. The checks passed: the file's owner is root or our user.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|e| {
        let what = reason(&e).replace(&*path.to_string_lossy(), &dir.path().join(name).to_string_lossy());
        Refusal::new(Rule::Link, what)
    })?;
    std::mem::forget(fd);
    // The library is never unloaded: its threads may run at any later time.
    let library = std::mem::ManuallyDrop::new(library);
    unchanged(dir, name, file)?;
    // SAFETY: by the ABI, the function with this name has this type.
    let entry = unsafe { library.get::<Entry>(abi::ENTRY.as_bytes()) };
    entry.map(|e| *e).map_err(|e| Refusal::new(Rule::Entry, reason(&e)))
}

pub(super) fn enter(entry: Entry, plugin: &'static Hosted) -> Result<*const abi::Plugin, Refusal> {
    // SAFETY: by the ABI, the entry has this type. The host's table is valid until the process ends.
    let entered = plugin.in_time("entry", move || unsafe { entry(plugin.table()) } as usize);
    let table = entered.map_err(|e| Refusal::new(Rule::Crash, e.report().what.clone()))?;
    Ok(table as *const abi::Plugin)
}

/// Checks that the name still refers to the checked file, and that the file has not changed.
fn unchanged(dir: &TrustedDir, name: &OsStr, file: &TrustedFile) -> Result<(), Refusal> {
    let facts =
        |s: &rustix::fs::Stat| (s.st_dev, s.st_ino, s.st_size, s.st_mode, s.st_uid, s.st_mtime, s.st_mtime_nsec);
    match dir.stat(name) {
        Ok(now) if facts(&now) == facts(&file.stat) => Ok(()),
        _ => {
            let what = format!("{:?} is no longer the file that was checked", dir.path().join(name));
            Err(Refusal::new(Rule::Replaced, what))
        }
    }
}

fn reason(e: &libloading::Error) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}

/// Whether the process has more privileges than its user (by set-id or capabilities), according to the operating
/// system.
pub(super) fn secure() -> bool {
    // SAFETY: `getauxval` only reads a value that the system stored when the process started.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_was_replaced_after_the_check_is_not_loaded() {
        let mode = std::fs::Permissions::from_mode;
        let home = tempfile::Builder::new().permissions(mode(0o755)).tempdir().unwrap();
        let (path, other) = (home.path().join("libc10d_it.so"), home.path().join("other"));
        let write = |path: &std::path::Path, text: &str| {
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, mode(0o644)).unwrap();
        };
        write(&path, "checked");
        let dir = TrustedDir::open(home.path()).unwrap();
        let file = dir.file("libc10d_it.so".as_ref()).unwrap();
        // The unchanged file reaches the system's loader, which rejects it because it is a text file.
        let rule = |file: &TrustedFile| open(&dir, "libc10d_it.so".as_ref(), file).unwrap_err().rule;
        assert_eq!(rule(&file), Rule::Link);
        write(&other, "checked");
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(rule(&file), Rule::Replaced);
        // A file that was modified after the check is rejected.
        let file = dir.file("libc10d_it.so".as_ref()).unwrap();
        write(&path, "checked, and more");
        assert_eq!(rule(&file), Rule::Replaced);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(rule(&file), Rule::Replaced);
    }
}
