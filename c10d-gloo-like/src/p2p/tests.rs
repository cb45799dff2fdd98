//! Tests of messages of all sizes, of cancelling several messages at once, of rejected calls and of started messages. A
//! user of a group cannot cancel several messages at once, so that test calls the backend's `cancel`.
#![allow(unsafe_code)]

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::message::AT_ONCE;
use c10d_core::backend::{Backend, Capabilities, Job, JobId, Provider, Registration};
use c10d_core::sync::Mutex;
use c10d_core::{Builder, DispatchKey, Error, ErrorKind, Result, Status, op};

/// A backend that passes all jobs to another backend, and records the ids of the point-to-point jobs.
struct Spy {
    inner: Arc<dyn Backend>,
    seen: Mutex<Vec<JobId>>,
}

// SAFETY: every job is passed on to a backend that fulfils the contract.
unsafe impl Backend for Spy {
    fn name(&self) -> &'static str {
        "spy"
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn submit(&self, job: Job) {
        if job.request().op.is_p2p() {
            self.seen.lock().push(job.id());
        }
        self.inner.submit(job);
    }
    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        self.inner.cancel(jobs)
    }
    fn abort(&self, cause: &Error) {
        self.inner.abort(cause);
    }
    fn shutdown(&self, deadline: Instant) -> Result {
        self.inner.shutdown(deadline)
    }
}

/// The spy of each rank.
static SPIES: Mutex<Vec<(u32, Arc<Spy>)>> = Mutex::new(Vec::new());
static PROVIDER: Provider = Provider {
    source: "spy",
    backends: &[Registration {
        name: "spy",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &|init| {
            let spy = Arc::new(Spy { inner: init.own_backend(crate::NAME, "spy")?, seen: Mutex::default() });
            SPIES.lock().push((init.rank, spy.clone()));
            Ok(spy)
        },
    }],
    ..Provider::EMPTY
};

