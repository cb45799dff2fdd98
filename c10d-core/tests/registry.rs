//! Tests of registrations, and of contradictions between them.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use c10d_core::backend::{BackendMap, Job, KernelContext, KernelRow, Provider, Registry};
use c10d_core::device::vendor;
use c10d_core::{Builder, Device, DispatchKey, ErrorKind, HashStore, OpKind, ProcessGroup, ReduceOp};
use common::{DENSE, provider, puppet};

fn backend(source: &'static str, name: &'static str) -> &'static Provider {
    provider(source, name, DENSE, move |_| Ok(Arc::new(puppet(|job| job.complete(Ok(()))).named(name))))
}

fn kernels(source: &'static str, rows: Vec<KernelRow>) -> &'static Provider {
    Box::leak(Box::new(Provider { source, kernels: rows.leak(), ..Provider::EMPTY }))
}

fn row(op: OpKind, key: DispatchKey, backend: Option<&'static str>) -> KernelRow {
    KernelRow { op, key, backend, kernel: counting }
}

/// The number of jobs that went through the kernel [`counting`].
static COUNTED: AtomicUsize = AtomicUsize::new(0);

fn counting(ctx: KernelContext<'_>, job: Job) {
    COUNTED.fetch_add(1, Ordering::SeqCst);
    ctx.backend().submit(job);
}

#[track_caller]
fn refused(listed: &[&'static Provider], words: &[&str]) {
    let Err(e) = Registry::collect(listed) else { panic!("was accepted") };
    assert_eq!(*e.kind(), ErrorKind::InvalidArgument);
    words.iter().for_each(|w| assert!(e.to_string().contains(w), "{e} lacks {w:?}"));
}

#[test]
fn the_table_has_60_rows_of_which_58_have_kernels() {
    let table = Registry::collect(&[backend("acme-crate", "acme")]).unwrap().table(&BackendMap::default()).unwrap();
    assert_eq!(table.len(), 60);
    let (with, without): (Vec<_>, Vec<_>) = table.iter().partition(|r| r.source.is_some());
    assert_eq!((with.len(), without.len()), (58, 2));
    for r in with {
        assert_eq!((r.source, r.backend.as_deref(), &r.why), (Some("c10d-core"), Some("acme"), &None), "{r:?}");
        assert!(!r.key.is_sparse());
    }
    for r in without {
        assert!(r.op == OpKind::AllReduce && r.key.is_sparse());
        assert!(r.why.as_deref().is_some_and(|w| w.starts_with("declared without a kernel")), "{r:?}");
    }
    let bare = Registry::collect(&[]).unwrap().table(&BackendMap::default()).unwrap();
    assert!(bare.iter().all(|r| r.backend.is_none() && r.why.is_some()));
    assert_eq!((bare.len(), bare.iter().filter(|r| r.source.is_some()).count()), (60, 58));
}

#[test]
fn a_double_registration_is_an_error_that_names_both() {
    refused(&[backend("one-crate", "acme"), backend("other-crate", "acme")], &["\"acme\"", "one-crate", "other-crate"]);
    let sum = || vec![row(OpKind::AllReduce, DispatchKey::SparseCpu, None)];
    refused(&[kernels("one", sum()), kernels("two", sum())], &["all_reduce on SparseCPU", "one", "two"]);
    // Core has the kernels of the dense rows.
    let dense = vec![row(OpKind::Barrier, DispatchKey::Cpu, None)];
    refused(&[kernels("one", dense)], &["barrier on CPU", "c10d-core", "one"]);
    let own = || vec![row(OpKind::Barrier, DispatchKey::Cpu, Some("acme"))];
    refused(&[kernels("one", own()), kernels("two", own())], &["barrier on CPU for backend \"acme\"", "one", "two"]);
    refused(&[backend("one", "a:b")], &["one", "\"a:b\""]);
    let undeclared = vec![row(OpKind::MonitoredBarrier, DispatchKey::Cuda, None)];
    refused(&[kernels("one", undeclared)], &["one", "monitored_barrier on CUDA", "does not declare"]);
}

static SUBMITTED: Provider = Provider { source: "submitted", ..Provider::EMPTY };
c10d_core::submit!(SUBMITTED);

/// A provider that is both listed and linked counts once.
#[test]
fn a_listed_and_submitted_provider_counts_once() {
    let acme = backend("acme-crate", "acme");
    let registry = Registry::collect(&[acme, &SUBMITTED, acme]).unwrap();
    assert_eq!(registry.backends().count(), 1);
}

#[test]
fn a_row_for_one_backend_beats_the_row_for_all() {
    let rows = vec![row(OpKind::Broadcast, DispatchKey::Cpu, Some("acme"))];
    let providers = [backend("a", "acme"), backend("b", "other"), kernels("acme-kernels", rows)];
    let registry = Registry::collect(&providers).unwrap();
    let source = |name| registry.kernel(OpKind::Broadcast, DispatchKey::Cpu, name).unwrap().1;
    assert_eq!((source("acme"), source("other")), ("acme-kernels", "c10d-core"));
    for (name, calls) in [("acme", 1), ("other", 0)] {
        let pg = Builder::new().providers(&providers).backend(name).build().unwrap();
        COUNTED.store(0, Ordering::SeqCst);
        pg.broadcast(&mut [0f32], 0).unwrap();
        pg.all_reduce(&mut [0f32], ReduceOp::Sum).unwrap();
        assert_eq!(COUNTED.load(Ordering::SeqCst), calls, "{name}");
        assert_eq!(pg.backend(DispatchKey::Cuda).unwrap(), name);
    }
}

#[test]
fn maps_choose_backends() {
    let cpu = provider("a", "plain", &[DispatchKey::Cpu], |_| {
        Ok(Arc::new(puppet(|job| job.complete(Ok(()))).named("plain")))
    });
    let providers = [backend("b", "acme"), cpu];
    let build = |map: &str| Builder::new().providers(&providers).backend(map).build();
    let pg = build("cpu:plain,cuda:acme").unwrap();
    assert_eq!(pg.backend(DispatchKey::Cpu).unwrap(), "plain");
    assert_eq!(pg.backend(DispatchKey::Cuda).unwrap(), "acme");
    assert_eq!(*pg.backend(DispatchKey::PrivateUse1).unwrap_err().kind(), ErrorKind::Unsupported);
    let e = build("cpu:plian").unwrap_err();
    assert!(e.to_string().contains("plian") && e.to_string().contains("acme, plain"), "{e}");
    // Without a map, backends of one priority are tried in the order of their names.
    assert_eq!(build("").unwrap().backend(DispatchKey::Cpu).unwrap(), "acme");
}

#[test]
fn vendors_are_distinguished() {
    let own = |name: &'static str| {
        provider(name, name, &[DispatchKey::PrivateUse1], move |_| {
            Ok(Arc::new(puppet(|job| job.complete(Ok(()))).named(name)))
        })
    };
    let providers = [backend("b", "plain"), own("acme"), own("umbra")];
    let build = |map: &str| Builder::new().providers(&providers).backend(map).build();
    let of = |pg: &ProcessGroup, name: &str| pg.backend_of(Device::private(vendor(name), 0)).map(|b| b.0);
    let pg = build("cpu:plain,acme:acme,umbra:umbra").unwrap();
    assert_eq!((of(&pg, "acme").unwrap(), of(&pg, "umbra").unwrap()), ("acme", "umbra"));
    // No backend serves the default slot, so the dispatch key PrivateUse1 means the first vendor.
    assert!(pg.backend_of(Device::private(0, 0)).is_err());
    assert_eq!(pg.backend(DispatchKey::PrivateUse1).unwrap(), "acme");
    // If the map names a vendor's backend for the default slot, it also serves that vendor's devices, but no other
    // vendor's.
    let pg = build("privateuse1:acme").unwrap();
    assert_eq!((of(&pg, "acme").unwrap(), pg.backend_of(Device::private(0, 0)).unwrap().0), ("acme", "acme"));
    assert!(of(&pg, "umbra").is_err() && of(&pg, "nobody").unwrap_err().to_string().contains("nobody"));
    // Without a map, each vendor's own backend is used.
    let pg = build("").unwrap();
    assert_eq!((of(&pg, "acme").unwrap(), of(&pg, "umbra").unwrap()), ("acme", "umbra"));
    let e = build("cpu:plain,tpu:acme").unwrap_err();
    assert!(e.to_string().contains("\"tpu\"") && e.to_string().contains("umbra"), "{e}");
}

/// Here the list of lanes has the lane for sparse tensors between those of the two backends. A lookup by either device
/// of the second backend must find this backend's lane.
#[test]
fn a_backend_of_two_devices_is_found_behind_the_lane_of_sparse_tensors() {
    let own = |name: &'static str, keys| {
        provider(name, name, keys, move |_| Ok(Arc::new(puppet(|job| job.complete(Ok(()))).named(name))))
    };
    let sparse = kernels("sparse", vec![row(OpKind::AllReduce, DispatchKey::SparseCpu, None)]);
    let providers = [own("plain", &[DispatchKey::Cpu]), own("acme", &[DispatchKey::PrivateUse1]), sparse];
    let pg = Builder::new().providers(&providers).backend("cpu:plain,acme:acme,privateuse1:acme").build().unwrap();
    for slot in [vendor("acme"), 0] {
        assert_eq!(pg.backend_of(Device::private(slot, 0)).unwrap().0, "acme", "{slot}");
    }
    assert_eq!(pg.backend(DispatchKey::Cpu).unwrap(), "plain");
}

