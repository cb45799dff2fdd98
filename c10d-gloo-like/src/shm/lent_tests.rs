use std::sync::Arc;
use std::sync::atomic::Ordering;

use c10d_core::process::token;
use c10d_core::shm::{Window, admit};

use super::*;
use crate::shm::{Segment, ShmLink};

const KIND: RingKind = RingKind::Collective;

/// Returns the two ends of a link, and the segment of the first end.
fn pair() -> (ShmLink, ShmLink, Arc<Segment>) {
    let [a, b] = [(); 2].map(|()| Arc::new(Segment::create(Layout::new(1)).unwrap()));
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
    unsafe { link.write(head, body.as_ptr(), body.len()) }.unwrap()
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
    // There are many rounds, so that some records continue at the ring's beginning.
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
        // Few bytes, and bytes that are not in a window, go through the ring.
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
    assert!(Borrowed::of(&[9; RECORD]).is_none());
}
