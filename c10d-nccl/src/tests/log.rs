//! Tests of the calls of each op, and of their order.

use c10d_core::device::DeviceBuffer;
use c10d_core::{Builder, DType, ProcessGroup, ReduceOp, Result, Root, op};

use super::mock::{PROVIDER, cuda, log};

/// The lines before and after the NCCL calls of a collective. Stream 1 is the communicator's, and waits for stream 0,
/// the caller's.
const BEFORE: [&str; 2] = ["record on 0", "1 waits"];
const AFTER: [&str; 1] = ["record on 1"];

/// The calls of rank 0 in an all-to-all of two ranks with two elements for each rank.
const PAIRS: [&str; 5] = ["copy 8 on 1", "group {", "send 2xf32 to 1 on 1", "recv 2xf32 from 1 on 1", "}"];

pub(super) fn buffer(count: usize) -> DeviceBuffer {
    DeviceBuffer::new(&cuda(), 0, DType::F32, count).unwrap()
}

fn buffers(counts: &[usize]) -> Vec<DeviceBuffer> {
    counts.iter().map(|count| buffer(*count)).collect()
}

/// Runs one op on two ranks. Returns their logs.
fn of_two(name: &str, hint: Option<&str>, body: impl Fn(&ProcessGroup) -> Result + Sync) -> Vec<Vec<String>> {
    let builder = Builder::new().name(name).providers(&[&PROVIDER]).backend("cuda:mock");
    let builder = hint.into_iter().fold(builder, |b, hint| b.hint(hint, "yes"));
    let run = |pg: ProcessGroup| {
        let log = log(name, pg.rank());
        assert_eq!(log.take(), [format!("init {} of 2 with 1 ids", pg.rank())]);
        body(&pg)?;
        let calls = log.take();
        pg.shutdown()?;
        assert!(log.take().chunks(2).all(|c| c == ["finalize", "destroy"]));
        Ok(calls)
    };
    builder.run_ranks(2, run).unwrap()
}

/// Returns the log of a collective: these calls between the calls for events.
fn between(calls: &[&str]) -> Vec<String> {
    BEFORE.iter().chain(calls).chain(&AFTER).map(|s| (*s).to_owned()).collect()
}

#[test]
fn all_reduce() {
    let logs = of_two("all_reduce", None, |pg| pg.all_reduce(&mut buffer(5), ReduceOp::Avg).map(drop));
    assert_eq!(logs, vec![between(&["all_reduce 5xf32 avg on 1"]); 2]);
}

/// Neither a started op nor a blocking op makes the caller's stream wait.
#[test]
fn a_started_op_makes_the_same_calls() {
    let logs = of_two("started", None, |pg| Ok(pg.start(op::all_reduce(buffer(5), ReduceOp::Sum)).wait().map(drop)?));
    assert_eq!(logs, vec![between(&["all_reduce 5xf32 sum on 1"]); 2]);
}

#[test]
fn a_made_reduction_is_destroyed() {
    let logs = of_two("premul", None, |pg| pg.all_reduce(&mut buffer(5), ReduceOp::PreMulSum(0.5)).map(drop));
    let want = between(&["make op5 of 4 bytes", "all_reduce 5xf32 op5 on 1", "destroy op5"]);
    assert_eq!(logs, vec![want; 2]);
}

#[test]
fn all_reduce_coalesced() {
    let logs = of_two("coalesced", None, |pg| pg.all_reduce_coalesced(buffers(&[2, 3]), ReduceOp::Max).map(drop));
    let want = between(&["group {", "all_reduce 2xf32 max on 1", "all_reduce 3xf32 max on 1", "}"]);
    assert_eq!(logs, vec![want; 2]);
}

#[test]
fn broadcast_and_reduce() {
    let logs = of_two("broadcast", None, |pg| pg.broadcast(&mut buffer(4), 1).map(drop));
    assert_eq!(logs, vec![between(&["broadcast 4xf32 from 1 on 1"]); 2]);
    let logs = of_two("reduce", None, |pg| pg.reduce(&mut buffer(4), ReduceOp::Sum, 1).map(drop));
    assert_eq!(logs, vec![between(&["reduce 4xf32 sum to 1 on 1"]); 2]);
}

