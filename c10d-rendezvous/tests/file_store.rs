//! Tests of the file store with several processes, crashes and full disks.

use crate::common;

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use c10d_core::{ErrorKind, Store};
use c10d_rendezvous::FileStore;
use common::{plays, role, soon};
use rustix::fs::{FlockOperation, flock};

/// A directory that is removed when this value is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("c10d-file-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("store")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn names(error: &c10d_core::Error, path: &std::path::Path) {
    assert_eq!(*error.kind(), ErrorKind::Store, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn role_counter() {
    if plays("role_counter") {
        let store = FileStore::open(std::env::var("C10D_TEST_FILE").unwrap()).unwrap();
        for _ in 0..100 {
            store.add("n", 1, soon()).unwrap();
            store.append("log", b"x", soon()).unwrap();
        }
    }
}

#[test]
fn processes_count_together() {
    let dir = Dir::new("count");
    let mut children: Vec<_> = (0..4)
        .map(|_| role("role_counter").env("C10D_TEST_FILE", dir.file()).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    let store = FileStore::open(dir.file()).unwrap();
    assert_eq!(store.get("n", soon()).unwrap(), b"400");
    assert_eq!(store.get("log", soon()).unwrap(), vec![b'x'; 400]);
}

#[test]
fn a_torn_last_record_is_ignored_then_replaced() {
    let dir = Dir::new("torn");
    let (a, b) = (FileStore::open(dir.file()).unwrap(), FileStore::open(dir.file()).unwrap());
    a.set("k", b"1", soon()).unwrap();
    let whole = std::fs::metadata(dir.file()).unwrap().len();
    a.set("k", b"a longer value", soon()).unwrap();
    let end = std::fs::metadata(dir.file()).unwrap().len();
    for cut in whole..end {
        std::fs::copy(dir.file(), dir.0.join("copy")).unwrap();
        let torn = OpenOptions::new().write(true).open(dir.0.join("copy")).unwrap();
        torn.set_len(cut).unwrap();
        let store = FileStore::open(dir.0.join("copy")).unwrap();
        assert_eq!(store.get("k", soon()).unwrap(), b"1", "cut at {cut}");
        store.set("l", b"2", soon()).unwrap();
        // The new record has a header (8 bytes), a kind (1), the length of the key (4), the key (1) and the value (1).
        assert_eq!(torn.metadata().unwrap().len(), whole + 8 + 1 + 4 + 1 + 1, "cut at {cut}");
        let again = FileStore::open(dir.0.join("copy")).unwrap();
        assert_eq!(again.multi_get(&["k", "l"], soon()).unwrap(), [b"1", b"2"], "cut at {cut}");
    }
    // A file that has only the beginning of the magic bytes counts as an empty store.
    std::fs::write(dir.0.join("head"), b"c10d").unwrap();
    FileStore::open(dir.0.join("head")).unwrap().set("k", b"v", soon()).unwrap();
    assert_eq!(b.get("k", soon()).unwrap(), b"a longer value");
}

#[test]
fn a_file_that_is_something_else_is_refused_and_left_alone() {
    let dir = Dir::new("foreign");
    std::fs::write(dir.file(), b"not a store").unwrap();
    let store = FileStore::open(dir.file()).unwrap();
    names(&store.set("k", b"v", soon()).unwrap_err(), &dir.file());
    names(&store.get("k", soon()).unwrap_err(), &dir.file());
    assert_eq!(std::fs::read(dir.file()).unwrap(), b"not a store");
}

#[test]
fn a_removed_or_shortened_file_is_an_error_that_names_it() {
    let dir = Dir::new("removed");
    let store = FileStore::open(dir.file()).unwrap();
    store.set("k", b"v", soon()).unwrap();
    OpenOptions::new().write(true).open(dir.file()).unwrap().set_len(10).unwrap();
    names(&store.get("k", soon()).unwrap_err(), &dir.file());
    std::fs::remove_file(dir.file()).unwrap();
    names(&store.get("k", soon()).unwrap_err(), &dir.file());
    names(&store.set("k", b"v", soon()).unwrap_err(), &dir.file());
}

#[test]
fn a_file_that_cannot_be_made_or_written_is_named() {
    let dir = Dir::new("nowhere");
    let path = dir.0.join("missing").join("store");
    names(&FileStore::open(&path).err().unwrap(), &path);
    names(&FileStore::open(&dir.0).err().unwrap(), &dir.0);
    let full = PathBuf::from("/dev/full");
    match FileStore::open(&full) {
        Ok(store) => {
            let e = store.set("k", b"v", soon()).unwrap_err();
            assert_eq!(*e.kind(), ErrorKind::Resource, "{e}");
            assert!(e.to_string().contains("/dev/full: no space left on the file system"), "{e}");
        }
        Err(e) => println!("skipped: no usable /dev/full: {e}"),
    }
}

#[test]
fn a_lock_held_by_another_process_ends_in_an_error() {
    let dir = Dir::new("lock");
    let store = FileStore::open(dir.file()).unwrap();
    store.set("k", b"v", soon()).unwrap();
    let other = std::fs::File::open(dir.file()).unwrap();
    flock(&other, FlockOperation::LockExclusive).unwrap();
    let start = Instant::now();
    let soon_over = || start + Duration::from_millis(100);
    names(&store.set("k", b"w", soon_over()).unwrap_err(), &dir.file());
    names(&store.get("k", soon_over()).unwrap_err(), &dir.file());
    names(&store.wait(&["k", "l"], soon_over()).unwrap_err(), &dir.file());
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(other);
    assert_eq!(store.get("k", soon()).unwrap(), b"v");
}
