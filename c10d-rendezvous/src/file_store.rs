//! A store in a file, for ranks that share only a file system.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::process::Process;
use c10d_core::store::sum;
use c10d_core::sync::{Mutex, MutexGuard};
use c10d_core::{Error, ErrorKind, Result, Store};
use rustix::fs::{FlockOperation, flock};

use crate::log::{self, Change};

/// The first pause between two attempts to find a key or to lock the file. Each later pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The key with the number of users. Only a file that its last user removes has this key.
const USERS: &str = "c10d/users";

/// A [`Store`] in a file, which is a log of changes guarded by `flock`. Clones share one open file.
///
/// If a process dies while writing, the last record is incomplete, and the next writer removes it. A file that was
/// opened by [`FileStore::open`] or by `file://` stays when the last rank leaves. In a forked child every method
/// returns an error. The child must open the file itself.
#[derive(Clone)]
pub struct FileStore(Arc<Shared>);

struct Shared {
    owner: Process,
    path: PathBuf,
    log: Mutex<FileLog>,
    /// Whether the last user removes the file. This process is one of the users.
    for_users: bool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A forked child is not a user.
        if !self.owner.is_current() || !self.for_users {
            return;
        }
        let _ = self.change(Instant::now() + Duration::from_secs(1), |map| {
            let users = map.get(USERS).and_then(|text| std::str::from_utf8(text).ok()?.parse::<i64>().ok());
            match users {
                Some(users) if users > 1 => Ok(((), vec![Change::Set(USERS.into(), (users - 1).to_string().into())])),
                _ => {
                    let _ = std::fs::remove_file(&self.path);
                    Ok(((), Vec::new()))
                }
            }
        });
    }
}

/// The file, and the part of it that was read.
struct FileLog {
    file: File,
    /// The end of the part of the log that `map` contains.
    read: u64,
    map: HashMap<String, Vec<u8>>,
}

impl FileStore {
    /// Opens the file. If it does not exist, it is created, readable by its owner only.
    ///
    /// # Errors
    ///
    /// `Store` if the file cannot be opened. If it is not a store, the first request returns this error.
    pub fn open(path: impl Into<PathBuf>) -> Result<FileStore> {
        FileStore::of(path.into())
    }

