//! How a process learns its rank and meets the others: by the URL of an init method.

use std::sync::Arc;
use std::time::Duration;

use super::Registry;
use crate::store::Store;
use crate::{Error, ErrorKind, Phase, Result};

/// An init method, by the scheme of its URLs.
pub struct InitMethod {
    /// What stands before `://`.
    pub scheme: &'static str,
    /// What its URLs look like, for the error that lists what there is.
    pub form: &'static str,
    /// The rank and the world size that a URL gives, without meeting anybody.
    pub rank_and_size: fn(url: &str) -> Result<(u32, u32)>,
    /// Meets the others, by the timeout at the latest.
    pub join: fn(url: &str, timeout: Duration) -> Result<Joined>,
}

/// What an init method found out.
#[derive(Clone)]
pub struct Joined {
    /// The rank of this process.
    pub rank: u32,
    /// The number of ranks.
    pub size: u32,
    /// The store that all ranks share. Where this process hosts the server, the server lives as long as the process, for
    /// groups to come, too; the end of the process (a return of `main`, or `exit`) waits until the other ranks have left
    /// the store, at most five seconds. A server at port 0 lives with the store's last clone.
    pub store: Arc<dyn Store>,
    /// The same store without the prefix that keeps this library's keys apart: where ranks of PyTorch look, in a group of
    /// both.
    pub root: Arc<dyn Store>,
}

impl Registry {
    /// The init method of this URL.
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
