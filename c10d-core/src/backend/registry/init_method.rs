//! Init methods, by which a process learns its rank and finds the other ranks from a URL.

use std::sync::Arc;
use std::time::Duration;

use super::Registry;
use crate::store::Store;
use crate::{Error, ErrorKind, Phase, Result};

/// An init method for URLs of one scheme.
pub struct InitMethod {
    /// The scheme: the part of the URL before `://`.
    pub scheme: &'static str,
    /// The form of the init method's URLs, for the error that lists all init methods.
    pub form: &'static str,
    /// Reads rank and world size from a URL and the environment, without using the network.
    pub rank_and_size: fn(url: &str) -> Result<(u32, u32)>,
    /// Connects to the store and finds out rank and world size, within the timeout.
    pub join: fn(url: &str, timeout: Duration) -> Result<Joined>,
}

/// The result of an init method.
#[derive(Clone)]
pub struct Joined {
    /// The rank of this process.
    pub rank: u32,
    /// The number of ranks.
    pub size: u32,
    /// The store that all ranks share. If this process serves the store, the server runs until the process ends, so
    /// later groups can use it. At the end of the process (when `main` returns or `exit` is called), the process waits
    /// at most five seconds until the other ranks have left the store. A server that was started with port 0 is
    /// different: it runs until the store's last clone is dropped.
    pub store: Arc<dyn Store>,
    /// The same store without the prefix of this library's keys. A group that also has ranks of PyTorch finds those
    /// ranks through this store.
    pub root: Arc<dyn Store>,
}

impl Registry {
    /// Returns the init method for this URL.
    ///
    /// # Errors
    /// `Rendezvous` if there is no such init method. The error lists the forms of all URLs.
    pub fn init_method(&self, url: &str) -> Result<&'static InitMethod> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.trim_start());
        let found = self.init_methods.iter().map(|(method, _)| *method).find(|method| Some(method.scheme) == scheme);
        found.ok_or_else(|| {
            let forms: Vec<_> = self.init_methods.iter().map(|(method, _)| method.form).collect();
            let there = if forms.is_empty() { "this program has none".to_owned() } else { forms.join(", ") };
            let what = format!("unknown init method {url:?}; there are: {there}");
            Error::new(ErrorKind::Rendezvous, what).phase(Phase::Rendezvous).rejected()
        })
    }
}
