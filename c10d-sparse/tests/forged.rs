//! Tests with a peer that sends impossible data. The result is an error that names the peer, without a panic or a hang.
#![allow(unsafe_code)]

use crate::common;

use std::sync::Arc;
use std::time::Instant;

use c10d_core::backend::{Backend, Capabilities, Fingerprint, GroupInit, Job, Provider, Registration};
use c10d_core::{Coo, DispatchKey, Error, ErrorKind, ReduceOp, Result};
use common::{Random, builder, check, reference};

const WORLD: u32 = 3;
const LIAR: usize = 1;
/// The rank that gets the forged data.
const RECEIVER: usize = 2;
/// The hint that says which data is forged: the step; the index of the 64-bit word (from the end if negative); the
/// forged value; and 1 if this value is added to the real value, or 0 if it replaces the real value.
const LIE: &str = "forged.lie";

static PROVIDER: Provider = Provider {
    source: "forged",
    backends: &[Registration {
        name: "forged",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &create,
    }],
    ..Provider::EMPTY
};

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    let inner = (c10d_gloo_like::PROVIDER.backends[0].create)(init)?;
    let lie = init.hint(LIE).filter(|_| init.rank as usize == RECEIVER).map(|text| {
        let mut numbers = text.split(',').map(|n| n.parse::<i128>().unwrap());
        let mut next = || numbers.next().unwrap();
        Lie { step: next() as u8, word: next() as i64, value: next() as u64, added: next() != 0 }
    });
    Ok(Arc::new(Forged { inner, lie }))
}

#[derive(Clone, Copy)]
struct Lie {
    step: u8,
    word: i64,
    value: u64,
    added: bool,
}

/// gloo-like with one change: in one step, the receiver replaces one word of the data that it received from the forging
/// rank.
struct Forged {
    inner: Arc<dyn Backend>,
    lie: Option<Lie>,
}

// SAFETY: every call is passed on to gloo-like. The memory that is written after the op belongs to the caller, which
// waits on this thread.
unsafe impl Backend for Forged {
    fn name(&self) -> &'static str {
        "forged"
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn submit(&self, job: Job) {
        let request = job.request();
        let step = request.fingerprint.step;
        let lie = self.lie.filter(|lie| step == Fingerprint::SPARSE | lie.step);
        let outputs: Vec<(*mut u8, usize)> =
            request.outputs().iter().map(|span| (span.host_ptr().unwrap(), span.bytes())).collect();
        self.inner.submit(job);
        let Some(lie) = lie else { return };
        // There is one buffer for each rank, or one buffer with a part for each rank.
        let (base, bytes) = match outputs[..] {
            [(base, bytes)] => (base.wrapping_add(bytes / WORLD as usize * LIAR), bytes / WORLD as usize),
            _ => outputs[LIAR],
        };
        let word = if lie.word < 0 { bytes as i64 / 8 + lie.word } else { lie.word };
        if word < 0 || word as usize >= bytes / 8 {
            return;
        }
        // SAFETY: the word is inside the buffer, which the caller has lent to the op while it waits on this thread.
        unsafe {
            let place = base.add(word as usize * 8).cast::<u64>();
            let truth = if lie.added { place.read_unaligned() } else { 0 };
            place.write_unaligned(truth.wrapping_add(lie.value));
        }
    }

    fn abort(&self, cause: &Error) {
        self.inner.abort(cause);
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        self.inner.shutdown(deadline)
    }
}

/// The number of entries, of possible keys, and of elements per entry.
type Case = (i64, usize, usize);
/// The first exchange contains the whole tensors.
const FEW: Case = (20, 5000, 2);
/// Keys are sent as lists.
const LISTS: Case = (3000, 1 << 20, 2);
/// Keys are sent as bits.
const BITS: Case = (3000, 9003, 2);
/// Keys are sent as lists, and rows in several chunks.
const CHUNKS: Case = (3000, 1 << 20, 300);

fn tensor(rank: u32, (nnz, space, row): Case) -> Coo<i32> {
    let step = space as i64 / (nnz + 1);
    let indices = (0..nnz).map(|i| i * step + i64::from(rank)).collect();
    Coo::new([space, row], 1, indices, (0..nnz as usize * row).map(|i| i as i32).collect()).unwrap()
}

/// Returns the results of all ranks of a call in which one rank gets forged data.
fn results_with(lie: &str, case: Case) -> Vec<Result<Coo<i32>>> {
    let group = builder().providers(&[&PROVIDER]).backend("cpu:forged").hint(LIE, lie);
    let body = |pg: c10d_core::ProcessGroup| {
        // The group is returned as well, so that no rank leaves before all ranks have their results.
        let result = pg.all_reduce(tensor(pg.rank(), case), ReduceOp::Sum);
        Ok((result, pg))
    };
    group.run_ranks(WORLD, body).unwrap().into_iter().map(|(result, _)| result).collect()
}