    /// Like [`FileStore::open`], for a file that its last user removes.
    pub(crate) fn open_while_used(path: PathBuf, deadline: Instant) -> Result<FileStore> {
        loop {
            let mut store = FileStore::of(path.clone())?;
            let counted = store.0.add(USERS, 1, deadline);
            let Some(shared) = Arc::get_mut(&mut store.0) else {
                return Err(Error::new(ErrorKind::Internal, "a store file just opened is shared already"));
            };
            match counted {
                Ok(_) => {
                    shared.for_users = true;
                    return Ok(store);
                }
                // The last user removed the file after this process had opened it.
                Err(_) if shared.is_removed() && Instant::now() < deadline => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn of(path: PathBuf) -> Result<FileStore> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, "cannot open").caused_by(e))?;
        let log = Mutex::new(FileLog { file, read: 0, map: HashMap::new() });
        Ok(FileStore(Arc::new(Shared { owner: Process::current(), path, log, for_users: false })))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Shared {
    fn is_removed(&mut self) -> bool {
        self.log.get_mut().file.metadata().is_ok_and(|meta| meta.nlink() == 0)
    }

    /// Takes the file's lock, brings the map up to date, calls `f`, and writes the changes that `f` returns.
    fn locked<R>(
        &self,
        how: FlockOperation,
        deadline: Instant,
        f: impl FnOnce(&HashMap<String, Vec<u8>>) -> Result<(R, Vec<Change>)>,
    ) -> Result<R> {
        let mut log = self.lock(how, deadline)?;
        let out = log.refresh().map_err(|e| failed(&self.path, "cannot read").caused_by(e)).and_then(|torn| {
            let (out, changes) = f(&log.map)?;
            if !changes.is_empty() {
                log.write(torn, changes).map_err(|e| failed(&self.path, "cannot write").caused_by(e))?;
            }
            Ok(out)
        });
        let unlocked = flock(&log.file, FlockOperation::Unlock);
        let out = out?;
        unlocked.map_err(|e| failed(&self.path, "cannot unlock").caused_by(e))?;
        Ok(out)
    }

    fn lock(&self, how: FlockOperation, deadline: Instant) -> Result<MutexGuard<'_, FileLog>> {
        self.owner.check("the store")?;
        let late = || failed(&self.path, "timed out waiting for the lock of");
        let log = self.log.try_lock_until(deadline).ok_or_else(late)?;
        let mut pause = FIRST_PAUSE;
        loop {
            match flock(&log.file, how) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(late()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed(&self.path, "cannot lock").caused_by(e)),
            }
            std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        match log.file.metadata() {
            Ok(meta) if meta.nlink() > 0 => Ok(log),
            Ok(_) => Err(failed(&self.path, "another process removed")),
            Err(e) => Err(failed(&self.path, "cannot read the metadata of").caused_by(e)),
        }
    }

    fn change<R>(
        &self,
        deadline: Instant,
        f: impl FnOnce(&HashMap<String, Vec<u8>>) -> Result<(R, Vec<Change>)>,
    ) -> Result<R> {
        self.locked(FlockOperation::NonBlockingLockExclusive, deadline, f)
    }

    fn look<R>(&self, deadline: Instant, f: impl FnOnce(&HashMap<String, Vec<u8>>) -> R) -> Result<R> {
        self.locked(FlockOperation::NonBlockingLockShared, deadline, |map| Ok((f(map), Vec::new())))
    }

    fn wait_then<R>(&self, keys: &[&str], deadline: Instant, f: impl Fn(&HashMap<String, Vec<u8>>) -> R) -> Result<R> {
        let mut pause = FIRST_PAUSE;
        loop {
            let now = Instant::now();
            let found = self.look(deadline.max(now + FIRST_PAUSE), |map| {
                let missing: Vec<_> = keys.iter().filter(|k| !map.contains_key(**k)).copied().collect();
                if missing.is_empty() { Ok(f(map)) } else { Err(missing.join(", ")) }
            })?;
            match found {
                Ok(out) => return Ok(out),
                Err(missing) if now >= deadline => {
                    let what = format!("timed out waiting for keys that no rank has set ({missing}) in");
                    return Err(failed(&self.path, &what));
                }
                Err(_) => {}
            }
            std::thread::sleep(pause.min(deadline.saturating_duration_since(now)));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.change(deadline, |map| {
            let old = map.get(key).map(|value| &value[..]);
            let sum = sum(old, delta).map_err(|why| failed(&self.path, &format!("key {key:?}: {why}, in")))?;
            Ok((sum, vec![Change::Set(key.into(), sum.to_string().into_bytes())]))
        })
    }
}

impl FileLog {
    /// Applies the changes of other processes. Returns whether the log ends in an incomplete record.
    fn refresh(&mut self) -> io::Result<bool> {
        let len = self.file.metadata()?.len();
        if len < self.read {
            return Err(io::Error::other("the file became shorter, so another process has overwritten it"));
        }
        if self.read == 0 && len > 0 {
            let mut head = vec![0; log::MAGIC.len().min(len as usize)];
            self.file.read_exact_at(&mut head, 0)?;
            if !log::MAGIC.starts_with(&head) {
                return Err(io::Error::other("the file exists and is not a store"));
            }
            if head.len() < log::MAGIC.len() {
                return Ok(true);
            }
            self.read = head.len() as u64;
        }
        let mut bytes = vec![0; usize::try_from(len - self.read).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.read)?;
        let mut rest = bytes.as_slice();
        while let Some(change) = log::next(&mut rest) {
            self.apply(change);
        }
        self.read = len - rest.len() as u64;
        Ok(!rest.is_empty())
    }

    fn write(&mut self, torn: bool, changes: Vec<Change>) -> io::Result<()> {
        if torn {
            self.file.set_len(self.read)?;
        }
        let mut bytes = Vec::new();
        if self.read == 0 {
            bytes.extend_from_slice(log::MAGIC);
        }
        for change in &changes {
            log::put(&mut bytes, change)?;
        }
        self.file.write_all_at(&bytes, self.read)?;
        self.read += bytes.len() as u64;
        for change in changes {
            self.apply(change);
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Set(key, value) => {
                self.map.insert(key, value);
            }
            Change::Append(key, more) => self.map.entry(key).or_default().extend_from_slice(&more),
            Change::Delete(key) => {
                self.map.remove(&key);
            }
        }
    }
}

impl Store for FileStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.0.change(deadline, |_| Ok(((), vec![Change::Set(key.into(), value.into())])))
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.0.wait_then(&[key], deadline, |map| map.get(key).cloned().unwrap_or_default())
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.0.wait_then(keys, deadline, |_| ())
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        self.0.add(key, delta, deadline)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        self.0.change(deadline, |map| {
            let swap = map.get(key).map_or(expected.is_empty(), |value| value == expected);
            Ok(if swap {
                (desired.to_vec(), vec![Change::Set(key.into(), desired.into())])
            } else {
                (map.get(key).map_or_else(|| expected.to_vec(), Vec::clone), Vec::new())
            })
        })
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.0.change(deadline, |_| Ok(((), vec![Change::Append(key.into(), value.into())])))
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        self.0.look(deadline, |map| keys.iter().all(|key| map.contains_key(*key)))
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        self.0.change(deadline, |map| {
            let there = map.contains_key(key);
            Ok((there, if there { vec![Change::Delete(key.into())] } else { Vec::new() }))
        })
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.0.look(deadline, |map| map.len() as u64)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        self.0.wait_then(keys, deadline, |map| keys.iter().map(|k| map.get(*k).cloned().unwrap_or_default()).collect())
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        let changes = pairs.iter().map(|(key, value)| Change::Set((*key).into(), (*value).into())).collect();
        self.0.change(deadline, |_| Ok(((), changes)))
    }
}

fn failed(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Store, format!("{what} the store file {}", path.display()))
}