#[test]
fn all_gathers() {
    let logs =
        of_two("all_gather", None, |pg| pg.all_gather(buffer(2 + pg.rank() as usize), buffers(&[2, 3])).map(drop));
    let want = between(&["group {", "broadcast 2xf32 from 0 on 1", "broadcast 3xf32 from 1 on 1", "}"]);
    assert_eq!(logs, vec![want; 2]);
    let logs = of_two("all_gather_into", None, |pg| pg.all_gather_into(buffer(2), buffer(4)).map(drop));
    assert_eq!(logs, vec![between(&["all_gather 2xf32 on 1"]); 2]);
    let logs = of_two("all_gather_into_coalesced", None, |pg| {
        pg.all_gather_into_coalesced(buffers(&[2, 1]), buffers(&[4, 2])).map(drop)
    });
    assert_eq!(logs, vec![between(&["group {", "all_gather 2xf32 on 1", "all_gather 1xf32 on 1", "}"]); 2]);
    let logs = of_two("all_gather_coalesced", None, |pg| {
        pg.all_gather_coalesced(buffers(&[2, 1]), vec![buffers(&[2, 2]), buffers(&[1, 1])]).map(drop)
    });
    let want = ["2xf32 from 0", "2xf32 from 1", "1xf32 from 0", "1xf32 from 1"].map(|c| format!("broadcast {c} on 1"));
    let want: Vec<&str> = ["group {"].into_iter().chain(want.iter().map(String::as_str)).chain(["}"]).collect();
    assert_eq!(logs, vec![between(&want); 2]);
}

#[test]
fn reduce_scatters() {
    let logs = of_two("reduce_scatter", None, |pg| {
        pg.reduce_scatter(buffers(&[2, 3]), buffer(2 + pg.rank() as usize), ReduceOp::Sum).map(drop)
    });
    assert_eq!(logs, vec![between(&["group {", "reduce 2xf32 sum to 0 on 1", "reduce 3xf32 sum to 1 on 1", "}"]); 2]);
    let logs =
        of_two("reduce_scatter_into", None, |pg| pg.reduce_scatter_into(buffer(4), buffer(2), ReduceOp::Sum).map(drop));
    assert_eq!(logs, vec![between(&["reduce_scatter 2xf32 sum on 1"]); 2]);
    let logs = of_two("reduce_scatter_into_coalesced", None, |pg| {
        pg.reduce_scatter_into_coalesced(buffers(&[4, 2]), buffers(&[2, 1]), ReduceOp::Sum).map(drop)
    });
    let want = between(&["group {", "reduce_scatter 2xf32 sum on 1", "reduce_scatter 1xf32 sum on 1", "}"]);
    assert_eq!(logs, vec![want; 2]);
}

#[test]
fn gather_and_scatter_copy_the_roots_own_part() {
    let logs = of_two("gather", None, |pg| {
        let at = if pg.rank() == 0 { Root::Me(buffers(&[3, 4])) } else { Root::At(0) };
        pg.gather(buffer(3 + pg.rank() as usize), at).map(drop)
    });
    assert_eq!(logs[0], between(&["copy 12 on 1", "group {", "recv 4xf32 from 1 on 1", "}"]));
    assert_eq!(logs[1], between(&["group {", "send 4xf32 to 0 on 1", "}"]));
    let logs = of_two("scatter", None, |pg| {
        let at = if pg.rank() == 1 { Root::Me(buffers(&[3, 4])) } else { Root::At(1) };
        pg.scatter(at, buffer(3 + pg.rank() as usize)).map(drop)
    });
    assert_eq!(logs[0], between(&["group {", "recv 3xf32 from 1 on 1", "}"]));
    assert_eq!(logs[1], between(&["copy 16 on 1", "group {", "send 3xf32 to 0 on 1", "}"]));
}

#[test]
fn exchanges() {
    let logs = of_two("all_to_all", None, |pg| {
        let (to, from) = if pg.rank() == 0 { ([2, 3], [2, 0]) } else { ([0, 4], [3, 4]) };
        pg.all_to_all(buffers(&to), buffers(&from)).map(drop)
    });
    assert_eq!(logs[0], between(&["copy 8 on 1", "group {", "send 3xf32 to 1 on 1", "}"]), "no empty receive");
    assert_eq!(logs[1], between(&["copy 16 on 1", "group {", "recv 3xf32 from 0 on 1", "}"]));

    // Ranks without splits make the same calls as ranks with splits.
    let even = |pg: &ProcessGroup| pg.all_to_all_single(buffer(4), buffer(4)).map(drop);
    assert_eq!(of_two("even", None, even)[0], between(&PAIRS));

    let logs = of_two("uneven", None, |pg| {
        let (to, from) = if pg.rank() == 0 { ([1, 3], [1, 2]) } else { ([2, 2], [3, 2]) };
        let (input, output) = (buffer(to.iter().sum()), buffer(from.iter().sum()));
        pg.run(op::all_to_all_single(input, output).splits(&to, &from)).map(drop).map_err(c10d_core::Error::from)
    });
    let want = ["copy 4 on 1", "group {", "send 3xf32 to 1 on 1", "recv 2xf32 from 1 on 1", "}"];
    assert_eq!(logs[0], between(&want));
}