#[test]
fn ranks_with_different_backends_agree_or_are_named() {
    let plain = backend("b", "plain");
    let best =
        provider("a", "best", &[DispatchKey::Cuda], |_| Ok(Arc::new(puppet(|job| job.complete(Ok(()))).named("best"))));
    let store = Arc::new(HashStore::new());
    let world = |name: &'static str, maps: [&'static str; 2]| {
        let make = |rank: u32| {
            let providers = if rank == 0 { vec![plain, best] } else { vec![plain] };
            let builder = Builder::new().name(name).rank(rank).size(2).store(store.clone());
            builder.providers(&providers).backend(maps[rank as usize]).timeout(Duration::from_secs(20)).build()
        };
        std::thread::scope(|s| {
            let other = s.spawn(|| make(1));
            (make(0), other.join().unwrap())
        })
    };
    // Rank 0 prefers `best`, which rank 1 does not have.
    let (a, b) = world("common", ["", ""]);
    let cuda = |pg: &ProcessGroup| pg.backend(DispatchKey::Cuda).unwrap();
    assert_eq!((cuda(&a.unwrap()), cuda(&b.unwrap())), ("plain", "plain"));
    let (a, b) = world("asked", ["cuda:best", ""]);
    for e in [a.unwrap_err(), b.unwrap_err()] {
        assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Rendezvous, &[1][..]), "{e}");
        assert!(e.to_string().contains("best on cuda"), "{e}");
    }
}
