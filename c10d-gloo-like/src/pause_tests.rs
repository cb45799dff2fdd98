use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::*;
use crate::shm::{Layout, Lend, RingKind, Segment, ShmLink};

/// Two sides send data to each other in turn, and each side sleeps until its bell rings. Every sleep ends after some
/// milliseconds, so a missing ring would only cause a delay. Therefore the test checks that the bell's value changes
/// when data arrives for a side that has armed its bell.
#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u64 = 400;
    let segments = [(); 2].map(|_| Arc::new(Segment::create(Layout::new(1)).unwrap()));
    let end = Instant::now() + Duration::from_secs(60);
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        while !holds() {
            assert!(Instant::now() < end, "never: {what}");
            thread::yield_now();
        }
    };
    // For each side, the number of the round in which it sleeps; and the number of rounds whose data has been read.
    let (asleep, read) = ([(); 2].map(|()| AtomicU64::new(u64::MAX)), AtomicU64::new(0));
    let run = |me: usize| {
        let (own, theirs) = (segments[me].clone(), segments[1 - me].clone());
        let bell = Doorbell::new(own.clone());
        let mut pause = Pause::new(true, Some(Doorbell::new(own.clone())));
        let mut link = Link::Shm(ShmLink::new(1 - me as u32, RingKind::Collective, (own, 0), (theirs, 0)));
        for i in 0..ROUNDS {
            if i % 2 == me as u64 {
                // In half of the rounds, the other side sleeps. In the other half, it may be about to sleep.
                let began = Instant::now();
                let soon = Duration::from_micros(5 * (i % 64));
                until("the other side sleeps", &|| match i % 4 {
                    0 | 1 => asleep[1 - me].load(Ordering::Acquire) == i,
                    _ => began.elapsed() >= soon,
                });
                // SAFETY: the body is empty, so its pointer is not used.
                assert_eq!(unsafe { link.write(&i.to_le_bytes(), [].as_ptr(), 0, Lend::Nothing) }.unwrap(), 8);
                continue;
            }
            // The bell also rings when the other side reads. Wait until these rings are past.
            until("the other side has read", &|| read.load(Ordering::Acquire) >= i);
            let mut announced = None;
            pause.reset();
            while link.peek().unwrap().1 < 8 {
                if let PauseState::Sleeping(seen) = pause.state {
                    announced.get_or_insert(seen);
                    asleep[me].store(i, Ordering::Release);
                }
                pause.wait([Interest::of(&link, true, false)]);
                assert!(Instant::now() < end, "no data in round {i}");
            }
            if let Some(seen) = announced {
                until("the data rings the bell", &|| bell.value() != seen);
            }
            assert!(link.consume(8));
            read.store(i + 1, Ordering::Release);
        }
    };
    thread::scope(|s| [0, 1].map(|me| s.spawn(move || run(me))).map(|t| t.join().unwrap()));
}

/// A thread that waits on the core of its peer spins only briefly, and then yields.
#[test]
fn a_thread_makes_room_for_a_peer_on_its_core() {
    // The test runs on a thread of its own, since it binds the thread to a core.
    thread::spawn(|| {
        let mut one = CpuSet::new();
        one.set(sched_getcpu());
        sched_setaffinity(None, &one).unwrap();
        let [a, b] = [(); 2].map(|_| Arc::new(Segment::create(Layout::new(1)).unwrap()));
        let link = |own: &Arc<Segment>, theirs: &Arc<Segment>| {
            Link::Shm(ShmLink::new(0, RingKind::Collective, (own.clone(), 0), (theirs.clone(), 0)))
        };
        let (ab, ba) = (link(&a, &b), link(&b, &a));
        let spins = || {
            let mut pause = Pause::new(false, None);
            let interest = || [Interest::of(&ab, true, false)];
            let spins = (0..).take_while(|_| pause.wait(interest()).is_none()).count() as u32;
            (spins, a_peer_may_need_the_core(interest()))
        };
        assert_eq!(spins(), (SPINS, false), "the peer has not waited yet");
        assert!(ba.is_one_core());
        assert_eq!(spins(), (SPINS_ALONE + 1, true));
    })
    .join()
    .unwrap();
}

#[test]
fn a_socket_ends_the_sleep() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (b, _) = listener.accept().unwrap();
    let mut pause = Pause::new(false, None);
    let interest = || [Interest { fd: Some(b.as_fd()), cores: None, read: true, write: false }];
    while !matches!(pause.state, PauseState::Sleeping(_)) {
        pause.wait(interest());
    }
    a.write_all(&[1]).unwrap();
    // The descriptor is ready, so the poll returns at once. No borrow of the descriptor remains.
    assert!(pause.wait(interest()).is_some());
    assert!(pause.set.is_empty() && pause.set.capacity() > 0);
    pause.reset();
    assert!(matches!(pause.state, PauseState::Spinning(0)));
}

#[test]
fn spinning_reads_no_clock_and_oversubscribed_ranks_do_not_spin() {
    let mut free = Pause::new(false, None);
    assert!((0..SPINS).all(|_| free.wait([]).is_none()));
    assert!(free.wait([]).is_some());
    assert!(Pause::new(true, None).wait([]).is_some());
}

#[test]
fn data_and_room_ring_the_bell() {
    let [a, b] = [(); 2].map(|_| Arc::new(Segment::create(Layout::with_rings(1, 512, 512)).unwrap()));
    let mut here = Link::Shm(ShmLink::new(1, RingKind::Collective, (a.clone(), 0), (b.clone(), 0)));
    let mut there = Link::Shm(ShmLink::new(0, RingKind::Collective, (b, 0), (a.clone(), 0)));
    let mut bell = Doorbell::new(a);
    let full = [7; 1000];
    // SAFETY: the body is empty, so its pointer is not used.
    assert_eq!(unsafe { here.write(&full, [].as_ptr(), 0, Lend::Nothing) }.unwrap(), 512);
    let seen = bell.value();
    // SAFETY: as above.
    unsafe { there.write(&[1], [].as_ptr(), 0, Lend::Nothing) }.unwrap();
    assert_eq!(bell.value(), seen, "nobody sleeps");
    let seen = bell.arm();
    // SAFETY: as above.
    unsafe { there.write(&[1], [].as_ptr(), 0, Lend::Nothing) }.unwrap();
    let bytes = bell.value();
    assert_ne!(bytes, seen);
    there.peek().unwrap();
    assert!(there.consume(512));
    assert_ne!(bell.value(), bytes);
    bell.disarm();
}