#[test]
fn each_direction_of_messages_has_a_communicator() {
    let logs = of_two("message", None, |pg| {
        if pg.rank() == 0 { pg.send(buffer(3), 1, 7).map(drop) } else { pg.recv(buffer(3), 0, 7).map(drop) }
    });
    let init = |rank: u32| format!("init {rank} of 2 with 1 ids");
    let after = |call: &str| ["2 waits", "group {", call, "}", "record on 2"].map(str::to_owned).to_vec();
    let before = "record on 0".to_owned();
    let want = [vec![init(0), before.clone()], after("send 3xf32 to 1 on 2")].concat();
    assert_eq!(logs[0], want);
    // The receiver records an event on the caller's stream before it waits for the id.
    let want = [vec![before, init(1)], after("recv 3xf32 from 0 on 2")].concat();
    assert_eq!(logs[1], want);
}

/// Each direction has its own stream, so both ranks can send first.
#[test]
fn both_ranks_can_send_first() {
    let logs = of_two("both ways", None, |pg| {
        let (mine, theirs) = (buffer(3 + pg.rank() as usize), buffer(4 - pg.rank() as usize));
        let send = pg.start(op::send(mine, 1 - pg.rank(), 0));
        pg.recv(theirs, 1 - pg.rank(), 0)?;
        Ok(send.wait().map(drop)?)
    });
    let messages: Vec<&String> = logs[0].iter().filter(|l| l.starts_with("send") || l.starts_with("recv")).collect();
    // The sender is rank 0 of the communicator for its direction.
    assert_eq!(messages, ["send 3xf32 to 1 on 2", "recv 4xf32 from 0 on 3"]);
}

/// A message runs after the earlier work on its caller's stream, but not after work that was enqueued while the ranks
/// connected.
#[test]
fn a_message_does_not_wait_for_later_ops() {
    let (sent, may_send) = crossbeam_channel::bounded(1);
    let logs = of_two("late", None, |pg| {
        if pg.rank() == 1 {
            let _ = may_send.recv();
            return pg.send(buffer(3), 0, 0).map(drop);
        }
        let work = pg.start(op::recv(buffer(3), 1, 0));
        pg.all_reduce(buffer(5), ReduceOp::Sum)?;
        let _ = sent.send(());
        Ok(work.wait().map(drop)?)
    });
    let collective = between(&["all_reduce 5xf32 sum on 1"]);
    let message = ["init 1 of 2 with 1 ids", "2 waits", "group {", "recv 3xf32 from 0 on 2", "}", "record on 2"];
    let want = [vec!["record on 0".to_owned()], collective, message.map(str::to_owned).to_vec()].concat();
    assert_eq!(logs[0], want);
}

#[test]
fn barrier() {
    let logs = of_two("barrier", None, |pg| pg.barrier());
    assert_eq!(logs, vec![between(&["all_reduce 1xf32 sum on 1"]); 2]);
}

/// The library divides the group. A rank that is in no part must make the call, too.
#[test]
fn the_library_divides_a_group() {
    let builder = Builder::new().name("parts").providers(&[&PROVIDER]).backend("cuda:mock");
    let logs = builder.run_ranks(3, |pg| {
        let log = log("parts", pg.rank());
        log.take();
        let two = pg.new_group(&[2, 1])?;
        let parts = pg.split(Some(pg.rank() % 2), 10 - pg.rank())?;
        // On a rank that is in no part, `new_group` may return before ncclCommSplit is called. The barrier ends only
        // after that call, so the log has it.
        pg.barrier()?;
        drop((two, parts));
        Ok(log.take().into_iter().filter(|l| l.starts_with("split") || l.starts_with("init")).collect::<Vec<_>>())
    });
    let want = [
        ["split None 0", "split Some(0) 1"],
        ["split Some(1) 1", "split Some(1) 0"],
        ["split Some(1) 0", "split Some(0) 0"],
    ];
    assert_eq!(logs.unwrap(), want);
}

#[test]
fn a_shrunk_group_is_derived_or_made_anew() {
    let of_three = |name: &str, hint: &str| {
        let builder = Builder::new().name(name).providers(&[&PROVIDER]).backend("cuda:mock").hint(hint, "yes");
        let run = |pg: ProcessGroup| {
            let log = log(name, pg.rank());
            log.take();
            if pg.rank() == 1 {
                return Ok(Vec::new());
            }
            // This op is started before `shrink`, and waited for after it.
            let work = pg.start(op::all_reduce(buffer(5), ReduceOp::Sum));
            let rest = pg.shrink(&[1])?;
            work.wait()?;
            assert_eq!((rest.size(), rest.rank(), rest.global_rank(1)), (2, pg.rank() / 2, Some(2)));
            Ok(log.take().into_iter().filter(|l| l.starts_with("shrink") || l.starts_with("init")).collect())
        };
        builder.run_ranks(3, run).unwrap()
    };
    assert_eq!(of_three("rest", "mock.any")[2], ["shrink by [1]"]);
    // With an older library a new communicator is made. Its group has another name, and so another log.
    assert!(of_three("rest of old", "mock.old")[2].is_empty());
    assert_eq!(log("rest of old/shrunk/0", 1).take()[0], "init 1 of 2 with 1 ids");
}
