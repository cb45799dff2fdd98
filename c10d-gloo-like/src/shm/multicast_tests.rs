use super::*;
use crate::shm::Layout;
use crate::shm::ring::Reader;

/// Makes the writing end and the reading ends of a ring with `peers` peers.
fn ring(peers: u32) -> (Multicast, Vec<Reader>) {
    let segment = Arc::new(Segment::create(Layout::new(peers as usize)).unwrap());
    let ring = Multicast::new(&segment, 1..=peers).unwrap();
    let reader = |index| Reader::new(segment.clone(), index, RingKind::Multicast, 0);
    (ring, (0..peers as usize).map(reader).collect())
}

fn payload(bytes: &[u8], copies: u32) -> Payload {
    Payload { at: bytes.as_ptr(), len: bytes.len(), copies }
}

fn advance(ring: &mut Multicast, peer: usize, ready: usize) -> usize {
    // SAFETY: the tests keep the bytes of the payload as long as the item is being sent.
    unsafe { ring.advance(peer, ready) }.unwrap()
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
    let (mut ring, mut readers) = ring(3);
    for number in 0..200 {
        let bytes: Vec<u8> = (0..1 + random(1_500_000)).map(|i| (i * 7 + i / 251 + number) as u8).collect();
        let mut to: Vec<usize> = (0..3).collect();
        to.remove(random(3));
        if random(2) == 0 {
            to = vec![2, 0, 1];
        }
        let payload = payload(&bytes, to.len() as u32);
        let (mut begun, mut done, mut got) = ([false; 3], [0; 3], [const { Vec::new() }; 3]);
        // No peer is ahead of the others for ever.
        while to.iter().any(|p| got[*p].len() < bytes.len()) {
            let peer = to[random(to.len())];
            if !begun[peer] {
                if let Some(start) = ring.begin(peer, payload).unwrap() {
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

#[test]
fn a_peer_that_has_not_begun_keeps_its_bytes() {
    let (mut ring, mut readers) = ring(2);
    let capacity = ring.capacity as usize;
    let bytes: Vec<u8> = (0..2 * capacity).map(|i| (i / 3) as u8).collect();
    let payload = payload(&bytes, 2);
    let start = ring.begin(0, payload).unwrap().unwrap();
    readers[0].move_to(start);
    let (mut done, mut got) = (0, Vec::new());
    for _ in 0..100 {
        done = advance(&mut ring, 0, bytes.len());
        got.extend(read(&mut readers[0], bytes.len()));
    }
    assert_eq!((done, got.len()), (capacity, capacity), "the first peer stops where the second peer's bytes begin");
    let start = ring.begin(1, payload).unwrap().unwrap();
    readers[1].move_to(start);
    assert_eq!(advance(&mut ring, 1, bytes.len()), capacity);
    assert_eq!(read(&mut readers[1], capacity), bytes[..capacity]);
    assert!(advance(&mut ring, 0, bytes.len()) > capacity);
}

#[test]
fn an_item_waits_for_the_item_before_it() {
    let (mut ring, mut readers) = ring(3);
    let (first, second) = (vec![1; 1000], vec![2; 1000]);
    let begin = |ring: &mut Multicast, peer, bytes: &[u8]| ring.begin(peer, payload(bytes, 2)).unwrap();
    let start = begin(&mut ring, 0, &first).unwrap();
    readers[0].move_to(start);
    assert_eq!(advance(&mut ring, 0, 1000), 1000);
    assert_eq!(begin(&mut ring, 2, &second), None, "the first item has not been sent to all its peers");
    assert_eq!(begin(&mut ring, 1, &first), Some(start));
    assert_eq!(begin(&mut ring, 2, &first), None, "both peers of the first item have begun");
    assert_eq!(advance(&mut ring, 1, 1000), 1000);
    assert_eq!(begin(&mut ring, 0, &second), None, "this peer has not read its item");
    let start = begin(&mut ring, 2, &second).unwrap();
    assert_eq!(start % LINE, 0);
    assert_eq!(read(&mut readers[0], 1000), first);
    readers[0].publish();
    assert_eq!(begin(&mut ring, 0, &second), Some(start));
}
