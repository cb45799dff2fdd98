//! Tests of meshes whose ranks are threads or processes.

mod causes;
mod files;
mod forged;
mod forks;
mod hosts;
mod joining;
mod processes;
mod threads;

use super::accept::JoinListener;
use super::hello::Hello;
use super::join::open;
use super::*;
use c10d_core::Store;
use c10d_core::backend::{Fingerprint, Reports};
use c10d_core::store::deadline_after;
use std::time::{Duration, Instant};

/// The time limit of all waits, so that a hang ends.
const CAP: Duration = Duration::from_secs(20);

fn wiring(rank: u32, size: u32, store: Arc<dyn Store>, transport: Transport) -> Wiring {
    let (deadline, silence, warn_after) = (deadline_after(CAP), Duration::from_secs(10), None);
    let (session, lost) = (session(&*store), Box::new(Vec::new));
    let reports = Arc::new(Reports::new(store.clone(), rank, size));
    Wiring {
        group: "g".into(),
        rank,
        size,
        session,
        store,
        reports,
        transport,
        deadline,
        cma: true,
        silence,
        lost,
        warn_after,
        tuning: Tuning::default(),
    }
}

/// Returns the session of the ranks that use this store. The first rank that asks makes it.
fn session(store: &dyn Store) -> [u8; 16] {
    let fresh: [u8; 16] = c10d_core::process::random().unwrap();
    let stored = store.compare_set("session", &[], &fresh, deadline_after(CAP)).unwrap();
    stored.try_into().unwrap()
}

/// Makes the fingerprint of an all_reduce of `count` elements.
fn call(seq: u32, count: u64) -> Fingerprint {
    Fingerprint { seq, op: 4, dtype: 10, reduce: 0, step: 0, count, root: 0, rest: 0 }
}

/// Waits until a condition holds. Fails the test after [`CAP`].
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + CAP;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a message in both directions over every link of the mesh.
#[allow(unsafe_code)]
fn talk(mesh: &mut Mesh, rank: u32) {
    for links in [&mut mesh.collective, &mut mesh.p2p] {
        for link in links.iter_mut().flatten() {
            let text = [rank as u8; 8];
            // SAFETY: the length of the body is 0, so the pointer is not used.
            let sent = unsafe { link.write(&text, std::ptr::null(), 0, crate::shm::Lend::Nothing) }.unwrap();
            assert_eq!(sent, text.len());
            link.end_write();
        }
    }
    for links in [&mut mesh.collective, &mut mesh.p2p] {
        for (peer, link) in links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            let (mut text, mut got) = ([0u8; 8], 0);
            eventually("a peer's message", || {
                // SAFETY: the pointer and the length are those of the rest of the buffer.
                got += unsafe { link.read(text.as_mut_ptr().add(got), text.len() - got, false) }.unwrap();
                got == text.len()
            });
            link.end_read();
            assert_eq!(text, [peer as u8; 8]);
        }
    }
}
