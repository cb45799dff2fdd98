//! Objects between ranks: values that arrive, objects that cannot be sent or read, and ranks that die.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use c10d::{ObjectCollectives, ProcessGroup, Result, Root};
use libtest_mimic::Trial;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::jobs::acts::VICTIM;
use crate::jobs::join;
use crate::jobs::trials::{CAP, leave, of_values, rejected, victim_dies, well_or_killed};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    host: String,
    values: Vec<u64>,
    more: BTreeMap<String, Option<f64>>,
}

impl Report {
    /// Makes a report whose size depends on `rank` and `len`.
    fn of(rank: u32, len: usize) -> Report {
        let values = (0..(len * (rank as usize + 1)) as u64).map(|i| i * i + u64::from(rank)).collect();
        let more = (0..rank).map(|i| (format!("key {i}"), (i % 2 == 0).then_some(f64::from(i) / 3.0))).collect();
        Report { host: format!("host of {rank}"), values, more }
    }
}

/// A type with unusual code for serialization.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Odd {
    Fails,
    Panics,
    /// Serialization writes more bytes than deserialization reads.
    Longer,
    Well,
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Odd::Fails => Err(serde::ser::Error::custom("it fails on purpose")),
            Odd::Panics => panic!("as the test wants it"),
            Odd::Longer => (1u8, 2u8, 3u8).serialize(serializer),
            Odd::Well => 1u8.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
        u8::deserialize(deserializer).map(|_| Odd::Well)
    }
}

/// Tests every collective and message of objects. Returns what is wrong, if anything.
fn values(pg: &ProcessGroup) -> Result<Option<String>> {
    let (me, n) = (pg.rank(), pg.size());
    let wrong = |what: &str| Ok(Some(what.to_owned()));
    for len in [0, 1, 100, 20_000] {
        let all = || (0..n).map(move |rank| Report::of(rank, len)).collect::<Vec<_>>();
        if pg.all_gather_object(&Report::of(me, len))? != all() {
            return wrong("all_gather_object");
        }
        for root in [0, n - 1] {
            let given = if me == root { Root::Me(Report::of(root, len)) } else { Root::At(root) };
            if pg.broadcast_object(given)? != Report::of(root, len) {
                return wrong("broadcast_object");
            }
            if pg.gather_object(&Report::of(me, len), root)? != (me == root).then(all) {
                return wrong("gather_object");
            }
            let given = if me == root { Root::Me(all()) } else { Root::At(root) };
            if pg.scatter_object(given)? != Report::of(me, len) {
                return wrong("scatter_object");
            }
        }
        if n > 1 {
            // Several objects in a row, each to the next rank.
            let (to, from) = ((me + 1) % n, (me + n - 1) % n);
            let received = std::thread::scope(|s| {
                let sent = s.spawn(|| (0..3).try_for_each(|i| pg.send_object(&(i, Report::of(me, len)), to, 7)));
                let received = (0..3).map(|_| pg.recv_object::<(i32, Report)>(from, 7)).collect::<Result<Vec<_>>>();
                sent.join().expect("no panic").and(received)
            })?;
            if received != [0, 1, 2].map(|i| (i, Report::of(from, len))) {
                return wrong("recv_object");
            }
            if me > 0 {
                pg.send_object(&Report::of(me, len), 0, 8)?;
            } else {
                let mut any = (1..n).map(|_| pg.recv_any_object::<Report>(8)).collect::<Result<Vec<_>>>()?;
                any.sort_by_key(|(_, from)| *from);
                if !any.iter().zip(1..n).all(|((report, from), rank)| *from == rank && *report == Report::of(rank, len))
                {
                    return wrong("recv_any_object");
                }
            }
        }
    }
    // The unit value is also an object.
    if pg.all_gather_object(&())? != vec![(); n as usize] {
        return wrong("all_gather_object of nothing");
    }
    Ok(None)
}

const PARTS: [&str; 6] = ["types", "failures", "panics", "limits", "messages", "killed"];

pub(crate) fn trials() -> Vec<Trial> {
    of_values("objects", values, &PARTS, well_or_killed)
}

