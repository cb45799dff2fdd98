use std::sync::Arc;
use std::sync::atomic::Ordering;

use c10d_core::process::token;
use c10d_core::shm::{Window, admit};
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind};

use super::super::peer_memory::{Origin, PeerMemory};
use super::*;
use crate::shm::{Multicast, Payload, Segment, ShmLink};

const KIND: RingKind = RingKind::Collective;

/// Returns the two ends of a link, and the segment of the first end.
fn pair() -> (ShmLink, ShmLink, Arc<Segment>) {
    pair_of([true; 2])
}

/// Like [`pair`]. `published` tells for each rank whether peers may read the private memory of its process.
fn pair_of(published: [bool; 2]) -> (ShmLink, ShmLink, Arc<Segment>) {
    let [a, b] = published.map(|published| {
        let mut segment = Segment::create(Layout::new(2)).unwrap();
        if published {
            segment.publish_process().unwrap();
        }
        Arc::new(segment)
    });
    let me = token().unwrap();
    let link = |peer, own: &Arc<Segment>, theirs: &Arc<Segment>| {
        ShmLink::new(peer, KIND, (own.clone(), 0), (theirs.clone(), 0)).with_reader(me)
    };
    (link(1, &a, &b), link(0, &b, &a), a)
}

/// Makes a window that this process can read.
fn window(len: usize) -> Window {
    let mut window = Window::new(len).unwrap();
    (0u32..).zip(&mut *window).for_each(|(i, byte)| *byte = (i % 251) as u8);
    admit(window.fd().try_clone_to_owned().unwrap(), |_| Some(len as u64)).unwrap();
    window.open_to(vec![token().unwrap()]);
    window
}

fn write(link: &mut ShmLink, head: &[u8], body: &[u8]) -> usize {
    // SAFETY: the pointer and the length are those of a slice.
    unsafe { link.write(head, body.as_ptr(), body.len(), Lend::Windows) }.unwrap()
}

/// Like [`write`], but lends private memory.
fn lend(link: &mut ShmLink, body: *const u8, len: usize) -> usize {
    // SAFETY: the tests read `body` in this way only while it is readable.
    unsafe { link.write(&[], body, len, Lend::All) }.unwrap()
}

fn read(link: &mut ShmLink, to: &mut [u8]) -> usize {
    // SAFETY: the pointer and the length are those of a slice.
    unsafe { link.read(to.as_mut_ptr(), to.len(), false) }.unwrap()
}

#[test]
fn bytes_of_a_window_are_read_in_place_and_then_given_back() {
    let (mut here, mut there, _) = pair();
    let window = window(1 << 20);
    let mut read_all = vec![0; 1 << 20];
    // There are many rounds, so that some records (which stand for lent bytes in the ring) continue at the ring's
    // beginning.
    for round in 0..10_000 {
        let len = if round % 1000 == 0 { 1 << 20 } else { 40_000 };
        let head = [7; 5];
        assert_eq!(write(&mut here, &head, &window[..len]), head.len());
        assert_eq!(write(&mut here, &[], &window[..len]), 0);
        let mut got = [0; 5];
        assert_eq!((read(&mut there, &mut got), got), (5, head));
        let (at, shown) = there.peek().unwrap();
        assert_eq!(shown, len);
        // SAFETY: the link shows at least 100 bytes, and no thread writes to them.
        assert_eq!(unsafe { std::slice::from_raw_parts(at, 100) }, &window[..100]);
        assert!(there.consume(100));
        assert_eq!(write(&mut here, &[], &window[..len]), 0);
        let mut done = 100;
        while done < len {
            done += read(&mut there, &mut read_all[done..len]);
        }
        assert_eq!(read_all[100..len], window[100..len]);
        assert_eq!(read(&mut there, &mut got), 0);
        assert_eq!(write(&mut here, &[], &window[..len]), len);
        // A few bytes of a window go through the ring.
        assert_eq!(write(&mut here, &[], &window[..100]), 100);
        assert_eq!(read(&mut there, &mut read_all[..200]), 100);
        here.end_write();
        there.end_read();
    }
}

