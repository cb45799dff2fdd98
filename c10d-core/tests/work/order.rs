//! The order in which a backend gets calls.

use c10d_core::op;

use super::*;

/// Four threads make blocking calls and start calls. The backend gets the collectives in the order of their numbers.
#[test]
fn a_lane_gets_its_calls_in_order() {
    let count = if cfg!(miri) { 20 } else { 2000 };
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let order = seen.clone();
    let pg = group(puppet(move |job| {
        let request = job.request();
        assert_eq!(u64::from(request.fingerprint.seq), request.seq);
        if request.seq.is_multiple_of(8) {
            // Without ordered turns, other calls would overtake this call.
            std::thread::yield_now();
        }
        order.lock().unwrap().push(request.seq);
        job.complete(Ok(()));
    }));
    std::thread::scope(|s| {
        for t in 0..4 {
            let pg = &pg;
            s.spawn(move || {
                for i in 0..count {
                    if (i + t) % 2 == 0 {
                        pg.all_reduce(&mut [0f32], SUM).unwrap();
                    } else {
                        pg.start(op::all_reduce(vec![0f32], SUM)).wait().unwrap();
                    }
                }
            });
        }
    });
    assert!(seen.lock().unwrap().iter().copied().eq(0..4 * count));
}

/// Point-to-point ops have no turns: a blocked `recv` does not block another thread's `send`.
#[test]
fn point_to_point_takes_no_turn() {
    let store = Arc::new(c10d_core::HashStore::new());
    let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
    let put = jobs.clone();
    let b = common::builder(move |_| {
        let put = put.clone();
        puppet(move |job| match job.request().op {
            c10d_core::OpKind::Recv => put.lock().unwrap().push(job),
            _ => job.complete(Ok(())),
        })
    });
    let groups: Vec<_> = std::thread::scope(|s| {
        let make = |rank| b.clone().rank(rank).size(2).store(store.clone());
        let threads = [0, 1].map(|rank| s.spawn(move || make(rank).build().unwrap()));
        threads.map(|t| t.join().unwrap()).into()
    });
    std::thread::scope(|s| {
        let receiver = s.spawn(|| groups[0].recv(vec![0f32], 1, 5));
        while jobs.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        groups[0].send(&[0f32], 1, 5).unwrap();
        groups[0].barrier().unwrap();
        jobs.lock().unwrap().pop().unwrap().complete(Ok(()));
        receiver.join().unwrap().unwrap();
    });
}