/// Depending on its size, a message goes through a mailbox, at once through the ring, or in pieces after the header.
#[test]
fn messages_of_all_sizes_arrive_whole() {
    let sizes = [0, 1000, 1 << 10, AT_ONCE, AT_ONCE + 1, 200_000, (5 << 20) + 5];
    let value = |i: usize| (i * 7 + i / 251) as u8;
    let builder = Builder::new().providers(&[&crate::PROVIDER]).backend("cpu:gloo-like");
    builder
        .timeout(Duration::from_secs(60))
        .run_ranks(2, |pg| {
            for len in sizes {
                if pg.rank() == 0 {
                    pg.send(&(0..len).map(value).collect::<Vec<_>>(), 1, 0)?;
                } else {
                    let got = pg.recv(vec![0u8; len], 0, 0)?;
                    assert!(got.iter().enumerate().all(|(i, byte)| *byte == value(i)), "{len}");
                }
            }
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn all_messages_are_taken_back_or_none() {
    let builder = Builder::new().providers(&[&PROVIDER, &crate::PROVIDER]).backend("cpu:spy");
    builder
        .timeout(Duration::from_secs(20))
        .run_ranks(2, |pg| {
            if pg.rank() == 0 {
                pg.send(&[2u8], 1, 2)?;
                pg.barrier()?;
                pg.send(&[1u8], 1, 1)?;
                return pg.shutdown();
            }
            let spy = SPIES.lock().iter().find(|(rank, _)| *rank == 1).map(|(_, spy)| spy.clone()).unwrap();
            let [a, b, c] = [1, 2, 1].map(|tag| pg.start(op::recv(vec![0u8], 0, tag)));
            let [id_a, id_b, id_c] = spy.seen.lock()[..] else { panic!("there must be three messages") };
            while !b.is_done() {
                std::thread::yield_now();
            }
            // Receive `b` has its message, so the backend returns neither receive.
            assert!(spy.cancel(&[id_a, id_b])?.is_empty() && !a.is_done());
            let jobs = spy.cancel(&[id_c, id_a])?;
            let ids: Vec<JobId> = jobs.iter().map(Job::id).collect();
            assert!(ids.len() == 2 && ids.contains(&id_a) && ids.contains(&id_c));
            assert!(!a.is_done() && !c.is_done(), "only their new owner may complete them");
            jobs.into_iter().for_each(|job| job.complete(Err(Error::new(ErrorKind::Aborted, "enough").rejected())));
            for work in [a, c] {
                let e = work.wait().unwrap_err();
                assert_eq!((e.error.kind(), e.error.status()), (&ErrorKind::Aborted, Status::Rejected), "{}", e.error);
            }
            assert_eq!(b.wait()?, [2]);
            assert!(spy.cancel(&[id_a])?.is_empty(), "receive `a` has ended");
            pg.barrier()?;
            assert_eq!(pg.recv(vec![0u8], 0, 1)?, [1]);
            pg.shutdown()
        })
        .unwrap();
    SPIES.lock().clear();
}

/// Rank 1 rejects its invalid call, and the receive of rank 0 times out. The error of rank 0 has the rejection only if
/// rank 1 made no later call. A send that was complete at once counts as a later call.
#[test]
fn a_later_message_makes_a_rejection_old() {
    for sends in [false, true] {
        let over = Barrier::new(2);
        let builder = Builder::new().providers(&[&crate::PROVIDER]).backend("cpu:gloo-like");
        let errors = builder.timeout(Duration::from_secs(60)).run_ranks(2, |pg| {
            if pg.rank() == 1 {
                pg.broadcast(&mut [0u8], 9).unwrap_err();
                if sends {
                    pg.send(&[7u8], 0, 0)?;
                }
                pg.store().set("rejected", b"1", Instant::now() + Duration::from_secs(60))?;
                over.wait();
                return Ok(String::new());
            }
            pg.store().get("rejected", Instant::now() + Duration::from_secs(60))?;
            let late = op::recv(vec![0u8], 1, 1).timeout(Duration::from_millis(300));
            let error = pg.run(late).map(drop).unwrap_err().error;
            over.wait();
            Ok(error.to_string())
        });
        let error = &errors.unwrap()[0];
        assert!(error.contains("is in no call"), "{error}");
        assert_eq!(error.contains("rejected its own last call, broadcast"), !sends, "{error}");
    }
}

/// With more ranks than cores, a thread that waits for a started message moves all messages of its rank. When its
/// message is complete, it leaves the rest to the rank's thread for started ops. That thread also completes messages
/// for which no thread waits.
#[test]
fn started_messages_end_whoever_waits() {
    let size = 2 * std::thread::available_parallelism().map_or(1, usize::from) as u32 + 1;
    let builder = Builder::new().providers(&[&crate::PROVIDER]).backend("cpu:gloo-like");
    builder
        .timeout(Duration::from_secs(60))
        .run_ranks(size, |pg| {
            let (next, before) = ((pg.rank() + 1) % size, (pg.rank() + size - 1) % size);
            for round in 0..60u8 {
                let late = pg.start(op::recv(vec![0u8], before, 1));
                let soon = pg.start(op::recv(vec![0u8], before, 2));
                let sends = [2, 1].map(|tag| pg.start(op::send(vec![round + tag as u8], next, tag)));
                assert_eq!(soon.wait()?, [round + 2]);
                let until = Instant::now() + Duration::from_secs(60);
                while round % 2 == 0 && !(late.is_done() && sends.iter().all(|send| send.is_done())) {
                    assert!(Instant::now() < until, "nobody ended a message of round {round}");
                    std::thread::sleep(Duration::from_micros(50));
                }
                assert_eq!(late.wait()?, [round + 1]);
                for send in sends {
                    send.wait()?;
                }
            }
            pg.shutdown()
        })
        .unwrap();
}