#[test]
fn bytes_lent_by_a_peer_that_gave_up_are_discarded() {
    let (mut here, mut there, segment) = pair();
    let window = window(100_000);
    assert_eq!(write(&mut here, &[], &window), 0);
    let mut to = vec![0; 100_000];
    assert_eq!(there.peek().unwrap().1, 100_000);
    segment.header().revoked.store(1, Ordering::Release);
    assert!(!there.consume(50_000));
    assert_eq!(read(&mut there, &mut to), 0);
}

#[test]
fn lent_bytes_in_memory_that_is_not_mapped_are_an_error() {
    let (mut here, mut there, _) = pair();
    let window = window(100_000);
    assert_eq!(write(&mut here, &[], &window), 0);
    drop(window);
    assert!(there.peek().is_err_and(|e| e.report().guilty == [0]));
    assert!(Borrowed::of(&[9; RECORD], true).is_none());
}

#[test]
fn private_memory_is_read_in_one_copy() {
    let (mut here, mut there, _) = pair();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut to = vec![0; bytes.len()];
    for len in [LEAST, 100_003, 1_000_000] {
        assert_eq!(lend(&mut here, bytes.as_ptr(), len), 0, "the bytes are lent, not copied");
        to.fill(0);
        let mut done = 0;
        while done < len {
            assert_eq!(lend(&mut here, bytes.as_ptr(), len), 0, "the peer has not read all bytes");
            done += read(&mut there, &mut to[done..len]);
        }
        assert_eq!(to[..len], bytes[..len]);
        assert_eq!(lend(&mut here, bytes.as_ptr(), len), len);
    }
    assert_eq!(lend(&mut here, bytes.as_ptr(), LEAST - 1), LEAST - 1, "few bytes are copied");
}

#[test]
fn private_memory_is_lent_only_if_both_ranks_published_their_processes() {
    let bytes = vec![5; LEAST];
    for published in [[true, false], [false, true], [false; 2]] {
        let (mut here, mut there, _) = pair_of(published);
        assert_eq!(lend(&mut here, bytes.as_ptr(), LEAST), LEAST);
        let mut to = vec![0; LEAST];
        assert_eq!(read(&mut there, &mut to), LEAST);
        assert_eq!(to, bytes);
    }
}

#[test]
fn refused_bytes_are_sent_through_the_ring() {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
    let (here, mut there, segment) = pair();
    let ring = Multicast::new(&segment, 1..=2).unwrap();
    let mut here = here.with_multicast(Arc::new(Mutex::new(ring)), 0);
    let len = 1 << 20;
    // SAFETY: this is a new mapping, which nothing else uses. Its second half cannot be read for now.
    let at = unsafe {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        let at = mmap_anonymous(std::ptr::null_mut(), len, flags, MapFlags::PRIVATE).unwrap();
        at.cast::<u8>().write_bytes(8, len);
        mprotect(at.cast::<u8>().add(len / 2).cast(), len / 2, MprotectFlags::empty()).unwrap();
        at
    };
    assert_eq!(lend(&mut here, at.cast(), len), 0);
    let mut to = vec![0; len];
    let mut got = 0;
    while got < len / 2 {
        got += read(&mut there, &mut to[got..]);
    }
    assert_eq!(read(&mut there, &mut to[got..]), 0, "the second half is refused");
    assert_eq!(lend(&mut here, at.cast(), len), got);
    // SAFETY: as above.
    unsafe { mprotect(at, len, MprotectFlags::READ).unwrap() };
    while got < len {
        // SAFETY: the sum is inside the mapping.
        assert!(lend(&mut here, unsafe { at.cast::<u8>().add(got) }, len - got) > 0, "the rest is not lent again");
        got += read(&mut there, &mut to[got..]);
    }
    assert!(to.iter().all(|byte| *byte == 8));
    // SAFETY: nothing uses the mapping any more.
    unsafe { munmap(at, len).unwrap() };
    here.end_write();
    there.end_read();
    // The refusal does not concern later records: those of multicasts and of windows.
    let window = window(100_000);
    for round in 0..3 {
        let bytes = vec![round; 100_000];
        let payload = Payload { at: bytes.as_ptr(), len: bytes.len(), copies: 1 };
        // SAFETY: the payload is a slice that outlives the item.
        assert_eq!(unsafe { here.multicast(&[], payload, 0, bytes.len()) }.unwrap().0, bytes.len());
        here.end_write();
        assert_eq!(read(&mut there, &mut to[..100_000]), 100_000);
        there.end_read();
        assert!(to[..100_000] == bytes);
        assert_eq!(write(&mut here, &[], &window), 0);
        assert_eq!(read(&mut there, &mut to[..100_000]), 100_000);
        assert_eq!(write(&mut here, &[], &window), 100_000);
        here.end_write();
        there.end_read();
        assert!(to[..100_000] == window[..]);
    }
}

