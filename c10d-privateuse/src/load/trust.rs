//! Checks who can write to a path: every directory from the root down, then the file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::refusal::{Refusal, Rule};

const WRITABLE: u32 = 0o022;
const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const MOST_NAMES: usize = 4096;

/// An open directory that was checked, with all directories above it. If a file in this directory belongs to root or to
/// this user, nobody else can replace the file.
#[derive(Debug)]
pub(crate) struct TrustedDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// An open regular file that only root or this user can change.
#[derive(Debug)]
pub(crate) struct TrustedFile {
    pub(crate) file: File,
    pub(crate) stat: Stat,
}

impl TrustedDir {
    /// Opens the directories from the root down. Each is opened once, and the checks use its descriptor, so nobody can
    /// replace a directory after its check.
    pub(crate) fn open(path: &Path) -> Result<TrustedDir, Refusal> {
        if !path.is_absolute() {
            return Err(Refusal::new(Rule::Path, format!("{path:?} is relative; give an absolute path")));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = PathBuf::from("/");
        let mut fd = openat(CWD, "/", flags, Mode::empty()).map_err(|e| unreadable(&at, e))?;
        let mut sticky = check(&fd, &at, false)?;
        for part in path.components() {
            match part {
                Component::RootDir => continue,
                Component::Normal(name) => {
                    at.push(name);
                    fd = match openat(&fd, name, flags, Mode::empty()) {
                        Ok(fd) => fd,
                        Err(e) => return Err(no_directory(&fd, name, &at, e)),
                    };
                    sticky = check(&fd, &at, sticky)?;
                }
                _ => return Err(Refusal::new(Rule::Path, format!("{path:?} contains `..`; give a path without it"))),
            }
        }
        Ok(TrustedDir { fd, path: at })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns the sorted names of the files in the directory that may be plugins (`libc10d_*.so`).
    pub(crate) fn names(&self) -> Result<Vec<OsString>, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&self.fd, ".", flags, Mode::empty()).map_err(|e| unreadable(&self.path, e))?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(|e| unreadable(&self.path, e))? {
            let entry = entry.map_err(|e| unreadable(&self.path, e))?;
            let name = entry.file_name().to_bytes();
            if !(name.starts_with(b"libc10d_") && name.ends_with(b".so")) {
                continue;
            }
            if names.len() == MOST_NAMES {
                let what = format!("{:?} has more than {MOST_NAMES} files libc10d_*.so; none is loaded", self.path);
                return Err(Refusal::new(Rule::Limit, what));
            }
            names.push(OsStr::from_bytes(name).to_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Opens a file of this directory, if the file can be trusted.
    pub(crate) fn file(&self, name: &OsStr) -> Result<TrustedFile, Refusal> {
        let path = self.path.join(name);
        let before = self.stat(name).map_err(|e| unreadable(&path, e))?;
        regular(&before, &path)?;
        self.open_file(name, &path)
    }

    /// Opens and checks a file, which may have changed since it was listed.
    fn open_file(&self, name: &OsStr, path: &Path) -> Result<TrustedFile, Refusal> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(Refusal::new(Rule::Symlink, format!("{path:?} is a symbolic link"))),
            opened => opened.map_err(|e| unreadable(path, e))?,
        };
        let stat = fstat(&fd).map_err(|e| unreadable(path, e))?;
        regular(&stat, path)?;
        let mode = stat.st_mode;
        if !ours(&stat) {
            return Err(Refusal::new(
                Rule::Owner,
                format!("{path:?} belongs to uid {}, not to root or to this user", stat.st_uid),
            ));
        }
        if mode & SET_ID != 0 {
            return Err(Refusal::new(Rule::SetId, format!("{path:?} is set-id (mode {:04o})", mode & 0o7777)));
        }
        if mode & WRITABLE != 0 {
            return Err(Refusal::new(Rule::Writable, writable("", path, mode)));
        }
        Ok(TrustedFile { file: File::from(fd), stat })
    }

    /// Returns the metadata of the file to which the name refers now.
    pub(crate) fn stat(&self, name: &OsStr) -> Result<Stat, Errno> {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Checks that the directory belongs to root or this user, and that others cannot write to it. A sticky directory of
/// root may be writable by others, because they cannot change the files of root and of this user in it. If others can
/// write to the parent directory (`in_sticky`), they must not be able to write to this directory. Returns whether
/// others can write to this directory.
fn check(fd: &OwnedFd, path: &Path, in_sticky: bool) -> Result<bool, Refusal> {
    let stat = fstat(fd).map_err(|e| unreadable(path, e))?;
    let mode = stat.st_mode;
    if !ours(&stat) {
        let what = format!("directory {path:?} belongs to uid {}, not to root or to this user", stat.st_uid);
        return Err(Refusal::new(Rule::Directory, what));
    }
    let sticky = mode & STICKY != 0 && stat.st_uid == 0;
    if mode & WRITABLE != 0 && (!sticky || in_sticky) {
        return Err(Refusal::new(Rule::Directory, writable("directory ", path, mode)));
    }
    Ok(mode & WRITABLE != 0)
}

fn writable(what: &str, path: &Path, mode: u32) -> String {
    let mode = mode & 0o7777;
    format!(
        "{what}{path:?} can be written by others (mode {mode:04o}); run `chmod go-w` on it (umask 0002 makes such files and \
         directories)"
    )
}

fn ours(stat: &Stat) -> bool {
    stat.st_uid == 0 || stat.st_uid == geteuid().as_raw()
}

fn regular(stat: &Stat, path: &Path) -> Result<(), Refusal> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(Refusal::new(Rule::Symlink, format!("{path:?} is a symbolic link"))),
        other => Err(Refusal::new(Rule::NotRegular, format!("{path:?} is not a regular file, but a {other:?}"))),
    }
}

fn unreadable(path: &Path, e: Errno) -> Refusal {
    Refusal::new(Rule::Unreadable, format!("{path:?}: {e}"))
}

fn no_directory(parent: &OwnedFd, name: &OsStr, path: &Path, e: Errno) -> Refusal {
    let kind = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| FileType::from_raw_mode(s.st_mode));
    match kind {
        Ok(FileType::Symlink) => {
            Refusal::new(Rule::Symlink, format!("{path:?} is a symbolic link; give the path to which it leads"))
        }
        Ok(FileType::Directory) | Err(_) => unreadable(path, e),
        Ok(_) => Refusal::new(Rule::Directory, format!("{path:?} is no directory")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_that_was_replaced_after_listing_is_rejected() {
        let mode = std::fs::Permissions::from_mode(0o755);
        let home = tempfile::Builder::new().permissions(mode).tempdir().unwrap();
        let dir = TrustedDir::open(home.path()).unwrap();
        let rule = |name: &str| dir.open_file(name.as_ref(), &home.path().join(name)).unwrap_err().rule;
        std::fs::write(home.path().join("file"), "").unwrap();
        symlink("file", home.path().join("link")).unwrap();
        rustix::fs::mknodat(CWD, home.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!((rule("link"), rule("pipe"), rule("absent")), (Rule::Symlink, Rule::NotRegular, Rule::Unreadable));
    }
}
