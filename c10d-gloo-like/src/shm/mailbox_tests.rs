use super::*;
use crate::shm::Layout;
use crate::shm::slots::MANY;

fn mailbox() -> (Arc<Segment>, Writer, Reader) {
    let segment = Arc::new(Segment::create(Layout::with_rings(1, 512, 512)).unwrap());
    let writer = Writer::new(segment.clone(), 0, RingKind::PointToPoint, 1);
    let reader = Reader::new(segment.clone(), 0, RingKind::PointToPoint, 0);
    (segment, writer, reader)
}

fn write(w: &mut Writer, line: u64, len: usize) -> Result<bool> {
    let bytes = [w.end.count as u8; MOST + 1];
    // SAFETY: the body is the beginning of an array that is long enough.
    unsafe { w.write(line, &bytes[..len / 2], bytes.as_ptr(), len - len / 2) }
}

#[test]
fn items_come_whole_and_in_order_and_at_most_one_per_slot_waits() {
    let (_segment, mut w, mut r) = mailbox();
    assert!(!write(&mut w, 0, 0).unwrap() && !write(&mut w, 0, MOST + 1).unwrap());
    let lens = [1, 40, 64, MOST];
    let mut taken = 0;
    for round in 0..100u64 {
        let next = |w: &Writer| lens[w.end.count as usize % 4];
        while let len = next(&w)
            && write(&mut w, round, len).unwrap()
        {}
        assert!((w.end.count - taken) <= w.end.slots && w.end.count >= w.end.slots);
        assert!(r.peek(round + 1).is_err(), "an item at a line that the reader has passed must be an error");
        while let Some((at, len)) = r.peek(round).unwrap() {
            assert_eq!(len, lens[taken as usize % 4]);
            // SAFETY: the mailbox shows `len` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(at, len) };
            assert!(bytes.iter().all(|b| *b == taken as u8));
            // The item is read in two parts, like a header and its payload.
            let first = len / 2;
            r.consume(first);
            assert_eq!(r.peek(round).unwrap().map(|(_, left)| left), Some(len - first));
            r.consume(len - first);
            taken += 1;
        }
        assert_eq!(taken, w.end.count);
    }
}

/// The line is the position in the ring, in units of 64 bytes, at which the item would have begun.
#[test]
fn an_item_is_shown_only_at_its_ring_line() {
    let (_segment, mut w, mut r) = mailbox();
    assert!(write(&mut w, 7, 40).unwrap());
    assert!(r.peek(6).unwrap().is_none());
    assert!(r.peek(7).unwrap().is_some());
    // The low 16 bits of the line wrap around.
    let (_segment, mut w, mut r) = mailbox();
    assert!(write(&mut w, 1 << 16, 40).unwrap());
    assert!(r.peek((1 << 16) - 1).unwrap().is_none());
    assert!(r.peek(1 << 16).unwrap().is_some());
}

/// A value that is out of range in a slot's word or in the count of taken items gives a `Protocol` error that names the
/// peer.
#[test]
fn words_out_of_range_are_the_peers_fault() {
    let word = |number, len, line| Word { number, len, line }.pack();
    for wrong in
        [word(2, 40, 0), word(u32::MAX, 40, 0), word(1, MOST as u16 + 1, 0), word(1, 0, 0), word(1, 40, 1 << 15 | 1)]
    {
        let (_segment, _, mut r) = mailbox();
        r.end.next().0.store(wrong, Ordering::Release);
        let error = r.peek(0).unwrap_err();
        assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Protocol, &[0][..]), "{wrong:#x}");
    }
    for wrong in [MANY + 1, u32::MAX, 1 << 31] {
        let (_segment, mut w, _) = mailbox();
        while w.end.count < MANY {
            assert!(write(&mut w, 0, 40).unwrap());
        }
        w.end.taken().store(wrong, Ordering::Release);
        let error = write(&mut w, 0, 40).unwrap_err();
        assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Protocol, &[1][..]), "{wrong}");
    }
}