pub(crate) fn run_part(part: &str) -> Result {
    let pg = join(CAP)?;
    let said = match part {
        "values" => values(&pg)?,
        "types" => types(&pg)?,
        "failures" => failing(&pg)?,
        "panics" => panicking(&pg)?,
        "limits" => limits(&pg)?,
        "messages" => messages(&pg)?,
        "killed" => return killed(&pg),
        _ => None,
    };
    leave(pg, said)
}

type Call = fn(&ProcessGroup, Odd) -> Result;

/// Every collective in which each rank gives an object.
const GIVEN_BY_ALL: [Call; 2] =
    [|pg, odd| pg.all_gather_object(&odd).map(drop), |pg, odd| pg.gather_object(&odd, 0).map(drop)];

/// Every collective in which the victim gives an object.
const GIVEN_BY_VICTIM: [Call; 2] = [
    |pg, odd| {
        let root = if pg.rank() == VICTIM { Root::Me(odd) } else { Root::At(VICTIM) };
        pg.broadcast_object(root).map(drop)
    },
    |pg, odd| {
        let root = if pg.rank() == VICTIM { Root::Me(vec![odd; pg.size() as usize]) } else { Root::At(VICTIM) };
        pg.scatter_object(root).map(drop)
    },
];

fn all_calls() -> impl Iterator<Item = Call> {
    GIVEN_BY_ALL.into_iter().chain(GIVEN_BY_VICTIM)
}

fn types(pg: &ProcessGroup) -> Result<Option<String>> {
    let victim = pg.rank() == VICTIM;
    let guilty: &[u32] = if victim { &[0, 2] } else { &[VICTIM] };
    let names = ["type", "u32", "alloc::string::String"];
    for _ in 0..2 {
        let result = if victim {
            pg.all_gather_object(&"text".to_owned()).map(drop)
        } else {
            pg.all_gather_object(&5u32).map(drop)
        };
        if let Some(wrong) = rejected(result, "Mismatch", guilty, &names) {
            return Ok(Some(wrong));
        }
        let result = if victim {
            pg.broadcast_object(Root::Me("text".to_owned())).map(drop)
        } else {
            pg.broadcast_object::<u32>(Root::At(VICTIM)).map(drop)
        };
        if let Some(wrong) = rejected(result, "Mismatch", guilty, &names) {
            return Ok(Some(wrong));
        }
    }
    values(pg)
}

fn failing(pg: &ProcessGroup) -> Result<Option<String>> {
    let victim = pg.rank() == VICTIM;
    for call in all_calls() {
        let odd = if victim { Odd::Fails } else { Odd::Well };
        let words = ["on rank 1", "Odd cannot be serialized"];
        if let Some(wrong) = rejected(call(pg, odd), "InvalidArgument", &[VICTIM], &words) {
            return Ok(Some(wrong));
        }
        let odd = if victim { Odd::Longer } else { Odd::Well };
        match call(pg, odd) {
            // A rank that does not deserialize the object has no error.
            Ok(()) => {}
            other => {
                let wrong = rejected(other, "Protocol", &[VICTIM], &["2 bytes are left over"]);
                if wrong.is_some() {
                    return Ok(wrong);
                }
            }
        }
    }
    if pg.all_gather_object(&if victim { Odd::Longer } else { Odd::Well }).is_ok() {
        return Ok(Some("bytes that are left over caused no error".into()));
    }
    // A list of the wrong length is an error on all ranks, too.
    let root = if victim { Root::Me(vec![1u8, 2]) } else { Root::At(VICTIM) };
    let words = ["there are 2 objects for 3 ranks"];
    if let Some(wrong) = rejected(pg.scatter_object(root), "InvalidArgument", &[VICTIM], &words) {
        return Ok(Some(wrong));
    }
    values(pg)
}

