use super::*;
use crate::shm::Layout;
use crate::shm::ring::Reader;

/// Makes the writing end and the reading ends of a ring with `peers` peers.
fn ring(peers: u32) -> (Multicast, Vec<Reader>) {
    let (ring, readers, _) = ring_in_segment(peers);
    (ring, readers)
}

fn ring_in_segment(peers: u32) -> (Multicast, Vec<Reader>, Arc<Segment>) {
    let segment = Arc::new(Segment::create(Layout::new(peers as usize)).unwrap());
    let ring = Multicast::new(&segment, 1..=peers).unwrap();
    let reader = |index| Reader::new(segment.clone(), index, RingKind::Multicast, 0);
    let readers = (0..peers as usize).map(reader).collect();
    (ring, readers, segment)
}

fn payload(bytes: &[u8], copies: u32) -> Payload {
    Payload { at: bytes.as_ptr(), len: bytes.len(), copies }
}

fn advance(ring: &mut Multicast, peer: usize, ready: usize) -> usize {
    // SAFETY: the tests keep the bytes of the payload as long as the item is being sent.
    unsafe { ring.advance(peer, ready) }.unwrap().0
}

fn read(reader: &mut Reader, len: usize) -> Vec<u8> {
    let mut to = vec![0; len];
    // SAFETY: the pointer and the length are those of a slice.
    let (n, _) = unsafe { reader.read(to.as_mut_ptr(), len, false) }.unwrap();
    to.truncate(n);
    to
}

#[test]
fn two_ranks_have_no_multicast_ring() {
    let segment = Arc::new(Segment::create(Layout::new(1)).unwrap());
    assert!(Multicast::new(&segment, 1..2).is_none());
}

/// Sends items of random lengths to random peers, which read them in random steps.
#[test]
fn every_peer_gets_the_bytes_of_its_items() {
    let mut seed = 1u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    // With 80 peers, the ring is small. Only three of them take part.
    for (peers, items) in [(3, 150), (80, 30)] {
        let (mut ring, mut readers) = ring(peers);
        for number in 0..items {
            let bytes: Vec<u8> = (0..1 + random(1_500_000)).map(|i| (i * 7 + i / 251 + number) as u8).collect();
            let mut to: Vec<usize> = (0..3).collect();
            to.remove(random(3));
            if random(2) == 0 {
                to = vec![2, 0, 1];
            }
            let payload = payload(&bytes, to.len() as u32);
            let (mut begun, mut done, mut got) = ([false; 3], [0; 3], [const { Vec::new() }; 3]);
            while to.iter().any(|p| got[*p].len() < bytes.len()) {
                let peer = to[random(to.len())];
                if !begun[peer] {
                    if let Some(start) = ring.begin(peer, payload) {
                        readers[peer].move_to(start);
                        begun[peer] = true;
                    }
                    continue;
                }
                if done[peer] < bytes.len() {
                    done[peer] = advance(&mut ring, peer, (done[peer] + random(300_000)).min(bytes.len()));
                }
                got[peer].extend(read(&mut readers[peer], random(200_000)));
                assert!(got[peer].len() <= done[peer]);
                if got[peer].len() == bytes.len() {
                    readers[peer].publish();
                }
            }
            assert!(to.iter().all(|p| got[*p] == bytes));
            assert!(ring.item.is_none());
        }
    }
}

#[test]
fn a_peer_that_has_not_begun_keeps_its_bytes() {
    let (mut ring, mut readers) = ring(2);
    let capacity = ring.capacity as usize;
    let bytes: Vec<u8> = (0..2 * capacity).map(|i| (i / 3) as u8).collect();
    let payload = payload(&bytes, 2);
    let start = ring.begin(0, payload).unwrap();
    readers[0].move_to(start);
    let (mut done, mut got) = (0, Vec::new());
    for _ in 0..100 {
        done = advance(&mut ring, 0, bytes.len());
        got.extend(read(&mut readers[0], bytes.len()));
    }
    assert_eq!((done, got.len()), (capacity, capacity), "the first peer stops where the second peer's bytes begin");
    let start = ring.begin(1, payload).unwrap();
    readers[1].move_to(start);
    assert_eq!(advance(&mut ring, 1, bytes.len()), capacity);
    assert_eq!(read(&mut readers[1], capacity), bytes[..capacity]);
    assert!(advance(&mut ring, 0, bytes.len()) > capacity);
}