#[test]
fn private_bytes_of_a_peer_that_gave_up_are_discarded() {
    let (mut here, mut there, segment) = pair();
    let bytes = vec![5; 100_000];
    assert_eq!(lend(&mut here, bytes.as_ptr(), bytes.len()), 0);
    let mut to = vec![0; 100_000];
    assert_eq!(read(&mut there, &mut to[..50_000]), 50_000);
    segment.header().revoked.store(1, Ordering::Release);
    assert_eq!(read(&mut there, &mut to[50_000..]), 0);
    // The peer has given up, and the lent memory is gone. The reader discards the bytes. It does not refuse them, since
    // the writer does not wait for an answer any more.
    let (mut here, mut there, segment) = pair();
    assert_eq!(lend(&mut here, std::ptr::without_provenance(4096), 100_000), 0);
    segment.header().revoked.store(1, Ordering::Release);
    assert_eq!(read(&mut there, &mut to), 0);
    assert_eq!(lend(&mut here, std::ptr::without_provenance(4096), 100_000), 0);
}

#[test]
fn private_bytes_that_must_be_seen_are_an_error() {
    let (mut here, mut there, _) = pair();
    let bytes = vec![5; 100_000];
    assert_eq!(lend(&mut here, bytes.as_ptr(), bytes.len()), 0);
    assert!(there.peek().is_err_and(|e| e.report().guilty == [0] && e.report().kind == ErrorKind::Protocol));
}

/// Lends these bytes, and returns the error of the writer if the reader claims that it has refused `refused` of them.
fn refused(bytes: &[u8], refused: u64) -> Error {
    let (mut here, mut there, segment) = pair();
    assert_eq!(lend(&mut here, bytes.as_ptr(), bytes.len()), 0);
    assert_eq!(read(&mut there, &mut vec![0; bytes.len()]), bytes.len());
    // SAFETY: the pointer is valid as long as the segment.
    unsafe { &*segment.ring(0, KIND).0 }.tail.refused.store(refused, Ordering::Relaxed);
    // SAFETY: the pointer and the length are those of a slice.
    unsafe { here.write(&[], bytes.as_ptr(), bytes.len(), Lend::All) }.unwrap_err()
}

#[test]
fn an_impossible_number_of_refused_bytes_is_an_error() {
    let error = refused(&[5; 100_000], 100_001);
    assert!(error.report().guilty == [1] && error.report().what.contains("number of refused bytes"), "{error:?}");
}

#[test]
fn refused_bytes_of_a_window_are_an_error() {
    let error = refused(&window(100_000), 100_000);
    assert!(error.report().guilty == [1] && error.report().what.contains("number of refused bytes"), "{error:?}");
}

#[test]
fn the_memory_of_another_process_is_not_taken_for_the_peers() {
    let open = |process: u32, change: &dyn Fn(&Origin)| {
        let mut segment = Segment::create(Layout::new(1)).unwrap();
        segment.publish_process().unwrap();
        let origin = &segment.header().origin;
        change(origin);
        PeerMemory::open(process as i32, origin).is_some()
    };
    let me = std::process::id();
    assert!(open(me, &|_| ()));
    assert!(!open(me, &|origin| origin.mark[1].store(0, Ordering::Relaxed)));
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    assert!(!open(child.id(), &|_| ()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!open(child.id(), &|_| ()));
}
