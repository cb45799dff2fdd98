//! Tests of the calls in groups with ranks of PyTorch.

use c10d_core::device::DeviceBuffer;
use c10d_core::{Builder, DType, ErrorKind, ProcessGroup, ReduceOp, Result};

use super::mock::{PROVIDER, cuda, log};

const LEGACY: &str = "torch-legacy";
const SECOND: &str = "torch-nccl2";

fn buffer(count: usize) -> DeviceBuffer {
    DeviceBuffer::new(&cuda(), 0, DType::F32, count).unwrap()
}

fn buffers(counts: &[usize]) -> Vec<DeviceBuffer> {
    counts.iter().map(|count| buffer(*count)).collect()
}

/// Runs `body` on two ranks, with the value `yes` for each of `hints`. Returns the log of rank 0: its calls of NCCL and
/// its copies, without the calls for events.
fn calls(dialect: &str, name: &str, hints: &[&str], body: impl Fn(&ProcessGroup) -> Result + Sync) -> Vec<String> {
    let name = format!("{dialect} {name}");
    let builder = Builder::new().name(&name).providers(&[&PROVIDER]).backend("cuda:mock");
    let builder = builder.hint("nccl.compat", dialect).hint("mock.compat", dialect);
    let builder = hints.iter().fold(builder, |b, hint| b.hint(hint, "yes"));
    let logs = builder.run_ranks(2, |pg| {
        body(&pg)?;
        Ok(log(&name, pg.rank()).take())
    });
    let marks = |line: &String| line.starts_with("record") || line.ends_with("waits");
    logs.unwrap().swap_remove(0).into_iter().filter(|line| !marks(line)).collect()
}

const INIT: &str = "init 0 of 2 with 1 ids";

/// Returns these calls, after the call that connects the ranks.
fn with_init(calls: &[&str]) -> Vec<String> {
    [INIT].iter().chain(calls).map(|line| (*line).to_owned()).collect()
}

#[test]
fn the_first_engine_connects_at_its_first_op() {
    assert!(calls(LEGACY, "nothing", &[], |_| Ok(())).is_empty());
    assert_eq!(calls(SECOND, "nothing", &[], |_| Ok(())), [INIT]);
}

#[test]
fn list_ops_make_the_calls_of_each_engine() {
    let gather = |pg: &ProcessGroup| pg.all_gather(buffer(2), buffers(&[2, 2])).map(drop);
    let flat = with_init(&["all_gather 2xf32 on 1", "copy 8 on 1", "copy 8 on 1"]);
    assert_eq!(calls(LEGACY, "gather", &[], gather), flat);
    let grouped = with_init(&["group {", "broadcast 2xf32 from 0 on 1", "broadcast 2xf32 from 1 on 1", "}"]);
    assert_eq!(calls(SECOND, "gather", &[], gather), grouped);
    let uneven = |pg: &ProcessGroup| pg.all_gather(buffer(2 + pg.rank() as usize), buffers(&[2, 3])).map(drop);
    let grouped = with_init(&["group {", "broadcast 2xf32 from 0 on 1", "broadcast 3xf32 from 1 on 1", "}"]);
    assert_eq!(calls(LEGACY, "uneven", &[], uneven), grouped);

    let scatter = |pg: &ProcessGroup| pg.reduce_scatter(buffers(&[2, 2]), buffer(2), ReduceOp::Sum).map(drop);
    let flat = with_init(&["copy 8 on 1", "copy 8 on 1", "reduce_scatter 2xf32 sum on 1"]);
    assert_eq!(calls(LEGACY, "scatter", &[], scatter), flat);
    let grouped = with_init(&["group {", "reduce 2xf32 sum to 0 on 1", "reduce 2xf32 sum to 1 on 1", "}"]);
    assert_eq!(calls(SECOND, "scatter", &[], scatter), grouped);
}

#[test]
fn coalesced_ops_make_the_calls_of_each_engine() {
    let reduce = |pg: &ProcessGroup| pg.all_reduce_coalesced(buffers(&[2, 3]), ReduceOp::Sum).map(drop);
    let alone = ["all_reduce 2xf32 sum on 1", "all_reduce 3xf32 sum on 1"];
    assert_eq!(calls(LEGACY, "coalesced", &[], reduce), with_init(&["group {", alone[0], alone[1], "}"]));
    assert_eq!(calls(SECOND, "coalesced", &[], reduce), with_init(&alone));
    let gather = |pg: &ProcessGroup| pg.all_gather_coalesced(buffers(&[1]), vec![buffers(&[1, 1])]).map(drop);
    let grouped = with_init(&["group {", "broadcast 1xf32 from 0 on 1", "broadcast 1xf32 from 1 on 1", "}"]);
    assert_eq!(calls(SECOND, "lists", &[], gather), grouped);
    let none = |pg: &ProcessGroup| {
        assert_eq!(*gather(pg).unwrap_err().kind(), ErrorKind::Unsupported, "the first engine lacks this op");
        Ok(())
    };
    assert!(calls(LEGACY, "lists", &[], none).is_empty());
}

#[test]
fn all_to_all_is_one_call_where_the_library_has_it() {
    let even = |pg: &ProcessGroup| pg.all_to_all_single(buffer(4), buffer(4)).map(drop);
    let pairs = ["copy 8 on 1", "group {", "send 2xf32 to 1 on 1", "recv 2xf32 from 1 on 1", "}"];
    for dialect in [LEGACY, SECOND] {
        assert_eq!(calls(dialect, "even", &[], even), with_init(&["all_to_all 2xf32 on 1"]));
        assert_eq!(calls(dialect, "old", &["mock.old"], even), with_init(&pairs));
    }
}

#[test]
fn messages_use_the_communicator_of_each_engine() {
    let both = |pg: &ProcessGroup| {
        pg.all_reduce(buffer(1), ReduceOp::Sum)?;
        if pg.rank() == 0 { pg.send(buffer(3), 1, 7) } else { pg.recv(buffer(3), 0, 7) }?;
        if pg.rank() == 1 { pg.send(buffer(4), 0, 7) } else { pg.recv(buffer(4), 1, 7) }.map(drop)
    };
    // Both directions use the communicator of the pair (first engine), or that of all ranks (second engine).
    let messages = |on: u32| {
        let (send, recv) = (format!("send 3xf32 to 1 on {on}"), format!("recv 4xf32 from 1 on {on}"));
        ["group {".to_owned(), send, "}".to_owned(), "group {".to_owned(), recv, "}".to_owned()]
    };
    let mut want = with_init(&["all_reduce 1xf32 sum on 1", INIT]);
    want.extend(messages(2));
    assert_eq!(calls(LEGACY, "messages", &[], both), want);
    let mut want = with_init(&["all_reduce 1xf32 sum on 1"]);
    want.extend(messages(1));
    assert_eq!(calls(SECOND, "messages", &[], both), want);
}
