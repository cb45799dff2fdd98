//! Plans that send the same bytes to several peers.

use super::*;

#[test]
fn bytes_for_several_peers_are_copied_once() {
    for (world, len) in [(3, 32_768), (3, 100_003), (4, 16_384), (4, 1_000_003)] {
        ranks(world, Transport::Shm, |rank| {
            let me = rank.me.rank;
            let segment = rank.mesh.segment.clone().unwrap();
            // A broadcast from each rank: the root copies the bytes once.
            for root in 0..world {
                let before = segment.multicast_position();
                let mut data = vector(me + 10 * root, len);
                let fill = |me, plan: &mut Plan| direct::broadcast(me, root, 4 * len, plan);
                rank.run_rooted(OpKind::Broadcast, root, len as u64, &[], &mut [&mut data], fill).unwrap();
                assert_eq!(data, vector(root + 10 * root, len));
                let copied = segment.multicast_position() - before;
                assert_eq!(copied >= 4 * len as u64, me == root, "{copied} bytes of {}", 4 * len);
                assert!(copied < 4 * len as u64 + 64);
            }
            // An all-reduce of two tensors: each rank sends its block of the sums, which is inside one of them or in
            // both. In the second case the block is not contiguous, and goes through the ring of each peer.
            let first = len / 3;
            let (mut a, mut b) = (vector(me, len)[..first].to_vec(), vector(me, len)[first..].to_vec());
            let fill = |me, plan: &mut Plan| direct::all_reduce(me, 4 * len, 4, plan);
            rank.run(OpKind::AllReduce, len as u64, &[], &mut [&mut a, &mut b], fill).unwrap();
            assert_eq!([a, b].concat(), summed(world, len));
        });
    }
}

#[test]
fn a_late_reader_delays_only_the_multicast_that_needs_it() {
    // Rank 2 comes late to a broadcast that is larger than the ring. The others wait, and all get the bytes.
    let (len, world) = (400_000, 3);
    ranks(world, Transport::Shm, |rank| {
        for round in 0..4u32 {
            if rank.me.rank == 2 {
                thread::sleep(Duration::from_millis(5));
            }
            let mut data = vector(rank.me.rank + round, len);
            let fill = |me, plan: &mut Plan| direct::broadcast(me, 1, 4 * len, plan);
            rank.run_rooted(OpKind::Broadcast, 1, len as u64, &[], &mut [&mut data], fill).unwrap();
            assert_eq!(data, vector(1 + round, len));
            // Both rings are used in turn.
            let all = vector(rank.me.rank, world as usize * len);
            let mut got = vec![0; all.len()];
            let blocks = Blocks::uniform(world, 4 * len);
            let fill = |me, plan: &mut Plan| direct::all_to_all(me, blocks, blocks, plan);
            rank.run(OpKind::AllToAllSingle, all.len() as u64, &all, &mut [&mut got], fill).unwrap();
            for (peer, block) in (0..).zip(got.chunks(len)) {
                assert_eq!(block, &vector(peer, all.len())[rank.me.rank as usize * len..][..len]);
            }
        }
    });
}
