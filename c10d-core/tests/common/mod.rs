//! Backends for tests, made of closures.
#![allow(unsafe_code, dead_code, unreachable_pub)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use c10d_core::backend::{Backend, Capabilities, GroupInit, Job, JobId, Provider, Registration};
use c10d_core::{Builder, DispatchKey, Error, ProcessGroup, Result};

type Submit = Box<dyn Fn(Job) + Send + Sync>;
type OnAbort = Box<dyn Fn(&Error) + Send + Sync>;
type OnCancel = Box<dyn Fn(&[JobId]) -> Vec<Job> + Send + Sync>;

/// A backend whose behaviour the test defines.
pub struct Puppet {
    name: &'static str,
    capabilities: Capabilities,
    submit: Submit,
    abort: OnAbort,
    cancel: Option<OnCancel>,
    lost: Box<dyn Fn() -> Vec<u32> + Send + Sync>,
}

// SAFETY: the closures do not use a job's memory after they completed the job. Some complete a job late on purpose.
unsafe impl Backend for Puppet {
    fn name(&self) -> &'static str {
        self.name
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn submit(&self, job: Job) {
        (self.submit)(job);
    }
    fn abort(&self, cause: &Error) {
        (self.abort)(cause);
    }
    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        self.cancel.as_ref().map(|cancel| cancel(jobs)).ok_or_else(|| Error::unsupported("the puppet cannot"))
    }
    fn lost(&self) -> Vec<u32> {
        (self.lost)()
    }
}

pub fn puppet(submit: impl Fn(Job) + Send + Sync + 'static) -> Puppet {
    Puppet {
        name: "puppet",
        capabilities: Capabilities::ALL,
        submit: Box::new(submit),
        abort: Box::new(|_| ()),
        cancel: None,
        lost: Box::new(Vec::new),
    }
}

impl Puppet {
    pub fn named(mut self, name: &'static str) -> Puppet {
        self.name = name;
        self
    }
    pub fn offering(mut self, capabilities: Capabilities) -> Puppet {
        self.capabilities = capabilities;
        self
    }
    pub fn on_cancel(mut self, cancel: impl Fn(&[JobId]) -> Vec<Job> + Send + Sync + 'static) -> Puppet {
        self.cancel = Some(Box::new(cancel));
        self
    }
    /// Sets the function that returns the lost ranks.
    pub fn losing(mut self, lost: impl Fn() -> Vec<u32> + Send + Sync + 'static) -> Puppet {
        self.lost = Box::new(lost);
        self
    }
    pub fn on_abort(mut self, abort: impl Fn(&Error) + Send + Sync + 'static) -> Puppet {
        self.abort = Box::new(abort);
        self
    }
}

/// Makes a provider that lives as long as the program, like that of a plugin.
pub fn provider(
    source: &'static str,
    name: &'static str,
    keys: &'static [DispatchKey],
    create: impl Fn(&GroupInit) -> c10d_core::Result<Arc<dyn Backend>> + Send + Sync + 'static,
) -> &'static Provider {
    let create: &'static _ = Box::leak(Box::new(create));
    let backends = Box::leak(Box::new([Registration { name, keys, priority: 1, probe: &|| Ok(()), create }]));
    Box::leak(Box::new(Provider { source, backends, ..Provider::EMPTY }))
}

pub const DENSE: &[DispatchKey] = &[DispatchKey::Cpu, DispatchKey::Cuda, DispatchKey::PrivateUse1];

/// Makes a builder of groups. `make` makes their backends.
pub fn builder(make: impl Fn(&GroupInit) -> Puppet + Send + Sync + 'static) -> Builder {
    let provider = provider("tests", "puppet", DENSE, move |init| Ok(Arc::new(make(init))));
    Builder::new().providers(&[provider]).timeout(Duration::from_secs(10))
}

/// Makes a group of one rank with this backend.
pub fn group(puppet: Puppet) -> ProcessGroup {
    let puppet = Mutex::new(Some(puppet));
    builder(move |_| puppet.lock().unwrap().take().expect("the provider makes only one group")).build().unwrap()
}

/// Runs `body`, and fails the test if that takes longer than `limit`, which is more than any successful run needs.
pub fn within<T>(limit: Duration, body: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = body();
    assert!(start.elapsed() < limit, "took {:?}, which is a hang", start.elapsed());
    out
}

/// Runs a future on the current thread, without a runtime.
pub fn block_on<F: std::future::Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(out) => return out,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(5)),
        }
    }
}
