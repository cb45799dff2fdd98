//! Tests of stores in forked children. The tests fork this test program.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use c10d_core::store::deadline_after;
use c10d_core::{Result, Store};

use crate::{FileStore, ServerOptions, TcpStore, TcpStoreServer};

fn soon() -> Instant {
    deadline_after(Duration::from_secs(10))
}

/// Starts `f` in a forked child.
fn fork(f: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child uses no thread of this process and no lock that another thread may hold, and it ends in this
    // block.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: `alarm` takes a number. The signal ends a child that hangs.
        unsafe { libc::alarm(20) };
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: `_exit` runs no exit handlers, which belong to the parent.
        unsafe { libc::_exit(i32::from(!held)) };
    }
    assert!(pid > 0, "no fork");
    pid
}

/// Waits for the child. Returns whether `f` returned `true` in it.
fn held(child: i32) -> bool {
    let mut status = -1;
    // SAFETY: `child` is a child of this process, and `status` is a valid pointer.
    unsafe { libc::waitpid(child, &mut status, 0) };
    status == 0
}

#[test]
fn a_child_shares_no_connection_with_its_parent_and_ends_no_server() {
    let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
    let store = TcpStore::hosting(server, soon()).unwrap();
    store.set("there", b"1", soon()).unwrap();
    // Both processes count at the same time with different steps. A process that got an answer to a request of the
    // other process would have a wrong count.
    let count = |key: &str, step: i64| -> Result<bool> {
        let mut right = true;
        for n in 1..=300 {
            right &= store.add(key, step, soon())? == n * step;
        }
        Ok(right)
    };
    let mut copy = Some(store.clone());
    let child = fork(|| {
        let works = store.get("there", soon()).is_ok_and(|v| v == b"1") && count("child", 7).unwrap_or(false);
        // SAFETY: the memory is not used again: the child ends without unwinding.
        let last = unsafe { std::ptr::read(&raw const store) };
        drop((copy.take(), last));
        works
    });
    assert!(count("parent", 3).unwrap());
    assert!(held(child));
    assert_eq!(store.add("child", 0, soon()).unwrap(), 2100);
}

#[test]
fn a_child_neither_locks_nor_removes_its_parents_file() {
    let path = std::env::temp_dir().join(format!("c10d-fork-{}", std::process::id()));
    let store = FileStore::open_while_used(path.clone(), soon()).unwrap();
    store.set("k", b"v", soon()).unwrap();
    let mut slot = Some(store);
    let child = fork(|| {
        let store = slot.take().unwrap();
        let text = store.get("k", soon()).unwrap_err().to_string();
        let refused = text.contains("made in process") && store.set("k", b"w", soon()).is_err();
        drop(store);
        let own = FileStore::open(&path).and_then(|own| own.get("k", soon()));
        refused && own.is_ok_and(|value| value == b"v")
    });
    assert!(held(child));
    assert!(path.exists(), "the child removed its parent's file");
    drop(slot);
    assert!(!path.exists());
}

#[test]
fn a_server_ends_with_its_process_while_a_child_of_it_lives() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let (mut writer, mut reader) = UnixStream::pair().unwrap();
    reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // A process that serves a store, and that has a child which does nothing.
    let host = fork(|| {
        let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
        let idle = fork(|| {
            // SAFETY: `sleep` takes a number. A signal may end it.
            unsafe { libc::sleep(20) };
            true
        });
        writer
            .write_all(&[server.local_addr().port().to_le_bytes().to_vec(), idle.to_le_bytes().to_vec()].concat())
            .unwrap();
        std::thread::sleep(Duration::from_secs(20));
        true
    });
    let mut words = [0; 6];
    reader.read_exact(&mut words).unwrap();
    let port = u16::from_le_bytes([words[0], words[1]]);
    let idle = i32::from_le_bytes([words[2], words[3], words[4], words[5]]);
    let store = TcpStore::connect("127.0.0.1", port, soon()).unwrap();
    store.set("k", b"v", soon()).unwrap();
    // SAFETY: `host` is a child of this process that has not been waited for.
    unsafe { libc::kill(host, libc::SIGKILL) };
    assert!(!held(host));
    let began = Instant::now();
    let error = store.get("missing", deadline_after(Duration::from_secs(15))).unwrap_err();
    let gone = store.get("missing", deadline_after(Duration::from_secs(15))).unwrap_err();
    // SAFETY: `idle` was started by this test, and still lives: the test checks that.
    let lived = unsafe { libc::kill(idle, libc::SIGKILL) };
    assert_eq!(lived, 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{error}; {gone}");
    assert!(gone.to_string().contains("is gone"), "{gone}");
}
