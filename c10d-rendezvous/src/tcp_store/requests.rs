//! Makes the client's requests, and checks them against the server's limits.

use c10d_core::{Error, ErrorKind, Result};

use super::Limits;
use super::protocol::{Command, Write};

impl Limits {
    /// Makes a request that begins with this command and a key.
    pub(super) fn request(&self, command: Command, key: &str) -> Result<Vec<u8>> {
        let mut request = Vec::new();
        request.command(command);
        self.put_key(&mut request, key)?;
        Ok(request)
    }

    /// Makes a request that consists of this command and a list of keys.
    pub(super) fn list_request(&self, command: Command, keys: &[&str]) -> Result<Vec<u8>> {
        let mut request = Vec::new();
        request.command(command);
        self.put_count(&mut request, keys.len())?;
        for key in keys {
            self.put_key(&mut request, key)?;
        }
        self.check_size(&request)?;
        Ok(request)
    }

    pub(super) fn pairs_request(&self, pairs: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        let mut request = Vec::new();
        request.command(Command::MultiSet);
        self.put_count(&mut request, pairs.len())?;
        for (key, value) in pairs {
            self.put_key(&mut request, key)?;
            self.put_value(&mut request, key, value)?;
        }
        self.check_size(&request)?;
        Ok(request)
    }

    pub(super) fn put_value(&self, request: &mut Vec<u8>, key: &str, value: &[u8]) -> Result {
        let (len, limit) = (value.len(), self.value);
        if len > limit {
            let what = format!("a value of {len} bytes for key {key:?} is above the store's limit of {limit}");
            return Err(refused(what));
        }
        request.string(value);
        Ok(())
    }

    fn put_key(&self, request: &mut Vec<u8>, key: &str) -> Result {
        let (len, limit) = (key.len() + 1, self.key);
        if len > limit {
            return Err(refused(format!("a key of {len} bytes is above the store's limit of {limit}")));
        }
        request.integer(len as i64);
        request.push(b'/');
        request.extend_from_slice(key.as_bytes());
        Ok(())
    }

    fn put_count(&self, request: &mut Vec<u8>, n: usize) -> Result {
        let limit = self.list;
        if n > limit {
            return Err(refused(format!("{n} keys in one call are above the store's limit of {limit}")));
        }
        request.integer(n as i64);
        Ok(())
    }

    fn check_size(&self, request: &[u8]) -> Result {
        // Half of the limit is left for the 32 bytes of overhead that the server counts for each byte string.
        let limit = self.request / 2;
        if request.len() > limit {
            return Err(refused(format!("a call of {} bytes is above the limit of {limit}; split it", request.len())));
        }
        Ok(())
    }
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::Store, what).rejected()
}