#[test]
fn an_item_waits_for_the_item_before_it() {
    let (mut ring, mut readers) = ring(3);
    let (first, second) = (vec![1; 1000], vec![2; 1000]);
    let begin = |ring: &mut Multicast, peer, bytes: &[u8]| ring.begin(peer, payload(bytes, 2));
    let start = begin(&mut ring, 0, &first).unwrap();
    readers[0].move_to(start);
    assert_eq!(advance(&mut ring, 0, 1000), 1000);
    assert_eq!(begin(&mut ring, 2, &second), None, "the first item has not been sent to all its peers");
    assert_eq!(begin(&mut ring, 1, &first), Some(start));
    assert_eq!(begin(&mut ring, 2, &first), None, "both peers of the first item have begun");
    assert_eq!(advance(&mut ring, 1, 1000), 1000);
    let start = begin(&mut ring, 2, &second).unwrap();
    assert_eq!(start % LINE, 0);
    assert_eq!(read(&mut readers[0], 1000), first);
    assert_eq!(begin(&mut ring, 0, &second), Some(start));
}

/// A peer has left a whole ring of bytes unread. The next item begins at a new line, so its start lies beyond the room.
#[test]
fn unread_bytes_are_not_overwritten_if_a_new_item_begins_beyond_the_room() {
    let (mut ring, mut readers) = ring(2);
    let capacity = ring.capacity as usize;
    let first: Vec<u8> = (0..capacity + 100_000).map(|i| (i / 5) as u8).collect();
    let payload_of = |bytes| payload(bytes, 2);
    for (peer, reader) in readers.iter_mut().enumerate() {
        reader.move_to(ring.begin(peer, payload_of(&first)).unwrap());
    }
    let mut got = [const { Vec::new() }; 2];
    let mut done = [0; 2];
    while done != [first.len(); 2] {
        for peer in 0..2 {
            done[peer] = advance(&mut ring, peer, first.len());
            let most = if peer == 0 { first.len() } else { 100_000 - got[1].len() };
            got[peer].extend(read(&mut readers[peer], most));
            readers[peer].publish();
        }
    }
    assert_eq!((got[0].len(), got[1].len()), (first.len(), 100_000));
    let second = vec![0xEE; 200_000];
    let start = ring.begin(0, payload_of(&second)).unwrap();
    assert!(start > first.len() as u64);
    // There is no room, and the peer that has read least is the other one.
    // SAFETY: `second` outlives the item.
    assert_eq!(unsafe { ring.advance(0, second.len()) }.unwrap(), (0, false));
    got[1].extend(read(&mut readers[1], first.len()));
    assert!(got[1] == first);
}

/// The time limit of a call names the peers for which [`Multicast::advance`] waits.
#[test]
fn only_the_peer_that_reads_least_is_waited_for() {
    let (mut ring, mut readers) = ring(2);
    let bytes = vec![7; 2 * ring.capacity as usize];
    for (peer, reader) in readers.iter_mut().enumerate() {
        reader.move_to(ring.begin(peer, payload(&bytes, 2)).unwrap());
    }
    let mut waits = [false; 2];
    for _ in 0..100 {
        for (peer, waits) in waits.iter_mut().enumerate() {
            // SAFETY: `bytes` outlives the item.
            *waits = unsafe { ring.advance(peer, bytes.len()) }.unwrap().1;
        }
        read(&mut readers[0], bytes.len());
    }
    assert_eq!(waits, [false, true]);
}

/// With any position of a peer, the result is an error that names the peer, or no byte is written outside the ring.
#[test]
fn a_position_out_of_range_is_the_peers_fault() {
    for back in [0, 1, 63, 64, 1 << 20, u64::MAX / 2, u64::MAX] {
        let (mut ring, _, segment) = ring_in_segment(2);
        let bytes = vec![1; ring.capacity as usize];
        for peer in 0..2 {
            ring.begin(peer, payload(&bytes, 2)).unwrap();
        }
        while advance(&mut ring, 0, bytes.len()) < bytes.len() {}
        // SAFETY: the cursors are in the segment, and consist of atomics.
        let tail = unsafe { &(*segment.ring(1, RingKind::Multicast).0).tail.at };
        tail.store((bytes.len() as u64).wrapping_sub(back), std::sync::atomic::Ordering::Release);
        advance(&mut ring, 1, bytes.len());
        let second = vec![2; bytes.len() + 99];
        ring.begin(0, payload(&second, 2));
        // SAFETY: `second` outlives the item.
        if let Err(error) = unsafe { ring.advance(0, second.len()) } {
            assert_eq!(error.report().guilty, [2]);
        }
    }
}