#[test]
fn unforged_data_gives_the_right_result() {
    for case in [FEW, LISTS, BITS, CHUNKS] {
        let want = reference(&[0, 1, 2].map(|rank| tensor(rank, case)), |a, b| a + b);
        for result in results_with("0,0,0,0", case) {
            check(&result.unwrap(), &want).unwrap();
        }
    }
}

/// Returns the error of the rank with the forged data, which must name the forging rank.
fn found_out(case: Case, lie: (u8, i64, u64)) -> Error {
    let (step, word, value) = lie;
    let results = results_with(&format!("{step},{word},{value},0"), case);
    let e = results.into_iter().nth(RECEIVER).unwrap().expect_err(&format!("{case:?}, {lie:x?}"));
    assert!(matches!(e.kind(), ErrorKind::Protocol | ErrorKind::Mismatch { .. }), "{case:?}, {lie:x?}: {e}");
    assert_eq!(&*e.report().guilty, [LIAR as u32], "{case:?}, {lie:x?}: {e}");
    e
}

#[test]
fn impossible_data_names_its_sender() {
    let max = u64::MAX;
    let half = 1u64 << 63;
    // The first exchange has a head of 16 words, whose second word is the number of entries.
    let lies = [
        (FEW, (1, 1, max), "keys"),
        (FEW, (1, 16, max), "keys"),
        (FEW, (1, 35, 5000), "keys"),
        (LISTS, (1, 1, 0), "number of entries"),
        (LISTS, (1, 20, half), "keys"),
        (LISTS, (1, -1, 0), "keys"),
        (LISTS, (2, 0, max), "number of entries"),
        // Fewer keys are announced. This is detected when they are sent.
        (LISTS, (2, 0, 2999), "splits"),
        // A 64-bit word has two keys. In these three cases, the forged keys are unsorted, before the range, or after
        // the range.
        (LISTS, (3, 1, 0), "as announced"),
        (LISTS, (3, 0, 1 << 32), "as announced"),
        (LISTS, (3, -1, max - 1), "as announced"),
        (BITS, (3, 0, max), "as announced"),
        (BITS, (3, -1, max), "as announced"),
        (LISTS, (4, 0, max), "more entries"),
        (BITS, (4, 0, half), "more entries"),
        (LISTS, (5, 0, max), "as announced"),
        (LISTS, (5, 0, 1 << 32), "as announced"),
        (LISTS, (5, -1, max - 1), "as announced"),
        (BITS, (5, 0, 0), "as announced"),
    ];
    for (case, lie, words) in lies {
        let e = found_out(case, lie);
        assert!(e.to_string().contains(words), "{case:?}, {lie:x?}: {e}");
    }
}

/// The last word of a range has bits beyond the end of the range. In each run, the forged word has only its highest
/// `count` bits set. In one of the runs, the total number of set bits is as announced.
#[test]
fn bits_beyond_the_range_are_an_error() {
    for count in 1..=22 {
        found_out(BITS, (3, -1, u64::MAX << (64 - count)));
    }
}

/// The total number of keys is as announced, but not the number in each chunk. Each run moves one key to just before
/// the next key. One of the runs moves the last key of the first chunk into the next chunk.
#[test]
fn a_key_of_another_chunk_is_an_error() {
    let (nnz, space, _) = CHUNKS;
    let further = space as u64 / (nnz as u64 + 1) - 1;
    let moves = (300..360).map(|key| format!("3,{},{},1", key / 2, further << (key % 2 * 32)));
    let results = moves.map(|lie| results_with(&lie, CHUNKS).swap_remove(RECEIVER));
    let errors: Vec<Error> = results.filter_map(|result| result.err()).collect();
    assert!(!errors.is_empty() && errors.iter().all(|e| *e.kind() == ErrorKind::Protocol), "{errors:?}");
}

#[test]
fn any_forged_data_gives_a_result_or_an_error() {
    let mut random = Random(11);
    for n in 0..300u64 {
        let case = [FEW, LISTS, BITS][random.below(3) as usize];
        let step = 1 + random.below(6);
        let word = random.below(600) as i64 - 20;
        let value = match random.below(5) {
            0 => random.next(),
            1 => 0,
            2 => u64::MAX >> random.below(64),
            3 => random.below(case.1 as u64),
            _ => 1 << random.below(64),
        };
        if (step, word) == (1, 0) {
            // This word says whether the sender's tensor is valid. If the word were forged, only one rank would return
            // early, and the others would wait for it until their deadline.
            continue;
        }
        let lie = format!("{step},{word},{value},0");
        for (rank, result) in results_with(&lie, case).into_iter().enumerate() {
            if let Err(e) = result {
                let expected = !matches!(e.kind(), ErrorKind::Internal | ErrorKind::Timeout);
                assert!(expected, "{n}: {lie}, {case:?}, rank {rank}: {e}");
            }
        }
    }
}
