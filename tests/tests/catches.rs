//! Tests that the suite finds faults of a backend.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d::backend::{Backend, Capabilities, Job, OpSet, Provider, Registration};
use c10d::types::DTypeSet;
use c10d::{DType, DispatchKey, Error, ErrorKind, OpKind};
use c10d_conformance::{Outcome, Ranks, Selection, Suite};

/// A backend that reports success and does nothing.
struct Idle;

// SAFETY: `submit` completes each job before it returns, so no memory is used afterwards.
unsafe impl Backend for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }
    fn capabilities(&self) -> &Capabilities {
        const FEW: Capabilities = Capabilities {
            ops: OpSet::of(&[OpKind::AllReduce, OpKind::AllGatherInto, OpKind::Send, OpKind::Recv, OpKind::Barrier]),
            moves: DTypeSet::of(&[DType::F32, DType::Bool]),
            ..Capabilities::ALL
        };
        &FEW
    }
    fn submit(&self, job: Job) {
        job.complete(Ok(()));
    }
    fn abort(&self, _: &Error) {}
}

/// A backend in which every third op fails.
struct Fails(std::sync::atomic::AtomicU32);

// SAFETY: as above.
unsafe impl Backend for Fails {
    fn name(&self) -> &'static str {
        "fails"
    }
    fn capabilities(&self) -> &Capabilities {
        const BARRIERS: Capabilities = Capabilities { ops: OpSet::of(&[OpKind::Barrier]), ..Capabilities::ALL };
        &BARRIERS
    }
    fn submit(&self, job: Job) {
        let n = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        job.complete(if n % 3 == 2 { Err(Error::new(ErrorKind::Internal, "third")) } else { Ok(()) });
    }
    fn abort(&self, _: &Error) {}
}

static PROVIDER: Provider = Provider {
    source: "catches",
    backends: &[
        Registration {
            name: "idle",
            keys: &[DispatchKey::Cpu],
            priority: 1,
            probe: &|| Ok(()),
            create: &|_| Ok(Arc::new(Idle)),
        },
        Registration {
            name: "fails",
            keys: &[DispatchKey::Cpu],
            priority: 1,
            probe: &|| Ok(()),
            create: &|_| Ok(Arc::new(Fails(0.into()))),
        },
    ],
    ..Provider::EMPTY
};

fn run(backend: &str) -> Vec<Outcome> {
    let suite = Suite::new(&[&PROVIDER]).backend(backend).worlds(&[3]).selection(Selection::Cover);
    suite.run(Ranks::Threads, 3).unwrap()
}

#[test]
fn wrong_values_are_found_case_by_case() {
    let outcomes = run("cpu:idle");
    let of = |part: &str| outcomes.iter().filter(|o| o.name.contains(part)).collect::<Vec<_>>();
    assert!(of("/barrier/").iter().all(|o| o.result.is_ok()));
    // In cases without elements, the backend that does nothing is right.
    assert!(of("/0/").iter().all(|o| o.result.is_ok()), "{:?}", of("/0/").iter().find(|o| o.result.is_err()));
    let wrong = of("/all_gather_into/").into_iter().filter(|o| !o.name.contains("/0/"));
    for outcome in wrong {
        let what = outcome.result.as_ref().expect_err("nothing was gathered");
        assert!(what.contains("rank 0") && what.contains("rank 2"), "{what}");
    }
    let sent = of("/send/").into_iter().find(|o| o.name.contains("/large/")).unwrap();
    let what = sent.result.as_ref().expect_err("nothing was received");
    assert!(what.contains("output 0: element "), "{what}");
}

#[test]
fn only_offered_ops_and_types_are_tested() {
    let outcomes = run("cpu:idle");
    assert!(!outcomes.is_empty());
    for outcome in &outcomes {
        let op = outcome.name.split('/').nth(1).unwrap();
        assert!(["all_reduce", "all_gather_into", "send", "recv", "barrier"].contains(&op), "{}", outcome.name);
        let moves = !["all_reduce", "barrier"].contains(&op);
        assert!(!moves || outcome.name.contains("/f32/") || outcome.name.contains("/bool/"), "{}", outcome.name);
    }
}

#[test]
fn a_failed_group_is_made_again_after_the_failed_case() {
    let outcomes = run("cpu:fails");
    let right: Vec<bool> = outcomes.iter().map(|o| o.result.is_ok()).collect();
    assert_eq!(right, [true, true, false, true], "{outcomes:?}");
}
