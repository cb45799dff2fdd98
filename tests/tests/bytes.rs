//! Checks how many bytes ops send.

use c10d::{DispatchKey, ProcessGroup, ReduceOp, Result, Root};

const N: usize = 4;
/// The bytes of a rank's part, so many that headers do not matter.
const PART: usize = 1 << 20;
const WHOLE: usize = N * PART;

/// Returns the bytes that all ranks together send for one call.
fn total(transport: &str, call: impl Fn(&ProcessGroup) -> Result + Sync) -> usize {
    let builder = c10d::builder().hint("gloo-like.transport", transport);
    let sent = builder.run_ranks(N as u32, |pg| {
        let count = || pg.bytes_sent(DispatchKey::Cpu).expect("gloo-like counts");
        pg.barrier()?;
        let before = count();
        call(&pg)?;
        Ok((count() - before) as usize)
    });
    sent.unwrap_or_else(|e| panic!("over {transport}: {e}")).iter().sum()
}

/// Checks how many bytes the call sends over each transport. The limits do not include headers.
fn check(name: &str, at_least: usize, at_most: usize, call: impl Fn(&ProcessGroup) -> Result + Sync) {
    for transport in ["shm", "tcp"] {
        let bytes = total(transport, &call);
        // One percent and 4 KiB are allowed for headers.
        let fits = bytes >= at_least && bytes <= at_most + at_most / 100 + 4096;
        assert!(fits, "{name} over {transport}: {bytes} bytes, must be {at_least} to {at_most}");
    }
}

#[test]
fn each_op_sends_what_it_must() {
    let others = N - 1;
    check("all_reduce", N * 2 * others * PART, N * 2 * others * PART, |pg| {
        pg.all_reduce(vec![1u8; WHOLE], ReduceOp::Sum).map(drop)
    });
    // In an algorithm that shares the root's work, the other ranks also send the root the parts that they have reduced.
    check("reduce", others * WHOLE, others * WHOLE + others * PART, |pg| {
        pg.reduce(vec![1u8; WHOLE], ReduceOp::Sum, 1).map(drop)
    });
    check("broadcast", others * WHOLE, others * WHOLE, |pg| pg.broadcast(vec![1u8; WHOLE], 2).map(drop));
    check("all_gather_into", N * others * PART, N * others * PART, |pg| {
        pg.all_gather_into(vec![1u8; PART], vec![0u8; WHOLE]).map(drop)
    });
    check("all_gather", N * others * PART, N * others * PART, |pg| {
        pg.all_gather(vec![1u8; PART], vec![vec![0u8; PART]; N]).map(drop)
    });
    check("reduce_scatter_into", N * others * PART, N * others * PART, |pg| {
        pg.reduce_scatter_into(vec![1u8; WHOLE], vec![0u8; PART], ReduceOp::Sum).map(drop)
    });
    check("reduce_scatter", N * others * PART, N * others * PART, |pg| {
        pg.reduce_scatter(vec![vec![1u8; PART]; N], vec![0u8; PART], ReduceOp::Sum).map(drop)
    });
    check("all_to_all_single", N * others * PART, N * others * PART, |pg| {
        pg.all_to_all_single(vec![1u8; WHOLE], vec![0u8; WHOLE]).map(drop)
    });
    check("gather", others * PART, others * PART, |pg| {
        let root = if pg.rank() == 3 { Root::Me(vec![vec![0u8; PART]; N]) } else { Root::At(3) };
        pg.gather(vec![1u8; PART], root).map(drop)
    });
    check("scatter", others * PART, others * PART, |pg| {
        let root = if pg.rank() == 3 { Root::Me(vec![vec![1u8; PART]; N]) } else { Root::At(3) };
        pg.scatter(root, vec![0u8; PART]).map(drop)
    });
    check("barrier", 0, 0, |pg| pg.barrier());
}

/// A call with several tensors sends as many bytes, including headers, as a call with one tensor of their total size.
#[test]
fn a_coalesced_call_sends_as_much_as_one_call() {
    for transport in ["shm", "tcp"] {
        let one = total(transport, |pg| pg.all_reduce(vec![1f32; 40], ReduceOp::Sum).map(drop));
        let four = total(transport, |pg| pg.all_reduce_coalesced(vec![vec![1f32; 10]; 4], ReduceOp::Sum).map(drop));
        assert_eq!(one, four, "{transport}");
    }
}
