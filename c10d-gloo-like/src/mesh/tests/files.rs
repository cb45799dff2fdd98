//! A store for tests: a directory with one file per key.

use super::*;
use std::path::PathBuf;

pub(super) struct Files(pub(super) PathBuf);

impl Files {
    fn path(&self, key: &str) -> PathBuf {
        self.0.join(key.replace('/', "+"))
    }

    /// Writes this content to a new file. The caller then gives the file a key's name: no reader sees an incomplete
    /// value.
    fn fresh(&self, value: &[u8]) -> Result<PathBuf> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.0.join(format!("tmp-{}-{n}", std::process::id()));
        std::fs::write(&path, value).map_err(refused)?;
        Ok(path)
    }

    fn unused(&self) -> Error {
        Error::new(ErrorKind::Store, "the mesh does not use this")
    }
}

fn refused(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Store, "a file of the store cannot be read or written").caused_by(e)
}

impl Store for Files {
    fn set(&self, key: &str, value: &[u8], _: Instant) -> Result {
        std::fs::rename(self.fresh(value)?, self.path(key)).map_err(refused)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.wait(&[key], deadline)?;
        std::fs::read(self.path(key)).map_err(refused)
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        while !self.check(keys, deadline)? {
            if Instant::now() >= deadline {
                return Err(Error::new(ErrorKind::Store, "timed out"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], _: Instant) -> Result<Vec<u8>> {
        if !expected.is_empty() {
            // Only a rank whose join fails passes an expected value, to replace an earlier report of a failure.
            if std::fs::read(self.path(key)).is_ok_and(|now| now == expected) {
                self.set(key, desired, Instant::now())?;
            }
            return std::fs::read(self.path(key)).map_err(refused);
        }
        let fresh = self.fresh(desired)?;
        let _exists_already = std::fs::hard_link(&fresh, self.path(key));
        std::fs::remove_file(fresh).map_err(refused)?;
        std::fs::read(self.path(key)).map_err(refused)
    }

    fn check(&self, keys: &[&str], _: Instant) -> Result<bool> {
        Ok(keys.iter().all(|key| self.path(key).exists()))
    }

    fn delete(&self, key: &str, _: Instant) -> Result<bool> {
        Ok(std::fs::remove_file(self.path(key)).is_ok())
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        keys.iter().map(|key| self.get(key, deadline)).collect()
    }

    fn add(&self, _: &str, _: i64, _: Instant) -> Result<i64> {
        Err(self.unused())
    }

    fn append(&self, _: &str, _: &[u8], _: Instant) -> Result {
        Err(self.unused())
    }

    fn num_keys(&self, _: Instant) -> Result<u64> {
        Err(self.unused())
    }

    fn multi_set(&self, _: &[(&str, &[u8])], _: Instant) -> Result {
        Err(self.unused())
    }
}