fn panicking(pg: &ProcessGroup) -> Result<Option<String>> {
    let victim = pg.rank() == VICTIM;
    for call in all_calls() {
        let odd = if victim { Odd::Panics } else { Odd::Well };
        match catch_unwind(AssertUnwindSafe(|| call(pg, odd))) {
            Err(panic) if victim && panic.downcast_ref() == Some(&"as the test wants it") => {}
            Err(_) => return Ok(Some("another panic".into())),
            Ok(result) => {
                let wrong = rejected(result, "InvalidArgument", &[VICTIM], &["serialization of", "panicked"]);
                if victim || wrong.is_some() {
                    return Ok(Some(wrong.unwrap_or_else(|| "no panic".into())));
                }
            }
        }
    }
    values(pg)
}

fn limits(pg: &ProcessGroup) -> Result<Option<String>> {
    let victim = pg.rank() == VICTIM;
    let bytes = |len: usize| vec![7u8; len];
    // The object of one rank is too large: first for all ranks, then only for one rank with a small limit.
    for limit in [100, if victim { 100 } else { 1 << 20 }] {
        let objects = pg.objects().limit(limit);
        let mine = bytes(if victim { 200 } else { 50 });
        let words = ["rank 1 has 202 bytes", "the limit is 100 bytes"];
        if let Some(wrong) = rejected(objects.all_gather_object(&mine), "InvalidArgument", &[VICTIM], &words) {
            return Ok(Some(wrong));
        }
        let root = if victim { Root::Me(vec![bytes(3), bytes(3), bytes(200)]) } else { Root::At(VICTIM) };
        if let Some(wrong) = rejected(objects.scatter_object(root), "InvalidArgument", &[VICTIM], &words) {
            return Ok(Some(wrong));
        }
        // An object of 99 bytes is sent as 100 bytes, which is the smaller limit.
        if objects.all_gather_object(&bytes(99))? != vec![bytes(99); 3] {
            return Ok(Some("99 bytes".into()));
        }
    }
    values(pg)
}

/// If an object cannot be sent or received, the next object with the same tag still arrives.
fn messages(pg: &ProcessGroup) -> Result<Option<String>> {
    const TAG: u32 = 3;
    let large = vec![7u8; 9 << 20];
    match pg.rank() {
        0 => {
            let sent = pg.send_object(&Odd::Fails, 1, TAG);
            let wrong = rejected(sent, "InvalidArgument", &[0], &["cannot be serialized"]);
            let caught = catch_unwind(AssertUnwindSafe(|| pg.send_object(&Odd::Panics, 1, TAG)));
            let sent = pg.objects().limit(10).send_object(&large, 1, TAG);
            let wrong = wrong.or(rejected(sent, "InvalidArgument", &[0], &["limit is 10 bytes"]));
            pg.send_object(&large, 1, TAG)?;
            pg.send_object(&large, 1, TAG)?;
            pg.send_object(&Odd::Longer, 1, TAG)?;
            pg.send_object(&"last".to_owned(), 1, TAG)?;
            if caught.is_ok() {
                return Ok(Some("no panic".into()));
            }
            Ok(wrong)
        }
        1 => {
            let recv = |words: &[&str], kind| rejected(pg.recv_object::<Odd>(0, TAG), kind, &[0], words);
            let wrong = recv(&["Odd cannot be serialized"], "InvalidArgument")
                .or(recv(&["panicked"], "InvalidArgument"))
                .or(recv(&["limit is 10 bytes"], "InvalidArgument"))
                .or(recv(&["Odd", "alloc::vec::Vec<u8>"], "Mismatch"));
            let small = pg.objects().limit(1000);
            let wrong = wrong
                .or(rejected(small.recv_any_object::<Vec<u8>>(TAG), "InvalidArgument", &[0], &["limit is 1000 bytes"]))
                .or(recv(&["2 bytes are left over"], "Protocol"));
            if wrong.is_some() {
                return Ok(wrong);
            }
            let last: String = pg.recv_object(0, TAG)?;
            Ok((last != "last").then_some(last))
        }
        _ => Ok(None),
    }
}

fn killed(pg: &ProcessGroup) -> Result {
    victim_dies(pg, || {
        pg.all_gather_object(&Report::of(pg.rank(), 10_000))?;
        pg.gather_object(&Report::of(pg.rank(), 10), 0)?;
        let root = if pg.rank() == 0 { Root::Me(7u8) } else { Root::At(0) };
        pg.broadcast_object(root).map(drop)
    })
}
