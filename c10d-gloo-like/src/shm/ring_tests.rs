use std::fs::File;
use std::process::Command;

use super::*;
use crate::link::Link;
use crate::link::tests::{exchange, seeds};
use crate::shm::{Layout, ShmLink};

fn ring(capacity: usize) -> (Arc<Segment>, Writer, Reader) {
    let segment = Arc::new(Segment::create(Layout::with_rings(1, capacity, capacity)).unwrap());
    let writer = Writer::new(segment.clone(), 0, RingKind::Collective, 1);
    let reader = Reader::new(segment.clone(), 0, RingKind::Collective, 0);
    (segment, writer, reader)
}

fn write(w: &mut Writer, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the pointer and the length are those of a slice.
    unsafe { w.write(&[], bytes.as_ptr(), bytes.len()) }
}

fn link(kind: RingKind, own: &Arc<Segment>, theirs: &Arc<Segment>, peer: u32) -> Link {
    Link::Shm(ShmLink::new(peer, kind, (own.clone(), 0), (theirs.clone(), 0)))
}

#[test]
fn threads_exchange_items_of_any_size() {
    for (capacity, kind) in [(512, RingKind::Collective), (4096, RingKind::PointToPoint), (65536, RingKind::Collective)]
    {
        let [a, b] = [(); 2].map(|_| Arc::new(Segment::create(Layout::with_rings(1, capacity, capacity)).unwrap()));
        std::thread::scope(|s| {
            s.spawn(|| exchange(link(kind, &a, &b, 1), 0, seeds(), capacity * 3));
            s.spawn(|| exchange(link(kind, &b, &a, 0), 1, seeds(), capacity * 3));
        });
    }
}

const CHILD: &str = "C10D_TEST_RING_CHILD";

#[test]
fn processes_exchange_items_of_any_size() {
    use std::os::fd::AsRawFd;
    let layout = Layout::with_rings(1, 1024, 1024);
    if let Ok(paths) = std::env::var(CHILD) {
        let open = |p: &str| File::options().read(true).write(true).open(p).unwrap().into();
        let (own, theirs) = paths.split_once(' ').unwrap();
        let [own, theirs] = [own, theirs].map(|p| Arc::new(Segment::attach(open(p), layout).unwrap()));
        exchange(link(RingKind::Collective, &own, &theirs, 0), 1, seeds(), 5000);
        return;
    }
    let [a, b] = [(); 2].map(|_| Arc::new(Segment::create(layout).unwrap()));
    let path = |s: &Segment| format!("/proc/{}/fd/{}", std::process::id(), s.fd().as_raw_fd());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shm::ring::tests::processes_exchange_items_of_any_size"])
        .env(CHILD, format!("{} {}", path(&b), path(&a)))
        .spawn()
        .unwrap();
    exchange(link(RingKind::Collective, &a, &b, 1), 0, seeds(), 5000);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_small_item_takes_one_cache_line() {
    let (_segment, mut w, mut r) = ring(4096);
    for i in 0..100u8 {
        let (head, body) = ([i; 32], [!i; 32]);
        // SAFETY: the pointer and the length are those of an array.
        assert_eq!(unsafe { w.write(&head, body.as_ptr(), 32) }.unwrap(), 64);
        w.end();
        let (p, n) = r.peek().unwrap();
        assert_eq!((p as usize % 64, n), (0, 64));
        r.consume(64);
        r.end();
    }
}

#[test]
fn a_write_takes_no_more_bytes_than_there_is_room_for() {
    let (_segment, mut w, mut r) = ring(512);
    assert_eq!(write(&mut w, &[7; 1000]).unwrap(), 512);
    assert_eq!(write(&mut w, &[7; 1]).unwrap(), 0);
    let mut to = [0; 600];
    // SAFETY: the pointer and the length are those of an array.
    assert_eq!(unsafe { r.read(to.as_mut_ptr(), 600, false) }.unwrap(), (512, true));
    assert_eq!(write(&mut w, &[8; 1000]).unwrap(), 512);
}

#[test]
fn bytes_can_be_copied_before_they_are_consumed() {
    let (_segment, mut w, mut r) = ring(512);
    let bytes: Vec<u8> = (0..=255).collect();
    for _ in 0..20 {
        assert_eq!(write(&mut w, &bytes[..200]).unwrap(), 200);
        let mut to = [0; 400];
        let mut copy = |r: &mut Reader, offset: usize, len| {
            // SAFETY: the pointer is that of an array of 400 bytes.
            unsafe { r.copy_ahead(offset, to[offset..].as_mut_ptr(), len) }.unwrap()
        };
        assert_eq!((copy(&mut r, 0, 50), copy(&mut r, 50, 350), copy(&mut r, 200, 200)), (50, 150, 0));
        assert_eq!(to[..200], bytes[..200]);
        r.consume(200);
    }
}

/// With any values of the cursors, the result is an error that names the peer, or bytes of the ring.
#[test]
fn cursors_out_of_range_are_the_peers_fault() {
    let values = |capacity: u64| [capacity * 2 + 1, capacity * 5, u64::MAX, u64::MAX - 63, 1 << 63];
    for value in values(512) {
        let (segment, mut w, mut r) = ring(512);
        assert_eq!(write(&mut w, &[1; 512]).unwrap(), 512);
        // SAFETY: the segment exists, and the cursors are atomics.
        let cursors = unsafe { &*segment.ring(0, RingKind::Collective).0 };
        cursors.tail.at.store(value, Ordering::Release);
        let error = write(&mut w, &[1]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol);
        assert_eq!(error.report().guilty, [1]);
        cursors.head.0.store(value, Ordering::Release);
        let error = r.peek().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol);
        assert_eq!(error.report().guilty, [0]);
    }
    // Neither cursor may decrease.
    let (segment, mut w, mut r) = ring(512);
    write(&mut w, &[1; 512]).unwrap();
    r.peek().unwrap();
    r.consume(512);
    write(&mut w, &[1; 512]).unwrap();
    r.peek().unwrap();
    // SAFETY: as above.
    let cursors = unsafe { &*segment.ring(0, RingKind::Collective).0 };
    cursors.tail.at.store(511, Ordering::Release);
    cursors.head.0.store(700, Ordering::Release);
    assert!(write(&mut w, &[1]).is_err());
    assert!(r.peek().is_err());
}
