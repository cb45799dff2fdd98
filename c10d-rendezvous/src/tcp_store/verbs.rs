//! The store methods: their requests, and how their answers are read.

use std::io;
use std::time::Instant;

use c10d_core::{Result, Store};

use super::TcpStore;
use super::link::GRACE;
use super::protocol::{Command, Write};

impl Store for TcpStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.write(Command::Set, key, value, deadline)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        let request = self.limits().request(Command::Get, key)?;
        self.wait_then(&[key], deadline, |link, deadline| {
            link.send(&request, deadline)?;
            link.string(deadline)
        })
    }

    fn wait(&self, keys: &[&str], deadline: Instant) -> Result {
        self.wait_then(keys, deadline, |_, _| Ok(()))
    }

    fn add(&self, key: &str, delta: i64, deadline: Instant) -> Result<i64> {
        let mut request = self.limits().request(Command::Add, key)?;
        request.integer(delta);
        self.ask("add to", &[key], &request, deadline)
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8], deadline: Instant) -> Result<Vec<u8>> {
        let mut request = self.limits().request(Command::CompareSet, key)?;
        for value in [expected, desired] {
            self.limits().put_value(&mut request, key, value)?;
        }
        self.call("compare and set", &[key], deadline, |link| {
            link.send(&request, deadline)?;
            link.string(deadline)
        })
    }

    fn append(&self, key: &str, value: &[u8], deadline: Instant) -> Result {
        self.write(Command::Append, key, value, deadline)
    }

    fn check(&self, keys: &[&str], deadline: Instant) -> Result<bool> {
        let request = self.limits().list_request(Command::Check, keys)?;
        self.call("check", keys, deadline, |link| {
            link.send(&request, deadline)?;
            Ok(link.byte(deadline)? == 0)
        })
    }

    fn delete(&self, key: &str, deadline: Instant) -> Result<bool> {
        let request = self.limits().request(Command::Delete, key)?;
        self.ask("delete", &[key], &request, deadline).map(|n| n > 0)
    }

    fn num_keys(&self, deadline: Instant) -> Result<u64> {
        self.ask("count keys", &[], &[Command::NumKeys as u8], deadline).map(|n| n as u64)
    }

    fn multi_get(&self, keys: &[&str], deadline: Instant) -> Result<Vec<Vec<u8>>> {
        let request = self.limits().list_request(Command::MultiGet, keys)?;
        self.wait_then(keys, deadline, |link, deadline| {
            link.send(&request, deadline)?;
            keys.iter().map(|_| link.string(deadline)).collect()
        })
    }

    fn multi_set(&self, pairs: &[(&str, &[u8])], deadline: Instant) -> Result {
        let request = self.limits().pairs_request(pairs)?;
        self.run("write", &pairs.iter().map(|(key, _)| *key).collect::<Vec<_>>(), request, deadline)
    }
}

impl TcpStore {
    /// Appends an item to the end of a queue.
    pub fn queue_push(&self, queue: &str, item: &[u8], deadline: Instant) -> Result {
        self.write(Command::QueuePush, queue, item, deadline)
    }

    /// Waits until a queue has an item, and takes the oldest.
    pub fn queue_pop(&self, queue: &str, deadline: Instant) -> Result<Vec<u8>> {
        loop {
            self.wait(&[queue], deadline)?;
            // Another client may have taken the item first.
            if let Some(item) = self.queue_try_pop(queue, deadline.max(Instant::now() + GRACE))? {
                return Ok(item);
            }
        }
    }

    /// Takes the oldest item of a queue, if it has one.
    pub fn queue_try_pop(&self, queue: &str, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let request = self.limits().request(Command::QueuePop, queue)?;
        self.call("pop from", &[queue], deadline, |link| {
            link.send(&request, deadline)?;
            if link.integer(deadline)? > 0 { link.string(deadline).map(Some) } else { Ok(None) }
        })
    }

    /// Returns the number of items in a queue.
    pub fn queue_len(&self, queue: &str, deadline: Instant) -> Result<u64> {
        let request = self.limits().request(Command::QueueLen, queue)?;
        self.ask("measure", &[queue], &request, deadline).map(|n| n as u64)
    }

    /// Returns the names of all keys that clients have set, in no particular order.
    pub fn list_keys(&self, deadline: Instant) -> Result<Vec<String>> {
        let keys = self.call("list", &[], deadline, |link| {
            link.send(&[Command::ListKeys as u8], deadline)?;
            let n = link.length(1 << 30, deadline)?;
            (0..n).map(|_| link.string(deadline)).collect::<io::Result<Vec<_>>>()
        })?;
        let name = |key: &Vec<u8>| Some(String::from_utf8_lossy(key.strip_prefix(b"/")?).into_owned());
        Ok(keys.iter().filter_map(name).collect())
    }

    /// Waits until `world` clients have called this method with the same key. Each key can be used for one barrier
    /// only. A call counts even if it has timed out.
    pub fn barrier(&self, key: &str, world: u32, deadline: Instant) -> Result {
        let mut request = self.limits().request(Command::Barrier, key)?;
        request.integer(world.into());
        if self.call("wait at", &[key], deadline, |link| link.wait(&request, deadline, GRACE))? {
            return Ok(());
        }
        Err(self.timed_out(&[key], &format!("fewer than {world} clients arrived at the barrier")))
    }

    /// Adds this process to the count of workers, and returns the count so far. A PyTorch process that serves the store
    /// can wait until the count reaches a given number.
    pub fn count_worker(&self, deadline: Instant) -> Result<i64> {
        let mut request = Vec::new();
        request.command(Command::Add);
        request.string(b"init/");
        request.integer(1);
        self.ask("join", &["init/"], &request, deadline)
    }
}
